//! Node, libuv, V8 and the kernel, behind safe functions. The only module with `unsafe`.
//!
//! Node-API and libuv's version 1 keep their binary interface. Of V8 three functions are used that
//! every addon may call; they are looked up by name, so a Node without them still loads this, and
//! says that it cannot stop a run.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

use crate::{INTERRUPTED, RUN};

/// A `napi_status`; 0 is success.
pub(crate) type Status = c_int;
/// `napi_generic_failure`.
pub(crate) const GENERIC_FAILURE: Status = 9;
/// What interrupts a run: `SIGRTMIN` (34 in glibc) + 5. Node cannot listen to it.
const INTERRUPT_OFFSET: c_int = 5;
const NAPI_VERSION: i32 = 8;
const MOST_ARGUMENTS: usize = 5;
const UV_READABLE: c_int = 1;
const UV_POLL: c_int = 8;
const UV_PREPARE: c_int = 9;
const NAPI_AUTO_LENGTH: usize = usize::MAX;

/// A `napi_value`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Value(*mut c_void);

/// A `napi_env`, of the main thread.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Env(*mut c_void);

/// A function that Rust offers to JavaScript.
type Offered = fn(Env, [Value; MOST_ARGUMENTS]) -> Result<Value, Status>;
type Callback = extern "C" fn(Env, *mut c_void) -> Value;

unsafe extern "C" {
    fn napi_create_function(
        env: Env,
        name: *const c_char,
        length: usize,
        callback: Callback,
        data: *mut c_void,
        result: *mut Value,
    ) -> Status;
    fn napi_set_named_property(
        env: Env,
        object: Value,
        name: *const c_char,
        value: Value,
    ) -> Status;
    fn napi_get_cb_info(
        env: Env,
        info: *mut c_void,
        count: *mut usize,
        arguments: *mut Value,
        this: *mut Value,
        data: *mut *mut c_void,
    ) -> Status;
    fn napi_get_value_int32(env: Env, value: Value, result: *mut i32) -> Status;
    fn napi_get_value_double(env: Env, value: Value, result: *mut f64) -> Status;
    fn napi_get_buffer_info(
        env: Env,
        value: Value,
        data: *mut *mut c_void,
        length: *mut usize,
    ) -> Status;
    fn napi_create_buffer_copy(
        env: Env,
        length: usize,
        data: *const c_void,
        copy: *mut *mut c_void,
        result: *mut Value,
    ) -> Status;
    fn napi_create_int32(env: Env, value: i32, result: *mut Value) -> Status;
    fn napi_create_double(env: Env, value: f64, result: *mut Value) -> Status;
    fn napi_get_boolean(env: Env, value: bool, result: *mut Value) -> Status;
    fn napi_get_global(env: Env, result: *mut Value) -> Status;
    fn napi_create_array(env: Env, result: *mut Value) -> Status;
    fn napi_set_element(env: Env, object: Value, index: u32, value: Value) -> Status;
    fn napi_create_reference(
        env: Env,
        value: Value,
        count: u32,
        result: *mut *mut c_void,
    ) -> Status;
    fn napi_get_reference_value(env: Env, reference: *mut c_void, result: *mut Value) -> Status;
    fn napi_open_handle_scope(env: Env, result: *mut *mut c_void) -> Status;
    fn napi_close_handle_scope(env: Env, scope: *mut c_void) -> Status;
    fn napi_make_callback(
        env: Env,
        context: *mut c_void,
        this: Value,
        function: Value,
        count: usize,
        arguments: *const Value,
        result: *mut Value,
    ) -> Status;
    fn napi_get_and_clear_last_exception(env: Env, result: *mut Value) -> Status;
    fn napi_get_null(env: Env, result: *mut Value) -> Status;
    fn napi_strict_equals(env: Env, one: Value, other: Value, result: *mut bool) -> Status;
    fn napi_fatal_exception(env: Env, error: Value) -> Status;
    fn napi_throw_error(env: Env, code: *const c_char, message: *const c_char) -> Status;
    fn napi_get_uv_event_loop(env: Env, result: *mut *mut c_void) -> Status;

    fn uv_handle_size(kind: c_int) -> usize;
    fn uv_poll_init(event_loop: *mut c_void, handle: *mut c_void, fd: c_int) -> c_int;
    fn uv_poll_start(
        handle: *mut c_void,
        events: c_int,
        callback: extern "C" fn(*mut c_void, c_int, c_int),
    ) -> c_int;
    fn uv_prepare_init(event_loop: *mut c_void, handle: *mut c_void) -> c_int;
    fn uv_prepare_start(handle: *mut c_void, callback: extern "C" fn(*mut c_void)) -> c_int;
    fn uv_prepare_stop(handle: *mut c_void) -> c_int;
    fn uv_handle_get_data(handle: *const c_void) -> *mut c_void;
    fn uv_handle_set_data(handle: *mut c_void, data: *mut c_void);
    fn uv_ref(handle: *mut c_void);
    fn uv_unref(handle: *mut c_void);
    fn uv_loop_alive(event_loop: *const c_void) -> c_int;
}

/// Which version of Node-API this is written against.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn node_api_module_get_api_version_v1() -> i32 {
    NAPI_VERSION
}

/// What Node calls when it loads the addon.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn napi_register_module_v1(env: Env, exports: Value) -> Value {
    if crate::register(env, exports).is_err() {
        env.throw(c"the addon could not be set up");
    }
    exports
}

fn checked(status: Status) -> Result<(), Status> {
    if status == 0 { Ok(()) } else { Err(status) }
}

/// The one callback of all exported functions; `data` says which.
extern "C" fn call_offered(env: Env, info: *mut c_void) -> Value {
    let mut count = MOST_ARGUMENTS;
    let mut arguments = [Value(null_mut()); MOST_ARGUMENTS];
    let mut data = null_mut();
    // SAFETY: Node calls with a valid environment and info, and writes at most `count` values.
    let status = unsafe {
        napi_get_cb_info(
            env,
            info,
            &raw mut count,
            arguments.as_mut_ptr(),
            null_mut(),
            &raw mut data,
        )
    };
    // SAFETY: `data` is the `Offered` that `Env::export` gave.
    let offered = unsafe { std::mem::transmute::<*mut c_void, Offered>(data) };
    checked(status).and_then(|()| offered(env, arguments)).unwrap_or_else(|_| {
        env.throw(c"a function of the executor was called wrongly");
        Value(null_mut())
    })
}

impl Env {
    /// Offers a function to JavaScript.
    pub(crate) fn export(
        self,
        exports: Value,
        name: &CStr,
        offered: Offered,
    ) -> Result<(), Status> {
        let mut function = Value(null_mut());
        // SAFETY: the name ends with NUL; a function lives as long as the program.
        checked(unsafe {
            napi_create_function(
                self,
                name.as_ptr(),
                NAPI_AUTO_LENGTH,
                call_offered,
                offered as *mut c_void,
                &raw mut function,
            )
        })?;
        // SAFETY: both values are of this call.
        checked(unsafe { napi_set_named_property(self, exports, name.as_ptr(), function) })
    }

    fn throw(self, message: &CStr) {
        // SAFETY: the message ends with NUL and is copied.
        unsafe { napi_throw_error(self, null(), message.as_ptr()) };
    }

    pub(crate) fn number(self, value: Value) -> Result<i32, Status> {
        let mut number = 0;
        // SAFETY: Node checks the value, and writes only a number.
        checked(unsafe { napi_get_value_int32(self, value, &raw mut number) })?;
        Ok(number)
    }

    pub(crate) fn double(self, value: Value) -> Result<f64, Status> {
        let mut number = 0.0;
        // SAFETY: as above.
        checked(unsafe { napi_get_value_double(self, value, &raw mut number) })?;
        Ok(number)
    }

    /// The bytes of a buffer, valid as long as the call.
    pub(crate) fn bytes<'a>(self, value: Value) -> Result<&'a [u8], Status> {
        let (mut data, mut length) = (null_mut(), 0);
        // SAFETY: Node checks that it is a buffer.
        checked(unsafe { napi_get_buffer_info(self, value, &raw mut data, &raw mut length) })?;
        if length == 0 {
            return Ok(&[]);
        }
        // SAFETY: the arguments of a call keep the buffer alive, and nothing writes to it meanwhile.
        Ok(unsafe { std::slice::from_raw_parts(data.cast(), length) })
    }

    pub(crate) fn int(self, number: i32) -> Result<Value, Status> {
        let mut value = Value(null_mut());
        // SAFETY: Node writes a value.
        checked(unsafe { napi_create_int32(self, number, &raw mut value) })?;
        Ok(value)
    }

    pub(crate) fn boolean(self, truth: bool) -> Result<Value, Status> {
        let mut value = Value(null_mut());
        // SAFETY: as above.
        checked(unsafe { napi_get_boolean(self, truth, &raw mut value) })?;
        Ok(value)
    }

    pub(crate) fn doubles(self, numbers: &[f64]) -> Result<Value, Status> {
        let mut array = Value(null_mut());
        // SAFETY: as above.
        checked(unsafe { napi_create_array(self, &raw mut array) })?;
        for (index, number) in (0..).zip(numbers) {
            let mut value = Value(null_mut());
            // SAFETY: as above.
            checked(unsafe { napi_create_double(self, *number, &raw mut value) })?;
            // SAFETY: both values are of this call.
            checked(unsafe { napi_set_element(self, array, index, value) })?;
        }
        Ok(array)
    }

    fn is_null(self, value: Value) -> bool {
        let (mut null, mut is_null) = (Value(null_mut()), false);
        // SAFETY: Node writes a value.
        if unsafe { napi_get_null(self, &raw mut null) } != 0 {
            return true;
        }
        // SAFETY: both values are of the open scope.
        let status = unsafe { napi_strict_equals(self, value, null, &raw mut is_null) };
        status != 0 || is_null
    }

    /// Keeps a function for later calls, for ever.
    pub(crate) fn keep(self, function: Value) -> Result<Function, Status> {
        let mut reference = null_mut();
        // SAFETY: Node checks the value.
        checked(unsafe { napi_create_reference(self, function, 1, &raw mut reference) })?;
        Ok(Function { env: self, reference })
    }

    pub(crate) fn event_loop(self) -> Result<Loop, Status> {
        let mut event_loop = null_mut();
        // SAFETY: Node writes the loop of this thread.
        checked(unsafe { napi_get_uv_event_loop(self, &raw mut event_loop) })?;
        Ok(Loop(event_loop))
    }
}

/// A function of JavaScript, called from the event loop.
#[derive(Clone, Copy)]
pub(crate) struct Function {
    env: Env,
    reference: *mut c_void,
}

impl Function {
    pub(crate) fn call_with_bytes(self, bytes: &[u8]) {
        self.call(|env| {
            let mut value = Value(null_mut());
            // SAFETY: Node copies the bytes.
            checked(unsafe {
                napi_create_buffer_copy(
                    env,
                    bytes.len(),
                    bytes.as_ptr().cast(),
                    null_mut(),
                    &raw mut value,
                )
            })?;
            Ok(value)
        });
    }

    pub(crate) fn call_with_bool(self, truth: bool) {
        self.call(|env| env.boolean(truth));
    }

    /// Calls it, and then what has become due; what that throws is an uncaught exception of Node's.
    fn call(self, argument: impl FnOnce(Env) -> Result<Value, Status>) {
        let mut scope = null_mut();
        // SAFETY: the event loop runs this on the environment's thread.
        if unsafe { napi_open_handle_scope(self.env, &raw mut scope) } != 0 {
            return;
        }
        if self.call_in_scope(argument).is_err() {
            let mut exception = Value(null_mut());
            // SAFETY: as above.
            let status = unsafe { napi_get_and_clear_last_exception(self.env, &raw mut exception) };
            // What is stopped ends with null.
            if status == 0 && !self.env.is_null(exception) {
                // SAFETY: the exception is of the open scope.
                unsafe { napi_fatal_exception(self.env, exception) };
            }
        }
        // SAFETY: the scope was opened above.
        unsafe { napi_close_handle_scope(self.env, scope) };
    }

    fn call_in_scope(
        self,
        argument: impl FnOnce(Env) -> Result<Value, Status>,
    ) -> Result<(), Status> {
        let argument = argument(self.env)?;
        let mut function = Value(null_mut());
        // SAFETY: the reference is never given back.
        checked(unsafe { napi_get_reference_value(self.env, self.reference, &raw mut function) })?;
        let mut global = Value(null_mut());
        // SAFETY: Node writes a value.
        checked(unsafe { napi_get_global(self.env, &raw mut global) })?;
        // SAFETY: all values are of the open scope. No result is asked for.
        checked(unsafe {
            napi_make_callback(
                self.env,
                null_mut(),
                global,
                function,
                1,
                &raw const argument,
                null_mut(),
            )
        })
    }
}

/// The event loop of the main thread.
#[derive(Clone, Copy)]
pub(crate) struct Loop(*mut c_void);

impl Loop {
    /// Whether anything that counts is still to come.
    pub(crate) fn is_alive(self) -> bool {
        // SAFETY: the loop lives as long as the process.
        unsafe { uv_loop_alive(self.0) != 0 }
    }
}

/// Memory for a handle of libuv, which is never freed: handles last as long as the process.
fn allocate(kind: c_int) -> *mut c_void {
    // SAFETY: a pure function.
    let size = unsafe { uv_handle_size(kind) };
    // SAFETY: any size may be asked for.
    let handle = unsafe { libc::calloc(1, size) };
    assert!(!handle.is_null(), "no memory");
    handle
}

/// A `uv_poll_t`: calls back when a descriptor can be read.
pub(crate) struct Poll(*mut c_void);

impl Poll {
    pub(crate) fn new(event_loop: Loop, fd: BorrowedFd<'_>, callback: fn()) -> io::Result<Self> {
        let handle = allocate(UV_POLL);
        // SAFETY: the handle has the size that libuv asks for.
        uv_checked(unsafe { uv_poll_init(event_loop.0, handle, fd.as_raw_fd()) })?;
        // SAFETY: a function lives as long as the program.
        unsafe { uv_handle_set_data(handle, callback as *mut c_void) };
        // SAFETY: the handle was initialised above.
        uv_checked(unsafe { uv_poll_start(handle, UV_READABLE, on_poll) })?;
        Ok(Self(handle))
    }

    pub(crate) fn hold(&self) {
        // SAFETY: the handle is never closed.
        unsafe { uv_ref(self.0) };
    }

    pub(crate) fn unref(&self) {
        // SAFETY: as above.
        unsafe { uv_unref(self.0) };
    }
}

extern "C" fn on_poll(handle: *mut c_void, _status: c_int, _events: c_int) {
    call_data(handle);
}

extern "C" fn on_prepare(handle: *mut c_void) {
    call_data(handle);
}

fn call_data(handle: *mut c_void) {
    // SAFETY: libuv calls with a handle of ours.
    let data = unsafe { uv_handle_get_data(handle) };
    // SAFETY: it was set to a function of this type when the handle was started.
    let callback = unsafe { std::mem::transmute::<*mut c_void, fn()>(data) };
    callback();
}

/// A `uv_prepare_t`: calls back in each turn of the loop, before it waits.
pub(crate) struct Prepare(*mut c_void);

impl Prepare {
    pub(crate) fn new(event_loop: Loop) -> Self {
        let handle = allocate(UV_PREPARE);
        // SAFETY: the handle has the size that libuv asks for; this cannot fail.
        unsafe { uv_prepare_init(event_loop.0, handle) };
        Self(handle)
    }

    pub(crate) fn start(&self, callback: fn()) -> io::Result<()> {
        // SAFETY: a function lives as long as the program.
        unsafe { uv_handle_set_data(self.0, callback as *mut c_void) };
        // SAFETY: the handle was initialised.
        uv_checked(unsafe { uv_prepare_start(self.0, on_prepare) })
    }

    pub(crate) fn stop(&self) {
        // SAFETY: the handle was initialised; stopping twice does nothing.
        unsafe { uv_prepare_stop(self.0) };
    }

    pub(crate) fn unref(&self) {
        // SAFETY: the handle is never closed.
        unsafe { uv_unref(self.0) };
    }
}

fn uv_checked(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// V8's `Isolate` of the main thread, and how it is stopped.
#[derive(Clone, Copy)]
pub(crate) struct Stopper {
    isolate: *mut c_void,
    terminate: extern "C" fn(*mut c_void),
    cancel: extern "C" fn(*mut c_void),
}

// SAFETY: V8 documents both functions as callable from any thread; the isolate ends with the process.
unsafe impl Send for Stopper {}

impl Stopper {
    /// Looks them up; to be called on the main thread.
    pub(crate) fn find() -> Option<Self> {
        let current = symbol(c"_ZN2v87Isolate10GetCurrentEv")?;
        let terminate = symbol(c"_ZN2v87Isolate18TerminateExecutionEv")?;
        let cancel = symbol(c"_ZN2v87Isolate24CancelTerminateExecutionEv")?;
        // SAFETY: `static Isolate* Isolate::GetCurrent()`.
        let current =
            unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> *mut c_void>(current) };
        // SAFETY: `void Isolate::TerminateExecution()`, whose first argument is `this`.
        let terminate =
            unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void)>(terminate) };
        // SAFETY: `void Isolate::CancelTerminateExecution()`, likewise.
        let cancel =
            unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(*mut c_void)>(cancel) };
        let isolate = current();
        (!isolate.is_null()).then_some(Self { isolate, terminate, cancel })
    }

    /// Makes JavaScript that runs, or runs next, end at once.
    pub(crate) fn stop(self) {
        (self.terminate)(self.isolate);
    }

    /// Takes back a stop that has not struck.
    pub(crate) fn take_back(self) {
        (self.cancel)(self.isolate);
    }
}

fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name ends with NUL.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

/// The descriptor that the handler writes to.
static WAKE: AtomicI32 = AtomicI32::new(-1);

/// Two event descriptors, above `base`: for the thread that stops, and for the loop.
pub(crate) fn wakeups(base: c_int) -> io::Result<(OwnedFd, OwnedFd)> {
    let make = |flags| {
        // SAFETY: no pointers.
        let fd = os_checked(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | flags) })?;
        move_up(fd, base)
    };
    Ok((make(0)?, make(libc::EFD_NONBLOCK)?))
}

/// Has `act` called, on a thread of its own, after each interrupt.
pub(crate) fn catch_interrupts(wake: OwnedFd, act: impl Fn() + Send + 'static) {
    WAKE.store(wake.as_raw_fd(), SeqCst);
    std::thread::spawn(move || {
        let mut count = [0; 8];
        loop {
            // SAFETY: eight bytes are there to be written.
            let read = unsafe { libc::read(wake.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
            if read == 8 {
                act();
            } else if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return; // user code has closed it
            }
        }
    });
    // SAFETY: all zeros is a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler only stores, and writes to a descriptor.
    unsafe { libc::sigaction(libc::SIGRTMIN() + INTERRUPT_OFFSET, &raw const action, null_mut()) };
}

extern "C" fn on_signal(_signal: c_int) {
    INTERRUPTED.store(RUN.load(SeqCst), SeqCst);
    // SAFETY: the address is this thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    wake_number(WAKE.load(SeqCst));
    // SAFETY: as above.
    unsafe { *errno = before };
}

/// Makes an event descriptor unreadable again.
pub(crate) fn calm(fd: BorrowedFd<'_>) {
    let mut count = [0_u8; 8];
    // SAFETY: eight bytes are there to be written.
    unsafe { libc::read(fd.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}

/// Makes an event descriptor readable.
pub(crate) fn wake(fd: BorrowedFd<'_>) {
    wake_number(fd.as_raw_fd());
}

fn wake_number(fd: RawFd) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: eight bytes are there to be read.
    unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
}

fn os_checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) fn number(fd: BorrowedFd<'_>) -> RawFd {
    fd.as_raw_fd()
}

pub(crate) fn close(fd: RawFd) {
    // SAFETY: the caller owns the number; a wrong one is refused.
    unsafe { libc::close(fd) };
}

/// Ends the process without another word.
pub(crate) fn exit(status: c_int) -> ! {
    // SAFETY: it does not return.
    unsafe { libc::_exit(status) }
}

/// A copy of a descriptor at `base` or above, closed by `exec`.
pub(crate) fn duplicate_above(fd: BorrowedFd<'_>, base: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let copy = os_checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, base) })?;
    // SAFETY: it is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Takes a descriptor over and moves it to `base` or above; where that cannot be it stays.
pub(crate) fn move_up(fd: RawFd, base: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a number that is not open is refused.
    os_checked(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and the caller has given it away.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(duplicate_above(owned.as_fd(), base).unwrap_or(owned))
}

pub(crate) fn duplicate_onto(fd: BorrowedFd<'_>, target: c_int) -> io::Result<()> {
    // SAFETY: no pointers. 0, 1 and 2 are nobody's.
    os_checked(unsafe { libc::dup2(fd.as_raw_fd(), target) }).map(drop)
}

pub(crate) fn flush_c_streams() {
    // SAFETY: NULL means all streams.
    unsafe { libc::fflush(null_mut()) };
}

/// Writes everything, whatever kind of descriptor it is and whatever interrupts.
pub(crate) fn write_all(fd: RawFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the slice is there to be read.
        let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        if let Ok(count) = usize::try_from(written) {
            bytes = &bytes[count..];
            continue;
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock => wait_writable(fd),
            _ => return Err(error),
        }
    }
    Ok(())
}

fn wait_writable(fd: RawFd) {
    let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one entry is there.
    unsafe { libc::poll(&raw mut poll, 1, -1) };
}

/// Receives bytes, and the descriptors that ride on them.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut control = [0_u64; 8]; // room for two descriptors and more, aligned
    let mut data = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: all zeros is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: everything that the message points to lives here.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has filled the message.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: NULL, or an aligned header within `control`.
    while let Some(entry) = unsafe { header.as_ref() } {
        if entry.cmsg_level == libc::SOL_SOCKET && entry.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: a pure function.
            let start = unsafe { libc::CMSG_LEN(0) } as usize;
            // SAFETY: the header was checked above.
            let data = unsafe { libc::CMSG_DATA(header) };
            // SAFETY: the kernel wrote that many bytes.
            let data = unsafe { std::slice::from_raw_parts(data, entry.cmsg_len - start) };
            for number in data.chunks_exact(size_of::<RawFd>()) {
                let number = number.try_into().map_or(-1, RawFd::from_ne_bytes);
                // SAFETY: the kernel has just made it, for us.
                fds.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
        // SAFETY: the header is of this message.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(count)
}

/// User and system time in microseconds, of the process and of the children that it has waited for,
/// and its largest resident set in bytes.
pub(crate) fn usage() -> [f64; 3] {
    let (mine, children) = (usage_of(libc::RUSAGE_SELF), usage_of(libc::RUSAGE_CHILDREN));
    let sum = |part: fn(&libc::rusage) -> libc::timeval| {
        microseconds(part(&mine)) + microseconds(part(&children))
    };
    #[allow(clippy::cast_precision_loss)] // far below what a double holds exactly
    [sum(|usage| usage.ru_utime), sum(|usage| usage.ru_stime), mine.ru_maxrss as f64 * 1024.0]
}

fn usage_of(who: c_int) -> libc::rusage {
    // SAFETY: all zeros is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes the whole structure.
    unsafe { libc::getrusage(who, &raw mut usage) };
    usage
}

#[allow(clippy::cast_precision_loss)] // far below what a double holds exactly
fn microseconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 * 1e6 + time.tv_usec as f64
}

/// Lowers a limit of this process and of what it starts, never above what is in force.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the caller gives whole numbers
pub(crate) fn lower_limit(resource: c_int, most: f64) -> io::Result<()> {
    let resource = resource as c_uint;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes the whole structure.
    os_checked(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    limit.rlim_max = limit.rlim_max.min(most as u64);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the structure is there to be read.
    os_checked(unsafe { libc::setrlimit(resource, &raw const limit) }).map(drop)
}
