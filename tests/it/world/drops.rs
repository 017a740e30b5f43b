//! What the kernel samples of its drops, as `edge why` shows it; samples, never counts.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use edge_common::{
    event::{Event, RING_BYTES, Sampler},
    names,
};
use edge_tests::{
    agent::Edge,
    bpf::{Map, possible_cpus},
    client::{Wire, scrape},
    net::{ATTACKER4, ATTACKER6, HOST_INTERFACE, Lab, NEIGHBOUR4},
    wait_for,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{SOON, has_keys, lifecycle::filter_only, packets, time};

fn why(edge: &Edge, address: IpAddr) -> Result<Value> {
    Ok(edge.json_any(&["why", &address.to_string()])?.1)
}

/// Sends a datagram and waits for its drop to be counted.
fn dropped(edge: &Edge, wire: &Wire, from: IpAddr, reason: &str) -> Result<usize> {
    let (frame, before) = (wire.datagram(from, 0, &[0; 22])?, packets(edge, reason)?);
    wire.send(&frame)?;
    wait_for("the drop to be counted", SOON, || Ok((packets(edge, reason)? > before).then_some(())))?;
    Ok(frame.len())
}

#[test]
fn the_last_drops_of_an_address_are_shown_through_a_reload() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start_with(&lab, filter_only)?;
    let wire = Wire::new(&lab)?;
    edge.cli(&["block", &ATTACKER4.to_string(), "2001:db8:66::/64"])?.good()?;
    ensure!(why(&edge, ATTACKER4)?["drops"] == json!([]));
    let begun = jiff::Timestamp::now().as_millisecond() - 10;
    let length = dropped(&edge, &wire, ATTACKER4, "blocked")?;
    (0..4).try_for_each(|_| dropped(&edge, &wire, ATTACKER4, "blocked").map(drop))?;
    let told = why(&edge, ATTACKER4)?;
    has_keys(&told["drops"][0], &["time", "reason", "interface", "bytes"])?;
    ensure!(told["drops"].as_array().map(Vec::len) == Some(1), "of a block only the first is sampled: {told}");
    let first = &told["drops"][0];
    ensure!(
        first["reason"] == "blocked" && first["interface"] == HOST_INTERFACE && first["bytes"] == length,
        "{first}"
    );
    let at = time(&first["time"])?.as_millisecond();
    ensure!((begun..=jiff::Timestamp::now().as_millisecond()).contains(&at), "{first}, begun {begun}");
    ensure!(told["dropped"]["by_reason"]["blocked"] == 5, "counts are no samples: {told}");
    let text = edge.cli(&["why", &ATTACKER4.to_string()])?.stdout;
    ensure!(text.contains(&format!("blocked on {HOST_INTERFACE}, {length} bytes")), "{text}");
    dropped(&edge, &wire, ATTACKER6, "blocked")?;
    ensure!(why(&edge, ATTACKER6)?["drops"][0]["reason"] == "blocked");
    ensure!(why(&edge, NEIGHBOUR4)?["drops"] == json!([]));

    edge.config.set("filter", "exposed_ports", "[\"22/tcp\"]");
    edge.write_config()?;
    edge.cli(&["reload"])?.good()?;
    dropped(&edge, &wire, ATTACKER4, "blocked")?;
    dropped(&edge, &wire, NEIGHBOUR4, "port_closed")?;
    let after = why(&edge, ATTACKER4)?;
    ensure!(after["drops"] == told["drops"], "the block has dropped before, and its samples are kept: {after}");
    // Its traffic passes, and yet one of its packets did not.
    let neighbour = edge.json(&["why", &NEIGHBOUR4.to_string()])?;
    ensure!(
        neighbour["drops"][0]["reason"] == "port_closed" && neighbour["dropped"]["by_reason"] == json!({}),
        "{neighbour}"
    );
    Ok(())
}

#[test]
fn what_finds_the_ring_full_is_counted_as_lost() -> Result<()> {
    let lab = Lab::new()?;
    // Of a block only the first drop is sampled; of what is not exposed, one of each source.
    let edge = Edge::start_with(&lab, |config| {
        filter_only(config);
        config.set("filter", "exposed_ports", "[\"22/tcp\"]");
    })?;
    let lost = || scrape(&lab)?.value("edge_events_lost_total", &[("source", "ring")]).context("no family");
    ensure!(lost()? == 0.0);
    let sampler = Map::pinned(&crate::bytecode::pinned(&lab.pin_path(), names::SAMPLER)?)?;
    let in_kernel = || -> Result<u64> {
        let mut per_cpu = vec![Sampler::default(); possible_cpus()?];
        sampler.read_per_cpu(0, &mut per_cpu)?;
        Ok(per_cpu.iter().map(|one| one.lost).sum())
    };
    let wire = Wire::new(&lab)?;
    edge.signal_group(Signal::SIGSTOP)?;
    let mut sources = (0..u32::from(u16::MAX) * 2).map(|number| Ipv4Addr::from_bits(0xc612_0000 + number)).cycle();
    let flooded = wait_for("the ring to be full", SOON * 3, || {
        for source in sources.by_ref().take(2_000) {
            wire.send(&wire.datagram(IpAddr::V4(source), 0, &[])?)?;
        }
        Ok((in_kernel()? > 0).then_some(()))
    });
    edge.signal_group(Signal::SIGCONT)?;
    flooded?;
    wait_for("the loss to be told", SOON, || Ok((lost()? > 0.0).then_some(())))?;
    ensure!(lost()? == in_kernel()? as f64);
    // What the ring held is read, and what comes now is sampled as ever.
    let held = RING_BYTES as usize / (Event::BYTES + 8);
    wait_for("a fresh sample", SOON, || {
        let source = sources.next().map(IpAddr::V4).context("no source")?;
        dropped(&edge, &wire, source, "port_closed")?;
        Ok((why(&edge, source)?["drops"] != json!([])).then_some(()))
    })
    .with_context(|| format!("after {held} samples"))
}
