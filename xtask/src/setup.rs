//! `cargo xtask setup`: installs what building and testing need and this machine lacks. Looks first, so that it costs
//! nothing where nothing is missing; says what it installs and why. The other commands call the part they need.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::shell::{as_root, find, output, root, run, succeeds, target};

/// Its LLVM must be of rustc's major version.
const BPF_LINKER: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const LLVM_PACKAGES: [&str; 5] = ["llvm-22-dev", "libpolly-22-dev", "zlib1g-dev", "libzstd-dev", "libxml2-dev"];
const NEXTEST: &str = "0.9.143";

/// A program that a Debian package brings.
struct Tool {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

const fn tool(program: &'static str, package: &'static str, why: &'static str) -> Tool {
    Tool { program, package, why }
}

const LIVE_TOOLS: [Tool; 4] = [
    tool("ip", "iproute2", "makes the network namespaces of demo and tests"),
    tool("curl", "curl", "is the client that logs in"),
    tool("openssl", "openssl", "makes the certificates of demo and tests, and holds TLS connections open"),
    tool("bpftool", "bpftool", "says in tests what the kernel holds of maps and programs"),
];

const TEST_TOOLS: [Tool; 15] = [
    tool("journalctl", "systemd", "reads the journal that tests write to, and systemd-journald keeps it"),
    tool(
        "nft",
        "nftables",
        "loses packets in tests, is what fail2ban blocks with, and a peer of `bench bulk` and `flood`",
    ),
    tool("faketime", "faketime", "has a process see another time of day in tests"),
    tool("ss", "iproute2", "closes sockets from outside in tests"),
    tool("strace", "strace", "kills edge in tests at any of its system calls"),
    // Of the system's Python, whichever else is first in PATH.
    tool("/usr/lib/python3/dist-packages/jwt/__init__.py", "python3-jwt", "judges in tests the tokens that edge does"),
    tool(
        "/usr/lib/python3/dist-packages/cryptography/__init__.py",
        "python3-cryptography",
        "has the algorithms that PyJWT verifies with",
    ),
    tool("pebble", "pebble", "issues certificates by ACME in tests"),
    tool("testssl", "testssl.sh", "scans in tests the TLS that is served"),
    tool("pebble-challtestsrv", "pebble", "answers for names in tests"),
    tool("node", "nodejs", "runs the OpenID provider of tests"),
    tool("npm", "npm", "installs the OpenID provider of tests, below `target`"),
    tool("chromedriver", "chromium-driver", "has Chromium, which it brings along, sign in in tests"),
    tool("certutil", "libnss3-tools", "has Chromium trust the authority of tests"),
    SLOW,
];

const SLOW: Tool = tool("slowhttptest", "slowhttptest", "sends headers slowly in tests and `bench slow-headers`");

const BENCH_TOOLS: [Tool; 8] = [
    tool("xdp-filter", "xdp-tools", "is the peer of `bench xdp`"),
    tool("fail2ban-server", "fail2ban", "is the peer of `bench block-latency`"),
    tool("nft", "nftables", "is what fail2ban blocks with, and a peer of `bench bulk` and `bench flood`"),
    tool("ipset", "ipset", "is a peer of `bench bulk` and `bench flood`"),
    tool("iptables-legacy", "iptables", "drops what ipset lists in `bench flood`"),
    SLOW,
    tool("wrk", "wrk", "asks as fast as it is answered in `bench auth`"),
    tool("ethtool", "ethtool", "has a veth receive in a NAPI in `bench flood`"),
];

pub fn everything() -> Result<()> {
    for_build()?;
    for_tests()?;
    packages(&BENCH_TOOLS)?;
    eprintln!("setup: everything is there");
    Ok(())
}

/// What `cargo build` needs.
pub fn for_build() -> Result<()> {
    rust_source()?;
    bpf_linker()
}

/// What a live edge needs besides, in the demo as in tests.
pub fn for_live() -> Result<()> {
    packages(&LIVE_TOOLS)?;
    bpf_file_system()
}

/// What tests need besides.
pub fn for_tests() -> Result<()> {
    for_live()?;
    packages(&TEST_TOOLS)?;
    servers()?;
    oidc_provider()?;
    sslyze()?;
    nextest()
}

/// What the benchmarks need besides.
pub fn for_bench() -> Result<()> {
    for_live()?;
    packages(&BENCH_TOOLS)?;
    server("haproxy", "haproxy", "it is the peer of `bench auth`", &["haproxy.service"])?;
    servers()
}

fn rust_source() -> Result<()> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()))?;
    if Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir() {
        return Ok(());
    }
    eprintln!("setup: the component rust-src is missing; the kernel side is built with a core library of its own");
    run(Command::new("rustup").args(["component", "add", "rust-src"]).current_dir(root())).context(
        "the component rust-src cannot be had here; the way round on Debian: `apt-get install rustc-web \
         libstd-rust-web-dev-bpf`, which brings a core library for BPF",
    )
}

fn bpf_linker() -> Result<()> {
    if output(Command::new("bpf-linker").arg("--version")).is_ok_and(|version| version.contains(BPF_LINKER)) {
        return Ok(());
    }
    eprintln!("setup: bpf-linker {BPF_LINKER} is missing; it links the kernel side");
    if succeeds(Command::new("cargo").args(["binstall", "-V"]).current_dir(root()))
        && run(Command::new("cargo").args(["binstall", "--no-confirm", &format!("bpf-linker@{BPF_LINKER}")])).is_ok()
    {
        return Ok(());
    }
    if !Path::new(LLVM_PREFIX).join("lib/libLLVM.so").exists() || !Path::new("/usr/include/libxml2").exists() {
        eprintln!("setup: no prebuilt bpf-linker to be had; LLVM's development files are needed to build it");
        apt_install(&LLVM_PACKAGES)?;
    }
    let install = ["install", "bpf-linker", "--version", BPF_LINKER, "--force"];
    run(Command::new("cargo")
        .args(install)
        .args(["--no-default-features", "--features", "llvm-22"])
        .env("LLVM_PREFIX", LLVM_PREFIX)
        .current_dir(root()))
}

/// Not in Debian; apart from all other Python, in the versions that `tests/sslyze.txt` names.
fn sslyze() -> Result<()> {
    let (pins, place) = (root().join("tests/sslyze.txt"), root().join("target/sslyze"));
    let (wanted, marker) = (fs::read_to_string(&pins)?, place.join("installed.txt"));
    if fs::read_to_string(&marker).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    eprintln!(
        "setup: sslyze is missing in target/sslyze; it compares in tests the TLS that is served with Mozilla's profile"
    );
    if !succeeds(Command::new("python3").args(["-m", "ensurepip", "--version"])) {
        apt_install(&["python3-venv"])?;
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&place))?;
    let mut install = Command::new(place.join("bin/pip"));
    run(install.args(["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement"]).arg(&pins))?;
    Ok(fs::write(marker, wanted)?)
}

fn nextest() -> Result<()> {
    if succeeds(Command::new("cargo").args(["nextest", "--version"]).current_dir(root())) {
        return Ok(());
    }
    eprintln!("setup: cargo-nextest is missing; it runs the tests, each in a process of its own");
    run(Command::new("cargo").args(["install", "cargo-nextest", "--version", NEXTEST, "--locked"]).current_dir(root()))
}

/// As the lock file says, once for each state of it.
fn oidc_provider() -> Result<()> {
    let (from, to) = (root().join("tests/oidc-provider"), target().join("oidc-provider"));
    let lock = "package-lock.json";
    let wanted = fs::read(from.join(lock)).with_context(|| format!("cannot read {}", from.join(lock).display()))?;
    let installed = to.join("installed.json");
    if fs::read(&installed).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    eprintln!("setup: the npm package oidc-provider is missing; browsers sign in there in tests");
    fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    for name in ["package.json", lock] {
        fs::copy(from.join(name), to.join(name)).with_context(|| format!("cannot copy {name} to {}", to.display()))?;
    }
    run(Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&to))?;
    fs::write(&installed, wanted).with_context(|| format!("cannot write {}", installed.display()))
}

/// Servers that tests and benchmarks start themselves.
fn servers() -> Result<()> {
    server("sshd", "openssh-server", "tests sign in to it", &["ssh.service", "ssh.socket"])?;
    server(
        "nginx",
        "nginx-light",
        "tests and `bench slow-headers` attack it, and it is a peer of `bench auth`",
        &["nginx.service"],
    )
}

/// The package would start one for everybody, on every address.
fn server(program: &str, package: &str, why: &str, units: &[&str]) -> Result<()> {
    if find(program).is_some() {
        return Ok(());
    }
    eprintln!("setup: {program} (package {package}) is missing; {why}. Its service is left turned off");
    if !Path::new("/run/systemd/system").exists() {
        return apt_install(&[package]);
    }
    let systemctl = |words: &[&str]| run(as_root("systemctl")?.args(words).args(units));
    // An installation does not start what is masked.
    systemctl(&["mask", "--runtime"])?;
    let installed = apt_install(&[package]);
    systemctl(&["unmask", "--runtime"])?;
    installed.and_then(|()| systemctl(&["disable"]))
}

fn packages(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| find(tool.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for tool in &missing {
        eprintln!("setup: {} (package {}) is missing; it {}", tool.program, tool.package, tool.why);
    }
    let mut names: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    names.dedup();
    apt_install(&names)
}

fn apt_install(names: &[&str]) -> Result<()> {
    if find("apt-get").is_none() {
        bail!("there is no apt-get here: install what Debian calls {} by this system's own means", names.join(", "));
    }
    run(as_root("apt-get")?.args(["update", "--quiet"]))?;
    run(as_root("env")?.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--quiet"]).args(names))
        .with_context(|| format!("cannot install {}", names.join(", ")))
}

/// Pinned maps need it, and not every machine mounts it.
fn bpf_file_system() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        return Ok(());
    }
    eprintln!("setup: the BPF file system is not mounted; programs and maps are pinned in it");
    run(as_root("mount")?.args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))
}
