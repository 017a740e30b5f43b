//! `bench bulk`: a million addresses and 100,000 prefixes from a file into force, the store included, then one more of
//! each; beside `ipset restore` and `nft -f` of the same lists, which store nothing. The time is that of the whole
//! command; of one more also that from the request at edge's socket to its answer, without the start of a process.

mod contenders;

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};
use edge_tests::{
    bpf::{pinned_map_bytes, pins},
    net::Lab,
};
use serde_json::{Value, json};

use self::contenders::{Contender, Guard, Ipset, Nft};
use super::{Outcome, quantile};

const ROUNDS: usize = 5;
/// How many more, one by one, in each round.
const MORE: u32 = 4;

/// What a list is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Addresses,
    Prefixes,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Addresses, Kind::Prefixes];

    fn count(self) -> u32 {
        match self {
            Kind::Addresses => 1_000_000,
            Kind::Prefixes => 100_000,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Addresses => "1,000,000 addresses",
            Kind::Prefixes => "100,000 prefixes",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Kind::Addresses => "addresses",
            Kind::Prefixes => "prefixes",
        }
    }

    /// The most that the list may take from a file, in seconds.
    fn goal(self) -> f64 {
        match self {
            Kind::Addresses => 0.5,
            Kind::Prefixes => 0.3,
        }
    }

    /// Each index another one, in no order. Prefixes do not overlap, since nftables would refuse them.
    fn bits(self, index: u32) -> u32 {
        let mixed = index.wrapping_mul(0x9E37_79B1);
        match self {
            Kind::Addresses => 0x2000_0000 | mixed & 0x1fff_ffff,
            Kind::Prefixes => 0x4000_0000 | (mixed & 0x1f_ffff) << 8,
        }
    }

    fn entry(self, index: u32) -> String {
        let address = Ipv4Addr::from_bits(self.bits(index));
        match self {
            Kind::Addresses => address.to_string(),
            Kind::Prefixes => format!("{address}/{}", 24 + index % 5),
        }
    }

    fn entries(self) -> impl Iterator<Item = String> {
        (0..self.count()).map(move |index| self.entry(index))
    }

    /// Those that come one by one in a round.
    fn more(self, round: usize) -> impl Iterator<Item = String> {
        let first = self.count() + round as u32 * MORE;
        (first..first + MORE).map(move |index| self.entry(index))
    }
}

/// The most that one more may take in the agent, in seconds.
const GOAL_MORE: f64 = 1e-3;
/// The most of the kernel's memory for an address, in bytes, without its counts.
const GOAL_BYTES: f64 = 24.0;

/// Of one contender and one list, in seconds.
#[derive(Default)]
struct Times {
    load: Vec<f64>,
    more: Vec<f64>,
    /// The same without the start of a process, where that can be told apart.
    inside: Vec<f64>,
}

/// What the kernel holds for an address: its entry, and with its counts.
struct Memory {
    entry: f64,
    counted: f64,
}

pub fn measure() -> Result<Outcome> {
    let (ours, theirs) = (Lab::new()?, Lab::new()?);
    let guard = Guard::start(&ours)?;
    let (ipset, nft) = (Ipset::new(&theirs)?, Nft::new(&theirs)?);
    let contenders: [&dyn Contender; 3] = [&guard, &ipset, &nft];
    let mut lines = vec![
        format!("bulk: median of {ROUNDS} rounds, of one more of {}", ROUNDS * MORE as usize),
        format!("{:34}{:>12}{:>10}{:>14}{:>14}", "", "all, s", "edge's", "one more, ms", "in the agent"),
    ];
    let mut rows = Vec::new();
    for kind in Kind::ALL {
        let times = rounds(kind, &contenders)?;
        let (text, row) = told(kind, &contenders, &times);
        lines.extend(text);
        rows.push(row);
    }
    let memory = memory(&ours, &guard)?;
    let theirs = ipset.bytes_each()?;
    lines.push(format!(
        "kernel memory for an address: {:.1} bytes, {:.1} with its counts; ipset {theirs:.1} without (goal {GOAL_BYTES})",
        memory.entry, memory.counted
    ));
    let json = json!({
        "rounds": ROUNDS, "lists": rows, "ipset_bytes_per_address": theirs,
        "bytes_per_address": memory.entry, "bytes_per_address_with_counts": memory.counted,
    });
    Ok(Outcome { text: lines.join("\n"), json })
}

/// The contenders take turns.
fn rounds(kind: Kind, contenders: &[&dyn Contender]) -> Result<Vec<Times>> {
    let mut times: Vec<Times> = contenders.iter().map(|_| Times::default()).collect();
    for round in 0..ROUNDS {
        for (contender, times) in contenders.iter().zip(&mut times) {
            times.load.push(contender.load(kind)?.as_secs_f64());
            for one in kind.more(round) {
                times.more.push(contender.add(kind, &one)?.as_secs_f64());
            }
            let inside = kind.more(ROUNDS + round).map(|one| contender.add_inside(&one));
            let inside = inside.filter_map(Result::transpose).collect::<Result<Vec<Duration>>>()?;
            times.inside.extend(inside.iter().map(Duration::as_secs_f64));
            contender.empty(kind)?;
        }
    }
    Ok(times)
}

fn told(kind: Kind, contenders: &[&dyn Contender], times: &[Times]) -> (Vec<String>, Value) {
    let mut lines =
        vec![format!("{} (goal {} s, one more {} ms in the agent)", kind.name(), kind.goal(), GOAL_MORE * 1e3)];
    let mut of = serde_json::Map::new();
    let ours = times.first().map_or(0.0, |times| quantile(&times.load, 0.5));
    for (contender, Times { load, more, inside }) in contenders.iter().zip(times) {
        let (all, one) = (quantile(load, 0.5), quantile(more, 0.5));
        let within = (!inside.is_empty()).then(|| quantile(inside, 0.5));
        let shown = within.map_or_else(String::new, |within| format!("{:.3}", within * 1e3));
        let name = contender.name();
        lines.push(format!("  {name:32}{all:>12.3}{:>10.2}{:>14.2}{shown:>14}", ours / all, one * 1e3));
        of.insert(
            name.to_owned(),
            json!({ "all_seconds": all, "one_more_seconds": one, "one_more_inside_seconds": within }),
        );
    }
    let row = json!({ "list": kind.key(), "goal_seconds": kind.goal(), "goal_one_more_seconds": GOAL_MORE, "of": of });
    (lines, row)
}

/// By the capacity that is reserved, for as many addresses as it is meant for. Of a line of the table one half is entries,
/// the other their counts.
fn memory(lab: &Lab, guard: &Guard) -> Result<Memory> {
    let pins = pins(&lab.pin_path())?;
    let table = pins.iter().find(|pin| pin.ends_with("BLOCKED4")).context("no table of IPv4 addresses is pinned")?;
    let bytes = pinned_map_bytes(table)?.context("the table of IPv4 addresses is no map")?;
    let counted = bytes as f64 / f64::from(guard.capacity());
    Ok(Memory { entry: counted / 2.0, counted })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_entry_is_there_twice() {
        for kind in Kind::ALL {
            let count = kind.count() + 2 * ROUNDS as u32 * MORE;
            let all: HashSet<u32> = (0..count).map(|index| kind.bits(index)).collect();
            assert_eq!(all.len(), count as usize);
            let last = kind.more(2 * ROUNDS - 1).last();
            assert_eq!(last, Some(kind.entry(count - 1)));
        }
        assert_eq!(Kind::Addresses.entry(1), "62.55.121.177");
        assert!(Kind::Prefixes.entry(7).ends_with(".0/26"));
    }
}
