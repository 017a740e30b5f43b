//! What an entry counts, beyond what its own word holds.

use std::{
    io::{self, ErrorKind},
    net::IpAddr,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use edge_tests::{agent::Edge, bpf::Program, net::Lab, packet::Packet};

use super::rig::program;

const BLOCKED: [&str; 3] = ["192.0.2.7", "2001:db8:1::/64", "2001:db8:2::7"];
const SOURCES: [&str; 3] = ["192.0.2.7", "2001:db8:1::7", "2001:db8:2::7"];

/// From each of two CPUs at once; both together are more than the 2^23 that one word takes.
const PACKETS: u32 = 5_000_000;

#[test]
fn counts_stay_exact_beyond_their_words_and_through_a_restart() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::bare(&lab)?;
    edge.config.without("server").without("auth");
    edge.run()?;
    edge.cli(&[&["block"], &BLOCKED[..]].concat())?.good()?;
    let mut sent = [0; SOURCES.len()];
    for (source, sent) in SOURCES.iter().zip(&mut sent) {
        *sent = send_from_two(&lab, &edge, &frame(source)?, || Ok(()))?;
        agree(&edge, source, *sent).context("two CPUs")?;
    }
    edge.kill()?;
    edge.run()?;
    for (source, sent) in SOURCES.iter().zip(&mut sent) {
        agree(&edge, source, *sent).context("after a restart")?;
        *sent += send_from_two(&lab, &edge, &frame(source)?, || Ok(()))?;
        agree(&edge, source, *sent).context("as many again")?;
    }
    edge.cli(&["unblock", "--all"])?.good()?;
    edge.cli(&[&["block"], &BLOCKED[..]].concat())?.good()?;
    SOURCES.iter().try_for_each(|source| agree(&edge, source, 0).context("blocked anew"))
}

/// A prefix's entry carries the latest end of those that cover it, so a cover's change is a change of its own.
#[test]
fn counts_stay_exact_while_ends_change() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::bare(&lab)?;
    edge.config.without("server").without("auth");
    edge.run()?;
    for (cover, inner, source) in
        [("192.0.0.0/16", "192.0.2.0/24", "192.0.2.7"), ("2001:db8::/32", "2001:db8:1::/48", "2001:db8:1::7")]
    {
        edge.cli(&["block", inner, "--for", "1h"])?.good()?;
        let mut changes = 0;
        let sent = send_from_two(&lab, &edge, &frame(source)?, || {
            changes += 1;
            edge.cli(&["block", cover, "--for", &format!("{}m", 120 + changes)])?.good().map(drop)
        })?;
        ensure!(changes > 3, "only {changes} changes while packets came");
        let both = || counted(&edge, inner).and_then(|inner| Ok([inner, counted(&edge, cover)?]));
        ensure!(both()? == [sent, 0], "{:?} of {sent} after {changes} changes", both()?);
    }
    let before = counted(&edge, "192.0.2.0/24")?;
    edge.kill()?;
    edge.run()?;
    ensure!(counted(&edge, "192.0.2.0/24")? == before, "after a restart");
    Ok(())
}

/// The packets of an entry.
fn counted(edge: &Edge, address: &str) -> Result<u64> {
    let list = edge.json(&["list"])?;
    let entry = list.as_array().and_then(|list| list.iter().find(|entry| entry["address"] == address));
    entry.and_then(|entry| entry["packets"].as_u64()).with_context(|| format!("no {address} in {list}"))
}

fn frame(source: &str) -> Result<Vec<u8>> {
    Ok(Packet::new(source.parse::<IpAddr>()?).tcp(443, 2).bytes())
}

/// At least `PACKETS` from each of two CPUs, and something else again and again `meanwhile`. Gives how many there were by the
/// counters of all, since a run that a signal cuts short is begun anew.
fn send_from_two(lab: &Lab, edge: &Edge, frame: &[u8], mut meanwhile: impl FnMut() -> Result<()>) -> Result<u64> {
    let program = program(lab)?;
    let before = blocked(edge)?;
    thread::scope(|scope| {
        let runs = [(); 2].map(|()| scope.spawn(|| run_to_its_end(&program, frame)));
        while runs.iter().any(|run| !run.is_finished()) {
            meanwhile()?;
            thread::park_timeout(Duration::from_millis(1));
        }
        runs.into_iter().try_for_each(|run| run.join().map_err(|_| anyhow!("a run panicked"))?)
    })?;
    let sent = blocked(edge)? - before;
    ensure!(sent >= 2 * u64::from(PACKETS), "only {sent} were sent");
    Ok(sent)
}

fn run_to_its_end(program: &Program, frame: &[u8]) -> Result<()> {
    loop {
        match program.test_run(frame, PACKETS) {
            Ok(_) => return Ok(()),
            Err(error) if is_interrupted(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_interrupted(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == ErrorKind::Interrupted)
}

fn blocked(edge: &Edge) -> Result<u64> {
    edge.json(&["status"])?["packets"]["by_reason"]["blocked"].as_u64().context("status counts nothing blocked")
}

fn agree(edge: &Edge, source: &str, packets: u64) -> Result<()> {
    let (_, why) = edge.json_any(&["why", source])?;
    let counted = [&why["block"]["packets"], &why["block"]["bytes"]];
    let wanted = [packets, packets * frame(source)?.len() as u64];
    ensure!(counted == wanted, "{source} counted {counted:?}, not {wanted:?}");
    Ok(())
}
