//! What Node cannot do and an executor needs: receive descriptors, change 1 and 2 atomically, stop
//! running JavaScript, and know when the event loop has nothing left.
//!
//! The executor's JavaScript calls [`start`] once and the other functions for each run. All of them,
//! and everything that they call back, belong to Node's main thread. One further thread waits for
//! interrupts: a signal's handler wakes it, it tells V8 to stop, and wakes the loop, whose callback
//! takes the stop back and says so in JavaScript. So a run that computes is stopped where it is, and
//! a run that waits hears of it too.
//!
//! A stop that comes too late would hit whatever runs next. Hence a run has a number: the handler
//! notes the one that it interrupts, and the thread stops only that, under the lock that the end of
//! a run takes as well.

#[allow(unsafe_code)]
mod sys;

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use sys::{Env, Function, Loop, Poll, Prepare, Stopper, Value};

/// The executor's own descriptors live from here up, out of the way of programs.
const FD_BASE: i32 = 200;
/// The prefix of a frame: its length, big-endian.
const HEADER_BYTES: usize = 4;
const RECEIVE_BYTES: usize = 256 * 1024;

/// The number of the run that is going on, or 0.
static RUN: AtomicU64 = AtomicU64::new(0);
/// The number of the run that the last interrupt was for, or 0.
static INTERRUPTED: AtomicU64 = AtomicU64::new(0);
/// Whether something was stopped of which JavaScript has not been told yet.
static STOPPED: AtomicBool = AtomicBool::new(false);
/// Held while a run is stopped, and while it ends.
static GATE: Mutex<()> = Mutex::new(());

thread_local! {
    static EXECUTOR: RefCell<Option<Executor>> = const { RefCell::new(None) };
}

struct Executor {
    socket: OwnedFd,
    woken: OwnedFd,
    null: OwnedFd,
    /// What came and is no whole frame yet.
    buffer: Vec<u8>,
    /// What came with the frames: the pipes of the next run.
    pipes: Vec<OwnedFd>,
    /// Frames that go out with the next one, which spares a wake-up of the control process.
    held: Vec<u8>,
    runs: u64,
    stopper: Option<Stopper>,
    event_loop: Loop,
    incoming: Poll,
    draining: Prepare,
    on_frame: Function,
    on_interrupt: Function,
    on_turn: Function,
}

impl Executor {
    /// Whether anything but what is ours keeps the loop alive.
    fn is_alive(&self) -> bool {
        self.incoming.unref();
        self.draining.unref();
        let is_alive = self.event_loop.is_alive();
        self.incoming.hold();
        is_alive
    }

    /// Sends what is held.
    fn flush(&mut self) {
        if send_held(self).is_err() {
            sys::exit(1); // nobody listens
        }
    }
}

impl Drop for Executor {
    /// Code may end the process before the next frame: by `exit(3)`, which drops this.
    fn drop(&mut self) {
        let _ = send_held(self);
    }
}

/// What Node calls when it loads the addon.
fn register(env: Env, exports: Value) -> Result<(), sys::Status> {
    env.export(exports, c"start", start)?;
    env.export(exports, c"attach", |env, _| env.int(errno(&with(attach))))?;
    env.export(exports, c"detach", |env, _| env.int(errno(&with(detach))))?;
    env.export(exports, c"send", |env, arguments| {
        let body = env.bytes(arguments[0])?;
        env.int(errno(&with(|executor| send(executor, body))))
    })?;
    env.export(exports, c"hold", |env, arguments| {
        let body = env.bytes(arguments[0])?;
        env.int(errno(&with(|executor| hold(executor, body))))
    })?;
    env.export(exports, c"write", |env, arguments| {
        let (fd, bytes) = (env.number(arguments[0])?, env.bytes(arguments[1])?);
        let _ = with(|executor| {
            executor.flush(); // what was shown comes before what is printed
            Ok(())
        });
        env.int(errno(&sys::write_all(fd, bytes)))
    })?;
    env.export(exports, c"begin", |env, _| env.int(errno(&begin())))?;
    env.export(exports, c"end", |env, _| env.int(errno(&end())))?;
    env.export(exports, c"drain", |env, _| {
        env.int(errno(&with(|executor| executor.draining.start(on_turn))))
    })?;
    env.export(exports, c"stop", |env, _| env.int(errno(&with(stop))))?;
    env.export(exports, c"alive", |env, _| {
        let mut is_alive = false;
        let _ = with(|executor| {
            is_alive = executor.is_alive();
            Ok(())
        });
        env.boolean(is_alive)
    })?;
    env.export(exports, c"usage", |env, _| env.doubles(&sys::usage()))?;
    env.export(exports, c"limit", |env, arguments| {
        let (resource, most) = (env.number(arguments[0])?, env.double(arguments[1])?);
        env.int(errno(&sys::lower_limit(resource, most)))
    })
}

/// `start(socket, library, onFrame, onInterrupt, onTurn)`: takes the first two descriptors over.
/// Answers whether runs can be stopped here.
fn start(env: Env, arguments: [Value; 5]) -> Result<Value, sys::Status> {
    let started = || -> io::Result<(OwnedFd, OwnedFd)> {
        sys::close(env.number(arguments[1]).unwrap_or(-1));
        let socket = sys::move_up(env.number(arguments[0]).unwrap_or(-1), FD_BASE)?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        Ok((socket, sys::duplicate_above(null.as_fd(), FD_BASE)?))
    };
    let (socket, null) = started().map_err(|_| sys::GENERIC_FAILURE)?;
    let event_loop = env.event_loop()?;
    let (wake, woken) = sys::wakeups(FD_BASE).map_err(|_| sys::GENERIC_FAILURE)?;
    let stopper = Stopper::find();
    let incoming = Poll::new(event_loop, socket.as_fd(), on_readable);
    let interrupts = Poll::new(event_loop, woken.as_fd(), on_interrupt);
    let (Ok(incoming), Ok(interrupts)) = (incoming, interrupts) else {
        return Err(sys::GENERIC_FAILURE);
    };
    interrupts.unref(); // it is no reason to go on
    let draining = Prepare::new(event_loop);
    let waker = woken.try_clone().map_err(|_| sys::GENERIC_FAILURE)?;
    let executor = Executor {
        socket,
        woken,
        null,
        buffer: Vec::new(),
        pipes: Vec::new(),
        held: Vec::new(),
        runs: 0,
        stopper,
        event_loop,
        incoming,
        draining,
        on_frame: env.keep(arguments[2])?,
        on_interrupt: env.keep(arguments[3])?,
        on_turn: env.keep(arguments[4])?,
    };
    EXECUTOR.set(Some(executor));
    sys::catch_interrupts(wake, move || {
        let _gate = GATE.lock().unwrap_or_else(PoisonError::into_inner);
        let run = INTERRUPTED.swap(0, SeqCst);
        if run != 0 && run == RUN.load(SeqCst) {
            STOPPED.store(true, SeqCst);
            if let Some(stopper) = stopper {
                stopper.stop();
            }
            sys::wake(waker.as_fd());
        }
    });
    env.boolean(stopper.is_some())
}

fn with(act: impl FnOnce(&mut Executor) -> io::Result<()>) -> io::Result<()> {
    EXECUTOR.with_borrow_mut(|executor| match executor {
        Some(executor) => act(executor),
        None => Err(io::ErrorKind::NotConnected.into()),
    })
}

fn errno(result: &io::Result<()>) -> i32 {
    result.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO))
}

/// Makes the pipes that came with the frame this process's 1 and 2.
fn attach(executor: &mut Executor) -> io::Result<()> {
    let pipes = std::mem::take(&mut executor.pipes);
    let [stdout, stderr] = &pipes[..] else {
        // The kernel drops descriptors when the receiver's table is full.
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    };
    sys::duplicate_onto(stdout.as_fd(), 1)?;
    sys::duplicate_onto(stderr.as_fd(), 2)
}

/// Lets go of the run's pipes, after what C code has buffered for them.
fn detach(executor: &mut Executor) -> io::Result<()> {
    sys::flush_c_streams();
    for target in 0..=2 {
        sys::duplicate_onto(executor.null.as_fd(), target)?;
    }
    Ok(())
}

/// Sends a frame, behind those that waited for it.
fn send(executor: &mut Executor, body: &[u8]) -> io::Result<()> {
    hold(executor, body)?;
    send_held(executor)
}

/// Keeps a frame for the next that is sent; a signal that ends the process before takes it along.
fn hold(executor: &mut Executor, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    executor.held.reserve(HEADER_BYTES + body.len());
    executor.held.extend_from_slice(&length.to_be_bytes());
    executor.held.extend_from_slice(body);
    Ok(())
}

fn send_held(executor: &mut Executor) -> io::Result<()> {
    if executor.held.is_empty() {
        return Ok(());
    }
    let frames = std::mem::take(&mut executor.held);
    sys::write_all(sys::number(executor.socket.as_fd()), &frames)
}

/// From here on an interrupt stops what runs.
fn begin() -> io::Result<()> {
    with(|executor| {
        let _gate = GATE.lock().unwrap_or_else(PoisonError::into_inner);
        STOPPED.store(false, SeqCst);
        executor.runs += 1;
        RUN.store(executor.runs, SeqCst);
        Ok(())
    })
}

/// Stops whatever JavaScript the loop runs next, in this turn.
fn stop(executor: &mut Executor) -> io::Result<()> {
    let stopper = executor.stopper.ok_or(io::ErrorKind::Unsupported)?;
    stopper.stop();
    Ok(())
}

/// From here on nothing is stopped, also if an interrupt is on its way.
fn end() -> io::Result<()> {
    with(|executor| {
        let _gate = GATE.lock().unwrap_or_else(PoisonError::into_inner);
        RUN.store(0, SeqCst);
        if let Some(stopper) = executor.stopper {
            stopper.take_back();
        }
        executor.draining.stop();
        Ok(())
    })
}

/// The socket can be read: calls back with each frame that is whole.
fn on_readable() {
    let mut frames = Vec::new();
    let called = EXECUTOR.with_borrow_mut(|executor| {
        let executor = executor.as_mut()?;
        let mut chunk = vec![0; RECEIVE_BYTES];
        match sys::receive(executor.socket.as_fd(), &mut chunk, &mut executor.pipes) {
            Ok(0) => sys::exit(0), // the control process has given this context up
            Ok(count) => executor.buffer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => sys::exit(1),
        }
        while let Some(frame) = take_frame(&mut executor.buffer) {
            frames.push(frame);
        }
        Some(executor.on_frame)
    });
    if let Some(on_frame) = called {
        for frame in frames {
            on_frame.call_with_bytes(&frame);
        }
    }
}

fn take_frame(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let header: [u8; HEADER_BYTES] = buffer.get(..HEADER_BYTES)?.try_into().ok()?;
    let end = HEADER_BYTES + usize::try_from(u32::from_be_bytes(header)).ok()?;
    let frame = buffer.get(HEADER_BYTES..end)?.to_vec();
    buffer.drain(..end);
    Some(frame)
}

/// The thread has stopped what ran. Nothing of JavaScript is on the stack now.
fn on_interrupt() {
    let called = EXECUTOR.with_borrow(|executor| {
        let executor = executor.as_ref()?;
        sys::calm(executor.woken.as_fd());
        STOPPED.store(false, SeqCst);
        if let Some(stopper) = executor.stopper {
            stopper.take_back();
        }
        Some(executor.on_interrupt)
    });
    if let Some(on_interrupt) = called {
        on_interrupt.call_with_bool(true);
    }
}

/// Each turn of the loop while a run drains: says whether anything but the socket keeps it alive.
///
/// What was stopped may have left nothing behind that does; then it is not over by itself.
fn on_turn() {
    if STOPPED.load(SeqCst) {
        return;
    }
    let called = EXECUTOR.with_borrow_mut(|executor| {
        let executor = executor.as_mut()?;
        if let Some(stopper) = executor.stopper {
            stopper.take_back(); // what `stop` has left for the turn that is over
        }
        let is_alive = executor.is_alive();
        if is_alive {
            executor.flush(); // the run goes on: nothing waits for its end
        }
        Some((executor.on_turn, is_alive))
    });
    if let Some((on_turn, is_alive)) = called {
        on_turn.call_with_bool(is_alive);
    }
}
