//! `bench adopt`: how long a start takes after `kill -9` until all that was blocked is in force and said to be ready, what
//! the comparison with the kernel costs at rest, and how long `edge unload` takes. 100,000 blocks that were each decided for
//! itself, and a million of a list. No peer: what peers need for a million is in `bench bulk`.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use edge_tests::{
    agent::Edge,
    bpf::Loaded,
    net::{HOST_INTERFACE, Lab},
    wait_for,
};
use serde_json::{Value, json};

use super::{Outcome, quantile};

const ROUNDS: usize = 3;
/// The agent's processor time is summed up for so long.
const REST: Duration = Duration::from_secs(60);
/// The most of one core, in per cent.
const GOAL_REST: f64 = 2.0;
/// The most that `edge unload` may take, in seconds.
const GOAL_UNLOAD: f64 = 1.0;

/// What is blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    EachAlone,
    OfAList,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::EachAlone, Kind::OfAList];

    fn name(self) -> &'static str {
        match self {
            Kind::EachAlone => "100,000, each decided for itself",
            Kind::OfAList => "1,000,000 of a list",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Kind::EachAlone => "each_alone",
            Kind::OfAList => "of_a_list",
        }
    }

    fn count(self) -> u32 {
        match self {
            Kind::EachAlone => 100_000,
            Kind::OfAList => 1_000_000,
        }
    }

    /// The most that a start may take, in seconds.
    fn goal(self) -> f64 {
        match self {
            Kind::EachAlone => 2.0,
            Kind::OfAList => 10.0,
        }
    }

    fn block(self, edge: &Edge) -> Result<()> {
        let addresses = (0..self.count()).map(|index| Ipv4Addr::from_bits(0x2000_0000 + index * 97));
        match self {
            Kind::EachAlone => addresses.zip(3_600..).try_for_each(|(address, length)| block(edge, address, length)),
            Kind::OfAList => {
                let list: String = addresses.map(|address| format!("{address}\n")).collect();
                edge.cli_with(&["import", "-", "--for", "1d", "--origin", "feed"], list.as_bytes())?.good().map(drop)
            }
        }
    }
}

/// In the words of the admin socket, without the start of a process.
fn block(edge: &Edge, address: Ipv4Addr, length: u64) -> Result<()> {
    let block = json!({
        "targets": [format!("{address}/32")], "for_seconds": length, "reason": "guessed", "origin": "fail2ban",
        "force": false,
    });
    let request = json!({ "command": { "block": block }, "caller": null }).to_string();
    let mut socket = UnixStream::connect(edge.path("edge.sock")).context("cannot reach edge's socket")?;
    socket.write_all(&[&u32::try_from(request.len())?.to_le_bytes(), request.as_bytes()].concat())?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    let answer: Value = serde_json::from_slice(answer.get(4..).unwrap_or_default())?;
    ensure!(answer["Ok"]["changed"]["changed"].is_array(), "edge answers {answer}");
    Ok(())
}

/// In seconds, but for the share of a core at rest.
struct Measured {
    kind: Kind,
    starts: Vec<f64>,
    rest_percent: f64,
    /// With the agent and without.
    unloads: [f64; 2],
}

pub fn measure() -> Result<Outcome> {
    let all = Kind::ALL.into_iter().map(measured).collect::<Result<Vec<_>>>()?;
    let mut lines = vec![
        format!(
            "adopt: from the start after a kill to ready, median and most of {ROUNDS}; list equal before and after"
        ),
        format!(
            "{:36}{:>10}{:>8}{:>8}{:>14}{:>10}{:>10}",
            "", "ready, s", "most", "goal", "at rest, %", "unload, s", "alone, s"
        ),
    ];
    let mut rows = Vec::new();
    for Measured { kind, starts, rest_percent, unloads: [with, without] } in &all {
        let (median, most) = (quantile(starts, 0.5), quantile(starts, 1.0));
        let goal = kind.goal();
        lines.push(format!(
            "{:36}{median:>10.2}{most:>8.2}{goal:>8.1}{rest_percent:>14.2}{with:>10.3}{without:>10.3}",
            kind.name()
        ));
        rows.push(json!({
            "blocks": kind.key(), "count": kind.count(), "ready_seconds": median, "most_seconds": most,
            "goal_seconds": goal, "rest_percent": rest_percent, "unload_seconds": with,
            "unload_without_agent_seconds": without,
        }));
    }
    lines.push(format!(
        "at rest: of one core, over {} s (goal {GOAL_REST}); unload: goal {GOAL_UNLOAD} s",
        REST.as_secs()
    ));
    let json = json!({ "rows": rows, "goal_rest_percent": GOAL_REST, "goal_unload_seconds": GOAL_UNLOAD });
    Ok(Outcome { text: lines.join("\n"), json })
}

fn measured(kind: Kind) -> Result<Measured> {
    let lab = Lab::new()?;
    let mut edge = Edge::bare(&lab)?;
    edge.config.without("server").without("auth").unset("filter", "max_blocked").unset("filter", "max_prefixes");
    // With all that can be attached.
    edge.config.set("filter.limits", "connections", "1_000_000").set("filter", "exposed_ports", "[\"22/tcp\"]");
    edge.run()?;
    kind.block(&edge)?;
    let before = edge.cli(&["list", "-o", "json"])?.good()?;
    let mut starts = Vec::new();
    for _ in 0..ROUNDS {
        edge.kill()?;
        let begun = Instant::now();
        edge.run()?;
        starts.push(begun.elapsed().as_secs_f64());
        ensure!(edge.cli(&["list", "-o", "json"])?.good()? == before, "the list is another after the start");
        ensure!(edge.json(&["status"])?["drift"] == 0);
    }
    let rest_percent = rest(&edge)?;
    let with = unload(&lab, &edge)?;
    edge.kill()?;
    edge.run()?;
    edge.kill()?;
    let without = unload(&lab, &edge)?;
    Ok(Measured { kind, starts, rest_percent, unloads: [with, without] })
}

/// The part of one core that the agent takes while nothing happens.
fn rest(edge: &Edge) -> Result<f64> {
    let pid = edge.pid()?;
    let (begun, before) = (Instant::now(), processor_time(pid)?);
    std::thread::sleep(REST);
    let took = processor_time(pid)? - before;
    Ok(took / begun.elapsed().as_secs_f64() * 100.0)
}

/// In seconds, of all threads.
fn processor_time(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may have anything in it; user and system time are the fields 14 and 15.
    let fields = stat.rsplit_once(") ").context("a process without a name")?.1;
    let ticks = fields.split(' ').skip(11).take(2).map(|field| Ok(field.parse::<f64>()?)).sum::<Result<f64>>()?;
    // USER_HZ, the same on every machine that edge runs on.
    Ok(ticks / 100.0)
}

fn unload(lab: &Lab, edge: &Edge) -> Result<f64> {
    let loaded = Loaded::below(&lab.pin_path())?;
    let begun = Instant::now();
    edge.cli(&["unload"])?.good()?;
    let took = begun.elapsed().as_secs_f64();
    ensure!(!lab.pin_path().exists(), "pins are left in {}", lab.pin_path().display());
    ensure!(lab.host.xdp_program(HOST_INTERFACE)?.is_none(), "a program is left on {HOST_INTERFACE}");
    // A process that ends lets go of its maps a little later.
    wait_for("the kernel to be rid of everything", Duration::from_secs(10), || {
        Ok(loaded.left()?.is_empty().then_some(()))
    })?;
    Ok(took)
}
