//! Exposed ports on real traffic: what is not exposed takes nothing new, and what this host asked for is answered.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use edge_common::names;
use edge_tests::{
    agent::Edge,
    bpf::{attached_by, fill_egress},
    client::Client,
    net::{ATTACKER4, ATTACKER6, HOST_INTERFACE, HOST4, HOST6, Lab, NEIGHBOUR4},
    run, wait_for,
};

use super::{
    FOREIGN, SOON, attach_foreign,
    interfaces::{asked_and_answered, repaired},
    lifecycle::{filter_only, nothing_left},
    packets, served,
};

const PATIENCE: Duration = Duration::from_millis(1500);
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));

#[test]
fn only_exposed_ports_take_new_connections_and_answers_come_back() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        config.set("filter", "exposed_ports", "[\"443/tcp\", \"5353/udp\"]");
    })?;
    served(&Client::new(&lab, &edge, ATTACKER4))?;
    served(&Client::new(&lab, &edge, ATTACKER6))?;
    // A service that is not exposed: its SYNs drop, over both families.
    for host in [HOST4, HOST6] {
        let place = SocketAddr::new(host, 8080);
        let _hidden = lab.host.within(|| Ok(TcpListener::bind(place)?))?;
        let before = packets(&edge, "port_closed")?;
        let refused = lab.client.within(|| Ok(TcpStream::connect_timeout(&place, PATIENCE)))?;
        ensure!(refused.is_err(), "{place} was reached");
        ensure!(packets(&edge, "port_closed")? > before, "{place}: not counted");
    }
    // The host's own connection to a port that is not exposed on it: what comes back passes.
    let theirs = lab.client.within(|| Ok(TcpListener::bind(SocketAddr::new(CLIENT, 8081))?))?;
    let echo = thread::spawn(move || -> Result<()> {
        let (mut stream, _) = theirs.accept()?;
        let mut word = [0; 5];
        stream.read_exact(&mut word)?;
        Ok(stream.write_all(&word)?)
    });
    let mut own = lab.host.within(|| Ok(TcpStream::connect_timeout(&SocketAddr::new(CLIENT, 8081), PATIENCE)?))?;
    own.set_read_timeout(Some(PATIENCE))?;
    own.write_all(b"hello")?;
    let mut word = [0; 5];
    own.read_exact(&mut word)?;
    echo.join().map_err(|_| anyhow::anyhow!("the echo panicked"))??;
    ensure!(&word == b"hello");
    Ok(())
}

#[test]
fn a_dns_answer_comes_back_and_nobody_else_gets_in_on_its_port() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        config.set("filter", "exposed_ports", "[\"443/tcp\"]");
    })?;
    let bound = |namespace: &edge_tests::net::Namespace, address: IpAddr, port: u16| -> Result<UdpSocket> {
        let socket = namespace.within(|| Ok(UdpSocket::bind(SocketAddr::new(address, port))?))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    let resolver = bound(&lab.client, CLIENT, 53)?;
    let stranger = bound(&lab.client, NEIGHBOUR4, 53)?;
    let host = bound(&lab.host, HOST4, 0)?;
    let port = host.local_addr()?.port();
    // A query for the address of example.org (RFC 1035, section 4.1), and its answer.
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01";
    host.send_to(query, SocketAddr::new(CLIENT, 53))?;
    let mut buffer = [0; 512];
    let (length, from) = resolver.recv_from(&mut buffer)?;
    let mut answer = buffer[..length].to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[7] = 1;
    answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x01");
    ensure!(from == SocketAddr::new(HOST4, port));
    resolver.send_to(&answer, from)?;
    let (length, from) = host.recv_from(&mut buffer).context("the answer did not come")?;
    ensure!(buffer[..length] == answer && from == SocketAddr::new(CLIENT, 53));

    let before = packets(&edge, "port_closed")?;
    stranger.send_to(&answer, SocketAddr::new(HOST4, port))?;
    resolver.send_to(&answer, SocketAddr::new(HOST4, port.wrapping_add(1).max(1024)))?;
    ensure!(host.recv_from(&mut buffer).is_err(), "a stranger's datagram came through");
    ensure!(packets(&edge, "port_closed")? == before + 2);
    Ok(())
}

#[test]
fn a_reload_that_fails_leaves_what_notes_as_it_was() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start_with(&lab, filter_only)?;
    taken(&lab, "edge-x")?;
    let (alone, both) = (format!("[\"{HOST_INTERFACE}\"]"), format!("[\"{HOST_INTERFACE}\", \"edge-x\"]"));
    let refused = |edge: &mut Edge| -> Result<()> {
        edge.config.set("filter", "interfaces", &both);
        edge.write_config()?;
        let output = edge.cli(&["reload"])?;
        ensure!(output.code == 1 && output.stderr.contains(FOREIGN), "{output:?}");
        edge.config.set("filter", "interfaces", &alone);
        Ok(())
    };
    // It would have been new: it is gone again.
    edge.config.set("filter", "exposed_ports", "[\"443/tcp\"]");
    refused(&mut edge)?;
    ensure!(noting(&lab)?.is_empty(), "{:?}", noting(&lab)?);
    // It was there: the program before is back.
    edge.write_config()?;
    edge.cli(&["reload"])?.good()?;
    let pins = noting(&lab)?;
    ensure!(pins.len() == 1, "{pins:?}");
    let program = attached_by(&pins[0])?;
    ensure!(program.is_some());
    edge.config.set("filter", "fragments", "\"drop\"");
    refused(&mut edge)?;
    ensure!(noting(&lab)? == pins && attached_by(&pins[0])? == program, "another program notes what is sent");
    // And one that works takes its place.
    edge.write_config()?;
    edge.cli(&["reload"])?.good()?;
    ensure!(noting(&lab)? == pins && attached_by(&pins[0])? != program);
    edge.config.set("filter", "exposed_ports", "[]");
    edge.write_config()?;
    edge.cli(&["reload"])?.good()?;
    ensure!(noting(&lab)?.is_empty());
    Ok(())
}

#[test]
fn without_a_tcx_link_a_filter_notes_and_is_found_again() -> Result<()> {
    let lab = Lab::new()?;
    let index = u32::try_from(lab.host.index(HOST_INTERFACE)?)?;
    let _full = lab.host.within(|| fill_egress(index))?;
    let mut edge = Edge::bare(&lab)?;
    filter_only(&mut edge.config);
    edge.config.set("filter", "exposed_ports", "[\"443/tcp\"]");
    edge.run()?;
    ensure!(edge.log().contains("noted by a filter"), "{}", edge.log());
    let noted = || -> Result<()> {
        asked_and_answered(&lab)?;
        let filters = filters(&lab)?;
        ensure!(filters.len() == 1 && noting(&lab)?.len() == 1, "{filters:?}");
        Ok(())
    };
    noted()?;
    // Somebody takes it away, and its record.
    run(lab.host.command("tc").args(["qdisc", "del", "dev", HOST_INTERFACE, "clsact"]), b"")?.good()?;
    wait_for("it to be attached", SOON, || Ok((repaired(&lab, "detached")? == 1.0).then_some(())))?;
    noted()?;
    fs::remove_dir(&noting(&lab)?[0])?;
    wait_for("the record to be back", SOON, || Ok((repaired(&lab, "unpinned")? == 1.0).then_some(())))?;
    noted()?;
    // Another generation takes its place: by a reload, by one that fails, by a start after a crash.
    let first = filters(&lab)?;
    edge.config.set("filter", "fragments", "\"drop\"");
    edge.write_config()?;
    edge.cli(&["reload"])?.good()?;
    noted()?;
    let second = filters(&lab)?;
    ensure!(first != second, "{second:?}");
    taken(&lab, "edge-x")?;
    edge.config.set("filter", "interfaces", &format!("[\"{HOST_INTERFACE}\", \"edge-x\"]"));
    edge.write_config()?;
    ensure!(edge.cli(&["reload"])?.code == 1 && filters(&lab)? == second);
    noted()?;
    edge.config.set("filter", "interfaces", &format!("[\"{HOST_INTERFACE}\"]"));
    edge.kill()?;
    asked_and_answered(&lab)?;
    edge.run()?;
    noted()?;
    edge.config.set("filter", "exposed_ports", "[]");
    edge.write_config()?;
    edge.cli(&["reload"])?.good()?;
    ensure!(filters(&lab)?.is_empty() && noting(&lab)?.is_empty());
    edge.config.set("filter", "exposed_ports", "[\"443/tcp\"]");
    edge.write_config()?;
    edge.cli(&["reload"])?.good()?;
    noted()?;
    edge.kill()?;
    edge.cli(&["unload"])?.good()?;
    ensure!(filters(&lab)?.is_empty());
    nothing_left(&lab)
}

/// Filters of edge on the way out, one a line, each with its program's id.
fn filters(lab: &Lab) -> Result<Vec<String>> {
    let shown = run(lab.host.command("tc").args(["filter", "show", "dev", HOST_INTERFACE, "egress"]), b"")?.good()?;
    Ok(shown.lines().filter(|line| line.contains(names::EGRESS_PROGRAM)).map(str::to_owned).collect())
}

/// An interface whose XDP hook somebody else has.
fn taken(lab: &Lab, interface: &str) -> Result<()> {
    lab.host.ip(&format!("link add {interface} type veth peer name {interface}-peer"))?;
    attach_foreign(lab, interface, "xdpgeneric").map(drop)
}

/// The links on the way out, by their pins.
fn noting(lab: &Lab) -> Result<Vec<PathBuf>> {
    let pins = fs::read_dir(lab.pin_path())?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let name = |pin: &PathBuf| pin.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"sent-"));
    Ok(pins.into_iter().filter(name).collect())
}
