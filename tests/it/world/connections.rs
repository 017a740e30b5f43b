//! What clients do with their connections instead of waiting for the answer, and whose connections are not served.

use std::{
    io::{ErrorKind, Read},
    net::SocketAddr,
    os::fd::RawFd,
};

use anyhow::{Context, Result, ensure};
use edge_common::connection::EXCESS_MARK;
use edge_tests::{
    agent::Edge,
    client::{Client, scrape},
    descriptor::copied,
    net::{ATTACKER4, HOST4, Lab, NEIGHBOUR4, NEIGHBOUR6},
    talk::Talk,
    wait_for,
};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;

use super::{SOON, connect, only_block, served, shut_out};

#[test]
fn who_closes_before_the_answer_is_blocked_all_the_same() -> Result<()> {
    for say_and_close in [login, token, login_over_http2] {
        let lab = Lab::new()?;
        let edge = Edge::start(&lab)?;
        for _ in 0..5 {
            say_and_close(&lab)?;
        }
        wait_for("the block", SOON, || Ok((edge.json(&["list"])? != json!([])).then_some(())))
            .with_context(|| edge.log())?;
        let entry = only_block(&edge)?;
        ensure!(entry["address"] == "10.77.0.2/32" && entry["origin"] == "auth", "{entry}");
        shut_out(&Client::new(&lab, &edge, ATTACKER4))?;
        served(&Client::new(&lab, &edge, NEIGHBOUR4))?;
    }
    Ok(())
}

#[test]
fn a_single_turn_for_handshakes_is_had_by_every_listener() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        config.set("server", "max_handshakes", "1");
    })?;
    for address in [NEIGHBOUR4, NEIGHBOUR4, NEIGHBOUR6, NEIGHBOUR6, NEIGHBOUR4] {
        served(&Client::new(&lab, &edge, address))?;
    }
    Ok(())
}

/// Where the server has the first of its listening sockets.
const LISTENER: RawFd = 4;

#[test]
fn a_connection_that_the_kernel_side_marked_is_closed_without_a_byte() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    served(&Client::new(&lab, &edge, NEIGHBOUR4))?;
    // What is accepted has the mark of the listener.
    let listener = copied(edge.server_pid()?, LISTENER)?;
    setsockopt(&listener, sockopt::Mark, &EXCESS_MARK)?;
    for _ in 0..3 {
        let mut excess = connect(&lab, NEIGHBOUR4, SocketAddr::new(HOST4, 443))?;
        let read = excess.read(&mut [0]);
        ensure!(read.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "{read:?}");
    }
    let refused = || scrape(&lab).map(|metrics| metrics.value("edge_tls_handshakes_total", &[("result", "refused")]));
    wait_for("the count", SOON, || Ok((refused()? == Some(3.0)).then_some(())))?;
    setsockopt(&listener, sockopt::Mark, &(EXCESS_MARK + 1))?;
    served(&Client::new(&lab, &edge, NEIGHBOUR4))
}

const HEAD: &str = "Host: edge\r\nConnection: close\r\n";

fn login(lab: &Lab) -> Result<()> {
    let (body, mut talk) = (wrong_login(), Talk::open(lab, "http/1.1")?);
    let head = format!("POST /auth/login HTTP/1.1\r\n{HEAD}Content-Length: {}\r\n\r\n", body.len());
    talk.say((head + &body).as_bytes())?;
    talk.close()
}

fn token(lab: &Lab) -> Result<()> {
    let mut talk = Talk::open(lab, "http/1.1")?;
    talk.say(format!("GET /auth/me HTTP/1.1\r\n{HEAD}Authorization: Bearer a.b.c\r\n\r\n").as_bytes())?;
    talk.close()
}

fn login_over_http2(lab: &Lab) -> Result<()> {
    let mut talk = Talk::open(lab, "h2")?;
    let fields = [(":method", "POST"), (":scheme", "https"), (":authority", "edge"), (":path", "/auth/login")];
    let fields: Vec<u8> = fields.iter().flat_map(field).collect();
    talk.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    let head = [frame(SETTINGS, 0, 0, &[]), frame(HEADERS, END_HEADERS, 1, &fields), frame(PING, 0, 0, &[0; 8])];
    talk.say(&head.concat())?;
    // The library passes over a request whose client has closed by the time it looks: so that it has looked.
    while next_frame(&mut talk)? != PING {}
    talk.say(&frame(DATA, END_STREAM, 1, wrong_login().as_bytes()))?;
    talk.close()
}

fn wrong_login() -> String {
    json!({"username": "root", "password": "wrong password"}).to_string()
}

/// What of HTTP/2 is needed here (RFC 9113, and 7541 for the fields).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Literal, without compression and without the table.
fn field((name, value): &(&str, &str)) -> Vec<u8> {
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// Passes over one frame and gives its kind.
fn next_frame(talk: &mut Talk) -> Result<u8> {
    let head = talk.bytes(9)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    talk.bytes(length as usize)?;
    Ok(head[3])
}
