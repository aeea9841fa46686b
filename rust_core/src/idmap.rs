//! User and group ids: which of the host's may be given to sandboxes, and who gets which.
//!
//! Two user namespaces are stacked. The outer one holds the supervisor; in it, sandbox N owns two
//! ids, one for its init (0 inside) and one for its user code (1000 inside), so that no process
//! of a sandbox ever has the id of the control process, of root, or of another sandbox. Where only
//! one id can be had (an ordinary user), all share it, and the report says so.
//!
//! Two runtimes of one machine choose different ranges: each claims its own for as long as it
//! lives, by a name in its network namespace. Those that share no such namespace begin to look at
//! a random one of 16 384.

use std::collections::HashSet;

use crate::spec::Achieved::{Absent, Full, Partial};
use crate::spec::Protection;

/// The uid and gid of user code, as the sandbox numbers them.
pub const PAYLOAD_ID: u32 = 1000;
/// The uid and gid of a jail's init, as the sandbox numbers them (with separate ids only).
pub const INIT_ID: u32 = 0;
/// How many ids the outer namespace gets: the supervisor's own, then two for each sandbox.
const OUTER_COUNT: u32 = 65536;
/// Where the private ranges start: above what distributions and containers hand out.
const FIRST_PRIVATE: u32 = 0x4000_0000;
/// How many private ranges there are.
const PRIVATE_RANGES: u32 = 0x4000;
/// Into how many parts a container's ids are cut, for as many runtimes in it.
const CONTAINER_PARTS: u32 = 8;
/// How many ranges are asked for before it is done without a claim.
const ATTEMPTS: u32 = 64;

/// One line of `/proc/PID/uid_map` (`user_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Why a map could not be read: the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadMap(pub String);

/// Reads `/proc/PID/uid_map`.
///
/// # Errors
/// [`BadMap`] with the first line that is not three numbers.
pub fn parse_uid_map(text: &[u8]) -> Result<Vec<Range>, BadMap> {
    String::from_utf8_lossy(text)
        .lines()
        .map(|line| {
            let bad = || BadMap(line.to_owned());
            let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
            let mut next = || numbers.next().ok_or_else(bad)?.map_err(|_| bad());
            let range = Range { inside: next()?, outside: next()?, count: next()? };
            if numbers.next().is_some() { Err(bad()) } else { Ok(range) }
        })
        .collect()
}

/// Who gets which ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Every sandbox has two ids of its own; the outer namespace starts at this host id.
    Separate {
        /// The host's id for 0 of the outer namespace.
        first: u32,
        /// How many ids follow it.
        count: u32,
        /// Who else may have them.
        apart: Apart,
    },
    /// One id for all: the caller's own.
    Shared {
        /// The caller's effective uid.
        uid: u32,
        /// The caller's effective gid.
        gid: u32,
    },
}

/// From whom a range of ids is kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apart {
    /// Ids that are handed out to nobody, claimed against other runtimes.
    Claimed,
    /// Ids of the container that this runs in, claimed against other runtimes in it.
    ClaimedInContainer,
    /// As either, but no claim could be made.
    Unclaimed,
}

/// Chooses ids for a supervisor, given the map of the namespace that its launcher lives in.
///
/// `privileged`: the launcher may map ids that are not its own (`CAP_SETUID`, `CAP_SETGID`).
/// `start` is any number: where among the ranges to begin. `claim` is asked whether the range that
/// starts at an id is this launcher's alone from now on.
pub fn plan(
    own_map: &[Range],
    privileged: bool,
    (uid, gid): (u32, u32),
    start: u32,
    mut claim: impl FnMut(u32) -> bool,
) -> Plan {
    let Some((base, count, ranges, claimed)) = choices(own_map).filter(|_| privileged) else {
        return Plan::Shared { uid, gid };
    };
    let first_of = |number: u32| base + (number % ranges) * count;
    let start = start % ranges;
    for number in (start..).take(ATTEMPTS.min(ranges) as usize) {
        let first = first_of(number);
        if claim(first) {
            return Plan::Separate { first, count, apart: claimed };
        }
    }
    Plan::Separate { first: first_of(start), count, apart: Apart::Unclaimed }
}

/// The ranges to choose from: the first id, how many ids each has, how many there are.
fn choices(own_map: &[Range]) -> Option<(u32, u32, u32, Apart)> {
    let whole = u64::from(PRIVATE_RANGES) * u64::from(OUTER_COUNT);
    let holds = |range: &&Range| {
        range.inside <= FIRST_PRIVATE
            && u64::from(FIRST_PRIVATE) + whole <= u64::from(range.inside) + u64::from(range.count)
    };
    if own_map.iter().any(|range| holds(&range)) {
        return Some((FIRST_PRIVATE, OUTER_COUNT, PRIVATE_RANGES, Apart::Claimed));
    }
    // Inside somebody's container: the upper half of the largest range, if it is worth having.
    let range =
        own_map.iter().max_by_key(|range| range.count).filter(|range| range.count >= 4096)?;
    let half = range.count / 2;
    let base = range.inside.checked_add(half)?;
    let count = (half / CONTAINER_PARTS).min(OUTER_COUNT);
    Some((base, count, half / count, Apart::ClaimedInContainer))
}

/// Which pairs of ids the sandboxes that are there have.
#[derive(Debug)]
pub struct Pairs {
    most: u32,
    next: u32,
    taken: HashSet<u32>,
}

impl Pairs {
    /// None taken.
    pub fn new(plan: Plan) -> Self {
        let most = match plan {
            Plan::Separate { count, .. } => (count - 1) / 2,
            Plan::Shared { .. } => 0,
        };
        Self { most, next: 0, taken: HashSet::new() }
    }

    /// One that nobody has, and that was given back longest ago or never; `None`: all are taken.
    /// Without separate ids there is nothing to take, and any number will do.
    pub fn take(&mut self) -> Option<u32> {
        if self.most == 0 {
            return Some(0);
        }
        for _ in 0..self.most {
            let pair = self.next;
            self.next = (self.next + 1) % self.most;
            if self.taken.insert(pair) {
                return Some(pair);
            }
        }
        None
    }

    /// Its sandbox is gone.
    pub fn give_back(&mut self, pair: u32) {
        self.taken.remove(&pair);
    }
}

impl Plan {
    /// Text for the outer namespace's `uid_map`.
    pub fn outer_uid_map(self) -> String {
        match self {
            Self::Separate { first, count, .. } => format!("0 {first} {count}\n"),
            Self::Shared { uid, .. } => format!("0 {uid} 1\n"),
        }
    }

    /// Text for the outer namespace's `gid_map`.
    pub fn outer_gid_map(self) -> String {
        match self {
            Self::Separate { first, count, .. } => format!("0 {first} {count}\n"),
            Self::Shared { gid, .. } => format!("0 {gid} 1\n"),
        }
    }

    /// Text for both maps of the sandbox with this pair of ids, in ids of the outer namespace.
    pub fn sandbox_map(self, pair: u32) -> String {
        match self {
            Self::Separate { .. } => {
                let init = 1 + 2 * pair;
                format!("{INIT_ID} {init} 1\n{PAYLOAD_ID} {} 1\n", init + 1)
            }
            Self::Shared { .. } => "0 0 1\n".to_owned(),
        }
    }

    /// What the report says of the ids of the sandbox with this pair.
    pub fn protection(self, pair: u32) -> Protection {
        let (achieved, detail) = match self {
            Self::Separate { first, apart, .. } => {
                let init = first + 1 + 2 * pair;
                let ids = format!("host ids {init} and {}", init + 1);
                match apart {
                    Apart::Claimed => (
                        Full,
                        format!("{ids}, which no other runtime of this network namespace has"),
                    ),
                    Apart::ClaimedInContainer => (
                        Partial,
                        format!(
                            "{ids} of this container, which another one may have been given too"
                        ),
                    ),
                    Apart::Unclaimed => {
                        (Partial, format!("{ids}, chosen at random: no range could be claimed"))
                    }
                }
            }
            Self::Shared { .. } => {
                let detail = "an ordinary user has one id only, and user code its groups";
                (Absent, detail.to_owned())
            }
        };
        Protection::new("separate_ids", achieved, detail)
    }

    /// The ids that no one else has, as the launcher numbers them: the first, and how many.
    pub fn private_ids(self) -> Option<(u32, u32)> {
        match self {
            Self::Separate { first, count, .. } => Some((first, count)),
            Self::Shared { .. } => None,
        }
    }

    /// Whether each sandbox has ids of its own.
    pub fn is_separate(self) -> bool {
        matches!(self, Self::Separate { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Range = Range { inside: 0, outside: 0, count: u32::MAX };

    #[test]
    fn a_map_is_read_line_by_line() {
        let text = b"         0       1000          1\n1 100000 65536\n";
        let expected = vec![
            Range { inside: 0, outside: 1000, count: 1 },
            Range { inside: 1, outside: 100_000, count: 65536 },
        ];
        assert_eq!(parse_uid_map(text), Ok(expected));
        assert_eq!(parse_uid_map(b"0 1\n"), Err(BadMap("0 1".to_owned())));
        assert_eq!(parse_uid_map(b"0 1 2 3\n"), Err(BadMap("0 1 2 3".to_owned())));
    }

    fn separate(plan: Plan) -> (u32, u32, Apart) {
        let Plan::Separate { first, count, apart } = plan else { panic!("{plan:?}") };
        (first, count, apart)
    }

    #[test]
    fn no_plan_for_root_hands_out_id_zero() {
        for start in [0, 1, 77, 16383, 16384, u32::MAX] {
            let (first, count, apart) = separate(plan(&[WHOLE], true, (0, 0), start, |_| true));
            assert!(first >= FIRST_PRIVATE && first.checked_add(count).is_some());
            assert_eq!(apart, Apart::Claimed);
        }
    }

    #[test]
    fn an_ordinary_user_shares_its_own_id() {
        let plan = plan(&[WHOLE], false, (1001, 1002), 5, |_| true);
        assert_eq!(plan, Plan::Shared { uid: 1001, gid: 1002 });
        assert_eq!(plan.outer_uid_map(), "0 1001 1\n");
        assert_eq!(plan.outer_gid_map(), "0 1002 1\n");
    }

    #[test]
    fn runtimes_have_ranges_of_their_own() {
        let container = [Range { inside: 0, outside: 100_000, count: 65536 }];
        for (map, runtimes) in [([WHOLE], 20), (container, 8)] {
            let mut taken = HashSet::new();
            let mut ranges = Vec::new();
            for start in 0..runtimes {
                let claim = |first| taken.insert(first);
                ranges.push(separate(plan(&map, true, (0, 0), start % 3, claim)));
            }
            ranges.sort_by_key(|range| range.0);
            for pair in ranges.windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
            }
            let (last, count, _) = ranges[ranges.len() - 1];
            let id = |range: &Range| range.inside..=range.inside.saturating_add(range.count);
            assert!(map.iter().any(|range| id(range).contains(&(last + count))));
        }
    }

    #[test]
    fn a_range_without_a_claim_is_not_called_separate_in_full() {
        let unclaimed = plan(&[WHOLE], true, (0, 0), 3, |_| false);
        assert_eq!(separate(unclaimed).2, Apart::Unclaimed);
        assert_eq!(unclaimed.protection(0).achieved, Partial);
        let container = [Range { inside: 0, outside: 100_000, count: 65536 }];
        assert_eq!(plan(&container, true, (0, 0), 3, |_| true).protection(0).achieved, Partial);
        assert_eq!(plan(&[WHOLE], true, (0, 0), 3, |_| true).protection(0).achieved, Full);
    }

    #[test]
    fn a_small_container_gets_what_its_map_has() {
        let container = [Range { inside: 0, outside: 100_000, count: 65536 }];
        let (first, count, apart) = separate(plan(&container, true, (0, 0), 9, |_| true));
        assert_eq!((first, count, apart), (36864, 4096, Apart::ClaimedInContainer));
        let single = [Range { inside: 0, outside: 1000, count: 1 }];
        let shared = plan(&single, true, (0, 0), 9, |_| true);
        assert_eq!(shared, Plan::Shared { uid: 0, gid: 0 });
    }

    #[test]
    fn sandboxes_that_are_there_share_no_id() {
        let plan = plan(&[WHOLE], true, (0, 0), 1, |_| true);
        assert_eq!(plan.sandbox_map(0), "0 1 1\n1000 2 1\n");
        assert_eq!(plan.sandbox_map(1), "0 3 1\n1000 4 1\n");
        let mut pairs = Pairs::new(plan);
        let taken: HashSet<u32> = (0..32767).filter_map(|_| pairs.take()).collect();
        assert_eq!(taken.len(), 32767, "each is another one");
        assert_eq!(taken.iter().max(), Some(&32766), "and lies in the range");
        assert_eq!(pairs.take(), None);
        pairs.give_back(7);
        assert_eq!(pairs.take(), Some(7));
    }
}
