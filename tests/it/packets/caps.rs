//! What a client at its cap of connections may still send, row by row. Its connections are real ones, older than the agent;
//! then the interface's other end is down, so every count is exact. The model knows no sockets, and has no part in it.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use edge_common::{
    names,
    reason::{
        Counters, Reason,
        Reason::{Allowed, ConnectionCap, Passed},
        Run,
    },
};
use edge_tests::{
    agent::Edge,
    bpf::{Map, Program, possible_cpus},
    client::{Wire, connect},
    crowd::Crowd,
    forged::{FIN, Segment},
    net::{CLIENT_INTERFACE, HOST_INTERFACE, HOST4, HOST6, Lab},
    packet::{ACK, Extension, Packet, RST, SYN, Upper},
    sockets::Sockets,
    wait_for,
};

use super::rig::program;

const CAP: usize = 2;
const SOON: Duration = Duration::from_secs(10);
const SYN_RECEIVED: u8 = 3;
/// Of a handshake that is half done.
const HALF: u16 = 1_234;
/// Of nothing.
const NOTHING: u16 = 1_235;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

struct Row {
    what: &'static str,
    frame: Vec<u8>,
    reason: Reason,
}

fn row(what: &'static str, packet: Packet, reason: Reason) -> Row {
    Row { what, frame: packet.bytes(), reason }
}

/// Clients of one family, and the listener that they know.
struct Family {
    listener: TcpListener,
    /// At its cap, with half a handshake besides.
    full: IpAddr,
    /// The local port of a connection of it.
    open: u16,
    /// One short of its cap.
    short: IpAddr,
    allowed: IpAddr,
    connections: Vec<(TcpStream, TcpStream)>,
}

impl Family {
    fn new(lab: &Lab, host: IpAddr, [full, short, allowed]: [IpAddr; 3]) -> Result<Family> {
        let listener = lab.host.within(|| Ok(TcpListener::bind((host, 0))?))?;
        let clients = [full; CAP].into_iter().chain([short; CAP - 1]).chain([allowed; CAP]);
        let connections: Vec<_> = clients.map(|client| established(lab, client, &listener)).collect::<Result<_>>()?;
        let open = connections.first().context("no connection")?.0.local_addr()?.port();
        let family = Family { listener, full, open, short, allowed, connections };
        family.begin_handshake(lab)?;
        Ok(family)
    }

    /// What the host answers does not arrive, so nobody says that it was not him.
    fn begin_handshake(&self, lab: &Lab) -> Result<()> {
        let neighbour = format!("{} lladdr 02:00:00:00:00:09 dev {HOST_INTERFACE} nud permanent", self.full);
        lab.host.ip(&format!("neighbour replace {neighbour}"))?;
        let (from, to) = (SocketAddr::new(self.full, HALF), self.listener.local_addr()?);
        let wire = Wire::new(lab)?;
        wire.send(&Segment { from, to, flags: SYN, sequence: 7, acknowledged: 0 }.frame(&wire)?)?;
        let mut sockets = Sockets::of(&lab.host)?;
        wait_for("half a handshake", SOON, || {
            let all = sockets.at(&[to.port()])?;
            Ok(all.iter().any(|socket| socket.remote == from && socket.state == SYN_RECEIVED).then_some(()))
        })
    }

    fn tcp(&self, from: u16, flags: u8) -> Result<Packet> {
        let to = self.listener.local_addr()?.port();
        Ok(Packet { upper: Upper::Tcp { from, to, flags, words: 5 }, ..Packet::new(self.full) })
    }

    fn rows(&self) -> Result<Vec<Row>> {
        let port = self.listener.local_addr()?.port();
        let of = |source: IpAddr| Packet::new(source).tcp(port, SYN);
        let mut rows = vec![
            row("a SYN", of(self.full), ConnectionCap),
            row("a SYN with data", of(self.full).payload(100), ConnectionCap),
            row("a SYN where nobody listens", Packet::new(self.full), ConnectionCap),
            row("the SYN of half a handshake again", self.tcp(HALF, SYN)?, ConnectionCap),
            row("what completes a handshake", self.tcp(HALF, ACK)?, ConnectionCap),
            row("the same with data", self.tcp(HALF, ACK)?.payload(100), ConnectionCap),
            row("the same with a FIN", self.tcp(HALF, FIN | ACK)?, ConnectionCap),
            row("what ends half a handshake", self.tcp(HALF, RST)?, Passed),
            row("an ACK of a connection", self.tcp(self.open, ACK)?, Passed),
            row("data of a connection", self.tcp(self.open, ACK)?.payload(1_000), Passed),
            row("a FIN of a connection", self.tcp(self.open, FIN | ACK)?, Passed),
            row("a RST of a connection", self.tcp(self.open, RST | ACK)?, Passed),
            row("an ACK of nothing", self.tcp(NOTHING, ACK)?, Passed),
            row("an answer to what this host opens", self.tcp(NOTHING, SYN | ACK)?, Passed),
            row("UDP", Packet::new(self.full).udp(9, port), Passed),
            row("another protocol", Packet::new(self.full).protocol(47), Passed),
            row("a SYN of one who is one short of it", of(self.short), Passed),
            row("a SYN of one who is allowed", of(self.allowed), Allowed),
            row("what would be data of one who is allowed", of(self.allowed).tcp(port, ACK), Allowed),
        ];
        rows.extend(match self.full {
            IpAddr::V4(_) => vec![
                row("a SYN behind IPv4 options", of(self.full).options(2), ConnectionCap),
                row("a later fragment", of(self.full).fragment(9, false), Passed),
            ],
            IpAddr::V6(six) => vec![
                row(
                    "a SYN behind an extension header",
                    of(self.full).extended([Extension::sized(60, 8)]),
                    ConnectionCap,
                ),
                row(
                    "an ACK of nothing behind one",
                    self.tcp(NOTHING, ACK)?.extended([Extension::sized(60, 8)]),
                    ConnectionCap,
                ),
                row("a SYN of another of its /64", of(IpAddr::V6((six.to_bits() + 1).into())), ConnectionCap),
                row("a SYN of the /64 beside it", of(IpAddr::V6((six.to_bits() + (9 << 64)).into())), Passed),
            ],
        });
        Ok(rows)
    }
}

fn established(lab: &Lab, from: IpAddr, listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let client = connect(lab, from, listener.local_addr()?, SOON)??;
    Ok((client, listener.accept()?.0))
}

/// The program in force, and what it counts.
struct Judge {
    program: Program,
    counters: Map,
    per_cpu: Vec<Counters>,
}

impl Judge {
    fn new(lab: &Lab) -> Result<Judge> {
        let counters = Map::pinned(&lab.pin_path().join(names::COUNTERS))?;
        Ok(Judge { program: program(lab)?, counters, per_cpu: vec![Counters::default(); possible_cpus()?] })
    }

    /// Verdict and every counter must be the row's. Sockets are looked up in the namespace of who asks.
    fn hold(&mut self, lab: &Lab, run: Run, row: &Row) -> Result<()> {
        let mut expected = self.packets()?;
        let verdict = lab.host.within(|| self.program.test_run(&row.frame, 1))?.verdict;
        let counted = expected.iter_mut().find(|(one, reason, _)| (*one, *reason) == (run, row.reason));
        counted.context("no such counter")?.2 += 1;
        let found = self.packets()?;
        ensure!(found == expected, "{}: counted was {found:?} instead of {expected:?}", row.what);
        let wanted = if run.passes(row.reason) { XDP_PASS } else { XDP_DROP };
        ensure!(verdict == wanted, "{}: the verdict is {verdict}", row.what);
        Ok(())
    }

    fn packets(&mut self) -> Result<Vec<(Run, Reason, u64)>> {
        self.counters.read_per_cpu(0, &mut self.per_cpu)?;
        let mut all: Vec<(Run, Reason, u64)> = Vec::new();
        for (run, reason, _, tally) in self.per_cpu.iter().flat_map(Counters::all) {
            match all.iter_mut().find(|(one, other, _)| (*one, *other) == (run, reason)) {
                Some((.., packets)) => *packets += tally.packets,
                None => all.push((run, reason, tally.packets)),
            }
        }
        Ok(all)
    }
}

#[test]
fn what_a_client_at_its_cap_may_send() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 3)?;
    let families = [
        Family::new(&lab, HOST4, [0, 1, 2].map(|n| crowd.four(n)))?,
        Family::new(&lab, HOST6, [0, 1, 2].map(|n| crowd.six(n)))?,
    ];
    lab.client.ip(&format!("link set {CLIENT_INTERFACE} down"))?;
    let mut edge = Edge::bare(&lab)?;
    edge.config.without("server").without("auth").set("filter.limits", "connections", &CAP.to_string());
    edge.run()?;
    for family in &families {
        edge.cli(&["allow", &family.allowed.to_string()])?.good()?;
    }
    let mut judge = Judge::new(&lab)?;
    for row in families.iter().map(Family::rows).collect::<Result<Vec<_>>>()?.iter().flatten() {
        judge.hold(&lab, Run::Real, row)?;
    }

    let [listener, full] = [families[0].listener.local_addr()?, SocketAddr::new(families[0].full, 0)];
    let syn = |port: u16| Packet::new(full.ip()).tcp(port, SYN);
    edge.config.set("filter", "capped_ports", &format!("[22, {}]", listener.port()));
    reloaded(&mut edge)?;
    let mut judge = Judge::new(&lab)?;
    judge.hold(&lab, Run::Real, &row("a SYN to a capped port", syn(listener.port()), ConnectionCap))?;
    judge.hold(&lab, Run::Real, &row("a SYN to another capped port", syn(22), ConnectionCap))?;
    judge.hold(&lab, Run::Real, &row("a SYN to a port that is not capped", syn(23), Passed))?;

    edge.config.set("filter", "dry_run", "true");
    reloaded(&mut edge)?;
    let mut judge = Judge::new(&lab)?;
    judge.hold(&lab, Run::Dry, &row("a SYN in a dry run", syn(22), ConnectionCap))?;
    ensure!(families.iter().all(|family| family.connections.len() == 3 * CAP - 1));
    Ok(())
}

fn reloaded(edge: &mut Edge) -> Result<()> {
    edge.write_config()?;
    edge.cli(&["reload"])?.good().map(drop)
}
