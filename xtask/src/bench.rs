//! `cargo xtask bench [NAME...]`: benchmarks, each beside its peer in the same run. A shared machine is never quiet, so
//! rounds of the compared alternate, medians are taken, and the ratio is what counts.

mod accept;
mod adopt;
mod auth;
mod block_latency;
mod bulk;
mod flood;
mod memory;
mod object;
mod slow_headers;
mod xdp;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::{live, run::Profile, setup};

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
    /// The receiver's time for each dropped packet, beside nftables and ipset
    Flood,
    /// From the last 401 to the first dropped packet, beside fail2ban
    BlockLatency,
    /// A million addresses and 100,000 prefixes from a file, beside ipset and nftables
    Bulk,
    /// What others have of a server that one address attacks with slow headers, beside nginx
    SlowHeaders,
    /// Of agent and server when idle
    Memory,
    /// Connections a second, with a cap and without
    Accept,
    /// From a start after a kill to ready, with 100,000 blocks and a million; the comparison at rest, and unload
    Adopt,
    /// A check of a token and requests that need one, beside HAProxy; TLS handshakes, beside nginx
    Auth,
}

/// One benchmark's outcome: for people, and for programs.
struct Outcome {
    text: String,
    json: Value,
}

impl Name {
    fn key(self) -> &'static str {
        match self {
            Name::Xdp => "xdp",
            Name::Flood => "flood",
            Name::BlockLatency => "block_latency",
            Name::Bulk => "bulk",
            Name::SlowHeaders => "slow_headers",
            Name::Memory => "memory",
            Name::Accept => "accept",
            Name::Adopt => "adopt",
            Name::Auth => "auth",
        }
    }

    fn measure(self) -> Result<Outcome> {
        match self {
            Name::Xdp => xdp::measure(),
            Name::Flood => flood::measure(),
            Name::BlockLatency => block_latency::measure(),
            Name::Bulk => bulk::measure(),
            Name::SlowHeaders => slow_headers::measure(),
            Name::Memory => memory::measure(),
            Name::Accept => accept::measure(),
            Name::Adopt => adopt::measure(),
            Name::Auth => auth::measure(),
        }
    }
}

pub fn bench(arguments: &Arguments) -> Result<()> {
    live::enter(Profile::Release, setup::for_bench)?;
    let names = if arguments.names.is_empty() { Name::value_variants() } else { &arguments.names };
    let mut document = Map::new();
    for name in names {
        let outcome = name.measure()?;
        if !arguments.json {
            println!("{}", outcome.text);
        }
        document.insert(name.key().to_owned(), outcome.json);
    }
    if arguments.json {
        println!("{}", Value::Object(document));
    }
    Ok(())
}

/// The smallest value that at least `part` of them do not exceed.
fn quantile<T: Copy + PartialOrd + Default>(values: &[T], part: f64) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_and_many() {
        assert_eq!(quantile::<u32>(&[], 0.5), 0);
        assert_eq!(quantile(&[3], 0.99), 3);
        assert_eq!(quantile(&[3, 1, 2], 0.5), 2);
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!(quantile(&hundred, 0.99), 99);
        assert_eq!(quantile(&hundred, 0.5), 50);
    }
}
