//! Operations at random, by every path: whatever came before, the kernel drops exactly who was decided to be blocked, the
//! list is what was decided, and nobody who is protected ever was.
//!
//! `EDGE_OPERATIONS` says how many; `EDGE_SEED` repeats a run.

mod draw;
mod perform;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Debug,
    net::IpAddr,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use edge_common::names;
use edge_tests::{
    agent::Edge,
    bpf::Program,
    decisions::{Between, Decisions, Holds, Name, now},
    net::{HOST4, HOST6, Lab},
    packet::Packet,
    wait_for,
};
use fastrand::Rng;
use ipnet::IpNet;
use serde_json::Value;

use self::draw::{LONG, ORIGINS, operation};
use super::time;

/// Unless `EDGE_OPERATIONS` says another number.
const OPERATIONS: usize = 300;
/// Of a failure, so many operations are told.
const TOLD: usize = 30;
/// The list is compared after so many operations, and after each start; the kernel after each.
const LISTED_EVERY: usize = 5;
/// A change from outside is undone within 5 s, on a machine that does other things too.
const UNDONE: Duration = Duration::from_secs(20);

const XDP_DROP: u32 = 1;

#[test]
fn the_kernel_does_what_was_decided_whatever_happened() -> Result<()> {
    let seed = from_environment("EDGE_SEED")?.unwrap_or_else(|| Rng::new().u64(..));
    let count = from_environment("EDGE_OPERATIONS")?.unwrap_or(OPERATIONS);
    println!("EDGE_SEED={seed}, {count} operations");
    let lab = Lab::new()?;
    let mut world = World::start(&lab)?;
    let mut random = Rng::with_seed(seed);
    let mut last = VecDeque::new();
    for number in 0..count {
        let operation = operation(&world.decisions, &mut random);
        last.push_back(format!("{number}: {operation:?}"));
        if last.len() > TOLD {
            last.pop_front();
        }
        let is_listed = number % LISTED_EVERY == 0;
        let performed = world.perform(&operation, &mut random).and_then(|()| world.kernel_agrees());
        let agrees = performed.and_then(|()| if is_listed { world.list_agrees() } else { Ok(()) });
        agrees.with_context(|| format!("EDGE_SEED={seed}: after {last:#?}"))?;
    }
    world.settle().with_context(|| format!("EDGE_SEED={seed}: at the end"))?;
    println!("{:?}", world.done);
    Ok(())
}

fn from_environment<T: FromStr<Err: Debug + std::error::Error + Send + Sync + 'static>>(
    name: &str,
) -> Result<Option<T>> {
    std::env::var(name).ok().map(|text| text.parse().with_context(|| format!("{name}={text}"))).transpose()
}

/// An edge, and what it was told.
struct World<'a> {
    lab: &'a Lab,
    edge: Edge,
    decisions: Decisions,
    runs: bool,
    /// Of sources whose packets are tried, each with a frame.
    frames: Vec<(IpAddr, Vec<u8>)>,
    /// The tables in force, and the program over them.
    program: Option<(PathBuf, Program)>,
    /// How often each kind of operation was done.
    done: BTreeMap<&'static str, usize>,
    /// `max_blocked`, another one at each reload.
    room: u32,
}

impl<'a> World<'a> {
    fn start(lab: &'a Lab) -> Result<World<'a>> {
        let edge = Edge::start(lab)?;
        let own = [HOST4, HOST6].map(IpNet::from);
        let loopback = ["127.0.0.0/8", "::1/128"].map(|net| net.parse().map_err(anyhow::Error::from));
        let protected = own.into_iter().map(Ok).chain(loopback).collect::<Result<Vec<IpNet>>>()?;
        let frames = draw::sources().map(|source| (source, Packet::new(source).bytes())).collect();
        let decisions = Decisions { protected, ..Decisions::default() };
        let done = BTreeMap::new();
        Ok(World { lab, edge, decisions, runs: true, frames, program: None, done, room: 10_000 })
    }

    /// Every source's packet has the verdict that was decided.
    fn kernel_agrees(&mut self) -> Result<()> {
        wait_for("one generation of tables", UNDONE, || Ok(self.lab.generation().ok()))?;
        let generation = self.lab.generation()?;
        if self.program.as_ref().is_none_or(|(of, _)| *of != generation) {
            let program = Program::pinned(&generation.join(names::PROGRAM))?;
            self.program = Some((generation, program));
        }
        let Some((_, program)) = &self.program else { return Ok(()) };
        for (source, frame) in &self.frames {
            let (when, run) = Between::of(|| program.test_run(frame, 1))?;
            let wanted = self.decisions.drops(*source, when);
            let agrees = wanted == Holds::Perhaps || (wanted == Holds::Yes) == (run.verdict == XDP_DROP);
            ensure!(agrees, "{source}: the verdict is {}, dropped was to be: {wanted:?}", run.verdict);
        }
        self.decisions.sweep(Between(now()?, now()?));
        Ok(())
    }

    /// The list has exactly what was decided, with its ends.
    fn list_agrees(&self) -> Result<()> {
        self.lists(&self.decisions)
    }

    fn lists(&self, decisions: &Decisions) -> Result<()> {
        let (when, list) = Between::of(|| self.edge.json(&["list"]))?;
        let wall = jiff::Timestamp::now();
        let after = now()?;
        let mut listed = Vec::new();
        for entry in list.as_array().context("the list is no array")? {
            let name = name(entry)?;
            let end = decisions.blocks.get(&name).with_context(|| format!("listed, and not decided: {entry}"))?;
            ensure!(decisions.lists(&name, when) != Holds::No, "listed, and over: {entry}");
            let left = match &entry["expires"] {
                Value::Null => None,
                expires => Some(Duration::try_from(time(expires)?.duration_since(wall)).unwrap_or_default()),
            };
            let is_near = left.is_some_and(|left| left < Duration::from_millis(10));
            ensure!(is_near || end.is(left, Between(after, after)), "{entry} was to end {end:?}, and is {left:?} off");
            listed.push(name);
        }
        let missing = |name: &&Name| decisions.lists(name, when) == Holds::Yes && !listed.contains(name);
        let missing: Vec<&Name> = decisions.blocks.keys().filter(missing).collect();
        ensure!(missing.is_empty(), "decided, and not listed: {missing:?}");
        Ok(())
    }

    /// What is in doubt ends; then numbers agree too.
    fn settle(&mut self) -> Result<()> {
        self.begin()?;
        wait_for("what is about to end to be over", LONG, || {
            Ok(self.decisions.settled(LONG).is_none_or(|end| now().is_ok_and(|now| now > end)).then_some(()))
        })?;
        self.kernel_agrees()?;
        self.list_agrees()?;
        let distinct: BTreeSet<IpNet> = self.decisions.blocks.keys().map(|(target, _)| *target).collect();
        wait_for("no drift", UNDONE, || {
            let status = self.edge.json(&["status"])?;
            let agrees = status["drift"] == 0 && status["enforced"]["total"] == distinct.len();
            Ok((agrees && status["blocked"]["total"] == distinct.len()).then_some(()))
        })
        .with_context(|| format!("{} were decided; {:?}", distinct.len(), self.edge.json(&["status"])))
    }
}

/// Of an entry of the list.
fn name(entry: &Value) -> Result<Name> {
    let origin = entry["origin"].as_str().context("no origin")?;
    let origin = ORIGINS.iter().chain(&["config", "auth"]).find(|known| **known == origin);
    Ok((entry["address"].as_str().context("no address")?.parse()?, origin.context("an origin that nobody has")?))
}
