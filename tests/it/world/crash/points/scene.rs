//! What crash points are taken in: an agent with blocks of every kind, who is blocked on the wire, and what must hold of
//! both at any time.

use std::{net::IpAddr, path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::{Config, Edge},
    bpf::Loaded,
    client::Wire,
    net::{ATTACKER4, ATTACKER6, Lab, NEIGHBOUR4},
    strace::{self, Attached, Counts, Step},
    tap::Tap,
    wait_for,
};

use crate::world::{
    SOON,
    crash::{Listed, in_step, listed},
    lifecycle,
};

/// Which of the blocked are on the wire.
const BLOCKED: [&str; 4] = ["10.77.0.2", "2001:db8:66::2", "198.51.100.9", "2001:db8:78:1::5"];

pub struct Scene<'lab> {
    pub lab: &'lab Lab,
    pub edge: Edge,
    pub blocked: Vec<IpAddr>,
    pub decided: Listed,
    pub wire: Wire,
    tap: Tap,
    /// Numbers what differs from one time to the next.
    pub number: usize,
    /// What was pinned before an unload.
    pub loaded: Loaded,
}

impl<'lab> Scene<'lab> {
    /// An agent that runs, with all that it can have attached.
    pub fn new(lab: &'lab Lab, change: impl FnOnce(&mut Config)) -> Result<Scene<'lab>> {
        let mut edge = Edge::new(lab)?;
        edge.config
            .set("filter", "exposed_ports", "[\"5001/udp\", \"443/tcp\"]")
            .set("filter", "max_tracked", "5_000")
            .set("filter.limits", "connections", "1_000_000");
        change(&mut edge.config);
        edge.run()?;
        edge.cli(&["block", &ATTACKER4.to_string(), &ATTACKER6.to_string(), "--for", "1h"])?.good()?;
        edge.cli(&["block", "198.51.100.0/24", "2001:db8:78::/48"])?.good()?;
        let list: String = (0..500).map(|number| format!("203.0.113.{}\n", number % 256)).collect();
        edge.cli_with(&["import", "-", "--for", "2h", "--origin", "feed"], list.as_bytes())?.good()?;
        let blocked = BLOCKED.iter().map(|address| Ok(address.parse()?)).collect::<Result<_>>()?;
        let decided = listed(&edge)?;
        let (wire, tap) = (Wire::new(lab)?, Tap::new(lab)?);
        Ok(Scene { lab, edge, blocked, decided, wire, tap, number: 0, loaded: Loaded::default() })
    }

    pub fn calls(&mut self) -> PathBuf {
        self.number += 1;
        self.edge.path(&format!("calls-{}", self.number))
    }

    /// Starts under strace; whether it died before it was ready.
    pub fn started(&mut self, step: Option<&Step>) -> Result<Option<Counts>> {
        let calls = self.calls();
        self.edge.wrapper = step.map_or_else(|| strace::counting(&calls), |step| strace::killing(step, &calls));
        self.edge.spawn()?;
        let edge = &mut self.edge;
        let died = wait_for("a start or its end", SOON, || {
            let died = !edge.is_running()?;
            Ok((died || edge.cli(&["status"])?.code == 0).then_some(died))
        })?;
        self.edge.wrapper.clear();
        ensure!(!died || step.is_some(), "it ended by itself:\n{}", self.edge.log());
        self.edge.kill()?;
        if died { Ok(None) } else { Ok(Some(strace::counted(&calls)?)) }
    }

    /// Does something to the running agent with strace attached to it; `None`: it died of it.
    pub fn traced(
        &mut self,
        step: Option<&Step>,
        work: impl FnOnce(&mut Edge) -> Result<()>,
    ) -> Result<Option<Counts>> {
        if !self.edge.is_running()? {
            self.edge.run()?;
        }
        let calls = self.calls();
        let attached = Attached::to(self.edge.pid()?, step, calls)?;
        work(&mut self.edge)?;
        if let Some(step) = step {
            // What it does after its answer is done before the next question is answered.
            let _ = self.edge.cli(&["status"])?;
            drop(attached);
            let running = self.edge.is_running()?;
            // What it does by itself now and then may have been counted in the undisturbed run.
            self.edge.kill()?;
            return Ok(if running { Some(Counts::from([(step.call.clone(), 0)])) } else { None });
        }
        attached.end().map(Some)
    }

    /// Runs a command under strace; its exit code, and what it did unless it died.
    pub fn command(&mut self, step: Option<&Step>, args: &[&str], input: &[u8]) -> Result<(i32, Option<Counts>)> {
        let calls = self.calls();
        let wrapper = step.map_or_else(|| strace::counting(&calls), |step| strace::killing(step, &calls));
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        let code = self.edge.cli_under(&wrapper, args, input)?.code;
        Ok((code, if code == 128 + 9 { None } else { Some(strace::counted(&calls)?) }))
    }

    /// Whether all who are blocked are dropped, by packets that are sent now.
    pub fn drops(&self) -> Result<bool> {
        self.tap.forget();
        for source in &self.blocked {
            self.wire.send(&self.wire.datagram(*source, 0, &[0; 22])?)?;
        }
        self.wire.send(&self.wire.datagram(NEIGHBOUR4, 0, &[0; 22])?)?;
        wait_for("an honest packet", SOON, || Ok(self.tap.passed(NEIGHBOUR4).map(drop)))?;
        let passed = self.tap.any_of(&self.blocked).len();
        ensure!(passed == 0 || passed == self.blocked.len(), "some of the blocked are dropped: {passed} passed");
        Ok(passed == 0)
    }

    /// The next start is in time and right.
    pub fn next_start(&mut self) -> Result<()> {
        self.edge.kill()?;
        let begin = Instant::now();
        self.edge.run()?;
        // Two seconds on a machine that does nothing else: `lifecycle` asks for that.
        ensure!(begin.elapsed() < SOON, "ready only after {:?}", begin.elapsed());
        ensure!(self.drops()?, "the blocked are let in after the next start");
        let now = listed(&self.edge)?;
        ensure!(now == self.decided, "decided was {:?}, and listed is {now:?}", self.decided);
        in_step(&self.edge)?;
        self.lab.generation().map(drop)
    }

    /// No pin, and nothing of what was pinned: no program, map or link, and so no attachment to a cgroup.
    pub fn nothing_left(&self) -> Result<()> {
        lifecycle::nothing_left(self.lab)?;
        let mut left = Vec::new();
        wait_for("the kernel to be rid of everything", SOON, || {
            left = self.loaded.left()?;
            Ok(left.is_empty().then_some(()))
        })
        .with_context(|| format!("{left:?}"))
    }

    /// Unload leaves nothing, whatever was before.
    pub fn finish(mut self) -> Result<()> {
        self.loaded = Loaded::below(&self.lab.pin_path())?;
        ensure!(self.loaded.counts().iter().all(|count| *count > 0));
        self.edge.cli(&["unload"])?.good()?;
        self.nothing_left()?;
        self.edge.kill()
    }
}
