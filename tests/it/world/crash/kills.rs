//! The kill campaign: `kill -9` of agent, server and both at random moments, under a flood from who is blocked, beside honest
//! clients. `EDGE_KILLS` says how often.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use edge_common::names;
use edge_tests::{
    agent::Edge,
    bpf::Program,
    client::Client,
    flood::{Flood, Sink},
    net::{ATTACKER4, ATTACKER6, HOST_INTERFACE, HOST4, HOST6, Lab, NEIGHBOUR4, NEIGHBOUR6},
    packet::Packet,
    service::{Clients, Service},
    tap::Tap,
    wait_for,
};
use jiff::SignedDuration;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    super::{SOON, fail_five_times, served, time, times},
    Listed, in_step, listed, name,
};

/// How many blocks end during the campaign.
const ENDING: u8 = 12;
/// A little less than a round takes, so that they end while it lasts.
const ROUND: f64 = 0.7;
/// In the kernel, whatever the flood's sender and the tap have to do besides.
const ENDED_WITHIN: SignedDuration = SignedDuration::from_secs(1);
const XDP_PASS: u32 = 2;

#[test]
fn whoever_is_killed_and_whenever_what_is_blocked_stays_blocked() -> Result<()> {
    let kills = times("EDGE_KILLS", 10)?;
    let lab = Lab::new()?;
    let mut campaign = Campaign::start(&lab, kills)?;
    for number in 0..kills {
        campaign.round(number).with_context(|| format!("round {number}\n{}", campaign.tail()))?;
    }
    campaign.finish().with_context(|| campaign.tail())
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    Agent,
    Server,
    Both,
    /// Before it is ready.
    Starting,
}

struct Campaign<'lab> {
    lab: &'lab Lab,
    edge: Edge,
    random: fastrand::Rng,
    /// Blocked all the time, by hand, by what was learned, by an import, alone and by prefix.
    blocked: Vec<IpAddr>,
    ending: Vec<IpAddr>,
    /// What must be listed until its end.
    decided: Listed,
    tap: Tap,
    sink: Sink,
    flood: Flood,
    guests: Clients,
    _service: Service,
}

impl<'lab> Campaign<'lab> {
    fn start(lab: &'lab Lab, kills: usize) -> Result<Campaign<'lab>> {
        let edge = Edge::start(lab)?;
        let ending: Vec<IpAddr> = (1..=ENDING).map(|last| Ipv4Addr::new(192, 0, 2, last).into()).collect();
        let blocked = block(lab, &edge)?;
        for (number, address) in ending.iter().enumerate() {
            let seconds = 3.0 + kills as f64 * ROUND * number as f64 / f64::from(ENDING);
            edge.cli(&["block", &address.to_string(), "--for", &format!("{}s", seconds as u64)])?.good()?;
        }
        let decided = listed(&edge)?;
        let service_at = [SocketAddr::new(HOST4, 7000), SocketAddr::new(HOST6, 7000)];
        let service = Service::echo(lab, &service_at)?;
        let guests = Clients::of_echo(lab, &[(NEIGHBOUR4, service_at[0]), (NEIGHBOUR6, service_at[1])])?;
        let (tap, sink) = (Tap::new(lab)?, Sink::new(lab)?);
        let unwanted: Vec<_> = blocked.iter().chain(&ending).copied().collect();
        let flood = Flood::start(lab, 1, &unwanted, &[NEIGHBOUR4, NEIGHBOUR6])?;
        let random = fastrand::Rng::new();
        Ok(Campaign { lab, edge, random, blocked, ending, decided, tap, sink, flood, guests, _service: service })
    }

    fn round(&mut self, number: usize) -> Result<()> {
        let whom = self.random.choice([Whom::Agent, Whom::Server, Whom::Both, Whom::Starting]).context("nobody")?;
        let before = self.guests.done();
        match whom {
            Whom::Server => self.kill_server()?,
            whom => self.kill_agent(whom, number)?,
        }
        served(&Client::new(self.lab, &self.edge, NEIGHBOUR4))?;
        served(&Client::new(self.lab, &self.edge, NEIGHBOUR6))?;
        self.nothing_changed().with_context(|| format!("{whom:?} was killed"))?;
        wait_for("a guest to be served", SOON, || Ok((self.guests.done() > before).then_some(())))?;
        self.nothing_leaked().with_context(|| format!("{whom:?} was killed"))
    }

    /// The agent holds the sockets: who comes meanwhile waits and is served.
    fn kill_server(&mut self) -> Result<()> {
        let at = [SocketAddr::new(HOST4, 443), SocketAddr::new(HOST6, 443)];
        let knocking = Clients::that_knock(self.lab, &[(NEIGHBOUR4, at[0]), (NEIGHBOUR6, at[1])])?;
        self.pause();
        let agent = self.edge.pid()?;
        let server = self.edge.server_pid()?;
        kill(Pid::from_raw(server.try_into()?), Signal::SIGKILL)?;
        wait_for("the server to be gone", SOON, || Ok((self.edge.server_pid().ok() != Some(server)).then_some(())))?;
        served(&Client::new(self.lab, &self.edge, NEIGHBOUR4))?;
        ensure!(self.edge.pid()? == agent);
        let (knocked, refused) = (knocking.done(), knocking.failures());
        ensure!(refused.is_empty() && knocked > 0, "of {knocked} connections failed: {refused:?}");
        Ok(())
    }

    /// While a command is being done, whose answer is a promise.
    fn kill_agent(&mut self, whom: Whom, number: usize) -> Result<()> {
        let target = IpAddr::from(Ipv4Addr::from_bits(0x6440_0000 + number as u32));
        self.pause();
        let mut command = self.edge.cli_going_on(&["block", &target.to_string(), "--for", "1h"])?;
        thread::sleep(Duration::from_millis(self.random.u64(0..80)));
        if whom == Whom::Both {
            kill(Pid::from_raw(self.edge.server_pid()?.try_into()?), Signal::SIGKILL)?;
        }
        self.edge.kill()?;
        if whom == Whom::Starting {
            self.edge.spawn()?;
            self.pause();
            self.edge.kill()?;
        }
        ensure!(self.lab.host.xdp_program(HOST_INTERFACE)?.is_some(), "a crash detached");
        let answered = command.wait()?.success();
        let begin = Instant::now();
        self.edge.run()?;
        ensure!(begin.elapsed() < Duration::from_secs(10), "ready only after {:?}", begin.elapsed());
        let mut now = listed(&self.edge)?;
        let key = (name(target), "manual".to_owned());
        match now.remove(&key) {
            Some(said) => {
                let length = time(&said[1])?.duration_since(time(&said[0])?);
                ensure!(length.as_secs() == 3_600, "an hour's block of {target} lasts {length:?}");
                self.decided.insert(key, said);
            }
            None => ensure!(!answered, "the block of {target} was answered with success, and is gone"),
        }
        Ok(())
    }

    /// Until any moment of what an agent does.
    fn pause(&mut self) {
        thread::sleep(Duration::from_millis(self.random.u64(0..400)));
    }

    /// All that was decided is listed as it was, and nothing else; but what has ended.
    fn nothing_changed(&mut self) -> Result<()> {
        let now = listed(&self.edge)?;
        let at = jiff::Timestamp::now();
        for (key, said) in &self.decided {
            match now.get(key) {
                Some(found) => ensure!(found == said, "{key:?} was {said:?} and is {found:?}"),
                None => ensure!(time(&said[1])? <= at, "{key:?} is gone before its end: {said:?}"),
            }
        }
        let unknown: Vec<_> = now.keys().filter(|key| !self.decided.contains_key(*key)).collect();
        ensure!(unknown.is_empty(), "nobody decided {unknown:?}");
        in_step(&self.edge)
    }

    fn nothing_leaked(&self) -> Result<()> {
        self.tap.missed_nothing()?;
        let leaked = self.tap.any_of(&self.blocked);
        ensure!(leaked.is_empty() && self.sink.of(&self.blocked) == 0, "came through: {leaked:?}");
        for (address, passed) in self.tap.any_of(&self.ending) {
            let end = time(&self.decided[&(name(address), "manual".to_owned())][1])?;
            let first = jiff::Timestamp::try_from(passed.first)?;
            let after = first.duration_since(end);
            ensure!(!after.is_negative(), "{address} came through {after:?} before its end");
        }
        self.ended_in_time()?;
        let failed = self.guests.failures();
        ensure!(failed.is_empty(), "honest clients of another service: {failed:?}");
        Ok(())
    }

    /// A block that is over drops nothing.
    fn ended_in_time(&self) -> Result<()> {
        let program = Program::pinned(&self.lab.generation()?.join(names::PROGRAM))?;
        for address in &self.ending {
            let end = time(&self.decided[&(name(*address), "manual".to_owned())][1])?;
            if jiff::Timestamp::now().duration_since(end) > ENDED_WITHIN {
                let verdict = program.test_run(&Packet::new(*address).bytes(), 1)?.verdict;
                ensure!(verdict == XDP_PASS, "the block of {address} ended at {end}, and its verdict is {verdict}");
            }
        }
        Ok(())
    }

    /// What should have ended has, the flood was there all the time, and goes on to be dropped.
    fn finish(&mut self) -> Result<()> {
        wait_for("all ends", Duration::from_secs(60), || {
            Ok((self.tap.any_of(&self.ending).len() == self.ending.len()).then_some(()))
        })?;
        self.nothing_changed()?;
        self.nothing_leaked()?;
        let (unwanted, guests) = (self.flood.unwanted(), self.guests.done());
        println!("{unwanted} packets of a flood and {guests} connections of guests: none leaked, none failed");
        Ok(())
    }

    fn tail(&self) -> String {
        let log = self.edge.log();
        let lines: Vec<_> = log.lines().rev().take(60).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// Blocks in every way; gives an address of each.
fn block(lab: &Lab, edge: &Edge) -> Result<Vec<IpAddr>> {
    fail_five_times(&Client::new(lab, edge, ATTACKER6))?;
    edge.cli(&["block", &ATTACKER4.to_string(), "2001:db8:77::7", "--for", "1h"])?.good()?;
    edge.cli(&["block", "198.51.100.0/24", "2001:db8:78::/48"])?.good()?;
    let list: String = (0..1_000).map(|number| format!("{}\n", Ipv4Addr::from_bits(0xcb00_7000 + number))).collect();
    edge.cli_with(&["import", "-", "--for", "2h", "--origin", "feed"], list.as_bytes())?.good()?;
    let others = ["2001:db8:77::7", "198.51.100.9", "2001:db8:78:1::5", "203.0.113.0", "203.0.113.200"];
    let others = others.iter().map(|address| Ok(address.parse()?)).collect::<Result<Vec<IpAddr>>>()?;
    Ok([ATTACKER4, ATTACKER6].into_iter().chain(others).collect())
}
