//! Invariant tested: no bytes make the reader of `uid_map` panic; a plan hands out only ids that
//! one range of the map holds; and no two sandboxes of a plan share an id.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rust_core::idmap::{Plan, parse_uid_map, plan};

/// The ids a map hands out, in the outer namespace.
fn ids(map: &str) -> Vec<u32> {
    let ranges = parse_uid_map(map.as_bytes()).expect("our own map");
    assert!(ranges.iter().all(|range| range.count == 1));
    ranges.iter().map(|range| range.outside).collect()
}

fuzz_target!(|data: &[u8]| {
    let Some((&[salt, first, second, distance], text)) = data.split_first_chunk() else {
        return;
    };
    let Ok(own_map) = parse_uid_map(text) else {
        return;
    };
    let salt = u32::from_le_bytes([salt, first, second, distance]);
    assert!(!plan(&own_map, false, 7, 7, salt).is_separate());
    let chosen = plan(&own_map, true, 7, 7, salt);
    let Plan::Separate { first: low, count } = chosen else {
        return;
    };
    let (low, high) = (u64::from(low), u64::from(low) + u64::from(count));
    assert!(own_map.iter().any(|range| {
        let start = u64::from(range.inside);
        start <= low && high <= start + u64::from(range.count)
    }));
    let first = u64::from(first) * 128;
    let one = ids(&chosen.sandbox_map(first));
    let other = ids(&chosen.sandbox_map(first + 1 + u64::from(distance)));
    assert!(one.iter().chain(&other).all(|&id| 0 < id && id < count), "0 is the supervisor's");
    assert!(one.iter().all(|id| !other.contains(id)), "{one:?} {other:?}");
});
