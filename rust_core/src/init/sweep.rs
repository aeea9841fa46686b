//! The sweep: ending what a command started, and nothing else in its jail.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use crate::error::{At, Failure, Result, Step};
use crate::sys;

/// Which real-time signal tells a session's shell to give up what it runs.
const BREAK_SIGNAL_OFFSET: i32 = 5;
/// How often a sweep looks again. A bomb of forks takes a handful.
const SWEEP_ROUNDS: usize = 500;
/// How often nothing must have been found while processes were born, before it is believed: jobs that
/// are spared may be what bears them.
const SWEEP_LOOKS: usize = 16;

/// What a sweep ends and what it leaves alone, see `InitRequest::Sweep`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bounds<'a> {
    pub(super) spare: &'a [i32],
    pub(super) keep: &'a [i32],
    pub(super) since_ticks: u64,
    pub(super) trees: &'a [i32],
    pub(super) ends: &'a [i32],
}

/// Ends what a command started. Processes are first all stopped, so that none can fork away from the
/// list, then killed, and then waited for; that is repeated until none is found. Returns how many it
/// has ended, which are left to be reaped.
///
/// # Errors
/// [`Step::Sweep`] when they come faster than they can be listed; the jail is to end then.
pub(super) fn sweep(bounds: Bounds<'_>, break_shell: bool) -> Result<u64> {
    let Bounds { spare, .. } = bounds;
    if break_shell {
        for pid in spare {
            let _ = sys::kill(*pid, libc::SIGSTOP);
        }
    }
    // With the time of its start, for a number may be another process's by the next look.
    let mut stopped: HashSet<(i32, u64)> = HashSet::new();
    let mut rounds = 0;
    let mut looks = 0;
    loop {
        let newest = newest_pid();
        let table = processes().at(Step::Sweep, "/proc")?;
        let found: HashSet<i32> = doomed(&table, bounds).into_iter().collect();
        let found: Vec<(i32, u64)> = table
            .iter()
            .filter(|row| found.contains(&row.pid))
            .map(|row| (row.pid, row.started_ticks))
            .collect();
        if found.is_empty() {
            looks += 1;
            if looks < SWEEP_LOOKS && newest_pid() != newest {
                continue;
            }
            break;
        }
        rounds += 1;
        if rounds > SWEEP_ROUNDS {
            return Err(Failure {
                step: Step::Sweep,
                errno: libc::EAGAIN,
                subject: "processes come faster than they can be ended".to_owned(),
            });
        }
        let fresh: Vec<_> = found.iter().filter(|one| !stopped.contains(one)).collect();
        if fresh.is_empty() {
            for (pid, _) in &found {
                let _ = sys::kill(*pid, libc::SIGKILL);
            }
            for one in &found {
                wait_gone(*one)?;
            }
        } else {
            for (pid, _) in &fresh {
                let _ = sys::kill(*pid, libc::SIGSTOP);
            }
            stopped.extend(fresh);
        }
    }
    if break_shell {
        for pid in spare {
            let _ = sys::kill(*pid, sys::realtime_signal(BREAK_SIGNAL_OFFSET));
            let _ = sys::kill(*pid, libc::SIGCONT);
        }
    }
    Ok(stopped.len() as u64)
}

/// Who is to end: all but init, the spared, the kept, the descendants of the kept, and whoever was
/// there before the command. The kept are those that a clock of 10 ms cannot tell from its own.
fn doomed(table: &[Row], bounds: Bounds<'_>) -> Vec<i32> {
    let Bounds { spare, keep, since_ticks, trees, ends } = bounds;
    let rows: HashMap<i32, &Row> = table.iter().map(|row| (row.pid, row)).collect();
    // Whatever else holds: with what is to end its descendants end, up to another interpreter.
    let is_to_end = |row: &Row| {
        let mut current = row;
        while !ends.contains(&current.pid) {
            match rows.get(&current.parent) {
                Some(parent) if parent.pid > 1 && !trees.contains(&current.pid) => current = parent,
                _ => return false,
            }
        }
        true
    };
    let is_kept = |row: &Row| {
        let mut current = row;
        loop {
            if current.started_ticks < since_ticks || trees.contains(&current.pid) {
                return true;
            }
            if keep.contains(&current.pid) && current.started_ticks <= since_ticks {
                return true;
            }
            match rows.get(&current.parent) {
                Some(parent) if parent.pid > 1 && !spare.contains(&parent.pid) => current = parent,
                _ => return false,
            }
        }
    };
    table
        .iter()
        .filter(|row| row.pid != 1 && !row.is_dead && !spare.contains(&row.pid))
        .filter(|row| is_to_end(row) || !is_kept(row))
        .map(|row| row.pid)
        .collect()
}

/// Waits for the end of a process that was killed. One descriptor at a time: there may be more
/// processes than this one may have descriptors.
fn wait_gone((pid, started_ticks): (i32, u64)) -> Result<()> {
    let pidfd = match sys::pidfd_open(pid) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        result => result.at(Step::Sweep, "pidfd")?,
    };
    match Row::of(pid) {
        Some(row) if row.started_ticks == started_ticks => {
            sys::wait_readable([pidfd.as_fd()], None)
                .at(Step::Sweep, format!("/proc/{pid}"))
                .map(drop)
        }
        _ => Ok(()),
    }
}

/// The number that was given last here. Numbers come round after 32768 of them, and a process that
/// forks and exits without pause may then be born behind the place where `/proc` is being read: what
/// was seen is all there is only if nothing was born meanwhile.
fn newest_pid() -> Option<i32> {
    fs::read_to_string("/proc/loadavg").ok()?.split_ascii_whitespace().last()?.parse().ok()
}

/// One process of the jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) session: i32,
    started_ticks: u64,
    is_dead: bool,
}

impl Row {
    /// None if there is no such process.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        parse_stat(&String::from_utf8_lossy(&stat))
    }
}

/// Reads one `/proc/PID/stat` (`proc_pid_stat(5)`): the command may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<Row> {
    let (pid, rest) = stat.split_once(" (")?;
    let (_, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Row {
        pid: pid.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started_ticks: fields.get(19)?.parse().ok()?,
        // A first thread that has ended is a zombie too, while others run on.
        is_dead: matches!(*fields.first()?, "Z" | "X") && fields.get(17)?.parse::<u32>().ok()? <= 1,
    })
}

fn processes() -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if !entry.file_name().as_bytes().first().is_some_and(u8::is_ascii_digit) {
            continue;
        }
        match fs::read(entry.path().join("stat")) {
            Ok(stat) => rows.extend(parse_stat(&String::from_utf8_lossy(&stat))),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pid: i32, parent: i32, started_ticks: u64) -> Row {
        Row { pid, parent, session: pid, started_ticks, is_dead: false }
    }

    #[test]
    fn a_command_name_may_hold_anything() {
        let fields = "S 7 4 4 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 1";
        let stat = format!("42 (a) Z (b) {fields}");
        assert_eq!(parse_stat(&stat), Some(Row { session: 4, ..row(42, 7, 98765) }));
        assert_eq!(parse_stat("42 (a"), None);
        let zombie = format!("42 (a) {}", fields.replacen('S', "Z", 1));
        assert!(parse_stat(&zombie).is_some_and(|row| row.is_dead));
        let others_run = zombie.replace(" 20 0 1 0 ", " 20 0 2 0 ");
        assert!(parse_stat(&others_run).is_some_and(|row| !row.is_dead));
    }

    #[test]
    fn what_was_there_before_survives_with_its_descendants() {
        // 2 is the shell; 3 an earlier job, 4 its child; 5 this command's, 6 its orphan's child.
        let table = [row(1, 0, 0), row(2, 1, 1), row(3, 2, 5), row(4, 3, 50)];
        let table = [&table[..], &[row(5, 2, 50), row(6, 1, 51), row(7, 6, 52)]].concat();
        assert_eq!(
            doomed(
                &table,
                Bounds { spare: &[2], keep: &[3], since_ticks: 10, ..Bounds::default() }
            ),
            [5, 6, 7]
        );
    }

    #[test]
    fn an_orphan_of_an_earlier_job_survives_its_parent() {
        let table = [row(1, 0, 0), row(2, 1, 1), row(4, 1, 9), row(5, 4, 50), row(6, 1, 10)];
        assert_eq!(
            doomed(&table, Bounds { spare: &[2], since_ticks: 10, ..Bounds::default() }),
            [6]
        );
    }

    #[test]
    fn another_interpreter_is_left_alone_with_its_descendants() {
        // 2 ends, 3 and its child stay, 5 was 2's; 6 is nobody's any more.
        let table = [row(1, 0, 0), row(2, 1, 1), row(3, 2, 5), row(4, 3, 6), row(5, 2, 7)];
        let table = [&table[..], &[row(6, 1, 8)]].concat();
        assert_eq!(doomed(&table, Bounds { trees: &[3], ..Bounds::default() }), [2, 5, 6]);
    }

    #[test]
    fn what_is_to_end_ends_even_below_another_interpreter() {
        // 3 is to end with 4 and its child 5, though it is a child of 2, which stays with 6.
        let table = [row(1, 0, 0), row(2, 1, 1), row(3, 2, 5), row(4, 3, 6), row(5, 4, 7)];
        let table = [&table[..], &[row(6, 2, 8)]].concat();
        let bounds = Bounds { trees: &[2], ends: &[3], ..Bounds::default() };
        assert_eq!(doomed(&table, bounds), [3, 4, 5]);
    }

    #[test]
    fn an_interpreter_ends_alone_where_all_else_was_there_before() {
        // 3 ends with its child 4; 2 and its child 5 stay, and 6, which is nobody's any more.
        let table = [row(1, 0, 0), row(2, 1, 1), row(3, 1, 5), row(4, 3, 6), row(5, 2, 7)];
        let table = [&table[..], &[row(6, 1, 8)]].concat();
        let bounds = Bounds { since_ticks: u64::MAX, ends: &[3], ..Bounds::default() };
        assert_eq!(doomed(&table, bounds), [3, 4]);
    }

    #[test]
    fn a_number_that_was_used_again_is_not_kept() {
        let table = [row(1, 0, 0), row(2, 1, 1), row(3, 2, 11)];
        assert_eq!(
            doomed(
                &table,
                Bounds { spare: &[2], keep: &[3], since_ticks: 10, ..Bounds::default() }
            ),
            [3]
        );
    }
}
