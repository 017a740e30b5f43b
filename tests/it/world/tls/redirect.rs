//! `http_redirect`: plain HTTP is sent on to https and gets nothing else, and its listeners are as bounded as the others.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use edge_tests::{
    agent::{Config, Edge},
    client::Client,
    net::{ATTACKER4, HOST4, HOST6, Lab, NEIGHBOUR4, NEIGHBOUR6},
};
use serde_json::json;

use crate::world::{connect, served};

fn redirecting(config: &mut Config) {
    config.set("server", "http_redirect", &format!("[\"{HOST4}:80\", \"[{HOST6}]:80\"]"));
}

/// What comes back for these bytes, until the connection is closed.
fn say(lab: &Lab, bytes: &str) -> Result<String> {
    let mut stream = connect(lab, NEIGHBOUR4, SocketAddr::new(HOST4, 80))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(bytes.as_bytes())?;
    heard(&mut stream)
}

fn heard(stream: &mut TcpStream) -> Result<String> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn every_request_is_sent_on_and_nothing_is_answered() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start_with(&lab, redirecting)?;
    let location = |answer: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix("location: "));
        line.unwrap_or_default().to_owned()
    };
    for (head, status, to) in [
        ("GET /auth/me?a=b HTTP/1.1\r\nHost: edge.test\r\n", "308", "https://edge.test/auth/me?a=b"),
        ("HEAD / HTTP/1.1\r\nHost: edge.test:80\r\n", "308", "https://edge.test/"),
        ("PURGE /x HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n", "308", "https://[2001:db8::1]/x"),
        ("GET http://other.test/x HTTP/1.1\r\nHost: edge.test\r\n", "308", "https://other.test/x"),
        ("GET /old HTTP/1.0\r\nHost: edge.test\r\n", "301", "https://edge.test/old"),
        (
            "GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: a.test\r\n",
            "308",
            "https://a.test/.well-known/acme-challenge/x",
        ),
        (
            "POST /auth/login HTTP/1.1\r\nHost: edge.test\r\nContent-Length: 2\r\n",
            "308",
            "https://edge.test/auth/login",
        ),
        ("GET / HTTP/1.1\r\n", "400", ""),
        ("GET / HTTP/1.1\r\nHost: a.test/b\r\n", "400", ""),
        ("GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n", "400", ""),
        ("CONNECT edge.test:443 HTTP/1.1\r\nHost: edge.test\r\n", "400", ""),
        ("OPTIONS * HTTP/1.1\r\nHost: edge.test\r\n", "400", ""),
    ] {
        let answer = say(&lab, &format!("{head}\r\n{{}}"))?;
        ensure!(answer.split(' ').nth(1) == Some(status) && location(&answer) == to, "{head}: {answer}");
        let lower = answer.to_lowercase();
        ensure!(lower.contains("x-content-type-options: nosniff"), "{answer}");
        ensure!(lower.contains("connection: close") != (status == "301"), "HTTP/1.0 closes anyway: {answer}");
        ensure!(!lower.contains("strict-transport"), "HSTS is for TLS (RFC 6797, section 7.2): {answer}");
    }
    ensure!(say(&lab, "nonsense\r\n\r\n")?.starts_with("HTTP/1.1 400"));
    // The port is that of the listener, and the listeners come and go with reloads.
    edge.config.set("server", "listen", &format!("[\"{HOST4}:8443\", \"[{HOST6}]:443\"]"));
    edge.write_config()?;
    ensure!(edge.json(&["reload"])?["applied"] == json!(["server.listen"]));
    let answer = say(&lab, "GET / HTTP/1.1\r\nHost: edge.test\r\n\r\n")?;
    ensure!(location(&answer) == "https://edge.test:8443/", "{answer}");
    let six = Client::new(&lab, &edge, NEIGHBOUR6);
    served(&six)?;
    edge.config.unset("server", "http_redirect");
    edge.write_config()?;
    ensure!(edge.json(&["reload"])?["applied"] == json!(["server.http_redirect"]));
    ensure!(connect(&lab, NEIGHBOUR4, SocketAddr::new(HOST4, 80)).is_err());
    redirecting(&mut edge.config);
    edge.config.set("server", "listen", &format!("[\"{HOST4}:80\", \"{HOST4}:443\"]"));
    edge.write_config()?;
    let refused = edge.cli(&["check"])?;
    ensure!(refused.code == 2 && refused.stderr.contains("is in `listen` too"), "{refused:?}");
    Ok(())
}

#[test]
fn slow_heads_end_in_time_and_those_of_one_address_starve_nobody() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        redirecting(config);
        config.set("server", "header_timeout", "\"2s\"").set("server", "max_handshakes", "16");
    })?;
    let begun = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..64 {
        let mut stream = connect(&lab, ATTACKER4, SocketAddr::new(HOST4, 80))?;
        // One that is over its share is closed at once.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: ");
        slow.push(stream);
    }
    // Plain or not, another is served while they hang.
    ensure!(say(&lab, "GET / HTTP/1.1\r\nHost: edge.test\r\n\r\n")?.starts_with("HTTP/1.1 308"));
    served(&Client::new(&lab, &edge, NEIGHBOUR4))?;
    ensure!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
    for mut stream in slow {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // Closed, if by a reset: its bytes were never read.
        let _ = heard(&mut stream);
    }
    ensure!(begun.elapsed() < Duration::from_secs(8), "it took {:?}", begun.elapsed());
    Ok(())
}
