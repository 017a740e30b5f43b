//! `bench xdp`: nanoseconds a packet by `BPF_PROG_TEST_RUN`, each row edge beside its peer and beside a program that only
//! returns, which is what a run costs in itself.
//!
//! Hot rows are one source again and again: xdp-filter on the same frames. Cold rows draw their source at random: the same
//! judge over the kernel's own hash and trie, packets and bytes of each entry counted there too.

mod caps;
mod cold;
mod lists;
mod peer;

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use edge_tests::{
    agent::Edge,
    bpf::Program,
    client::Wire,
    net::{HOST_INTERFACE, Lab},
};
use serde_json::{Value, json};

use self::peer::XdpFilter;
use super::{Outcome, quantile};

const ROUNDS: usize = 15;
const REPEAT: u32 = 300_000;

/// As XDP numbers its actions.
const DROPS: u32 = 1;
const PASSES: u32 = 2;

/// A hot row: its frame's source, what becomes of it, the features of the xdp-filter beside it, and the goal.
struct Row {
    name: &'static str,
    from: IpAddr,
    verdict: u32,
    features: &'static str,
    goal: f64,
}

const ROWS: [Row; 4] = [
    Row { name: "drop, IPv4, of a million", from: lists::BLOCKED4, verdict: DROPS, features: "ipv4", goal: 0.5 },
    Row { name: "drop, IPv6", from: lists::BLOCKED6, verdict: DROPS, features: "ipv6", goal: 0.5 },
    Row { name: "honest, IPv4, everything on", from: lists::HONEST4, verdict: PASSES, features: "all", goal: 0.6 },
    Row { name: "honest, IPv6, everything on", from: lists::HONEST6, verdict: PASSES, features: "all", goal: 0.6 },
];

pub fn measure() -> Result<Outcome> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        // Nothing is refused by these; everything is looked at.
        config.set("filter", "exposed_ports", "[\"443/tcp\", \"5001/udp\"]").text("filter", "fragments", "drop");
        // As full as they may be: what is listed, and the two that send.
        config.set("filter", "max_blocked", &(lists::ADDRESSES + 2).to_string()).set(
            "filter",
            "max_prefixes",
            "400_000",
        );
        config.set("filter.limits", "syns", "{ per_second = 1_000_000_000 }");
        config.set("filter.limits", "packets", "{ per_second = 1_000_000_000 }");
    })?;
    lists::fill(&edge)?;
    edge.cli(&["block", &lists::BLOCKED4.to_string(), &lists::BLOCKED6.to_string()])?.good()?;
    let mut lines = vec![
        format!("xdp: ns a packet, median of {ROUNDS} rounds of {REPEAT} runs"),
        format!(
            "{:34}{:>8}{:>12}{:>14}{:>8}{:>8}",
            "one source (hot)", "edge", "xdp-filter", "return only", "ratio", "goal"
        ),
    ];
    let mut rows = Vec::new();
    for row in ROWS {
        let measured = hot(&lab, &row)?;
        lines.push(line(row.name, measured, row.goal));
        rows.push(document(row.name, "xdp_filter_ns", measured, row.goal));
    }
    lines.push(format!(
        "{:34}{:>8}{:>12}{:>14}{:>8}{:>8}",
        "random sources (cold)", "edge", "hash, trie", "number only", "ratio", "goal"
    ));
    for (name, measured) in cold::measure(&lab)? {
        lines.push(line(name, measured, cold::GOAL));
        rows.push(document(name, "kernel_maps_ns", measured, cold::GOAL));
    }
    lines.push(format!(
        "{:34}{:>8}{:>12}{:>14}{:>8}{:>8}",
        "cap of connections", "with", "without", "return only", "more", "goal"
    ));
    let mut capped = Vec::new();
    for (name, [with, without, floor]) in caps::measure()? {
        let more = i64::from(with) - i64::from(without);
        lines.push(format!("{name:34}{with:>8}{without:>12}{floor:>14}{more:>8}{:>8}", caps::GOAL));
        capped.push(json!({ "row": name, "with_ns": with, "without_ns": without, "floor_ns": floor, "goal_more_ns": caps::GOAL }));
    }
    let json = json!({ "rounds": ROUNDS, "repeat": REPEAT, "rows": rows, "caps": capped });
    Ok(Outcome { text: lines.join("\n"), json })
}

fn line(name: &str, [edge, peer, floor]: [u32; 3], goal: f64) -> String {
    let ratio = f64::from(edge) / f64::from(peer.max(1));
    format!("{name:34}{edge:>8}{peer:>12}{floor:>14}{ratio:>8.2}{goal:>8.2}")
}

fn document(name: &str, peer_key: &str, [edge, peer, floor]: [u32; 3], goal: f64) -> Value {
    let ratio = f64::from(edge) / f64::from(peer.max(1));
    json!({ "row": name, "edge_ns": edge, peer_key: peer, "floor_ns": floor, "ratio": ratio, "goal": goal })
}

fn hot(lab: &Lab, row: &Row) -> Result<[u32; 3]> {
    let peer = XdpFilter::load(row.features)?;
    let programs =
        [Program::by_id(program_id(lab)?)?, Program::by_id(program_id(&peer.lab)?)?, Program::passing("return_only")?];
    let frame = Wire::new(lab)?.datagram(row.from, 0, &[0; 22])?;
    alternate(&programs, &frame, [row.verdict, row.verdict, PASSES]).with_context(|| row.name)
}

/// The median of each program, in rounds that alternate.
fn alternate(programs: &[Program; 3], frame: &[u8], verdicts: [u32; 3]) -> Result<[u32; 3]> {
    let mut durations = [const { Vec::new() }; 3];
    for round in 0..=ROUNDS {
        for (index, program) in programs.iter().enumerate() {
            let outcome = program.test_run(frame, REPEAT)?;
            let expected = verdicts[index];
            ensure!(outcome.verdict == expected, "program {index} gave {} for {expected}", outcome.verdict);
            // The first warms up.
            if round > 0 {
                durations[index].push(outcome.duration_ns);
            }
        }
    }
    Ok(durations.map(|values| quantile(&values, 0.5)))
}

fn program_id(lab: &Lab) -> Result<u32> {
    let id = lab.host.xdp_program(HOST_INTERFACE)?;
    Ok(u32::try_from(id.with_context(|| format!("no XDP program on {HOST_INTERFACE} of {}", lab.name))?)?)
}
