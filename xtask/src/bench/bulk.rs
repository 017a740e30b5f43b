//! `bench bulk`: a million addresses and 100,000 prefixes from a file into force, the store included, then one more of
//! each; beside `ipset restore` and `nft -f` of the same lists, which store nothing. The time is that of the whole
//! command; of one more also that from the request at edge's socket to its answer, without the start of a process.

mod contenders;

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};
use edge_common::names;
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
/// The most of the kernel's memory for an address, in bytes, without its counts. Edge's lie in the same lines as the entries,
/// so only what both take can be held against it.
const GOAL_BYTES: f64 = 24.0;

/// Of one contender and one list, in seconds.
#[derive(Default)]
struct Times {
    load: Vec<f64>,
    more: Vec<f64>,
    /// The same without the start of a process, where that can be told apart.
    inside: Vec<f64>,
}

/// What the kernel holds, in bytes, while the addresses are in force.
struct Memory {
    /// Reserved for an address and its counts.
    each: f64,
    /// In all for addresses that found no room in their table, and for counts that outgrew their words.
    beside: Vec<(&'static str, u64)>,
}

impl Memory {
    fn text(&self, ipset: f64) -> String {
        let beside = |(name, bytes): &(&str, u64)| format!("{name} {:.1}", *bytes as f64 / 1e6);
        let beside: Vec<String> = self.beside.iter().map(beside).collect();
        format!(
            "kernel memory for an address: {:.1} bytes reserved, half of them its counts, in the same lines; ipset {ipset:.1}, which \
             counts nothing (goal {GOAL_BYTES} without counts)\nbeside that, in MB for all of them: {}",
            self.each,
            beside.join(", ")
        )
    }
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
    lines.push(memory.text(theirs));
    let beside: serde_json::Map<String, Value> =
        memory.beside.iter().map(|(name, bytes)| ((*name).to_owned(), json!(bytes))).collect();
    let json = json!({
        "rounds": ROUNDS, "lists": rows, "ipset_bytes_per_address": theirs,
        "bytes_per_address_with_counts": memory.each, "bytes_beside": beside,
        "goal_bytes_per_address_without_counts": GOAL_BYTES,
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

/// The table by the capacity that is reserved, for as many addresses as it is meant for; the rest as it is with the addresses
/// in force.
fn memory(lab: &Lab, guard: &Guard) -> Result<Memory> {
    guard.load(Kind::Addresses)?;
    let pins = pins(&lab.pin_path())?;
    let bytes = |name: &str| {
        let map = pins.iter().find(|pin| pin.ends_with(name)).with_context(|| format!("no {name} is pinned"))?;
        pinned_map_bytes(map)?.with_context(|| format!("{name} is no map"))
    };
    let each = bytes(names::BLOCKED4)? as f64 / f64::from(guard.capacity());
    let beside = [names::NETS4, names::SPILLED].map(|name| bytes(name).map(|bytes| (name, bytes)));
    let memory = Memory { each, beside: beside.into_iter().collect::<Result<_>>()? };
    guard.empty(Kind::Addresses)?;
    Ok(memory)
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
