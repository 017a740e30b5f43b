//! Whom a cap does not hold, and what is not counted.

use std::net::{IpAddr, TcpListener};

use anyhow::{Result, ensure};
use edge_tests::{
    agent::Edge,
    crowd::Crowd,
    endings::pair::Pair,
    net::{HOST4, HOST6, Lab},
};
use serde_json::Value;

use super::{capped, connections, current, listen, mistakes, nothing_left, open, refused, why};

const CAP: u32 = 2;

fn many(lab: &Lab, from: IpAddr, listener: &TcpListener) -> Result<Vec<Pair>> {
    (0..3 * CAP).map(|_| open(lab, from, listener)).collect()
}

#[test]
fn the_allow_list_lifts_the_cap() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 1)?;
    let edge = capped(&lab, CAP, |_| {})?;
    for (from, host) in [(crowd.four(0), HOST4), (crowd.six(0), HOST6)] {
        let listener = listen(&lab.host, (host, 0))?;
        let two = [open(&lab, from, &listener)?, open(&lab, from, &listener)?];
        refused(&lab, &edge, from, &listener)?;
        edge.cli(&["allow", &from.to_string()])?.good()?;
        let more = many(&lab, from, &listener)?;
        ensure!(connections(&edge, from)? == (8, None), "{}", why(&edge, from)?);
        edge.cli(&["disallow", &from.to_string()])?.good()?;
        // Counted all the while, and too many now; nothing that was let in is closed for it.
        ensure!(connections(&edge, from)? == (8, Some(2)), "{}", why(&edge, from)?);
        refused(&lab, &edge, from, &listener)?;
        drop((two, more));
    }
    nothing_left(&edge, &crowd.all())
}

#[test]
fn a_trusted_proxy_has_no_cap() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 2)?;
    let proxies = [crowd.four(0), crowd.six(0)];
    let edge = Edge::start_with(&lab, |config| {
        config.set("filter.limits", "connections", &CAP.to_string());
        config.set("server", "trusted_proxies", &format!("[\"{}\", \"{}\"]", proxies[0], proxies[1]));
    })?;
    for (proxy, other, host) in [(proxies[0], crowd.four(1), HOST4), (proxies[1], crowd.six(1), HOST6)] {
        let listener = listen(&lab.host, (host, 0))?;
        let pairs = many(&lab, proxy, &listener)?;
        ensure!(connections(&edge, proxy)?.1.is_none(), "{}", why(&edge, proxy)?);
        let two = [open(&lab, other, &listener)?, open(&lab, other, &listener)?];
        refused(&lab, &edge, other, &listener)?;
        drop((pairs, two));
    }
    nothing_left(&edge, &crowd.all())
}

#[test]
fn other_ports_than_the_capped_are_not_counted() -> Result<()> {
    const CAPPED: u16 = 7_001;
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 1)?;
    let edge = capped(&lab, CAP, |config| {
        config.set("filter", "capped_ports", &format!("[{CAPPED}]"));
    })?;
    for (from, host) in [(crowd.four(0), HOST4), (crowd.six(0), HOST6)] {
        let (capped, free) = (listen(&lab.host, (host, CAPPED))?, listen(&lab.host, (host, CAPPED + 1))?);
        let uncounted = many(&lab, from, &free)?;
        ensure!(current(&edge, from)? == 0, "{}", why(&edge, from)?);
        let two = [open(&lab, from, &capped)?, open(&lab, from, &capped)?];
        ensure!(current(&edge, from)? == 2, "{}", why(&edge, from)?);
        refused(&lab, &edge, from, &capped)?;
        let more = many(&lab, from, &free)?;
        drop((uncounted, two, more));
    }
    nothing_left(&edge, &crowd.all())
}

#[test]
fn a_dry_run_refuses_nobody_and_says_whom_it_would() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 1)?;
    let edge = capped(&lab, CAP, |config| {
        config.set("filter", "dry_run", "true");
    })?;
    let from = crowd.four(0);
    let listener = listen(&lab.host, (HOST4, 0))?;
    let mut pairs = many(&lab, from, &listener)?;
    ensure!(current(&edge, from)? == 6, "{}", why(&edge, from)?);
    let status: Value = edge.json(&["status"])?;
    ensure!(status["packets"]["by_reason"]["connection_cap"].as_u64() >= Some(4), "{status}");
    ensure!(status["packets"]["dropped"] == 0, "{status}");
    pairs.iter_mut().try_for_each(Pair::talk)?;
    drop(pairs);
    nothing_left(&edge, &[from])
}

#[test]
fn what_this_host_opens_is_not_counted() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 1)?;
    let edge = capped(&lab, CAP, |_| {})?;
    for address in crowd.all() {
        let listener = listen(&lab.client, (address, 0))?;
        let to = listener.local_addr()?;
        let dial = || lab.host.within(|| Ok(std::net::TcpStream::connect(to)?));
        let pairs: Vec<_> = (0..3 * CAP).map(|_| Ok((dial()?, listener.accept()?))).collect::<Result<_>>()?;
        ensure!(current(&edge, address)? == 0, "{}", why(&edge, address)?);
        drop(pairs);
    }
    for loopback in ["127.0.0.1", "::1"] {
        let address: IpAddr = loopback.parse()?;
        let listener = listen(&lab.host, (address, 0))?;
        let to = listener.local_addr()?;
        let dial = || lab.host.within(|| Ok(std::net::TcpStream::connect(to)?));
        let pairs: Vec<_> = (0..3 * CAP).map(|_| Ok((dial()?, listener.accept()?))).collect::<Result<_>>()?;
        ensure!(current(&edge, address)? == 0, "{}", why(&edge, address)?);
        drop(pairs);
    }
    ensure!(mistakes(&lab)? == [0.0; 2]);
    Ok(())
}
