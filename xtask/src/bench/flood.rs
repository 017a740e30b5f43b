//! `bench flood`: what a dropped packet costs whoever receives it. Live frames enter a guarded namespace through a veth;
//! the sender has one CPU, the receiver another: its NAPI runs in a kernel thread, whose CPU time over the frames that it
//! took is the figure. All that a packet meets is in it, from the veth's ring to the drop. Beside edge stand nftables and
//! ipset with the same million addresses, and an XDP program that drops all, which is the least that it can cost.

mod guards;
mod receiver;
mod sender;

use anyhow::{Context as _, Result, ensure};
use edge_tests::{
    agent::Edge,
    net::{Lab, NEIGHBOUR4},
};
use guards::Kind;
use receiver::Receiver;
use sender::{Sender, Sources};
use serde_json::{Value, json};

use super::{Outcome, quantile};

const ROUNDS: usize = 9;
/// Of each round; before it as many are not counted, since the tables of the others have emptied the caches.
const FRAMES: u64 = 1 << 18;
/// At most, of the best of nftables and ipset.
const GOAL: f64 = 1.0 / 3.0;

const SOURCES: [Sources; 2] = [Sources::One, Sources::Million];

/// Somebody who drops a flood, in a namespace of its own.
struct Contender {
    kind: Kind,
    sender: Sender,
    receiver: Receiver,
    /// Nanoseconds a packet, round by round, for each of `SOURCES`.
    figures: [Vec<f64>; 2],
    // Ends before its namespace does.
    _edge: Option<Edge>,
    lab: Lab,
}

pub fn measure() -> Result<Outcome> {
    let list = sender::list();
    let mut contenders = Vec::new();
    for kind in Kind::ALL {
        eprintln!("bench flood: {} is given a million addresses", kind.name());
        contenders.push(Contender::new(kind, &list).with_context(|| kind.name())?);
    }
    for contender in &contenders {
        contender.honest_packets_arrive()?;
    }
    for _ in 0..ROUNDS {
        for (index, sources) in SOURCES.into_iter().enumerate() {
            for contender in &mut contenders {
                let figure = contender.round(sources).with_context(|| contender.kind.name())?;
                contender.figures[index].push(figure);
            }
        }
    }
    Ok(outcome(&contenders))
}

impl Contender {
    fn new(kind: Kind, list: &str) -> Result<Contender> {
        let lab = Lab::new()?;
        let edge = guards::set_up(kind, &lab, list)?;
        let sender = Sender::new(&lab)?;
        let receiver = Receiver::new(&lab)?;
        Ok(Contender { kind, sender, receiver, figures: [Vec::new(), Vec::new()], _edge: edge, lab })
    }

    /// The control: what nobody listed comes through, all of it, unless all is to be dropped.
    fn honest_packets_arrive(&self) -> Result<()> {
        // Fewer than the ring of a veth takes.
        const FEW: u32 = 200;
        let before = self.receiver.settled()?;
        self.sender.send(&self.lab, Sources::Honest, FEW)?;
        let after = self.receiver.settled_after(before.came + u64::from(FEW)).with_context(|| self.kind.name())?;
        let (came, arrived) = (after.came - before.came, after.arrived - before.arrived);
        let expected = if self.kind == Kind::DropAll { 0 } else { u64::from(FEW) };
        ensure!(
            arrived == expected,
            "{}: of {FEW} packets from {NEIGHBOUR4}, which is not listed, {came} came and {arrived} arrived",
            self.kind.name()
        );
        Ok(())
    }

    /// Nanoseconds of the receiver's CPU for each packet that it took and dropped.
    fn round(&self, sources: Sources) -> Result<f64> {
        self.flood(sources)?;
        let before = self.receiver.settled()?;
        self.flood(sources)?;
        let after = self.receiver.settled()?;
        let arrived = after.arrived - before.arrived;
        ensure!(arrived == 0, "{arrived} packets arrived that should have been dropped");
        Ok((after.cpu_ns - before.cpu_ns) as f64 / (after.came - before.came) as f64)
    }

    /// Sends until the receiver has taken enough.
    fn flood(&self, sources: Sources) -> Result<()> {
        const AT_ONCE: u32 = 1 << 15;
        let start = self.receiver.counts()?.came;
        while self.receiver.counts()?.came - start < FRAMES {
            self.sender.send(&self.lab, sources, AT_ONCE)?;
        }
        Ok(())
    }

    fn medians(&self) -> [f64; 2] {
        self.figures.each_ref().map(|figures| quantile(figures, 0.5))
    }
}

fn outcome(contenders: &[Contender]) -> Outcome {
    let best = |index: usize| {
        let peers = contenders.iter().filter(|contender| contender.kind.is_peer());
        peers.map(|peer| peer.medians()[index]).fold(f64::INFINITY, f64::min)
    };
    let best = [best(0), best(1)];
    let mut lines = vec![
        format!("flood: the receiver's CPU time for each dropped packet in ns, median of {ROUNDS} alternating rounds"),
        format!("{:24}{:>12}{:>18}{:>30}", "", "one source", "random sources", "of the best peer (goal 0.33)"),
    ];
    let mut rows = Vec::new();
    for contender in contenders {
        let medians = contender.medians();
        let ratios = [medians[0] / best[0], medians[1] / best[1]];
        let name = contender.kind.name();
        lines.push(format!("{name:24}{:>12.0}{:>18.0}{:>24.2}{:>6.2}", medians[0], medians[1], ratios[0], ratios[1]));
        rows.push(row(name, medians, ratios));
    }
    lines.push(
        "Frames come through a veth; each of the sources is one of a million addresses that are blocked.".to_owned(),
    );
    Outcome { text: lines.join("\n"), json: json!({ "rounds": ROUNDS, "frames": FRAMES, "goal": GOAL, "rows": rows }) }
}

fn row(name: &str, [one, million]: [f64; 2], [one_ratio, million_ratio]: [f64; 2]) -> Value {
    json!({
        "name": name, "one_source_ns": one, "random_sources_ns": million, "one_source_ratio": one_ratio,
        "random_sources_ratio": million_ratio,
    })
}
