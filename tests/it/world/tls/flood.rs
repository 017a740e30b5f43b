//! Handshakes that are begun and never finished: they end in time, and those of one address starve nobody.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use edge_tests::{
    agent::Edge,
    client::scrape,
    net::{ATTACKER4, HOST4, Lab, NEIGHBOUR4},
    wait_for,
};

use super::session::{Greeting, Session};
use crate::world::{SOON, connect, times};

/// The begin of a ClientHello, as a client sends it whose rest never comes.
const HALF: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

fn half_open(lab: &Lab, from: IpAddr, says: &[u8]) -> Result<TcpStream> {
    let mut stream = connect(lab, from, SocketAddr::new(HOST4, 443))?;
    // One that is over its share is closed at once.
    let _ = stream.write_all(says);
    Ok(stream)
}

#[test]
fn half_handshakes_of_one_address_starve_nobody_and_end_in_time() -> Result<()> {
    let lab = Lab::new()?;
    let _edge = Edge::start_with(&lab, |config| {
        config.set("server", "header_timeout", "\"3s\"").set("server", "max_handshakes", "32");
    })?;
    let count = times("EDGE_HALF_OPEN", 500)?;
    let begun = Instant::now();
    let mut half: Vec<TcpStream> = Vec::new();
    let mut slowest = Duration::ZERO;
    for at in 0..count {
        half.push(half_open(&lab, ATTACKER4, if at % 2 == 0 { HALF } else { b"" })?);
        if at % 50 == 49 {
            let since = Instant::now();
            Session::greet(&lab, NEIGHBOUR4, &Greeting::default())?.served()?;
            slowest = slowest.max(since.elapsed());
        }
    }
    println!("{count} half handshakes in {:?}; the slowest of {} others took {slowest:?}", begun.elapsed(), count / 50);
    ensure!(slowest < Duration::from_secs(1), "one waited {slowest:?}");
    // Those within the share of the address are ended by the time limit, the others were at once.
    for result in ["refused", "timeout"] {
        wait_for("the flood to be over", SOON, || {
            let count = scrape(&lab)?.value("edge_tls_handshakes_total", &[("result", result)]);
            Ok((count > Some(0.0)).then_some(()))
        })?;
    }
    for mut stream in half {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // Ended in good order or by a reset.
        if let Err(error) = stream.read_to_end(&mut Vec::new()) {
            ensure!(error.kind() != std::io::ErrorKind::WouldBlock, "it is still open");
        }
    }
    Ok(())
}
