//! The loaded program as a running agent set it up, with the reference model beside it: each frame is given to both,
//! and whatever differs is an error. Nothing else moves: the interface's other end is down, so every count is exact.

use std::{
    collections::BTreeMap,
    fs, mem,
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use edge_common::{
    names,
    reason::{Counters, Family, Reason, Run},
};
use edge_tests::{
    agent::Edge,
    bpf::{Map, Program, possible_cpus},
    model::{self, Finding, Flow, Frame, Judgement, Policy},
    net::{CLIENT_INTERFACE, HOST_INTERFACE, Lab},
    run,
    scene::{Scene, Setting},
};
use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::rates::RateBounds;

const DROP: u32 = 1;
const PASS: u32 = 2;

/// `BPF_PROG_TEST_RUN` puts so much into the first buffer: a page without headroom (256) and `skb_shared_info` (320).
const FIRST_BUFFER: usize = 4096 - 256 - 320;

pub struct Rig {
    pub policy: Policy,
    rates: RateBounds,
    /// Whether the kernel lets a test say how much of a frame lies in the first buffer.
    parts: bool,
    /// What the counters must say.
    counted: Counters,
    per_cpu: Vec<Counters>,
    counters: Map,
    program: Program,
    edge: Edge,
    lab: Lab,
    own: Vec<IpAddr>,
    resolvers: Vec<IpAddr>,
    scene: Scene,
}

impl Rig {
    /// An agent with this setting; nothing is blocked or allowed yet.
    pub fn start(setting: &Setting) -> Result<Rig> {
        let lab = Lab::new()?;
        lab.client.ip(&format!("link set {CLIENT_INTERFACE} down"))?;
        for gateway in &setting.gateways {
            lab.host.ip(&format!("route append default via {gateway} dev {HOST_INTERFACE} onlink"))?;
            // Nobody answers there; with a neighbour that is known what this host sends goes out all the same.
            lab.host.ip(&format!("neighbour add {gateway} lladdr 02:00:00:00:00:09 dev {HOST_INTERFACE}"))?;
        }
        let edge = started(&lab, setting)?;
        let scene = Scene { setting: setting.clone(), ..Scene::default() };
        let (own, resolvers) = (own_addresses(&lab)?, resolvers()?);
        let policy = scene.policy(&own, &resolvers);
        let rates = RateBounds::new(setting);
        let per_cpu = vec![Counters::default(); possible_cpus()?];
        let counters = Map::pinned(&lab.pin_path().join(names::COUNTERS))?;
        let program = program(&lab)?;
        let mut rig = Rig {
            parts: parts(&program),
            policy,
            rates,
            counted: Counters::default(),
            per_cpu,
            counters,
            program,
            edge,
            lab,
            own,
            resolvers,
            scene,
        };
        rig.counted = rig.counters()?;
        Ok(rig)
    }

    /// Another setting on the same host, by `edge reload`: blocks and their counts stay as they are.
    pub fn reload(&mut self, setting: &Setting) -> Result<()> {
        setting.configure(&mut self.edge.config);
        self.edge.write_config()?;
        self.edge.cli(&["reload"])?.good()?;
        self.program = program(&self.lab)?;
        self.rates = RateBounds::new(setting);
        self.scene.setting = setting.clone();
        let Policy { blocked, sent, exposed, .. } = mem::take(&mut self.policy);
        let next = self.scene.policy(&self.own, &self.resolvers);
        // What is sent is noted only while ports are limited.
        let sent = if exposed.is_some() && next.exposed.is_some() { sent } else { Default::default() };
        self.policy = Policy { blocked, sent, ..next };
        self.hits_agree().context("after a reload")
    }

    /// Draws what is blocked and allowed, and puts it into force.
    pub fn draw(&mut self, random: &mut fastrand::Rng) -> Result<()> {
        let scene = Scene::draw(&self.scene.setting, &self.own, &self.resolvers, random);
        self.enforce(&scene.blocked, &scene.allowed)
    }

    /// Blocks and allows this, and nothing else.
    pub fn enforce(&mut self, blocked: &[IpNet], allowed: &[IpNet]) -> Result<()> {
        self.edge.cli(&["unblock", "--all"])?.good()?;
        self.tell(&["disallow", "-"], &self.scene.allowed)?;
        self.tell(&["block", "--force", "-"], blocked)?;
        self.tell(&["allow", "-"], allowed)?;
        let (blocked, allowed) = (blocked.to_vec(), allowed.to_vec());
        self.scene = Scene { setting: self.scene.setting.clone(), blocked, allowed };
        let sent = mem::take(&mut self.policy.sent);
        self.policy = Policy { sent, ..self.scene.policy(&self.own, &self.resolvers) };
        self.hits_agree().context("before the first packet")
    }

    fn tell(&self, command: &[&str], nets: &[IpNet]) -> Result<()> {
        let lines: String = nets.iter().map(|net| format!("{net}\n")).collect();
        if !lines.is_empty() {
            self.edge.cli_with(command, lines.as_bytes())?.good()?;
        }
        Ok(())
    }

    /// Has the host send a datagram over each of these flows.
    pub fn send(&mut self, flows: &[Flow], length: usize) -> Result<()> {
        self.lab.host.within(|| {
            let send = |flow: &Flow| UdpSocket::bind(flow.local)?.send_to(&vec![0; length], flow.remote);
            flows.iter().try_for_each(|flow| send(flow).map(drop).with_context(|| format!("cannot send over {flow:?}")))
        })?;
        let now = now()?;
        flows.iter().for_each(|flow| self.policy.send(*flow, now));
        Ok(())
    }

    /// Gives a frame to the model and to the kernel. Verdict and every counter must agree.
    pub fn judge(&mut self, frame: &[u8]) -> Result<Judgement> {
        self.judge_parted(frame, FIRST_BUFFER)
    }

    /// The same with so much of the frame in the first buffer, where the kernel can part it.
    pub fn judge_parted(&mut self, bytes: &[u8], readable: usize) -> Result<Judgement> {
        let is_parted = self.parts && readable < bytes.len().min(FIRST_BUFFER);
        let readable = if is_parted { readable } else { bytes.len().min(FIRST_BUFFER) };
        let earliest = now()?;
        let verdict = match is_parted {
            true => self.program.test_run_parted(bytes, readable)?.verdict,
            false => self.program.test_run(bytes, 1)?.verdict,
        };
        let finding = self.policy.find(Frame { bytes, readable }, earliest);
        let judgement = self.counted(finding, [earliest, now()?])?;
        let expected = if judgement.passes { PASS } else { DROP };
        ensure!(verdict == expected, "the verdict is {verdict}, and the model says {judgement:?}");
        Ok(judgement)
    }

    /// Finds in the counters what became of a packet; it must be what the model finds, or one of what the rates allow.
    fn counted(&mut self, finding: Finding, between: [Duration; 2]) -> Result<Judgement> {
        let seen = self.counters()?;
        let possible = self.rates.possible(&finding.verdict, between);
        let counted = mem::replace(&mut self.counted, seen);
        for judgement in possible.iter().map(|reason| self.policy.settle(finding, *reason)) {
            let mut expected = counted;
            let tally = expected.tally_mut(self.run(), reason(judgement.reason), family(judgement.family));
            tally.packets += 1;
            tally.bytes += finding.bytes;
            if expected == seen {
                self.rates.learn(&finding.verdict, judgement.reason, between);
                return Ok(judgement);
            }
        }
        bail!("the model says {finding:?}, so one of {possible:?}; counted was {}", difference(&counted, &seen))
    }

    /// Kills the agent: what is in the kernel stays.
    pub fn kill(&mut self) -> Result<()> {
        self.edge.kill()
    }

    /// The kernel's verdict alone, whatever the model says; [`recount`](Self::recount) before the next comparison.
    pub fn passes_now(&mut self, frame: &[u8]) -> Result<bool> {
        Ok(self.program.test_run(frame, 1)?.verdict == PASS)
    }

    /// Takes what the counters say for what they must say.
    pub fn recount(&mut self) -> Result<()> {
        self.counted = self.counters()?;
        Ok(())
    }

    pub fn parts(&self) -> bool {
        self.parts
    }

    pub fn edge(&self) -> &Edge {
        &self.edge
    }

    fn run(&self) -> Run {
        if self.policy.dry_run { Run::Dry } else { Run::Real }
    }

    /// Packets and bytes of every blocked entry, as `edge list` tells them, must be the model's.
    pub fn hits_agree(&self) -> Result<()> {
        let listed = self.edge.json(&["list"])?;
        let listed = listed.as_array().context("edge list gives no array")?.iter().map(hits).collect::<Result<_>>()?;
        let expected: BTreeMap<IpNet, (u64, u64)> =
            self.policy.blocked.iter().map(|(net, block)| (net, (block.packets, block.bytes))).collect();
        same_hits(&expected, &listed)
    }

    fn counters(&mut self) -> Result<Counters> {
        self.counters.read_per_cpu(0, &mut self.per_cpu)?;
        let mut total = Counters::default();
        for (run, reason, family, tally) in self.per_cpu.iter().flat_map(Counters::all) {
            let sum = total.tally_mut(run, reason, family);
            sum.packets += tally.packets;
            sum.bytes += tally.bytes;
        }
        Ok(total)
    }

    /// What a person sees in `edge status` must be what was counted.
    pub fn status_agrees(&self) -> Result<()> {
        let status = self.edge.json(&["status"])?;
        for reason in Reason::ALL {
            let counted = self.counted.all().filter(|(_, counted, ..)| *counted == reason);
            let counted: u64 = counted.map(|(.., tally)| tally.packets).sum();
            let shown = status["packets"]["by_reason"][reason.name()].as_u64().unwrap_or(0);
            ensure!(shown == counted, "edge status says {shown} for {}, and {counted} were counted", reason.name());
        }
        Ok(())
    }
}

/// Linux before 6.18 refuses to part a frame.
fn parts(program: &Program) -> bool {
    let parts = program.test_run_parted(&[0; 100], 50).is_ok();
    if !parts {
        println!("this kernel parts no frames: first buffers are as long as they can be");
    }
    parts
}

fn started(lab: &Lab, setting: &Setting) -> Result<Edge> {
    if !setting.proxies.is_empty() {
        return Edge::start_with(lab, |config| setting.configure(config));
    }
    let mut edge = Edge::bare(lab)?;
    edge.config.without("server").without("auth");
    setting.configure(&mut edge.config);
    edge.run()?;
    Ok(edge)
}

/// Since boot, suspended or not.
fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}

/// The program of the one generation that is in force.
pub fn program(lab: &Lab) -> Result<Program> {
    Program::pinned(&lab.generation()?.join(names::PROGRAM))
}

fn own_addresses(lab: &Lab) -> Result<Vec<IpAddr>> {
    let text = run(lab.host.command("ip").args(["-j", "address"]), b"")?.good()?;
    let interfaces: Value = serde_json::from_str(&text)?;
    let addresses = interfaces.as_array().context("ip shows no interfaces")?.iter();
    let addresses = addresses.flat_map(|interface| interface["addr_info"].as_array().into_iter().flatten());
    addresses.map(|address| Ok(address["local"].as_str().context("an address without one")?.parse()?)).collect()
}

/// As glibc finds them.
fn resolvers() -> Result<Vec<IpAddr>> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let addresses = text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    Ok(addresses.collect())
}

fn hits(entry: &Value) -> Result<(IpNet, (u64, u64))> {
    let address = entry["address"].as_str().context("an entry without address")?;
    let count = |name: &str| entry[name].as_u64().with_context(|| format!("{address} has no {name}"));
    Ok((address.parse()?, (count("packets")?, count("bytes")?)))
}

fn same_hits(expected: &BTreeMap<IpNet, (u64, u64)>, listed: &BTreeMap<IpNet, (u64, u64)>) -> Result<()> {
    let nets = expected.keys().chain(listed.keys());
    let different = nets.filter(|net| expected.get(*net) != listed.get(*net)).take(5);
    let different: Vec<String> = different
        .map(|net| format!("{net}: the model has {:?}, edge list {:?}", expected.get(net), listed.get(net)))
        .collect();
    ensure!(different.is_empty(), "packets and bytes of entries differ: {}", different.join("; "));
    Ok(())
}

fn difference(expected: &Counters, seen: &Counters) -> String {
    let by = |found: u64, wanted: u64| i128::from(found) - i128::from(wanted);
    let different = expected.all().zip(seen.all()).filter(|(wanted, found)| wanted != found);
    let different = different.map(|((run, reason, family, wanted), (.., found))| {
        let (packets, bytes) = (by(found.packets, wanted.packets), by(found.bytes, wanted.bytes));
        format!("{run:?} {} {}: {packets:+} packets, {bytes:+} bytes", reason.name(), family.name())
    });
    different.collect::<Vec<_>>().join(", ")
}

/// Two lists of the same words.
pub fn reason(reason: model::Reason) -> Reason {
    match reason {
        model::Reason::Passed => Reason::Passed,
        model::Reason::Allowed => Reason::Allowed,
        model::Reason::Blocked => Reason::Blocked,
        model::Reason::ConnectionCap => Reason::ConnectionCap,
        model::Reason::SynRate => Reason::SynRate,
        model::Reason::PacketRate => Reason::PacketRate,
        model::Reason::PortClosed => Reason::PortClosed,
        model::Reason::Malformed => Reason::Malformed,
        model::Reason::Fragment => Reason::Fragment,
    }
}

fn family(family: model::Family) -> Family {
    match family {
        model::Family::Ipv4 => Family::Ipv4,
        model::Family::Ipv6 => Family::Ipv6,
        model::Family::Other => Family::Other,
    }
}
