//! The bash builtin that serves a session: `sandbox_session`.
//!
//! # Theory of operation
//!
//! A session is one long-lived `bash`. It loads this library with `enable -f` and then stays inside
//! the builtin: receive a request and its three pipes, put the pipes on 0, 1 and 2, run the text in
//! this very shell, put `/dev/null` back, send an END frame. So functions, variables, traps and the
//! directory persist, every command has pipes of its own with a real end of file, and nothing is
//! forked for a builtin. A program is spawned without forking bash, if it is given as a list of
//! arguments, or by text that says nothing else (`sys/plain_program.rs`).
//!
//! *Redirections made with `exec >file` do not outlive their command*, since 0, 1 and 2 belong to
//! the command; descriptors from 3 up do persist.
//!
//! *To break* a running command the other side sends `SIGRTMIN+5`. The handler raises bash's
//! own `interrupt_state`, so bash unwinds at its next safe point, as for `^C`; a callback on bash's
//! unwind list then turns the exit that a non-interactive shell would take into "discard this command
//! and read the next line". That line is `sandbox_session`: it waits in a pipe which took the place of
//! the script on descriptor 0, and calls the builtin again, which finishes the pending request. The
//! jump passes over the frames of [`session::serve`] and [`sys::run_stored_text`]; those two hold
//! nothing that needs to be dropped, and what must survive lives in statics.
//!
//! Pure: `frame`, `plain`. Raw: `sys`, the only module with `unsafe`. Order: `session`.

mod frame;
#[path = "../../src/plain.rs"]
#[allow(unreachable_pub, reason = "the extension has the same file, for background processes")]
mod plain;
mod session;
#[allow(unsafe_code)]
mod sys;
