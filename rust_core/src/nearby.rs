//! Whoever is asked runs where the asker does.
//!
//! The kernel wakes a process on a processor that sleeps or, where none does, behind whatever computes.
//! But whoever asks a keeper, an init or a shell for a program sleeps at once, so that its own
//! processor is about to be free, and the only way to say so is the set of processors that a process
//! may use. So the asker narrows that of the process that it is about to ask to the processor that
//! it runs on, and says so in the request (`called`). The program lets itself use all again before it
//! is executed ([`spread`]), and a shell before anything of the user's runs in it.
//!
//! Only where that takes nothing from anybody. A process that may use fewer than all is left alone
//! ([`narrowed`]): somebody has chosen these. So is one that is asked while something else is being
//! started ([`UnderWay`]): both would share one processor, and what a keeper forks for the other
//! would be narrowed too, without being told.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::sys::{self, Processors};

const WORD_BITS: usize = u64::BITS as usize;
const NONE: Processors = [0; 128];
const EVERY: Processors = [u64::MAX; 128];

/// How long something is taken to be starting that has not answered: what has begun to run by then
/// is the better reason to be called.
const STARTING: Duration = Duration::from_millis(10);

/// A process that is about to be asked for something.
#[derive(Debug)]
pub struct Neighbour {
    pid: i32,
    pidfd: OwnedFd,
    /// The processor that it was narrowed to last, or [`NOWHERE`].
    narrowed_to: AtomicUsize,
}

const NOWHERE: usize = usize::MAX;

impl Neighbour {
    /// `None` where its number cannot be told for sure: it stays where it is.
    pub fn new(pidfd: BorrowedFd<'_>) -> Option<Self> {
        let pid = sys::pid_of(pidfd)?;
        let pidfd = pidfd.try_clone_to_owned().ok()?;
        Some(Self { pid, pidfd, narrowed_to: AtomicUsize::new(NOWHERE) })
    }

    /// Narrows what it may use to the processor that this runs on, if it is to; for who spreads by
    /// itself. True: it has to be told.
    pub fn call_here(&self, alone: bool) -> bool {
        alone && sys::this_processor().is_some_and(|here| self.narrow(here))
    }

    /// As [`Neighbour::call_here`], for who does not spread, which this sees to when it is next asked
    /// for anything: that saves calls, and it finds its caches warm.
    pub fn keep_here(&self, alone: bool) -> bool {
        let narrowed_to = self.narrowed_to.load(Relaxed);
        if narrowed_to != NOWHERE {
            if alone && sys::this_processor() == Some(narrowed_to) && self.is_kept_on(narrowed_to) {
                return true;
            }
            self.send_back();
        }
        self.call_here(alone)
    }

    /// Undoes that, where it could not be asked after all, or is not to be kept any more; unless
    /// somebody else has chosen others meanwhile.
    pub fn send_back(&self) {
        let narrowed_to = self.narrowed_to.swap(NOWHERE, Relaxed);
        if narrowed_to != NOWHERE {
            self.change(|now| (*now == only(narrowed_to)).then_some(EVERY));
        }
    }

    fn is_kept_on(&self, processor: usize) -> bool {
        sys::processors_of(self.pid).is_ok_and(|now| now == only(processor))
    }

    fn narrow(&self, here: usize) -> bool {
        let is_done = there_are().is_some_and(|all| self.change(|now| narrowed(all, now, here)));
        if is_done {
            self.narrowed_to.store(here, Relaxed);
        }
        is_done
    }

    /// Changes what it may use; whether that was done.
    fn change(&self, to: impl Fn(&Processors) -> Option<Processors>) -> bool {
        if self.is_gone() {
            return false;
        }
        let Ok(before) = sys::processors_of(self.pid) else { return false };
        let Some(after) = to(&before) else { return false };
        if sys::set_processors(self.pid, &after).is_err() {
            return false; // a container may forbid it
        }
        if self.is_gone() {
            // In these very microseconds: its number may have been another's already.
            let _ = sys::set_processors(self.pid, &before);
            return false;
        }
        true
    }

    fn is_gone(&self) -> bool {
        !matches!(sys::wait_readable([self.pidfd.as_fd()], Some(Duration::ZERO)), Ok([false]))
    }
}

/// Lets this process use all processors again, as it or its parent could before it was called.
pub fn spread() {
    let _ = sys::set_processors(0, &EVERY); // where one may be narrowed, that is allowed too
}

/// Something that this process has asked for, and that has not answered.
#[derive(Debug)]
pub struct UnderWay {
    began: Instant,
    /// Whether nothing else was being started when it was asked for.
    pub alone: bool,
}

static UNDER_WAY: Mutex<Vec<Instant>> = Mutex::new(Vec::new());

fn under_way() -> MutexGuard<'static, Vec<Instant>> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes one more; whether it is the only one that is being started.
fn begin(under_way: &mut Vec<Instant>, now: Instant) -> bool {
    under_way.retain(|began| now.duration_since(*began) < STARTING);
    under_way.push(now);
    under_way.len() == 1
}

impl UnderWay {
    /// Counts it.
    pub fn begin() -> Self {
        let began = Instant::now();
        Self { began, alone: begin(&mut under_way(), began) }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut under_way = under_way();
        if let Some(place) = under_way.iter().position(|began| *began == self.began) {
            under_way.swap_remove(place);
        }
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
    (*all != only(here)).then(|| only(here))
}

/// This one; none where it has a number that no set has room for.
fn only(processor: usize) -> Processors {
    let mut only = NONE;
    if let Some(word) = only.get_mut(processor / WORD_BITS) {
        *word = 1 << (processor % WORD_BITS);
    }
    only
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
    fn what_began_long_ago_is_not_being_started() {
        let (mut under_way, now) = (Vec::new(), Instant::now());
        assert!(begin(&mut under_way, now));
        assert!(!begin(&mut under_way, now + STARTING / 2));
        assert!(!begin(&mut under_way, now + STARTING));
        assert!(begin(&mut under_way, now + STARTING * 2));
        assert_eq!(under_way.len(), 1);
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
