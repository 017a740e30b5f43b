//! The programs of `edge-ebpf/src/bench.rs`, which no agent loads: how they are built, and loaded on the maps of an edge
//! that runs.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use aya::{Ebpf, EbpfLoader};
use edge_common::names;
use edge_tests::net::Lab;

use crate::shell::{cargo, run, target};

/// Takes a lab's pinned maps in place of new ones.
pub fn loader(lab: &Lab) -> Result<EbpfLoader<'static>> {
    let generation = lab.generation()?;
    let mut loader = EbpfLoader::new();
    for name in names::MAPS {
        let folder = if name == names::COUNTERS { lab.pin_path() } else { generation.clone() };
        loader.map_pin_path(name, folder.join(name));
    }
    Ok(loader)
}

pub fn load(loader: &mut EbpfLoader<'_>) -> Result<Ebpf> {
    loader.load_file(build()?).context("the benchmark's object does not load")
}

/// As `build.rs` of `edge-user` has the kernel side built, in a directory of its own.
fn build() -> Result<PathBuf> {
    let folder = target().join("kernel-bench");
    let flags = ["-Cdebuginfo=2", "-Clink-arg=--btf", "--cfg=bpf_target_arch=\"x86_64\""].join("\u{1f}");
    run(cargo()
        .args([
            "build",
            "--locked",
            "--package",
            "edge-ebpf",
            "--bin",
            "edge-bench",
            "--features",
            "bench",
            "--release",
        ])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &folder)
        .env("CARGO_ENCODED_RUSTFLAGS", flags))?;
    Ok(folder.join("bpfel-unknown-none/release/edge-bench"))
}
