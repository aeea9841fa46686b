//! Invariant tested: for every call, the compiled filter, with a key and without, loads, ends, and returns the
//! verdict that a plain reading of the policy table gives.
#![no_main]

use std::sync::LazyLock;

use libc::sock_filter;
use libfuzzer_sys::fuzz_target;
use rust_core::seccomp::{Call, Key, NATIVE_ARCH, POLICY, compile, decide, evaluate};

/// Few bits, so that the fuzzer finds it.
const KEY: Option<Key> = Key::new(1 << 33 | 1);

static PROGRAMS: LazyLock<[(Option<Key>, Vec<sock_filter>); 2]> =
    LazyLock::new(|| [None, KEY].map(|key| (key, compile(key))));

/// Takes numbers off the front; behind the end all are zero.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const SIZE: usize>(&mut self) -> [u8; SIZE] {
        let mut number = [0; SIZE];
        let (taken, rest) = self.0.split_at(SIZE.min(self.0.len()));
        number[..taken.len()].copy_from_slice(taken);
        self.0 = rest;
        number
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let [how] = input.take();
    // Mostly calls that a rule names, on this architecture: the rest is soon explored.
    let number = match how % 4 {
        0 => input.word(),
        1 => input.word() % 600,
        _ => POLICY[input.word() as usize % POLICY.len()].number,
    };
    let arch = if how < 240 { NATIVE_ARCH } else { input.word() };
    let arguments = [(); 6].map(|()| u64::from_le_bytes(input.take()));
    let call = Call { number, arch, arguments };
    for (key, program) in PROGRAMS.iter() {
        let outcome = evaluate(program, &call).expect("the kernel would load it");
        assert_eq!(outcome.action, decide(*key, &call).action(), "{key:?} {call:?}");
    }
});
