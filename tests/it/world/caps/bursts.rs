//! A thousand connects at once at a cap of twenty: how many the kernel ever has established, for how long, and how many a
//! server serves.

mod watch;
mod web;

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    client::scrape,
    crowd::Crowd,
    endings::pair::{allow_descriptors, knock, reset},
    net::{HOST_INTERFACE, HOST4, HOST6, Lab},
    run, wait_for,
};

use self::watch::Watch;
use super::{SOON, capped, current, listen, mistakes, nothing_left, packets};

const CAP: u64 = 20;
const AT_ONCE: usize = 1_000;
/// A receive batch of the one queue that a veth has.
const BATCH: u64 = 64;
/// How long the kernel may have more than the cap.
const EXCESS_FOR: Duration = Duration::from_millis(100);

/// As many rounds as `EDGE_ROUNDS` says, else so many.
fn rounds(few: usize) -> Result<usize> {
    std::env::var("EDGE_ROUNDS").map_or(Ok(few), |text| text.parse().context("EDGE_ROUNDS"))
}

#[test]
fn of_a_thousand_at_once_twenty_are_established() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 1)?;
    let edge = capped(&lab, CAP as u32, |_| {})?;
    plain_rounds(&lab, &crowd, &edge)
}

/// The receiving side has a thread of its own, so that what comes gathers into batches.
#[test]
fn of_a_thousand_in_batches_twenty_are_established() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 1)?;
    let edge = capped(&lab, CAP as u32, |_| {})?;
    gather(&lab)?;
    plain_rounds(&lab, &crowd, &edge)
}

fn plain_rounds(lab: &Lab, crowd: &Crowd, edge: &Edge) -> Result<()> {
    allow_descriptors(AT_ONCE as u64 + 1_000)?;
    let listeners = [HOST4, HOST6].map(|host| listen(&lab.host, (host, 0)));
    let [four, six] = listeners;
    let (four, six) = (four?, six?);
    let (mut most, mut longest) = (0, Duration::ZERO);
    for round in 0..rounds(16)? {
        let (from, listener) = if round % 2 == 0 { (crowd.four(0), &four) } else { (crowd.six(0), &six) };
        let to = listener.local_addr()?;
        let watch = Watch::start(lab, to.port())?;
        let clients = storm(lab, from, to)?;
        let seen = exactly_the_cap(edge, from, watch).with_context(|| format!("round {round} of {from}"))?;
        (most, longest) = (most.max(seen.most), longest.max(seen.over_for));
        clients.into_iter().try_for_each(reset)?;
        nothing_left(edge, &[from]).with_context(|| format!("round {round} of {from}"))?;
        // What waits in the queue has ended.
        listener.set_nonblocking(true)?;
        while listener.accept().is_ok() {}
    }
    println!("at most {most} were established at once, and more than {CAP} for {longest:?} at the longest");
    ensure!(mistakes(lab)? == [0.0; 2], "{:?}", mistakes(lab)?);
    Ok(())
}

fn storm(lab: &Lab, from: IpAddr, to: SocketAddr) -> Result<Vec<TcpStream>> {
    lab.client.within(|| (0..AT_ONCE).map(|_| knock(SocketAddr::new(from, 0), to)).collect())
}

/// A counter that falls is taken for one that began anew.
#[test]
fn what_was_over_the_cap_is_told_by_the_next_agent_too() -> Result<()> {
    const REACHED: &str = "edge_connections_cap_reached_total";
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 1)?;
    allow_descriptors(AT_ONCE as u64 + 1_000)?;
    let mut edge = capped(&lab, CAP as u32, |_| {})?;
    gather(&lab)?;
    let listener = listen(&lab.host, (HOST4, 0))?;
    let reached = || scrape(&lab)?.value(REACHED, &[]).context(REACHED);
    let mut over = 0.0;
    for _ in 0..20 {
        let watch = Watch::start(&lab, listener.local_addr()?.port())?;
        let clients = storm(&lab, crowd.four(0), listener.local_addr()?)?;
        exactly_the_cap(&edge, crowd.four(0), watch)?;
        clients.into_iter().try_for_each(reset)?;
        nothing_left(&edge, &[crowd.four(0)])?;
        over = reached()? - packets(&edge, "connection_cap")? as f64;
        if over > 0.0 {
            break;
        }
    }
    ensure!(over > 0.0, "twenty storms, and nothing was established over the cap");
    let before = reached()?;
    edge.kill()?;
    edge.run()?;
    ensure!(reached()? >= before, "{} after a restart, {before} before", reached()?);
    Ok(())
}

/// The kernel has the cap, edge counts the cap, and the bounds were kept on the way there.
fn exactly_the_cap(edge: &Edge, from: IpAddr, watch: Watch) -> Result<watch::Seen> {
    wait_for("as many as the cap", SOON, || Ok((watch.now()? == CAP && current(edge, from)? == CAP).then_some(())))
        .with_context(|| format!("{:?} are established, {:?} counted", watch.now(), current(edge, from)))?;
    let seen = watch.stop()?;
    ensure!(seen.most <= CAP + BATCH, "{} were established at once", seen.most);
    ensure!(seen.over_for <= EXCESS_FOR, "more than {CAP} were established for {:?}", seen.over_for);
    Ok(seen)
}

/// /sys has to be mounted anew for the interfaces of another namespace, which `ip netns exec` does.
fn gather(lab: &Lab) -> Result<()> {
    let threaded = format!("/sys/class/net/{HOST_INTERFACE}/threaded");
    let mut command = std::process::Command::new("ip");
    run(command.args(["netns", "exec", &lab.host.name, "tee", &threaded]), b"1")?.good().context("threaded")?;
    Ok(())
}

#[test]
fn edge_s_own_server_serves_no_more_than_the_cap() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 1)?;
    allow_descriptors(2 * AT_ONCE as u64 + 1_000)?;
    let edge = Edge::start_with(&lab, |config| {
        config.set("filter.limits", "connections", &CAP.to_string());
        // The server's patience must not be what ends them.
        config.set("server", "idle_timeout", "\"120s\"");
    })?;
    gather(&lab)?;
    for round in 0..rounds(2)? {
        let (from, host) = if round % 2 == 0 { (crowd.four(0), HOST4) } else { (crowd.six(0), HOST6) };
        let watch = Watch::start(&lab, 443)?;
        let clients = storm(&lab, from, SocketAddr::new(host, 443))?;
        let served = web::ask_all(clients).with_context(|| format!("round {round} of {from}"))?;
        ensure!(served.len() as u64 <= CAP, "round {round}: {} of {from} are served", served.len());
        let seen = watch.stop()?;
        ensure!(seen.most <= CAP + BATCH, "{} were established at once", seen.most);
        ensure!(seen.over_for <= EXCESS_FOR, "more than {CAP} were established for {:?}", seen.over_for);
        ensure!(current(&edge, from)? == served.len() as u64, "{} served: {}", served.len(), super::why(&edge, from)?);
        let more = web::fill(&lab, from, SocketAddr::new(host, 443), CAP as usize - served.len())?;
        ensure!(current(&edge, from)? == CAP, "{}", super::why(&edge, from)?);
        drop((served, more));
        nothing_left(&edge, &[from]).with_context(|| format!("round {round} of {from}"))?;
    }
    ensure!(mistakes(&lab)? == [0.0; 2], "{:?}", mistakes(&lab)?);
    Ok(())
}
