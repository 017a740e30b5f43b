//! A server that was taken over: the test takes the server's end of its socketpair and says what an attacker would.

use std::{
    fs::File,
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::RawFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    client::{Client, scrape},
    descriptor::copied,
    net::{Lab, NEIGHBOUR4},
    wait_for,
};
use serde_json::{Value, json};

use super::{SOON, connect, only_block, packets, served, shut_out};

/// Where the server has its end of the socketpair.
const LINK: RawFd = 3;
const SERVED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 443);
const ATTACKER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);

#[test]
fn its_word_blocks_no_protected_address_and_none_that_is_not_connected() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    edge.cli(&["allow", &ATTACKER.to_string()])?.good()?;
    let mut link = Link::of(&edge)?;
    let connection = connect(&lab, ATTACKER, SERVED)?;
    let (peer, local) = (connection.local_addr()?, connection.peer_addr()?);
    for id in 0..10 {
        link.say(&offence(id, peer, local))?;
        link.say(&offence(id, SocketAddr::new(NEIGHBOUR4, peer.port()), local))?;
        link.say(&offence(id, SocketAddr::new(SERVED.ip().to_owned().into(), peer.port()), local))?;
        link.say(&offence(id, "127.0.0.1:1".parse()?, local))?;
    }
    // All of it was heard: the same on a connection that is there, of an address that nothing protects, blocks.
    edge.cli(&["disallow", &ATTACKER.to_string()])?.good()?;
    wait_for("what was said to be heard", SOON, || {
        link.say(&offence(0, peer, local))?;
        Ok(edge.json(&["list"])?.get(0).cloned())
    })?;
    let entry = only_block(&edge)?;
    ensure!(entry["address"] == "10.77.0.2/32" && entry["origin"] == "auth" && entry["offence"] == 1, "{entry}");
    served(&Client::new(&lab, &edge, NEIGHBOUR4))?;
    ensure!(packets(&edge, "allowed")? > 0);
    Ok(())
}

#[test]
fn its_word_blocks_nobody_who_is_connected_to_something_else() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let mut link = Link::of(&edge)?;
    // Who talks to another service of this host, and whom this host itself talks to.
    let service = lab.host.within(|| Ok(TcpListener::bind((*SERVED.ip(), 0))?))?;
    let guest = connect(&lab, NEIGHBOUR, SocketAddrV4::new(*SERVED.ip(), service.local_addr()?.port()))?;
    let elsewhere = lab.client.within(|| Ok(TcpListener::bind((NEIGHBOUR, 443))?))?;
    let outgoing = lab.host.within(|| Ok(TcpStream::connect(elsewhere.local_addr()?)?))?;
    let connection = connect(&lab, ATTACKER, SERVED)?;
    for id in 0..10 {
        link.say(&offence(id, guest.local_addr()?, guest.peer_addr()?))?;
        link.say(&offence(id, outgoing.peer_addr()?, outgoing.local_addr()?))?;
    }
    wait_for("what was said to be heard", SOON, || {
        link.say(&offence(0, connection.local_addr()?, connection.peer_addr()?))?;
        Ok(edge.json(&["list"])?.get(0).cloned())
    })?;
    ensure!(only_block(&edge)?["address"] == "10.77.0.2/32");
    served(&Client::new(&lab, &edge, NEIGHBOUR4))
}

#[test]
fn its_flood_of_words_holds_up_no_command_and_no_end() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let mut link = Link::of(&edge)?;
    let connection = connect(&lab, ATTACKER, SERVED)?;
    let word = offence(0, SocketAddr::new(NEIGHBOUR4, 1), connection.peer_addr()?);
    thread::scope(|scope| {
        // It ends when nobody is left to hear it.
        let flood = scope.spawn(move || while link.say(&word).is_ok() {});
        let asked = (0..5).try_for_each(|_| edge.cli(&["status"])?.good().map(drop));
        let begin = Instant::now();
        let ended = edge.stop();
        let lasted = begin.elapsed();
        drop(flood.join());
        asked?;
        ensure!(ended? == 0 && lasted < Duration::from_secs(5), "{lasted:?}");
        Ok(())
    })
}

#[test]
fn its_word_in_the_audit_log_is_that_of_an_endpoint_and_lost_ones_are_counted() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let mut link = Link::of(&edge)?;
    link.say(&audit(json!("login"), json!({})))?;
    let mut lost = audit(json!("me"), json!({}));
    lost["audit"]["lost"] = json!(7);
    link.say(&lost)?;
    let found = wait_for("both to be heard", SOON, || {
        let all = edge.json(&["audit"])?;
        let of = |event: &str| all.as_array().and_then(|all| all.iter().find(|one| one["event"] == event).cloned());
        Ok(of("me").and_then(|_| of("login")))
    })?;
    ensure!(found["outcome"] == "success" && found["subject"] == "alice", "{found}");
    ensure!(found.get("actor").is_none() && found.get("request_id").is_none(), "{found}");
    wait_for("the loss", SOON, || {
        Ok((scrape(&lab)?.value("edge_events_lost_total", &[("source", "audit")]) == Some(7.0)).then_some(()))
    })
}

#[test]
fn it_can_neither_lift_nor_widen_nor_prolong() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    edge.cli(&["block", &ATTACKER.to_string()])?.good()?;
    let before = only_block(&edge)?;
    let connection = connect(&lab, NEIGHBOUR, SERVED)?;
    let (peer, local) = (connection.local_addr()?, connection.peer_addr()?);
    let with = |key: &str, value: Value| {
        let mut message = offence(1, peer, local);
        message["offence"][key] = value;
        message
    };
    for message in [
        json!({"unblock": {"targets": ["10.77.0.2/32"], "origin": null}}),
        json!({"blocked": {"client": "10.77.0.0/24"}}),
        json!({"drain": null}),
        with("prefix", json!(8)),
        with("for_seconds", json!(31_536_000)),
        with("peer", json!("10.77.0.3/24")),
        with("kind", json!("allow")),
        audit(json!("block"), json!({})),
        audit(json!("verify"), json!({"actor": {"uid": 0, "name": "root"}})),
    ] {
        let server = edge.server_pid()?;
        Link::of(&edge)?.say(&message)?;
        // It is no message, so the agent wants no more of that server.
        wait_for("another server", SOON, || Ok(edge.server_pid().ok().filter(|now| *now != server)))
            .with_context(|| message.to_string())?;
        wait_for("it to serve", SOON, || Ok(served(&Client::new(&lab, &edge, NEIGHBOUR4)).ok()))?;
        let now = only_block(&edge)?;
        ensure!(now["address"] == before["address"] && now["expires"] == before["expires"], "{message}: {now}");
    }
    shut_out(&Client::new(&lab, &edge, IpAddr::V4(ATTACKER)))
}

/// One event for the audit log.
fn audit(endpoint: Value, more: Value) -> Value {
    let mut attempt =
        json!({"endpoint": endpoint, "peer": NEIGHBOUR, "subject": "alice", "refused": null, "request_id": "x y"});
    attempt
        .as_object_mut()
        .into_iter()
        .for_each(|attempt| attempt.extend(more.as_object().cloned().unwrap_or_default()));
    json!({"audit": {"attempts": [attempt], "lost": 0}})
}

fn offence(id: u64, peer: SocketAddr, local: SocketAddr) -> Value {
    json!({"offence": {"id": id, "kind": "login", "peer": peer, "local": local, "account": "root"}})
}

/// The server's end of the link, taken from the running server.
struct Link(File);

impl Link {
    fn of(edge: &Edge) -> Result<Link> {
        Ok(Link(copied(edge.server_pid()?, LINK)?.into()))
    }

    /// One frame, whole: the server's own cannot come between.
    fn say(&mut self, message: &Value) -> Result<()> {
        let text = message.to_string();
        let mut frame = u32::try_from(text.len())?.to_le_bytes().to_vec();
        frame.extend(text.as_bytes());
        Ok(self.0.write_all(&frame)?)
    }
}
