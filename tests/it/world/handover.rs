//! What passes between an agent and its server at an end and at a start: answers in flight, and the listening sockets.

use std::net::TcpListener;

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::{Edge, PASSWORD, USER},
    client::Client,
    net::{HOST4, Lab, NEIGHBOUR4},
    talk::Talk,
    wait_for,
};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{SOON, served};

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
