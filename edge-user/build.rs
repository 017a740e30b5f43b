//! Builds the kernel side, so that `cargo build` gives one binary with the BPF object inside.

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    for path in ["../edge-common/src", "../edge-ebpf/src", "../Cargo.toml"] {
        println!("cargo:rerun-if-changed={path}");
    }
    // SAFETY: a build script has one thread. The stable compiler needs it for `-Z build-std`, in this build alone.
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    let toolchain = std::env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".to_owned());
    let package = aya_build::Package { name: "edge-ebpf", root_dir: "../edge-ebpf", ..Default::default() };
    aya_build::build_ebpf([package], aya_build::Toolchain::Custom(&toolchain))
        .context("the kernel side does not build; `cargo xtask setup` installs what it needs")
}
