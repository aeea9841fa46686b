//! Builds what the extension carries inside: the supervisor, bash's builtin and Node's addon.
//!
//! They are programs of this workspace, built by the same cargo from the same lock file into a
//! target directory of their own (the outer one is locked while this runs), which all profiles of
//! the outer build share: they are built once. Only the `python` feature needs them; without it
//! this does nothing, which is also what ends the recursion.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Libc in the program, and text in pages of 2 MiB of its own, so that it can be put on huge ones
/// (`sys/text.rs`). The file is no longer for it where the linker is LLVM's.
const SUPERVISOR_FLAGS: &str =
    "-Ctarget-feature=+crt-static\x1f-Clink-arg=-Wl,-z,max-page-size=2097152";

/// Built with `panic = "abort"`, whole-program optimisation and no symbols: see the workspace.
const PROFILE: &str = "embedded";

fn main() {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=shell_builtin");
    println!("cargo::rerun-if-changed=node_addon");
    println!("cargo::rerun-if-changed=../Cargo.lock");
    if env::var_os("CARGO_FEATURE_PYTHON").is_none() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let directory = outer_target_directory(&out).join("embedded");
    let built = directory.join(&target).join(PROFILE);
    // Without a dynamic linker's pages a fork of the supervisor is smaller and quicker. Where the
    // system has no static libc it is linked like any other program.
    let supervisor = ["-p", "rust_core", "--bin", "sandbox-supervisor"];
    if !build(&manifest, &directory, &target, &supervisor, SUPERVISOR_FLAGS) {
        println!("cargo::warning=no static libc found: jails will cost a little more");
        assert!(build(&manifest, &directory, &target, &supervisor, ""), "see above");
    }
    let libraries = ["-p", "sandbox_shell_builtin", "-p", "sandbox_node_addon"];
    assert!(build(&manifest, &directory, &target, &libraries, ""), "see above");
    let supervisor = built.join("sandbox-supervisor");
    let builtin = built.join("libsandbox_shell_builtin.so");
    let addon = built.join("libsandbox_node_addon.so");
    println!("cargo::rustc-env=SANDBOX_SUPERVISOR={}", supervisor.display());
    println!("cargo::rustc-env=SANDBOX_SHELL_BUILTIN={}", builtin.display());
    println!("cargo::rustc-env=SANDBOX_NODE_ADDON={}", addon.display());
}

/// `TARGET_DIR` of `TARGET_DIR[/TRIPLE]/PROFILE/build/PACKAGE-HASH/out`, or at least the triple's.
fn outer_target_directory(out: &Path) -> &Path {
    out.ancestors().nth(4).unwrap_or(out)
}

fn build(manifest: &Path, directory: &Path, target: &str, what: &[&str], flags: &str) -> bool {
    let cargo = env::var_os("CARGO").expect("cargo sets CARGO");
    let workspace = manifest.parent().expect("rust_core lies in the workspace");
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace)
        .args(["build", "--locked", "--profile", PROFILE, "--target", target])
        .arg("--target-dir")
        .arg(directory)
        .args(what);
    // What the outer build says of itself must not leak into this one.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let of_outer = text.starts_with("CARGO_FEATURE_")
            || text.starts_with("CARGO_CFG_")
            || text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST")
            || text.starts_with("PYO3_")
            || matches!(
                &*text,
                "CARGO_ENCODED_RUSTFLAGS"
                    | "RUSTFLAGS"
                    | "RUSTC"
                    | "RUSTC_WORKSPACE_WRAPPER"
                    | "CARGO_BUILD_TARGET"
                    | "CARGO_PRIMARY_PACKAGE"
                    | "CARGO_CRATE_NAME"
                    | "CARGO_BIN_NAME"
                    | "CARGO_TARGET_DIR"
            );
        if of_outer {
            command.env_remove(&name);
        }
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags);
    command.status().expect("cargo runs").success()
}
