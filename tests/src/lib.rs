//! The harness that sees edge from the outside: network namespaces ([`net`], [`places`]), the real binary in them
//! ([`agent`]) with the authority that signs for it ([`authority`]), real clients and forged frames ([`client`], [`crowd`], [`forged`], [`talk`]), connections by the
//! thousand and how they end ([`endings`]), a flood and what comes through of it ([`flood`], [`tap`]), honest clients all
//! the while ([`service`]), a slow attack ([`slow`]), a death at any step
//! ([`strace`]), secrets that may stand nowhere ([`canary`]), what processes hold ([`descriptor`]), a disk that can be full ([`disk`]), a real
//! SSH server ([`ssh`]), a real OpenID provider ([`provider`]) and a real browser ([`browser`]), the kernel's own word on sockets, programs and maps ([`sockets`], [`bpf`], [`verifier`]);
//! what was decided, on paper ([`decisions`]); and what a packet deserves by the documents ([`model`]), with packets ([`packet`], [`generate`]) and states
//! ([`scene`]) to ask it about. The tests in `it/` and `cargo xtask demo` stand on it. It knows no crate of edge, so
//! that nothing can be right on both sides and wrong on the wire.

pub mod agent;
pub mod authority;
pub mod bpf;
pub mod browser;
pub mod canary;
pub mod client;
pub mod crowd;
pub mod decisions;
pub mod descriptor;
pub mod disk;
pub mod endings;
pub mod flood;
pub mod forged;
pub mod generate;
pub mod manager;
pub mod model;
pub mod net;
pub mod packet;
pub mod places;
pub mod provider;
pub mod refuse;
pub mod scene;
pub mod service;
pub mod slow;
pub mod sockets;
pub mod ssh;
pub mod strace;
pub mod talk;
pub mod tap;
pub mod verifier;

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// 128 plus the signal's number where a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The command's words on standard output, or an error that quotes what it said instead.
    pub fn good(self) -> Result<String> {
        if self.code != 0 {
            bail!("exit code {}: {}{}", self.code, self.stderr, self.stdout);
        }
        Ok(self.stdout)
    }
}

/// Runs a command to its end with `input` on its standard input.
pub fn run(command: &mut Command, input: &[u8]) -> Result<Output> {
    use std::{io::Write, os::unix::process::ExitStatusExt};
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{name} cannot be started; is it installed?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input may have closed it already.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output()?;
    Ok(Output {
        code: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Asks again and again until `condition` gives something, at most for `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = condition()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}
