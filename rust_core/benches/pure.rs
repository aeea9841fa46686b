//! The parts that are functions of their arguments, one figure for each: `make micro`.

use divan::{Bencher, black_box};
use rust_core::channel::{decode, encode};
use rust_core::spec::{Network, SupervisorRequest};
use rust_core::{cgroup, idmap, quote, seccomp};

fn main() {
    divan::main();
}

#[divan::bench(args = ["plain", "with space", "it's \"quoted\" $HOME `id`\n"])]
fn quote_a_word(word: &str) -> usize {
    quote::quote(black_box(word.as_bytes())).map_or(0, |quoted| quoted.len())
}

#[divan::bench(args = [10, 1000])]
fn join_words(bencher: Bencher<'_, '_>, count: usize) {
    let words: Vec<String> = (0..count).map(|n| format!("argument {n}")).collect();
    bencher.bench(|| quote::join(black_box(&words)).map_or(0, |joined| joined.len()));
}

#[divan::bench]
fn compile_the_filter() -> usize {
    seccomp::compile(None).len()
}

#[divan::bench]
fn read_an_id_map() -> usize {
    let text = b"         0     100000      65536\n     65536     300000          1\n";
    idmap::parse_uid_map(black_box(text)).map_or(0, |ranges| ranges.len())
}

#[divan::bench]
fn find_the_control_groups() -> usize {
    let groups = "5:memory:/a\n4:pids:/a\n0::/a\n";
    let mounts = "30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  31 24 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                  32 24 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    cgroup::places(black_box(groups), black_box(mounts)).len()
}

fn request() -> SupervisorRequest {
    SupervisorRequest::CreateSandbox {
        id: 7,
        host_name: "sandbox".into(),
        limits: rust_core::spec::Limits {
            memory_bytes: 1 << 31,
            processes: 512,
            cpu_percent: None,
            open_files: 4096,
            file_size_bytes: 1 << 30,
            workspace_bytes: 1 << 30,
            tmp_bytes: 1 << 30,
            shm_bytes: 1 << 30,
        },
        network: Network::Loopback {},
    }
}

#[divan::bench]
fn encode_a_request(bencher: Bencher<'_, '_>) {
    let request = request();
    bencher.bench(|| encode(black_box(&request)).map_or(0, |bytes| bytes.len()));
}

#[divan::bench]
fn decode_a_request(bencher: Bencher<'_, '_>) {
    let bytes = encode(&request()).unwrap_or_default();
    bencher.bench(|| decode::<SupervisorRequest>(black_box(&bytes)).is_ok());
}
