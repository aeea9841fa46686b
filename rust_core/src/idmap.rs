//! User and group ids: which of the host's may be given to sandboxes, and who gets which.
//!
//! Two user namespaces are stacked. The outer one holds the supervisor; in it, sandbox N owns two
//! ids, one for its init (0 inside) and one for its user code (1000 inside), so that no process
//! of a sandbox ever has the id of the control process, of root, or of another sandbox. Where only
//! one id can be had (an ordinary user), all share it, and the report says so.

use std::fmt::Write;

/// The uid and gid of user code, as the sandbox numbers them.
pub const PAYLOAD_ID: u32 = 1000;
/// The uid and gid of a jail's init, as the sandbox numbers them (with separate ids only).
pub const INIT_ID: u32 = 0;
/// How many ids the outer namespace gets: the supervisor's own, then two for each sandbox.
const OUTER_COUNT: u32 = 65536;
/// Where the private ranges start: above what distributions and containers hand out.
const FIRST_PRIVATE: u32 = 0x4000_0000;
/// How many private ranges there are; a launcher's pid chooses one.
const PRIVATE_RANGES: u32 = 0x4000;

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
    },
    /// One id for all: the caller's own.
    Shared {
        /// The caller's effective uid.
        uid: u32,
        /// The caller's effective gid.
        gid: u32,
    },
}

/// Chooses ids for a supervisor, given the map of the namespace that its launcher lives in.
///
/// `privileged`: the launcher may map ids that are not its own (`CAP_SETUID`, `CAP_SETGID`).
/// `salt` keeps two launchers apart: pass the launcher's pid.
pub fn plan(own_map: &[Range], privileged: bool, uid: u32, gid: u32, salt: u32) -> Plan {
    let shared = Plan::Shared { uid, gid };
    if !privileged {
        return shared;
    }
    let wanted = FIRST_PRIVATE + (salt % PRIVATE_RANGES) * OUTER_COUNT;
    let holds = |range: &&Range| {
        u64::from(range.inside) <= u64::from(wanted)
            && u64::from(wanted) + u64::from(OUTER_COUNT)
                <= u64::from(range.inside) + u64::from(range.count)
    };
    if own_map.iter().any(|range| holds(&range)) {
        return Plan::Separate { first: wanted, count: OUTER_COUNT };
    }
    // Inside somebody's container: the upper half of the largest range, if it is worth having.
    match own_map.iter().max_by_key(|range| range.count) {
        Some(range) if range.count >= 4096 => {
            let half = range.count / 2;
            Plan::Separate {
                first: range.inside.saturating_add(half),
                count: half.min(OUTER_COUNT),
            }
        }
        _ => shared,
    }
}

impl Plan {
    /// Text for the outer namespace's `uid_map`.
    pub fn outer_uid_map(self) -> String {
        match self {
            Self::Separate { first, count } => format!("0 {first} {count}\n"),
            Self::Shared { uid, .. } => format!("0 {uid} 1\n"),
        }
    }

    /// Text for the outer namespace's `gid_map`.
    pub fn outer_gid_map(self) -> String {
        match self {
            Self::Separate { first, count } => format!("0 {first} {count}\n"),
            Self::Shared { gid, .. } => format!("0 {gid} 1\n"),
        }
    }

    /// Text for both maps of sandbox number `index`, in ids of the outer namespace.
    ///
    /// With separate ids a number comes back after all others were used once.
    pub fn sandbox_map(self, index: u64) -> String {
        let mut map = String::new();
        match self {
            Self::Separate { count, .. } => {
                let pairs = u64::from((count - 1) / 2);
                let init = 1 + 2 * u32::try_from(index % pairs).unwrap_or_default();
                let payload = init + 1;
                let _ = write!(map, "{INIT_ID} {init} 1\n{PAYLOAD_ID} {payload} 1\n");
            }
            Self::Shared { .. } => map.push_str("0 0 1\n"),
        }
        map
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

    #[test]
    fn no_plan_for_root_hands_out_id_zero() {
        for salt in [0, 1, 77, 16383, 16384, u32::MAX] {
            let Plan::Separate { first, count } = plan(&[WHOLE], true, 0, 0, salt) else {
                panic!("the whole range is there")
            };
            assert!(first >= FIRST_PRIVATE && first.checked_add(count).is_some());
        }
    }

    #[test]
    fn an_ordinary_user_shares_its_own_id() {
        let plan = plan(&[WHOLE], false, 1001, 1002, 5);
        assert_eq!(plan, Plan::Shared { uid: 1001, gid: 1002 });
        assert_eq!(plan.outer_uid_map(), "0 1001 1\n");
        assert_eq!(plan.outer_gid_map(), "0 1002 1\n");
    }

    #[test]
    fn a_small_container_gets_what_its_map_has() {
        let container = [Range { inside: 0, outside: 100_000, count: 65536 }];
        assert_eq!(plan(&container, true, 0, 0, 9), Plan::Separate { first: 32768, count: 32768 });
        let single = [Range { inside: 0, outside: 1000, count: 1 }];
        assert_eq!(plan(&single, true, 0, 0, 9), Plan::Shared { uid: 0, gid: 0 });
    }

    #[test]
    fn two_sandboxes_share_no_id() {
        let plan = plan(&[WHOLE], true, 0, 0, 1);
        assert_eq!(plan.sandbox_map(0), "0 1 1\n1000 2 1\n");
        assert_eq!(plan.sandbox_map(1), "0 3 1\n1000 4 1\n");
        assert_eq!(plan.sandbox_map(32767), plan.sandbox_map(0), "numbers wrap, none is invalid");
    }
}
