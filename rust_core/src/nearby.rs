//! Whoever is asked runs where the asker does.
//!
//! The kernel wakes a process on a processor that sleeps, if there is one, and puts a new one there
//! too; and where none sleeps, behind whatever computes. Here both are the wrong place: who asks a
//! keeper, an init or a shell for something sleeps at once, so that its own processor is about to be
//! free. No word to the kernel says so but the set of processors that a process may use. So the asker
//! narrows that of the process that it is about to ask to the processor that it runs on, and says so
//! in the request (`called`); and the program that is started lets itself use all again before
//! anything of the user's runs ([`spread`]), a shell also the shell.
//!
//! Only where that takes nothing from anybody. A process that may use fewer than all is left alone
//! ([`narrowed`]): somebody has chosen these. So is one that is asked while something else is under
//! way in the asker ([`UnderWay`]): both would share one processor, and what a keeper forks
//! for the other would be narrowed too, without being told.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::sys::{self, Processors};

const WORD_BITS: usize = u64::BITS as usize;
const NONE: Processors = [0; 128];
const EVERY: Processors = [u64::MAX; 128];

/// A process that is about to be asked for something.
#[derive(Debug)]
pub struct Neighbour {
    pid: i32,
    pidfd: OwnedFd,
    /// The processor that it is kept on, or [`NOWHERE`].
    kept_on: AtomicUsize,
}

const NOWHERE: usize = usize::MAX;

impl Neighbour {
    /// `None` where its number cannot be told for sure: it stays where it is.
    pub fn new(pidfd: BorrowedFd<'_>) -> Option<Self> {
        let pid = sys::pid_of(pidfd)?;
        let pidfd = pidfd.try_clone_to_owned().ok()?;
        Some(Self { pid, pidfd, kept_on: AtomicUsize::new(NOWHERE) })
    }

    /// Narrows what it may use to the processor that this runs on, if it is to; for who spreads by
    /// itself. True: it has to be told.
    pub fn call_here(&self, alone: bool) -> bool {
        alone && sys::this_processor().is_some_and(|here| self.narrow(here))
    }

    /// As [`Neighbour::call_here`], for who stays there until it is to be elsewhere, which is looked
    /// at whenever it is asked for something: that saves calls, and it finds its caches warm.
    pub fn keep_here(&self, alone: bool) -> bool {
        let (kept_on, here) = (self.kept_on.load(Relaxed), sys::this_processor());
        if alone && here == Some(kept_on) {
            return true;
        }
        if kept_on != NOWHERE {
            self.send_back();
        }
        let Some(here) = here.filter(|here| alone && self.narrow(*here)) else { return false };
        self.kept_on.store(here, Relaxed);
        true
    }

    fn narrow(&self, here: usize) -> bool {
        let Some(all) = there_are().filter(|_| !self.is_gone()) else { return false };
        let Ok(before) = sys::processors_of(self.pid) else { return false };
        let Some(only) = narrowed(all, &before, here) else { return false };
        if sys::set_processors(self.pid, &only).is_err() {
            return false; // a container may forbid it
        }
        if self.is_gone() {
            // In these very microseconds: its number may have been another's already.
            let _ = sys::set_processors(self.pid, &before);
            return false;
        }
        true
    }

    /// Undoes that, where it could not be asked after all, or is not to be kept any more.
    pub fn send_back(&self) {
        self.kept_on.store(NOWHERE, Relaxed);
        let narrow = || sys::processors_of(self.pid).ok().filter(is_one);
        // Unless somebody else has chosen others meanwhile.
        if !self.is_gone() && narrow().is_some() {
            let _ = sys::set_processors(self.pid, &EVERY);
        }
    }

    fn is_gone(&self) -> bool {
        !matches!(sys::wait_readable([self.pidfd.as_fd()], Some(Duration::ZERO)), Ok([false]))
    }
}

/// Lets this process use all processors again, as it or its parent could before it was called.
pub fn spread() {
    let _ = sys::set_processors(0, &EVERY); // where one may be narrowed, that is allowed too
}

fn is_one(processors: &Processors) -> bool {
    processors.iter().map(|word| word.count_ones()).sum::<u32>() == 1
}

/// Something that this process has asked for and that is not over.
#[derive(Debug)]
pub struct UnderWay {
    /// Whether it was the only one when it was asked for.
    pub alone: bool,
}

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

impl UnderWay {
    /// Counts it.
    pub fn begin() -> Self {
        Self { alone: UNDER_WAY.fetch_add(1, Relaxed) == 0 }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Relaxed);
    }
}

/// What a process is to be narrowed to so that it runs `here`; `None` if it is to be left alone.
///
/// Whoever may use all that there are can be let use all again; of anybody else that could not be
/// said later, when others may be there.
fn narrowed(all: &Processors, may_use: &Processors, here: usize) -> Option<Processors> {
    let bit = 1_u64 << (here % WORD_BITS);
    if may_use != all || all.get(here / WORD_BITS)? & bit == 0 {
        return None;
    }
    let mut only = NONE;
    only[here / WORD_BITS] = bit;
    (!is_one(all)).then_some(only)
}

/// All processors that worked when this was first asked; `None` if nobody says which.
fn there_are() -> Option<&'static Processors> {
    static ALL: OnceLock<Option<Processors>> = OnceLock::new();
    let read = || std::fs::read_to_string("/sys/devices/system/cpu/online").ok();
    ALL.get_or_init(|| listed(read()?.trim())).as_ref()
}

/// The processors of a list as the kernel writes it, such as `0-3,8`.
fn listed(list: &str) -> Option<Processors> {
    let mut all = NONE;
    for range in list.split(',') {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        for number in from.parse::<usize>().ok()?..=to.parse().ok()? {
            *all.get_mut(number / WORD_BITS)? |= 1 << (number % WORD_BITS);
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &str) -> Processors {
        listed(list).expect("a list")
    }

    #[test]
    fn a_list_of_processors_is_read_as_the_kernel_writes_it() {
        let mut expected = NONE;
        expected[0] = 0b1_0000_1111;
        expected[1] = 1;
        expected[127] = 1 << 63;
        assert_eq!(listed("0-3,8,64,8191"), Some(expected));
        for wrong in ["", "a", "1-", "8192", "0-9999", "-1", "0,,1"] {
            assert_eq!(listed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn who_may_use_all_is_narrowed_to_the_askers_processor() {
        assert_eq!(narrowed(&set("0-3"), &set("0-3"), 2), Some(set("2")));
        assert_eq!(narrowed(&set("0-2047"), &set("0-2047"), 1500), Some(set("1500")));
    }

    #[test]
    fn who_may_use_fewer_is_left_alone() {
        assert_eq!(narrowed(&set("0-3"), &set("0-2"), 2), None);
        assert_eq!(narrowed(&set("0-3"), &set("2"), 2), None);
    }

    #[test]
    fn where_there_is_one_processor_or_none_of_that_number_nobody_is_moved() {
        assert_eq!(narrowed(&set("0"), &set("0"), 0), None);
        assert_eq!(narrowed(&set("0-1"), &set("0-1"), 5), None);
        assert_eq!(narrowed(&set("0-1"), &set("0-1"), 100_000), None);
    }
}
