//! Tables filled to what the config lets come: entries in their first line, in their second, and in the trie.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context, Result, ensure};
use edge_tests::{agent::Edge, bpf::Program, net::Lab, packet::Packet};

use super::rig::program;

/// So many of each kind; of them a few hundred find their first line full, and a few dozen both.
const MANY: u32 = 4_000;
const DROP: u32 = 1;
const PASS: u32 = 2;

/// What is blocked, and an address of it that sends.
type Named = (String, IpAddr);

#[test]
fn every_ipv4_address_of_a_full_table_drops_and_counts() -> Result<()> {
    all_hold(|n| {
        let address = Ipv4Addr::from(0x0b00_0000 + n.wrapping_mul(2_654_435_761) % 0x0100_0000);
        (format!("{address}/32"), address.into())
    })
}

#[test]
fn every_ipv6_address_of_a_full_table_drops_and_counts() -> Result<()> {
    all_hold(|n| {
        let address = Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n) << 70 | u128::from(n));
        (format!("{address}/128"), address.into())
    })
}

#[test]
fn every_ipv6_network_of_a_full_table_drops_and_counts() -> Result<()> {
    all_hold(|n| {
        let network = 0x2001_0db8_u128 << 96 | u128::from(n) << 64;
        (format!("{}/64", Ipv6Addr::from(network)), Ipv6Addr::from(network | u128::from(n)).into())
    })
}

/// All of them, then every other one, then the same of an agent that was killed and started again.
fn all_hold(name: impl Fn(u32) -> Named) -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::bare(&lab)?;
    edge.config.without("server").without("auth");
    edge.config.set("filter", "max_blocked", &MANY.to_string()).set("filter", "max_prefixes", &MANY.to_string());
    edge.run()?;
    let all: Vec<Named> = (0..MANY).map(name).collect();
    let (kept, lifted): (Vec<_>, Vec<_>) = all.iter().enumerate().partition(|(index, _)| index % 2 == 0);
    let (kept, lifted) = (without_index(kept), without_index(lifted));
    tell(&edge, "block", &all)?;
    judged(&program(&lab)?, &all, DROP)?;
    counted(&edge, &all, 1).context("all are blocked")?;
    tell(&edge, "unblock", &lifted)?;
    judged(&program(&lab)?, &kept, DROP)?;
    judged(&program(&lab)?, &lifted, PASS)?;
    counted(&edge, &kept, 2).context("half are lifted")?;
    edge.kill()?;
    edge.run()?;
    judged(&program(&lab)?, &kept, DROP)?;
    judged(&program(&lab)?, &lifted, PASS)?;
    counted(&edge, &kept, 3).context("after a restart")?;
    tell(&edge, "block", &lifted)?;
    judged(&program(&lab)?, &all, DROP)?;
    counted(&edge, &lifted, 1).context("the others again")
}

fn without_index(named: Vec<(usize, &Named)>) -> Vec<Named> {
    named.into_iter().map(|(_, named)| named.clone()).collect()
}

fn tell(edge: &Edge, command: &str, named: &[Named]) -> Result<()> {
    let lines: String = named.iter().map(|(text, _)| format!("{text}\n")).collect();
    edge.cli_with(&[command, "-"], lines.as_bytes())?.good().map(drop)
}

fn judged(program: &Program, named: &[Named], verdict: u32) -> Result<()> {
    let frame = |source: IpAddr| Packet::new(source).tcp(443, 2).bytes();
    for (text, source) in named {
        let found = program.test_run(&frame(*source), 1)?.verdict;
        ensure!(found == verdict, "{source} of {text}: verdict {found}, not {verdict}");
    }
    Ok(())
}

/// Each entry has counted so many packets, and nothing else is listed with fewer.
fn counted(edge: &Edge, named: &[Named], packets: u64) -> Result<()> {
    let list = edge.json(&["list"])?;
    let entries = list.as_array().context("edge list gives no array")?.iter();
    let counts: HashMap<&str, u64> =
        entries.filter_map(|entry| Some((entry["address"].as_str()?, entry["packets"].as_u64()?))).collect();
    for (text, _) in named {
        ensure!(
            counts.get(text.as_str()) == Some(&packets),
            "{text} counted {:?}, not {packets}",
            counts.get(text.as_str())
        );
    }
    Ok(())
}
