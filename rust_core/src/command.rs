//! One command of a session, or one run of a context, from the control process's side: its pipes,
//! its request, its answer.
//!
//! Nothing here waits. Both are told in the same way to whoever executes them, by a socket that one
//! epoll waits for, with pipes that are this command's alone. A command costs the control process
//! one call of this file to send it, and one look, before which it need not wait where the command is
//! over by then; else it waits and looks again. What Python does in between costs three times as much
//! as elsewhere, since the program that ran meanwhile had the processor's caches to itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::nearby::{Neighbour, UnderWay};
use crate::sys;

/// How much of a pipe is read at once. Whoever writes more is not in a hurry.
const PIECE_BYTES: usize = 4096;

/// Of a request to a shell (its `frame.rs`): where its flags are, and that of a shell that was called
/// to this processor.
const FLAGS: usize = 1;
const CALLED: u8 = 8;

/// How long a request may be that is copied to say so.
const SHORT_BYTES: usize = 4096;

/// What a session keeps for its commands, and a context for its runs.
#[derive(Debug, Clone, Copy)]
pub struct Shell<'a> {
    /// The socket to the builtin, or to the executor.
    pub socket: BorrowedFd<'a>,
    /// Waits for the socket, and for the pipes of the command that runs.
    pub epoll: BorrowedFd<'a>,
}

/// What one look at a pipe found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// What was in it, at most twice `PIECE_BYTES`.
    pub bytes: Vec<u8>,
    /// Whether nothing is left in it, and no writer.
    pub at_end: bool,
}

/// What there was when the shell had answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Collected {
    /// The answer; empty when the shell has closed its socket.
    pub answer: Vec<u8>,
    /// Standard output.
    pub stdout: Piece,
    /// Standard error.
    pub stderr: Piece,
}

/// A reading end, and a writing end where it is still held.
pub type Pipe = (OwnedFd, Option<OwnedFd>);

/// One of a command's pipes.
#[derive(Debug)]
struct Output {
    reader: OwnedFd,
    /// Kept until the command is over. Else the end of each pipe would wake the control process
    /// before the answer does, perhaps on the very processor that was about to send it.
    writer: Option<OwnedFd>,
}

impl Output {
    /// Lets go of the writing end and looks, twice if something was there: the second time sees
    /// the end.
    fn look(&mut self) -> io::Result<Piece> {
        self.writer = None;
        let mut piece = Piece::default();
        let mut buffer = [0; PIECE_BYTES];
        for _ in 0..2 {
            match sys::read_now(self.reader.as_fd(), &mut buffer)? {
                None => break,
                Some(0) => {
                    piece.at_end = true;
                    break;
                }
                Some(count) => piece.bytes.extend_from_slice(&buffer[..count]),
            }
        }
        Ok(piece)
    }
}

/// A command that was sent. Dropping it closes its pipes.
#[derive(Debug)]
pub struct Command {
    _under_way: UnderWay,
    stdout: Output,
    stderr: Output,
}

impl Command {
    /// Makes the pipes and sends `packet` with the pipes, behind `stdin` and before `body` where
    /// there are such. `served_by` is who reads it, if that is a session's shell.
    ///
    /// # Errors
    /// `EMFILE`; what `sendmsg(2)` says, such as `EAGAIN` when the shell's queue is full.
    pub fn send(
        shell: Shell<'_>,
        packet: &[u8],
        stdin: Option<BorrowedFd<'_>>,
        body: Option<BorrowedFd<'_>>,
        served_by: Option<&Neighbour>,
    ) -> io::Result<Self> {
        let under_way = UnderWay::begin();
        let ((stdout, out), (stderr, err)) = (sys::pipe_to_read()?, sys::pipe_to_read()?);
        let pipes = [out.as_fd(), err.as_fd()];
        let fds: Vec<_> = stdin.into_iter().chain(pipes).chain(body).collect();
        // Watched before it is sent: what fails here has not run.
        sys::watch(shell.epoll, stdout.as_fd())?;
        sys::watch(shell.epoll, stderr.as_fd())?;
        let can_say_so = body.is_none() && (FLAGS + 1..=SHORT_BYTES).contains(&packet.len());
        let near = served_by.filter(|_| can_say_so);
        match near.filter(|neighbour| neighbour.call_here(under_way.alone)) {
            None => sys::send_packet(shell.socket, packet, &fds)?,
            Some(neighbour) => {
                let mut told = packet.to_vec();
                told[FLAGS] |= CALLED;
                sys::send_packet(shell.socket, &told, &fds)
                    .inspect_err(|_| neighbour.send_back())?;
            }
        }
        Ok(Self {
            _under_way: under_way,
            stdout: Output { reader: stdout, writer: Some(out) },
            stderr: Output { reader: stderr, writer: Some(err) },
        })
    }

    /// The answer and what is in the pipes, if there is an answer; else nothing is read.
    ///
    /// # Errors
    /// What `read(2)` says.
    pub fn collect(
        &mut self,
        shell: Shell<'_>,
        most_bytes: usize,
    ) -> io::Result<Option<Collected>> {
        let mut answer = vec![0; most_bytes];
        let count = match sys::receive_now(shell.socket, &mut answer) {
            Ok(None) => return Ok(None),
            Ok(Some(count)) => count,
            Err(_) => 0, // as good as closed
        };
        answer.truncate(count);
        let (stdout, stderr) = (self.stdout.look()?, self.stderr.look()?);
        Ok(Some(Collected { answer, stdout, stderr }))
    }

    /// The pipes, for whoever reads on: their reading ends, and the writing ends that are still
    /// held.
    ///
    /// # Errors
    /// What `epoll_ctl(2)` says.
    pub fn into_pipes(self, shell: Shell<'_>) -> io::Result<[Pipe; 2]> {
        let outputs = [self.stdout, self.stderr];
        for output in &outputs {
            sys::unwatch(shell.epoll, output.reader.as_fd())?;
        }
        Ok(outputs.map(|output| (output.reader, output.writer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell that is a pair of sockets, and what it got.
    struct Fake {
        ours: OwnedFd,
        theirs: OwnedFd,
        epoll: OwnedFd,
    }

    impl Fake {
        fn new() -> Self {
            let (ours, theirs) = sys::packet_pair().expect("sockets");
            let epoll = sys::epoll().expect("epoll");
            sys::set_non_blocking(ours.as_fd()).expect("set");
            Self { ours, theirs, epoll }
        }

        fn shell(&self) -> Shell<'_> {
            Shell { socket: self.ours.as_fd(), epoll: self.epoll.as_fd() }
        }

        fn send(&self) -> (Command, Vec<OwnedFd>) {
            let command =
                Command::send(self.shell(), b"request", Some(self.epoll.as_fd()), None, None);
            let (packet, fds) = sys::receive_packet(self.theirs.as_fd()).expect("a packet");
            assert_eq!((&packet[..], fds.len()), (&b"request"[..], 3));
            (command.expect("sent"), fds)
        }

        fn write(fd: &OwnedFd, bytes: &[u8]) {
            use std::io::Write as _;
            std::fs::File::from(fd.try_clone().expect("a copy")).write_all(bytes).expect("written");
        }
    }

    #[test]
    fn before_the_answer_nothing_is_read() {
        let fake = Fake::new();
        let (mut command, fds) = fake.send();
        Fake::write(&fds[1], b"early");
        drop(fds);
        assert_eq!(command.collect(fake.shell(), 64).expect("a look"), None);
        sys::send_packet(fake.theirs.as_fd(), b"answer", &[]).expect("sent");
        let found = command.collect(fake.shell(), 64).expect("a look").expect("an answer");
        let stdout = Piece { bytes: b"early".to_vec(), at_end: true };
        let stderr = Piece { bytes: vec![], at_end: true };
        assert_eq!(found, Collected { answer: b"answer".to_vec(), stdout, stderr });
    }

    #[test]
    fn a_pipe_that_a_job_holds_is_not_at_its_end() {
        let fake = Fake::new();
        let (mut command, fds) = fake.send();
        Fake::write(&fds[2], b"job");
        sys::send_packet(fake.theirs.as_fd(), b"answer", &[]).expect("sent");
        let found = command.collect(fake.shell(), 64).expect("a look").expect("an answer");
        assert_eq!(found.stdout, Piece::default());
        assert_eq!(found.stderr, Piece { bytes: b"job".to_vec(), at_end: false });
        let [(stdout, writer), _stderr] = command.into_pipes(fake.shell()).expect("pipes");
        assert!(writer.is_none(), "let go of when it was looked at");
        drop(fds);
        assert_eq!(sys::read_now(stdout.as_fd(), &mut [0; 8]).expect("the end"), Some(0));
    }

    #[test]
    fn the_pipes_of_what_runs_are_given_with_both_ends() {
        let fake = Fake::new();
        let (command, fds) = fake.send();
        drop(fds);
        let [(stdout, writer), _stderr] = command.into_pipes(fake.shell()).expect("pipes");
        assert_eq!(sys::read_now(stdout.as_fd(), &mut [0; 8]).expect("nothing yet"), None);
        drop(writer);
        assert_eq!(sys::read_now(stdout.as_fd(), &mut [0; 8]).expect("the end"), Some(0));
    }

    #[test]
    fn without_standard_input_the_pipes_go_alone() {
        let fake = Fake::new();
        let command = Command::send(fake.shell(), b"run", None, None, None);
        let (packet, fds) = sys::receive_packet(fake.theirs.as_fd()).expect("a packet");
        assert_eq!((&packet[..], fds.len()), (&b"run"[..], 2));
        drop(command.expect("sent"));
    }

    #[test]
    fn a_shell_that_closes_its_socket_answers_with_nothing() {
        let mut fake = Fake::new();
        let (mut command, _fds) = fake.send();
        fake.theirs = sys::epoll().expect("something else");
        let found = command.collect(fake.shell(), 64).expect("a look").expect("an answer");
        assert!(found.answer.is_empty());
    }

    #[test]
    fn a_shell_that_was_called_is_told_so_and_only_then() {
        let pid = sys::pid(); // its first thread, which waits for the tests
        let all = sys::processors_of(pid).expect("a set");
        let neighbour = sys::pidfd_open(pid).ok().and_then(|pidfd| Neighbour::new(pidfd.as_fd()));
        let neighbour = neighbour.expect("a neighbour");
        let may_be_called = neighbour.call_here(true);
        neighbour.send_back();
        let flags = |packet: &[u8], body: bool| {
            let fake = Fake::new();
            let (stdin, body) = (Some(fake.epoll.as_fd()), body.then(|| fake.epoll.as_fd()));
            let sent = Command::send(fake.shell(), packet, stdin, body, Some(&neighbour));
            let told = sys::receive_packet(fake.theirs.as_fd()).expect("a packet").0[FLAGS];
            let is_narrowed = sys::processors_of(pid).expect("a set") != all;
            neighbour.send_back();
            assert_eq!(told & CALLED != 0, is_narrowed);
            drop(sent);
            told
        };
        // Not at once: other tests may be starting something meanwhile.
        let called = (0..10_000).any(|_| flags(&[1, 2, 0], false) == 2 | CALLED);
        let with_body = flags(&[1, 2, 0], true);
        let long = flags(&[0; SHORT_BYTES + 1], false);
        assert_eq!((called, with_body, long), (may_be_called, 2, 0));
    }
}
