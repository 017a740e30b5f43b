//! Connection caps with real sockets: who is refused, who is not, and that each connection is counted once and counted off
//! once. Clients have addresses of their own, since every agent with a cap counts in all namespaces of the machine.

mod before;
mod bursts;
mod cap;
mod endings;
mod exceptions;
mod forged;
mod mute;
mod places;
mod replacements;
mod slow;

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use edge_tests::{
    agent::{Config, Edge},
    client::{connect, scrape},
    endings::pair::Pair,
    net::{Lab, Namespace},
    sockets::Opened,
    wait_for,
};
use serde_json::Value;

use super::{SOON, lifecycle::filter_only, packets};

/// An agent that filters, with this cap.
fn capped(lab: &Lab, cap: u32, change: impl FnOnce(&mut Config)) -> Result<Edge> {
    let mut edge = Edge::bare(lab)?;
    filter_only(&mut edge.config);
    edge.config.set("filter.limits", "connections", &cap.to_string());
    change(&mut edge.config);
    edge.run()?;
    Ok(edge)
}

/// What `edge why` says of the connections of an address: how many now, and how many there may be.
fn connections(edge: &Edge, address: IpAddr) -> Result<(u64, Option<u64>)> {
    let (_, why) = edge.json_any(&["why", &address.to_string()])?;
    let current = why["connections"]["current"].as_u64().with_context(|| format!("no connections in {why}"))?;
    Ok((current, why["connections"]["cap"].as_u64()))
}

fn current(edge: &Edge, address: IpAddr) -> Result<u64> {
    Ok(connections(edge, address)?.0)
}

/// Waits until each of these addresses has exactly as many connections as it should.
fn counted(edge: &Edge, clients: &[IpAddr], opened: &Opened) -> Result<()> {
    for client in clients {
        let expected = opened.get(client).copied().unwrap_or(0);
        let mut last = None;
        wait_for("a count", SOON, || {
            last = Some(current(edge, *client)?);
            Ok((last == Some(expected)).then_some(()))
        })
        .with_context(|| format!("{client} has {expected} connections, and {last:?} are counted"))?;
    }
    Ok(())
}

/// Nobody of these has any connection.
fn nothing_left(edge: &Edge, clients: &[IpAddr]) -> Result<()> {
    counted(edge, clients, &Opened::new())
}

/// What the kernel side could not count, and what a comparison had to mend: nothing, in all of these tests.
fn mistakes(lab: &Lab) -> Result<[f64; 2]> {
    let metrics = scrape(lab)?;
    let value = |name, label| metrics.value(name, &[label]).with_context(|| format!("no {name} of {label:?}"));
    Ok([
        value("edge_events_lost_total", ("source", "connections"))?,
        value("edge_drift_repaired_total", ("kind", "connection"))?,
    ])
}

/// A listener of a namespace.
fn listen(namespace: &Namespace, at: (IpAddr, u16)) -> Result<TcpListener> {
    namespace.within(|| Ok(TcpListener::bind(at)?))
}

/// A try to connect, as long as a SYN takes to be sent twice.
fn attempt(lab: &Lab, from: IpAddr, to: SocketAddr) -> Result<io::Result<TcpStream>> {
    connect(lab, from, to, Duration::from_millis(1_500))
}

/// A connection that is accepted and used.
fn open(lab: &Lab, from: IpAddr, listener: &TcpListener) -> Result<Pair> {
    let to = listener.local_addr()?;
    let client = attempt(lab, from, to)?.with_context(|| format!("{from} is not let in to {to}"))?;
    let (server, peer) = listener.accept()?;
    ensure!(peer.ip() == from, "{peer} was accepted instead of {from}");
    let mut pair = Pair { client, server };
    pair.talk()?;
    Ok(pair)
}

/// That no further connection is had, and that the reason is told.
fn refused(lab: &Lab, edge: &Edge, from: IpAddr, listener: &TcpListener) -> Result<()> {
    let before = packets(edge, "connection_cap")?;
    match attempt(lab, from, listener.local_addr()?)? {
        Err(error) if error.kind() == ErrorKind::TimedOut => {}
        other => bail!("{from} is not refused: {other:?}"),
    }
    let after = packets(edge, "connection_cap")?;
    ensure!(after > before, "{from} was refused, and connection_cap stayed at {after}");
    Ok(())
}

/// What `edge why` prints of an address as a whole.
fn why(edge: &Edge, address: IpAddr) -> Result<Value> {
    Ok(edge.json_any(&["why", &address.to_string()])?.1)
}
