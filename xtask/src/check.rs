//! `cargo xtask check`: everything that a machine can say of the text of this repository, and what the kernel's verifier
//! says of the program. All checks run; the failed ones are named at the end.

use anyhow::{Result, bail};
use edge_tests::{
    net::Lab,
    verifier::{Figures, start_with_everything},
};

use crate::{
    dependencies, rules,
    run::{Profile, build},
    setup,
    shell::{cargo, is_root, run, target},
};

type Check = (&'static str, fn() -> Result<()>);

/// The cheap ones first.
const CHECKS: [Check; 7] = [
    ("house rules", rules::check),
    ("formatting", formatting),
    ("dependency policy", dependencies::check),
    ("lints of the host side", host_lints),
    ("lints of the kernel side", kernel_lints),
    ("docs", docs),
    ("the verifier's figures", verifier),
];

pub fn check() -> Result<()> {
    setup::for_build()?;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        eprintln!("check: {name}");
        if let Err(error) = check() {
            eprintln!("{error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("check: {} of {} failed: {}", failed.len(), CHECKS.len(), failed.join(", "));
    }
    eprintln!("check: all {} passed", CHECKS.len());
    Ok(())
}

fn formatting() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))
}

fn host_lints() -> Result<()> {
    let whole = ["clippy", "--locked", "--workspace", "--all-targets"];
    run(cargo().args(whole).args(["--", "-D", "warnings"]))
}

/// The stable compiler builds the core library for BPF only if told that it may; in a directory of its own, since that
/// word would have everything else built anew.
fn kernel_lints() -> Result<()> {
    let kernel = ["clippy", "--locked", "--package", "edge-ebpf", "--bin", "edge", "--release"];
    run(cargo()
        .args(kernel)
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--", "-D", "warnings"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", target().join("kernel-lints")))
}

fn docs() -> Result<()> {
    let libraries = ["edge-common", "edge-ebpf", "edge-user", "edge-tests"];
    run(cargo()
        .args(["doc", "--locked", "--no-deps", "--document-private-items", "--lib"])
        .args(libraries.iter().flat_map(|package| ["--package", package]))
        .env("RUSTDOCFLAGS", "-D warnings"))
}

/// Loads the program with every feature on, in a namespace of its own.
fn verifier() -> Result<()> {
    if !is_root() {
        eprintln!("check: left out, since only root may load programs");
        return Ok(());
    }
    setup::for_live()?;
    build(Profile::Dev)?;
    let lab = Lab::new()?;
    let _edge = start_with_everything(&lab)?;
    let figures = Figures::of(&lab.pin_path())?;
    println!("{figures}");
    figures.within_patience()
}
