//! What passes between an agent and its server: answers in flight at an end, the listening sockets at a start, how to log.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::{Edge, PASSWORD, USER},
    client::Client,
    net::{HOST4, Lab, NEIGHBOUR4},
    talk::Talk,
    wait_for,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{SOON, connect, served};

#[test]
fn a_signal_to_the_whole_group_lets_an_answer_in_flight_be_given() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    for (signal, password, status) in
        [(Signal::SIGTERM, PASSWORD, 200), (Signal::SIGINT, "wrong password", 401), (Signal::SIGTERM, "wrong", 401)]
    {
        edge.run()?;
        let (mut login, body) = half_a_login(&lab, password)?;
        edge.signal_group(signal)?;
        login.say(body.as_bytes())?;
        let answer = login.line()?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{signal}: {answer}\n{}", edge.log());
        ensure!(edge.wait()? == 0, "{signal}: {}", edge.log());
    }
    ensure!(!edge.log().contains("started again"), "{}", edge.log());
    Ok(())
}

#[test]
fn a_server_that_was_left_over_is_no_hindrance() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let left_over = lab.host.within(|| Ok(TcpListener::bind((HOST4, 443))?))?;
    edge.spawn()?;
    wait_for("the agent to wait", SOON, || Ok(edge.log().contains("is still taken").then_some(())))?;
    drop(left_over);
    wait_for("edge to be ready", SOON, || Ok((edge.cli(&["status"])?.code == 0).then_some(())))
        .with_context(|| edge.log())?;
    served(&Client::new(&lab, &edge, NEIGHBOUR4))
}

#[test]
fn agent_and_server_log_alike() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let audit = edge.path("audit.log");
    edge.config.text("log", "format", "json").text("log", "audit", audit);
    edge.arguments = vec!["-v".to_owned()];
    edge.run()?;
    // What the server tells only of those who ask for more.
    connect(&lab, Ipv4Addr::new(10, 77, 0, 2), SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 1), 443))?
        .write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    wait_for("a word about the handshake", SOON, || Ok(edge.log().contains("TLS handshake").then_some(())))?;
    let log = edge.log();
    for line in log.lines() {
        let entry: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(entry["level"].is_string() && entry["timestamp"].is_string(), "{line}");
    }
    Ok(())
}

/// A login of which the head was sent and taken, and the body not yet; and that body.
fn half_a_login(lab: &Lab, password: &str) -> Result<(Talk, String)> {
    let body = json!({"username": USER, "password": password}).to_string();
    let length = body.len();
    let mut talk = Talk::open(lab, "http/1.1")?;
    let head =
        format!("POST /auth/login HTTP/1.1\r\nHost: edge\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n");
    talk.say(head.as_bytes())?;
    // The server says so when it wants the body: the request is being answered.
    let line = talk.line()?;
    ensure!(line.starts_with("HTTP/1.1 100"), "not asked for the body but answered: {line}");
    ensure!(talk.line()?.trim().is_empty());
    Ok((talk, body))
}
