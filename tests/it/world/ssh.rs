//! Who is signed in over SSH is never blocked; who only holds a connection to sshd is blocked like anybody else.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    client::Client,
    net::{ATTACKER4, ATTACKER6, HOST4, HOST6, Lab, NEIGHBOUR4},
    ssh::{ORDINARY_USER, Sshd},
    wait_for,
};

use super::{SOON, connect, fail_five_times, served, shut_out};

const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
const FORWARDED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 8080);

#[test]
fn a_connection_to_sshd_protects_nobody() -> Result<()> {
    let lab = Lab::new()?;
    let sshd = Sshd::start(&lab, HOST4, 22)?;
    let _silent: TcpStream = lab.client.within(|| Ok(TcpStream::connect((HOST4, 22))?))?;
    let _hesitating = [sshd.hesitate(ORDINARY_USER, ATTACKER4)?, sshd.hesitate("root", ATTACKER4)?];
    // It looks who is protected before it is ready.
    let edge = Edge::start(&lab)?;
    let attacker = Client::new(&lab, &edge, ATTACKER4);
    fail_five_times(&attacker)?;
    shut_out(&attacker)
}

#[test]
fn who_is_signed_in_is_protected_while_it_lasts() -> Result<()> {
    let lab = Lab::new()?;
    for (user, address, from) in [(ORDINARY_USER, HOST4, ATTACKER4), ("root", HOST6, ATTACKER6)] {
        let sshd = Sshd::start(&lab, address, 2222)?;
        let session = sshd.sign_in(user, from, &[])?;
        let edge = Edge::start(&lab)?;
        let client = Client::new(&lab, &edge, from);
        fail_five_times(&client)?;
        served(&client).with_context(|| format!("signed in as {user}"))?;
        refused(&edge, from)?;
        drop(session);
        wait_for("the protection to end with the session", SOON, || {
            Ok((edge.cli(&["block", &from.to_string()])?.code == 0).then_some(()))
        })?;
        shut_out(&client)?;
        // And one that begins while edge runs.
        edge.cli(&["unblock", &from.to_string()])?.good()?;
        let _session = sshd.sign_in(user, from, &[])?;
        wait_for("the protection to begin with a session", SOON, || {
            let refused = edge.cli(&["block", &from.to_string()])?.code == 1;
            edge.cli(&["unblock", &from.to_string()])?.good()?;
            Ok(refused.then_some(()))
        })?;
        refused(&edge, from)?;
    }
    Ok(())
}

#[test]
fn whom_a_session_forwards_is_not_signed_in() -> Result<()> {
    let lab = Lab::new()?;
    let sshd = Sshd::start(&lab, HOST4, 22)?;
    let forwarded = lab.client.within(|| Ok(TcpListener::bind(("127.0.0.1", 0))?))?;
    // Of root, whose one process holds both what it forwards and its own connection.
    let forward = format!("{FORWARDED}:{}", forwarded.local_addr()?);
    let _session = sshd.sign_in("root", ATTACKER4, &["-o", "ExitOnForwardFailure=yes", "-R", &forward])?;
    let visitor = wait_for("the forwarded port", SOON, || Ok(connect(&lab, NEIGHBOUR, FORWARDED).ok()))?;
    let (_arrived, _) = forwarded.accept()?;
    let edge = Edge::start(&lab)?;
    refused(&edge, ATTACKER4)?;
    edge.cli(&["block", &NEIGHBOUR4.to_string()])?.good()?;
    shut_out(&Client::new(&lab, &edge, NEIGHBOUR4))?;
    drop(visitor);
    Ok(())
}

/// A block is refused, and the reason is the session.
fn refused(edge: &Edge, address: IpAddr) -> Result<()> {
    let output = edge.cli(&["block", &address.to_string()])?;
    ensure!(output.code == 1 && output.stderr.contains("SSH session"), "{output:?}");
    Ok(())
}
