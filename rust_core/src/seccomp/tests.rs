//! The program held against the table, and the table against what it is to refuse.

use super::*;
use std::collections::HashSet;

const KEY: Key = Key::new(0x0123_4567_89ab_cdef).expect("not 0");
const KEYS: [Option<Key>; 2] = [None, Some(KEY)];

/// Numbers without meaning, the same in each run (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn native(number: u32, arguments: [u64; 6]) -> Call {
    Call { number, arch: NATIVE_ARCH, arguments }
}

fn rule_of(name: &str) -> &'static Rule {
    POLICY.iter().find(|rule| rule.name == name).expect("a rule of that name")
}

/// The verdict of the compiled program, compared with the table on the way.
fn verdict(name: &str, arguments: [u64; 6]) -> &'static str {
    let call = native(rule_of(name).number, arguments);
    let [decided, with_key] = KEYS.map(|key| {
        let decided = decide(key, &call);
        assert_eq!(run(&compile(key), &call).action, decided.action());
        decided
    });
    assert_eq!(decided, with_key, "no key is shown");
    decided.name()
}

fn run(program: &[sock_filter], call: &Call) -> Outcome {
    evaluate(program, call).expect("a program that the kernel takes")
}

/// All values worth trying for one argument of a call: those the rules name, their
/// neighbours, the same under garbage in the high half, and noise.
fn values(rule: &Rule, argument: u8, noise: &mut Noise) -> Vec<u64> {
    let mut values = vec![0, 1, u64::MAX, noise.next()];
    let checks = rule.cases.iter().flat_map(|case| case.when);
    for check in checks.filter(|check| check.argument == argument) {
        for value in check.values.iter().copied().map(u64::from) {
            let high = noise.next() << 32;
            let unmasked = u64::from(!check.mask) & noise.next();
            values.extend([value, value ^ 1, value | high, value | unmasked]);
        }
        values.extend((0..32).map(|bit| 1 << bit));
    }
    values
}

#[test]
fn programs_say_what_the_table_says() {
    let mut noise = Noise(0x5eed);
    for key in KEYS {
        let program = compile(key);
        let borders = [X32_FIRST, X32_LAST, u32::MAX, X32_FIRST - 1];
        let x32 = (0..600).map(|number| number | X32_FIRST);
        let random: Vec<u32> = (0..2000).map(|_| halves(noise.next()).0).collect();
        for number in (0..600).chain(borders).chain(x32).chain(random) {
            for arch in [AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64, 0x4000_0003, 0, u32::MAX] {
                for _ in 0..4 {
                    let arguments = [(); 6].map(|()| noise.next());
                    let call = Call { number, arch, arguments };
                    let expected = decide(key, &call).action();
                    assert_eq!(run(&program, &call).action, expected, "{key:?} {call:?}");
                }
            }
        }
    }
}

#[test]
fn programs_say_what_the_table_says_about_every_argument() {
    let mut noise = Noise(0xa46);
    let programs = KEYS.map(|key| (key, compile(key)));
    for rule in POLICY {
        for first in values(rule, 0, &mut noise) {
            for second in values(rule, 1, &mut noise) {
                for third in values(rule, 2, &mut noise) {
                    for sixth in [9, KEY.0.get()] {
                        let call = native(rule.number, [first, second, third, 7, 8, sixth]);
                        for (key, program) in &programs {
                            let expected = decide(*key, &call).action();
                            assert_eq!(run(program, &call).action, expected, "{call:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_key_opens_what_builds_jails_and_nothing_else() {
    let key = KEY.0.get();
    let program = compile(Some(KEY));
    let without = compile(None);
    let action = |program: &[sock_filter], name: &str, shown: u64| {
        let new_namespace = 0x2000_0000;
        let number = rule_of(name).number;
        run(program, &native(number, [new_namespace, 0, 0, 0, 0, shown])).action
    };
    let [allowed, refused] = [Verdict::Allow, Verdict::NotPermitted].map(Verdict::action);
    for name in ["mount", "clone"] {
        assert_eq!(action(&program, name, key), allowed, "{name}");
        assert_eq!(action(&without, name, key), refused, "{name}");
        let others = (0..64).map(|bit| key ^ 1 << bit);
        let halves = [key & 0xffff_ffff, key >> 32, key << 32, key.rotate_left(32)];
        for shown in others.chain(halves).chain([0, 1, u64::MAX, !key]) {
            assert_eq!(action(&program, name, shown), refused, "{name} {shown:x}");
        }
    }
    for name in ["unshare", "setns", "umount2", "pivot_root", "ptrace", "bpf"] {
        assert_eq!(action(&program, name, key), refused, "{name}");
    }
}

#[test]
fn a_refusal_takes_as_long_whatever_half_of_the_key_is_right() {
    let program = compile(Some(KEY));
    let number = rule_of("mount").number;
    let steps = |shown| run(&program, &native(number, [0, 0, 0, 0, 0, shown])).steps;
    let key = KEY.0.get();
    for shown in [0, key ^ 1, key ^ 1 << 63, key & 0xffff_ffff, key & !0xffff_ffff] {
        assert_eq!(steps(shown), steps(!key));
    }
}

#[test]
fn every_case_of_every_rule_decides_something() {
    let mut noise = Noise(0xca5e);
    for rule in POLICY {
        let mut seen = HashSet::new();
        for first in values(rule, 0, &mut noise) {
            for second in values(rule, 1, &mut noise) {
                for third in values(rule, 2, &mut noise) {
                    let call = native(rule.number, [first, second, third, 0, 0, 0]);
                    seen.insert(
                        rule.cases
                            .iter()
                            .position(|case| case.when.iter().all(|check| holds(check, &call))),
                    );
                }
            }
        }
        for case in 0..rule.cases.len() {
            assert!(seen.contains(&Some(case)), "case {case} of {} is never used", rule.name);
        }
        let conditional = rule.cases.iter().all(|case| !case.when.is_empty());
        assert_eq!(seen.contains(&None), conditional, "{}", rule.name);
    }
}

#[test]
fn every_call_has_one_rule() {
    let names: HashSet<_> = denied_names().collect();
    let numbers: HashSet<_> = POLICY.iter().map(|rule| rule.number).collect();
    assert_eq!((names.len(), numbers.len()), (POLICY.len(), POLICY.len()));
    assert!(numbers.iter().all(|&number| number <= HIGHEST_KNOWN));
}

#[test]
fn programs_are_small_and_trees_are_flat() {
    for (key, most_instructions, most_steps) in [(None, 140, 15), (Some(KEY), 150, 22)] {
        let program = compile(key);
        assert!(program.len() <= most_instructions, "{key:?}: {}", program.len());
        let deepest =
            (0..=HIGHEST_KNOWN).map(|number| run(&program, &native(number, [0; 6])).steps).max();
        assert!(deepest <= Some(most_steps), "{key:?}: {deepest:?}");
    }
}

#[test]
fn a_table_too_long_for_short_jumps_compiles_too() {
    let kinds = [NOT_PERMITTED, NOT_IMPLEMENTED, PLAIN_SOCKET, PLAIN_TERMINAL, NO_NAMESPACE];
    let rules = (0..900).zip(kinds.into_iter().cycle());
    let program = assemble(None, rules.map(|(index, cases)| rule("", index * 3, cases)), 3000);
    assert!(program.len() > 900 && program.len() < 4096, "{}", program.len());
    assert!(program.iter().any(|step| u32::from(step.code) == JUMP));
    for number in 0..2800 {
        let denied = number % 3 == 0 && number < 2700 && (number / 3) % 5 < 2;
        let action = run(&program, &native(number, [1, 0, 0, 0, 0, 0])).action;
        assert_eq!(action != Verdict::Allow.action(), denied, "{number}");
    }
}

#[test]
fn a_check_without_values_never_or_always_holds() {
    const NEVER: &[Case] = &[Case::when(&[Check::one_of(0, &[])], Verdict::NotPermitted)];
    const ALWAYS: &[Case] = &[Case::when(&[Check::none_of(0, &[])], Verdict::NotPermitted)];
    let rules = [rule("", 3, NEVER), rule("", 4, ALWAYS)];
    let program = assemble(None, rules.into_iter(), HIGHEST_KNOWN);
    let actions = [2, 3, 4, 5].map(|number| run(&program, &native(number, [0; 6])).action);
    let [allow, deny] = [Verdict::Allow, Verdict::NotPermitted].map(Verdict::action);
    assert_eq!(actions, [allow, allow, deny, allow]);
}

#[test]
fn a_foreign_architecture_kills() {
    let program = compile(None);
    let i386 = 0x4000_0003;
    for arch in [i386, NATIVE_ARCH ^ 1, 0] {
        let call = Call { number: 0, arch, arguments: [0; 6] };
        assert_eq!(run(&program, &call).action, Verdict::KillProcess.action());
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_x32_dialect_kills() {
    let program = compile(None);
    for number in [0, 1, 59, 520, HIGHEST_KNOWN] {
        let call = native(number | X32_FIRST, [0; 6]);
        assert_eq!(run(&program, &call).action, Verdict::KillProcess.action());
    }
}

#[test]
fn calls_newer_than_the_table_do_not_exist() {
    let program = compile(None);
    for number in [HIGHEST_KNOWN + 1, 512, 547, 1000, X32_FIRST - 1, u32::MAX] {
        let action = run(&program, &native(number, [0; 6])).action;
        assert_eq!(action, Verdict::NotImplemented.action(), "{number}");
    }
    let known = run(&program, &native(HIGHEST_KNOWN, [0; 6])).action;
    assert_eq!(known, Verdict::Allow.action());
}

#[test]
fn ordinary_calls_are_allowed() {
    let calls = [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_futex]
        .into_iter()
        .chain([libc::SYS_seccomp, libc::SYS_landlock_restrict_self, libc::SYS_pidfd_open])
        .chain([libc::SYS_prctl, libc::SYS_memfd_create, libc::SYS_close_range]);
    for number in calls {
        let call = native(word(number.into()), [u64::MAX; 6]);
        for key in KEYS {
            assert_eq!(run(&compile(key), &call).action, Verdict::Allow.action());
        }
    }
}

#[test]
fn steering_a_terminal_is_refused_under_garbage_in_the_high_bits() {
    for high in [0, 1 << 32, 0xdead_beef << 32, 1 << 63] {
        for request in [0x5412, 0x541c, 0x5423] {
            assert_eq!(verdict("ioctl", [0, request | high, 0, 0, 0, 0]), "EPERM");
        }
        assert_eq!(verdict("ioctl", [0, 0x5401 | high, 0, 0, 0, 0]), "allow");
    }
}

#[test]
fn clone_makes_processes_and_threads_but_no_namespaces() {
    let thread = 0x003d_0f00;
    let vfork = 0x4111;
    let others = u64::from(!(NAMESPACES | CLONE_PARENT));
    for flags in [17, thread, vfork, 0x80, others, 0x7e02_0000 << 32] {
        assert_eq!(verdict("clone", [flags, 0, 0, 0, 0, 0]), "allow", "{flags:x}");
    }
    for bit in [15, 17, 25, 26, 27, 28, 29, 30] {
        assert_eq!(verdict("clone", [0x11 | 1 << bit, 0, 0, 0, 0, 0]), "EPERM", "{bit}");
    }
    assert_eq!(verdict("clone3", [0; 6]), "ENOSYS");
    assert_eq!(verdict("unshare", [0x80, 0, 0, 0, 0, 0]), "EPERM");
}

#[test]
fn the_persona_stays() {
    assert_eq!(verdict("personality", [0; 6]), "allow");
    assert_eq!(verdict("personality", [0xffff_ffff, 0, 0, 0, 0, 0]), "allow");
    let no_randomisation = 0x0004_0000;
    assert_eq!(verdict("personality", [no_randomisation, 0, 0, 0, 0, 0]), "EPERM");
}

#[test]
fn limits_are_ones_own_and_orphans_inits() {
    for pid in [0, 1 << 32] {
        assert_eq!(verdict("prlimit64", [pid, 0, 1, 1, 0, 0]), "allow");
    }
    for pid in [1, 7, 7 | 1 << 32, u64::MAX] {
        assert_eq!(verdict("prlimit64", [pid, 0, 1, 0, 0, 0]), "EPERM");
        assert_eq!(verdict("prlimit64", [pid, 0, 0, 1, 0, 0]), "EPERM");
    }
    let (dumpable, subreaper) = (4, 36);
    assert_eq!(verdict("prctl", [dumpable, 1, 0, 0, 0, 0]), "allow");
    assert_eq!(verdict("prctl", [subreaper, 1, 0, 0, 0, 0]), "EPERM");
    assert_eq!(verdict("prctl", [subreaper | 1 << 32, 1, 0, 0, 0, 0]), "EPERM");
}

#[test]
fn sockets_are_of_plain_families_and_types() {
    let flags = u64::from(word((libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).into()));
    let [unix, inet, inet6, netlink]: [u64; 4] = [1, 2, 10, 16];
    let [stream, datagram, raw, sequential, packet]: [u64; 5] = [1, 2, 3, 5, 10];
    for call in ["socket", "socketpair"] {
        let socket = |family, kind, protocol| verdict(call, [family, kind, protocol, 0, 0, 0]);
        for kind in [stream, datagram, stream | flags] {
            for protocol in [0, 1, 6, 17, 58, 136, 262, 6 | 1 << 32] {
                for family in [unix, inet, inet6] {
                    assert_eq!(socket(family, kind, protocol), "allow");
                }
            }
            for protocol in [33, 46, 47, 115, 132, 255, 256, 0x84 | 1 << 32] {
                for family in [inet, inet6, inet | 1 << 32] {
                    assert_eq!(socket(family, kind, protocol), "EPROTONOSUPPORT");
                }
                assert_eq!(socket(unix, kind, protocol), "allow");
            }
        }
        for kind in [sequential, sequential | flags, 4, 6, 0] {
            assert_eq!(socket(unix, kind, 0), "allow");
            for family in [inet, inet6] {
                assert_eq!(socket(family, kind, 0), "EPROTONOSUPPORT");
            }
        }
        for kind in [raw, packet, raw | flags, packet | flags] {
            for family in [unix, inet, inet6, inet | 1 << 32] {
                assert_eq!(socket(family, kind, 0), "EPERM");
                assert_eq!(socket(family, kind, 255), "EPERM");
            }
        }
        for kind in [raw, datagram, raw | flags] {
            assert_eq!(socket(netlink, kind, 0), "allow");
            assert_eq!(socket(netlink, kind, 1 << 32), "allow");
            for protocol in 1..32 {
                assert_eq!(socket(netlink, kind, protocol), "EPERM");
            }
        }
        for family in [0, 3, 17, 30, 38, 40, 44, 45, u64::MAX] {
            assert_eq!(socket(family, stream, 0), "EAFNOSUPPORT");
            assert_eq!(socket(family, raw, 0), "EAFNOSUPPORT");
        }
    }
}

#[test]
fn what_the_kernel_would_not_load_is_not_evaluated() {
    let call = native(0, [0; 6]);
    let step = |code, jt, k| sock_filter { code, jt, jf: 0, k };
    let [load, jump, equal, allow] =
        [LOAD, JUMP, JUMP_IF_EQUAL, RETURN].map(|code| u16::try_from(code).expect("small"));
    assert_eq!(evaluate(&[], &call), None);
    assert_eq!(evaluate(&[step(load, 0, 0)], &call), None);
    for offset in [2, 64, 400] {
        assert_eq!(evaluate(&[step(load, 0, offset), step(allow, 0, 0)], &call), None);
    }
    assert_eq!(evaluate(&[step(jump, 0, u32::MAX)], &call), None);
    assert_eq!(evaluate(&[step(equal, 9, 0), step(allow, 0, 0)], &call), None);
    assert_eq!(evaluate(&[step(0xffff, 0, 0), step(allow, 0, 0)], &call), None);
    let fine = [step(load, 0, 4), step(equal, 0, 0), step(allow, 0, 3)];
    assert_eq!(evaluate(&fine, &call), Some(Outcome { action: 3, steps: 3 }));
}
