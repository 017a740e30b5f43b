//! `cargo xtask bench [NAME...]`: benchmarks, each beside its peer in the same run.

use anyhow::{Result, bail};
use clap::ValueEnum;

#[derive(clap::Args)]
pub struct Arguments {
    /// All of them if none is named
    names: Vec<Name>,
    /// One JSON document instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Nanoseconds a packet, beside xdp-filter
    Xdp,
    /// From the last 401 to the first dropped packet, beside fail2ban
    BlockLatency,
    /// Of agent and server when idle
    Memory,
}

pub fn bench(arguments: &Arguments) -> Result<()> {
    let Arguments { names, json } = arguments;
    let _ = (names, json);
    bail!("the benchmarks are not in this version yet")
}
