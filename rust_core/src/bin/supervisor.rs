//! The program that the control process starts: see `rust_core::launcher`.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

#[global_allocator]
static HEAP: rust_core::sys::Heap = rust_core::sys::Heap;

fn main() -> ExitCode {
    // Descriptor 0 is the socket. Nothing of the caller's terminal is kept.
    let take = || {
        rust_core::sys::reset_signals()?; // whatever the caller ignores, no program inherits it
        let socket = rust_core::sys::inherited(0)?.try_clone()?;
        let null: OwnedFd = OpenOptions::new().read(true).write(true).open("/dev/null")?.into();
        let fds = [null.as_fd(), null.as_fd(), null.as_fd(), socket.as_fd()];
        rust_core::sys::place_descriptors(&fds)?;
        std::mem::forget((socket, null)); // closed, or another descriptor's number now
        rust_core::sys::inherited(3)
    };
    match take() {
        Ok(socket) => ExitCode::from(rust_core::launcher::run(socket)),
        Err(_) => ExitCode::from(2),
    }
}
