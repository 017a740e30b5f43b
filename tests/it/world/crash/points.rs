//! Crash points: the process dies at a step of a start, an upgrade, a reload, a change, a stop, an unload. Packets of who is
//! blocked are on the wire all the time; then the next start is right. A spread of the steps by default, all of them where
//! `EDGE_STEPS` is set.

use std::{cell::Cell, net::IpAddr, path::PathBuf, process::Command, time::Instant};

use anyhow::{Context, Result, ensure};
use edge_common::names;
use edge_tests::{
    agent::{Config, Edge},
    bpf::Loaded,
    client::Wire,
    flood::Flood,
    net::{ATTACKER4, ATTACKER6, HOST_INTERFACE, Lab, NEIGHBOUR4},
    run,
    strace::{self, Attached, Counts, Step},
    tap::Tap,
    wait_for,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    super::{
        SOON,
        lifecycle::{filter_only, nothing_left},
        times,
    },
    Listed, in_step, listed, name,
};

/// Which of the blocked are on the wire.
const BLOCKED: [&str; 4] = ["10.77.0.2", "2001:db8:66::2", "198.51.100.9", "2001:db8:78:1::5"];

struct Scene<'lab> {
    lab: &'lab Lab,
    edge: Edge,
    blocked: Vec<IpAddr>,
    decided: Listed,
    wire: Wire,
    tap: Tap,
    /// Numbers what differs from one time to the next.
    number: usize,
    /// Of those that were reached.
    deaths: usize,
    /// What was pinned before an unload.
    loaded: Loaded,
}

impl<'lab> Scene<'lab> {
    /// An agent that runs, with all that it can have attached.
    fn new(lab: &'lab Lab, change: impl FnOnce(&mut Config)) -> Result<Scene<'lab>> {
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
        Ok(Scene { lab, edge, blocked, decided, wire, tap, number: 0, deaths: 0, loaded: Loaded::default() })
    }

    fn calls(&mut self) -> PathBuf {
        self.number += 1;
        self.edge.path(&format!("calls-{}", self.number))
    }

    /// Starts under strace; whether it died before it was ready.
    fn started(&mut self, step: Option<&Step>) -> Result<Option<Counts>> {
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
    fn traced(&mut self, step: Option<&Step>, work: impl FnOnce(&mut Edge) -> Result<()>) -> Result<Option<Counts>> {
        if !self.edge.is_running()? {
            self.edge.run()?;
        }
        let calls = self.calls();
        let attached = Attached::to(self.edge.pid()?, step, calls)?;
        work(&mut self.edge)?;
        if let Some(step) = step {
            drop(attached);
            let running = self.edge.is_running()?;
            // What it does by itself now and then may have been counted in the undisturbed run.
            self.edge.kill()?;
            return Ok(if running { Some(Counts::from([(step.call.clone(), 0)])) } else { None });
        }
        attached.end().map(Some)
    }

    /// Whether all who are blocked are dropped, by packets that are sent now.
    fn drops(&self) -> Result<bool> {
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
    fn next_start(&mut self) -> Result<()> {
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
    fn nothing_left(&self) -> Result<()> {
        nothing_left(self.lab)?;
        let mut left = Vec::new();
        wait_for("the kernel to be rid of everything", SOON, || {
            left = self.loaded.left()?;
            Ok(left.is_empty().then_some(()))
        })
        .with_context(|| format!("{left:?}"))
    }

    /// Unload leaves nothing, whatever was before.
    fn finish(mut self, name: &str) -> Result<()> {
        self.loaded = Loaded::below(&self.lab.pin_path())?;
        ensure!(self.loaded.counts().iter().all(|count| *count > 0));
        self.edge.cli(&["unload"])?.good()?;
        self.nothing_left()?;
        self.edge.kill()?;
        println!("{name}: died at {} steps", self.deaths);
        ensure!(self.deaths > 0);
        Ok(())
    }
}

/// Takes a spread of the steps that an undisturbed run has.
fn at_each_step(
    scene: &mut Scene,
    few: usize,
    mut work: impl FnMut(&mut Scene, Option<&Step>) -> Result<Option<Counts>>,
    mut after: impl FnMut(&mut Scene) -> Result<()>,
) -> Result<()> {
    let counts = work(scene, None)?.context("it died undisturbed")?;
    scene.next_start()?;
    let all = strace::steps(&counts);
    println!("{} steps: {counts:?}", all.len());
    for step in strace::spread(&all, times("EDGE_STEPS", few)?) {
        let told = |scene: &Scene| format!("killed at {step:?}\n{}", scene.edge.log());
        scene.deaths += usize::from(work(scene, Some(&step)).with_context(|| told(scene))?.is_none());
        after(scene).with_context(|| told(scene))?;
        scene.next_start().with_context(|| told(scene))?;
    }
    Ok(())
}

/// With packets of the blocked on the wire all the time, none of which may come through.
fn without_a_window(
    scene: &mut Scene,
    few: usize,
    work: impl FnMut(&mut Scene, Option<&Step>) -> Result<Option<Counts>>,
) -> Result<()> {
    without_a_window_but(scene, few, work, |_| Ok(()))
}

fn without_a_window_but(
    scene: &mut Scene,
    few: usize,
    work: impl FnMut(&mut Scene, Option<&Step>) -> Result<Option<Counts>>,
    mut also: impl FnMut(&mut Scene) -> Result<()>,
) -> Result<()> {
    let trickle = Flood::trickle(scene.lab, &scene.blocked)?;
    let never = Tap::new(scene.lab)?;
    at_each_step(scene, few, work, |scene| {
        ensure!(scene.lab.host.xdp_program(HOST_INTERFACE)?.is_some(), "the crash detached");
        ensure!(scene.drops()?, "the blocked are let in after the crash");
        let passed = never.any_of(&scene.blocked);
        ensure!(passed.is_empty(), "came through: {passed:?}");
        also(scene)
    })?;
    ensure!(never.any_of(&scene.blocked).is_empty(), "came through: {:?}", never.any_of(&scene.blocked));
    ensure!(trickle.unwanted() > 0);
    never.missed_nothing()
}

#[test]
fn of_a_first_start() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    let work = |scene: &mut Scene, step: Option<&Step>| {
        scene.edge.cli(&["unload"])?.good()?;
        scene.edge.kill()?;
        ensure!(!scene.drops()?);
        scene.started(step)
    };
    at_each_step(&mut scene, 8, work, |scene| {
        // What is attached is attached with all that is blocked.
        let attached = scene.lab.host.xdp_program(HOST_INTERFACE)?.is_some();
        ensure!(scene.drops()? == attached, "attached: {attached}");
        Ok(())
    })?;
    scene.finish("first start")
}

#[test]
fn of_a_start_over_pins() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    without_a_window(&mut scene, 8, |scene, step| {
        scene.edge.kill()?;
        scene.started(step)
    })?;
    scene.finish("start over pins")
}

#[test]
fn of_a_start_with_a_server() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, |_| {})?;
    without_a_window(&mut scene, 6, |scene, step| {
        scene.edge.kill()?;
        scene.started(step)
    })?;
    scene.finish("start with a server")
}

#[test]
fn of_a_start_with_another_size() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    without_a_window(&mut scene, 6, |scene, step| {
        scene.edge.kill()?;
        let number = scene.number;
        scene.edge.config.set("filter", "max_blocked", &(1_000 + number).to_string());
        scene.edge.config.set("filter", "max_tracked", &(3_000 * (1 + number % 3)).to_string());
        scene.started(step)
    })?;
    scene.finish("start with another size")
}

#[test]
fn of_a_start_over_pins_of_another_version() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    without_a_window(&mut scene, 6, |scene, step| {
        scene.edge.kill()?;
        // What the program in force reads stays; what another edge finds is of a size that it does not know.
        let pin = scene.lab.generation()?.join(names::SETTINGS);
        std::fs::remove_file(&pin)?;
        let mut make = Command::new("bpftool");
        make.args(["map", "create"]).arg(&pin).args("type array key 4 value 24 entries 1 name OTHER".split(' '));
        run(&mut make, b"")?.good()?;
        scene.started(step)
    })?;
    scene.finish("start over pins of another version")
}

#[test]
fn of_a_reload() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    without_a_window(&mut scene, 8, |scene, step| {
        let number = scene.number;
        scene.edge.config.set("filter", "max_blocked", &(1_000 + number).to_string());
        scene.edge.config.set("filter", "fragments", if number.is_multiple_of(2) { "\"drop\"" } else { "\"pass\"" });
        scene.traced(step, |edge| {
            edge.write_config()?;
            edge.cli(&["reload"]).map(drop)
        })
    })?;
    scene.finish("reload")
}

/// What was ever in force and not confirmed is not what the next start goes by.
#[test]
fn of_a_reload_on_trial() -> Result<()> {
    const NAMED: &str = "192.0.2.77";
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, |_| {})?;
    let confirmed = scene.edge.config.clone();
    let answered = Cell::new(false);
    let work = |scene: &mut Scene, step: Option<&Step>| {
        scene.edge.config = confirmed.clone();
        scene.edge.write_config()?;
        scene.edge.cli(&["reload"])?.good()?;
        scene.edge.config.set("filter", "block", &format!("[\"{NAMED}\"]")).set("server", "header_timeout", "\"11s\"");
        scene.traced(step, |edge| {
            edge.write_config()?;
            answered.set(edge.cli(&["reload", "--confirm", "1h"])?.code == 0);
            Ok(())
        })
    };
    let (tap, named) = (Tap::new(&lab)?, NAMED.parse()?);
    without_a_window_but(&mut scene, 4, work, |scene| {
        tap.forget();
        scene.wire.send(&scene.wire.datagram(named, 0, &[0; 22])?)?;
        scene.drops()?;
        let was_in_force = tap.passed(named).is_none();
        scene.edge.run()?;
        let goes_on = listed(&scene.edge)?.contains_key(&(name(named), "config".to_owned()));
        ensure!(!goes_on || !was_in_force && !answered.get(), "what nobody confirmed is in force after a crash");
        in_step(&scene.edge)?;
        scene.edge.config = confirmed.clone();
        scene.edge.write_config()?;
        scene.edge.cli(&["reload"])?.good().map(drop)
    })?;
    scene.finish("reload on trial")
}

/// A command that blocks, and how many.
struct Change<'a> {
    command: &'a [&'a str],
    input: &'a str,
    count: usize,
}

/// All of it or nothing, all of it where that was promised; and the next start says the same.
fn of_a_change(few: usize, with_agent: bool, change: &Change<'_>) -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    let others = || vec!["unblock", "--all", "--origin", "crowdsec"];
    let answered = Cell::new(false);
    let by_agent = |scene: &mut Scene, step: Option<&Step>| {
        scene.traced(step, |edge| {
            answered.set(edge.cli_with(change.command, change.input.as_bytes())?.code == 0);
            if step.is_none() { edge.cli(&others())?.good().map(drop) } else { Ok(()) }
        })
    };
    let alone = |scene: &mut Scene, step: Option<&Step>| {
        scene.edge.kill()?;
        let calls = scene.calls();
        let wrapper = step.map_or_else(|| strace::counting(&calls), |step| strace::killing(step, &calls));
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        let code = scene.edge.cli_under(&wrapper, change.command, change.input.as_bytes())?.code;
        answered.set(code == 0);
        if step.is_none() {
            scene.edge.cli(&others())?.good()?;
        }
        if code == 128 + 9 { Ok(None) } else { Ok(Some(strace::counted(&calls)?)) }
    };
    let work = |scene: &mut Scene, step: Option<&Step>| {
        if with_agent { by_agent(scene, step) } else { alone(scene, step) }
    };
    without_a_window_but(&mut scene, few, work, |scene| {
        let kept = listed(&scene.edge)?;
        let more = kept.len() - scene.decided.len();
        ensure!(more == change.count || more == 0 && !answered.get(), "{more} more are listed");
        scene.edge.run()?;
        ensure!(listed(&scene.edge)? == kept);
        in_step(&scene.edge)?;
        scene.edge.kill()?;
        scene.edge.cli(&others())?.good().map(drop)
    })?;
    scene.finish("change")
}

const BLOCK: Change<'_> = Change {
    command: &["block", "--origin", "crowdsec", "192.0.2.7", "2001:db8:79::7", "192.0.2.16/28"],
    input: "",
    count: 3,
};

#[test]
fn of_a_block() -> Result<()> {
    of_a_change(6, true, &BLOCK)
}

#[test]
fn of_a_block_without_an_agent() -> Result<()> {
    of_a_change(6, false, &BLOCK)
}

#[test]
fn of_an_import() -> Result<()> {
    const COUNT: usize = 5_000;
    let list: String = (0..COUNT).map(|number| format!("100.64.{}.{}\n", number / 250, number % 250)).collect();
    let command = ["import", "-", "--origin", "crowdsec", "--for", "1h"];
    of_a_change(6, true, &Change { command: &command, input: &list, count: COUNT })
}

#[test]
fn of_a_stop() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, |_| {})?;
    without_a_window(&mut scene, 4, |scene, step| {
        scene.traced(step, |edge| {
            kill(Pid::from_raw(edge.pid()?.try_into()?), Signal::SIGTERM)?;
            wait_for("the end", SOON, || Ok((!edge.is_running()?).then_some(())))
        })
    })?;
    scene.finish("stop")
}

#[test]
fn of_an_unload() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    let with_agent =
        |scene: &mut Scene, step: Option<&Step>| scene.traced(step, |edge| edge.cli(&["unload"]).map(drop));
    at_each_step(&mut scene, 5, with_agent, |scene| scene.drops().map(drop))?;
    // Without an agent, and once more where it was cut short.
    let alone = |scene: &mut Scene, step: Option<&Step>| {
        scene.edge.kill()?;
        scene.loaded = Loaded::below(&scene.lab.pin_path())?;
        let calls = scene.calls();
        let wrapper = step.map_or_else(|| strace::counting(&calls), |step| strace::killing(step, &calls));
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        let killed = scene.edge.cli_under(&wrapper, &["unload"], b"")?.code == 128 + 9;
        if killed { Ok(None) } else { Ok(Some(strace::counted(&calls)?)) }
    };
    at_each_step(&mut scene, 5, alone, |scene| {
        scene.drops()?;
        scene.edge.cli(&["unload"])?.good()?;
        scene.nothing_left()
    })?;
    scene.finish("unload")
}
