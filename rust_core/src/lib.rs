//! The native half of `sandbox_runtime`: it makes sandboxes, and ends them.
//!
//! A map, from the outside in:
//!
//! - [`contain`] holds the order of confinement; it is the file to read first.
//! - [`launcher`], [`supervisor`], [`keeper`], [`init`] are the processes, in the order in which
//!   they are forked; [`files`] and [`probe`] run inside a jail as user code does.
//! - [`mounts`], [`cgroup`], [`capabilities`], [`seccomp`], [`landlock`], [`rlimits`], [`idmap`]
//!   are one kernel feature each.
//! - [`zygote`] is the loop of what is forked for each Python context.
//! - [`spec`] is what is said over the sockets, [`channel`] how; [`error`] what can go wrong.
//! - [`command`] is the control process's side of a session's command; [`quote`] escapes for a shell,
//!   [`plain`] reads what needs none.
//! - [`nearby`] has whoever is asked for a command or a jail run where the asker does.
//! - `sys` is the only place with `unsafe`, `python` the only one that knows Python.

#[allow(unsafe_code, reason = "the one module of system calls; each block says why it is sound")]
pub mod sys;

pub mod capabilities;
pub mod cgroup;
pub mod channel;
pub mod command;
pub mod contain;
pub mod devices;
pub mod error;
pub mod files;
pub mod idmap;
pub mod init;
pub mod inotify;
pub mod keeper;
pub mod landlock;
pub mod launcher;
pub mod mounts;
pub mod nearby;
pub mod plain;
pub mod probe;
pub mod procfs;
pub mod quote;
pub mod rlimits;
pub mod seccomp;
pub mod shown;
pub mod spec;
pub mod supervisor;
pub mod zygote;

#[cfg(feature = "python")]
mod python;
