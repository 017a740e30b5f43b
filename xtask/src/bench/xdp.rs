//! `bench xdp`: nanoseconds a packet by `BPF_PROG_TEST_RUN`: edge, xdp-filter on the same frames, and a program that only
//! returns, which is what a run costs in itself.

use std::{net::IpAddr, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use edge_tests::{
    agent::Edge,
    bpf::Program,
    client::Wire,
    net::{ATTACKER4, ATTACKER6, HOST_INTERFACE, Lab, NEIGHBOUR4, NEIGHBOUR6},
    run,
};
use serde_json::json;

use super::{Outcome, quantile};

const ROUNDS: usize = 15;
const REPEAT: u32 = 300_000;
const XDP_FILTER_PINS: &str = "/sys/fs/bpf/xdp-filter";

/// As XDP numbers its actions.
const DROPS: u32 = 1;
const PASSES: u32 = 2;

const FRAMES: [(&str, IpAddr, u32); 4] = [
    ("blocked, IPv4", ATTACKER4, DROPS),
    ("honest, IPv4", NEIGHBOUR4, PASSES),
    ("blocked, IPv6", ATTACKER6, DROPS),
    ("honest, IPv6", NEIGHBOUR6, PASSES),
];

pub fn measure() -> Result<Outcome> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    for address in [ATTACKER4, ATTACKER6] {
        edge.cli(&["block", &address.to_string()])?.good()?;
    }
    let peer = XdpFilter::load()?;
    let edge_program = Program::by_id(program_id(&lab)?)?;
    let peer_program = Program::by_id(program_id(&peer.lab)?)?;
    let floor_program = Program::passing("return_only")?;
    let wire = Wire::new(&lab)?;
    let mut lines = vec![format!("xdp: ns a packet, median of {ROUNDS} rounds of {REPEAT} runs")];
    lines.push(format!("{:16}{:>8}{:>12}{:>14}{:>22}", "", "edge", "xdp-filter", "return only", "edge / xdp-filter"));
    let mut rows = Vec::new();
    for (name, from, verdict) in FRAMES {
        let frame = wire.datagram(from, 0, &[0; 22])?;
        let [edge, peer, floor] = alternate([&edge_program, &peer_program, &floor_program], &frame, name, verdict)?;
        let ratio = f64::from(edge) / f64::from(peer.max(1));
        lines.push(format!("{name:16}{edge:>8}{peer:>12}{floor:>14}{ratio:>22.2}"));
        rows.push(json!({
            "frame": name, "edge_ns": edge, "xdp_filter_ns": peer, "return_only_ns": floor, "ratio": ratio,
        }));
    }
    Ok(Outcome { text: lines.join("\n"), json: json!({ "rounds": ROUNDS, "repeat": REPEAT, "frames": rows }) })
}

/// The median of each program; the last one only returns, and drops nothing.
fn alternate(programs: [&Program; 3], frame: &[u8], name: &str, verdict: u32) -> Result<[u32; 3]> {
    let mut durations = [const { Vec::new() }; 3];
    for round in 0..=ROUNDS {
        for (index, program) in programs.iter().enumerate() {
            let outcome = program.test_run(frame, REPEAT)?;
            let expected = if index == 2 { PASSES } else { verdict };
            ensure!(outcome.verdict == expected, "{name}: program {index} gave {} for {expected}", outcome.verdict);
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

/// xdp-filter on an interface of its own, with the same blocks.
struct XdpFilter {
    lab: Lab,
}

impl XdpFilter {
    fn load() -> Result<XdpFilter> {
        if Path::new(XDP_FILTER_PINS).exists() {
            bail!(
                "xdp-filter is in use on this machine ({XDP_FILTER_PINS} exists): the benchmark would change its blocks"
            );
        }
        let filter = XdpFilter { lab: Lab::new()? };
        filter.command(&["load", "--mode", "native", "--features", "ipv4,ipv6", HOST_INTERFACE])?;
        for address in [ATTACKER4, ATTACKER6] {
            filter.command(&["ip", "--mode", "src", &address.to_string()])?;
        }
        Ok(filter)
    }

    fn command(&self, args: &[&str]) -> Result<()> {
        let output = run(self.lab.host.command("xdp-filter").args(args), b"")?;
        output.good().with_context(|| format!("xdp-filter {}", args.join(" ")))?;
        Ok(())
    }
}

impl Drop for XdpFilter {
    fn drop(&mut self) {
        let _ = self.command(&["unload", "--all"]);
    }
}
