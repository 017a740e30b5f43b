//! What `[filter]` switches on, on real traffic: rates, fragments, the dry run.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use edge_common::names;
use edge_tests::{
    agent::Edge,
    bpf::Program,
    client::{Client, Wire, scrape},
    net::{ATTACKER4, ATTACKER6, Lab, NEIGHBOUR4},
};

use super::{fail_five_times, packets, served, shut_out};

#[test]
fn in_a_dry_run_everything_passes_and_is_counted_as_it_would_be() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start_with(&lab, |config| {
        config.set("filter", "dry_run", "true");
    })?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    fail_five_times(&client)?;
    served(&client)?;
    let status = edge.json(&["status"])?;
    ensure!(status["packets"]["dropped"] == 0, "{status}");
    let would = packets(&edge, "blocked")?;
    ensure!(would > 0, "{status}");
    let scraped = scrape(&lab)?;
    ensure!(scraped.sum("edge_packets_total", &[("verdict", "pass"), ("reason", "blocked")]) >= would as f64);
    ensure!(scraped.sum("edge_packets_total", &[("verdict", "drop")]) == 0.0);
    edge.stop()?;
    edge.config.set("filter", "dry_run", "false");
    edge.run()?;
    shut_out(&client)?;
    ensure!(edge.json(&["status"])?["packets"]["dropped"].as_u64() > Some(0));
    ensure!(packets(&edge, "blocked")? > would, "the counts began anew");
    Ok(())
}

#[test]
fn over_ten_seconds_a_source_gets_its_rate_and_its_burst_from_one_cpu() -> Result<()> {
    rate_is_kept(1)
}

#[test]
fn over_ten_seconds_a_source_gets_its_rate_and_its_burst_from_two_cpus() -> Result<()> {
    rate_is_kept(2)
}

/// The limit, over ten seconds, within a hundredth, whoever judges the packets. More than the burst opens and closes the
/// flood, so what was admitted hangs on the time between these two alone, however this machine parts its CPUs.
fn rate_is_kept(threads: usize) -> Result<()> {
    const PER_SECOND: f64 = 20_000.0;
    const BURST: f64 = 40_000.0;
    const MORE_THAN_BURST: u32 = 60_000;
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        config.set("filter.limits", "packets", "{ per_second = 20_000, burst = 40_000 }");
    })?;
    let program = Program::pinned(&crate::bytecode::pinned(&lab.pin_path(), names::PROGRAM)?)?;
    let frame = Wire::new(&lab)?.datagram(ATTACKER4, 0, &[0; 22])?;
    let start = Instant::now();
    program.test_run(&frame, MORE_THAN_BURST)?;
    let opened = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let flood = || -> Result<()> {
            while start.elapsed() < Duration::from_secs(10) {
                program.test_run(&frame, 2000)?;
            }
            Ok(())
        };
        let floods: Vec<_> = (0..threads).map(|_| scope.spawn(flood)).collect();
        floods.into_iter().try_for_each(|flood| flood.join().map_err(|_| anyhow::anyhow!("a flood panicked"))?)
    })?;
    let shortest = opened.elapsed();
    program.test_run(&frame, MORE_THAN_BURST)?;
    let [least, most] = [shortest, start.elapsed()].map(|took| BURST + PER_SECOND * took.as_secs_f64());
    let status = edge.json(&["status"])?;
    let counted = |reason: &str| status["packets"]["by_reason"][reason].as_f64().unwrap_or_default();
    let (passed, refused) = (counted("passed"), counted("packet_rate"));
    println!("{threads} threads: {passed} of {} passed, {least:.0} to {most:.0} expected", passed + refused);
    ensure!(refused > most, "not enough was offered: {refused}");
    ensure!(passed >= least * 0.99 && passed <= most * 1.01, "{passed} passed, {least:.0} to {most:.0} expected");
    // Shed in the moment, and never blocked.
    ensure!(edge.json(&["list"])? == serde_json::json!([]));
    Ok(())
}

#[test]
fn a_source_that_opens_too_fast_is_refused_and_its_neighbour_is_not() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        config.set("filter.limits", "syns", "{ per_second = 1, burst = 3 }");
    })?;
    let connect = |from: IpAddr| Client::new(&lab, &edge, from).request("/health", &["--connect-timeout", "0.3"]);
    let answered = |from: IpAddr| -> Result<bool> { Ok(connect(from)?.status() == Some(200)) };
    let opened = (0..6).map(|_| answered(ATTACKER4)).collect::<Result<Vec<_>>>()?;
    ensure!(opened[..3] == [true; 3] && opened[3..].iter().any(|open| !open), "{opened:?}");
    ensure!(packets(&edge, "syn_rate")? > 0);
    let (_, why) = edge.json_any(&["why", &ATTACKER4.to_string()])?;
    ensure!(why["rates"]["syns"]["per_second"] == 1 && why["rates"]["syns"]["burst"] == 3, "{why}");
    ensure!(why["rates"]["syns"]["left"].as_u64().is_some_and(|left| left < 3), "{why}");
    ensure!(why["rates"]["packets"].is_null(), "{why}");
    let (_, why) = edge.json_any(&["why", "203.0.113.250"])?;
    ensure!(why["rates"]["syns"]["left"] == 3, "{why}");
    ensure!(answered(NEIGHBOUR4)? && answered(ATTACKER6)?);
    Ok(())
}
