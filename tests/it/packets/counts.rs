//! What an entry counts, beyond what its own word holds.

use std::{net::IpAddr, thread};

use anyhow::{Context, Result, anyhow, ensure};
use edge_tests::{agent::Edge, net::Lab, packet::Packet};

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
    for source in SOURCES {
        send_from_two(&lab, &frame(source)?)?;
        agree(&edge, source, 2 * u64::from(PACKETS)).context("two CPUs")?;
    }
    edge.kill()?;
    edge.run()?;
    for source in SOURCES {
        agree(&edge, source, 2 * u64::from(PACKETS)).context("after a restart")?;
        send_from_two(&lab, &frame(source)?)?;
        agree(&edge, source, 4 * u64::from(PACKETS)).context("as many again")?;
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
        let (program, frame) = (program(&lab)?, frame(source)?);
        let changes = thread::scope(|scope| {
            let runs = [(); 2].map(|()| scope.spawn(|| program.test_run(&frame, PACKETS)));
            let mut changes = 0;
            while runs.iter().any(|run| !run.is_finished()) {
                edge.cli(&["block", cover, "--for", &format!("{}m", 120 + changes)])?.good()?;
                changes += 1;
            }
            runs.into_iter().try_for_each(|run| run.join().map_err(|_| anyhow!("a run panicked"))?.map(drop))?;
            anyhow::Ok(changes)
        })?;
        ensure!(changes > 3, "only {changes} changes while packets came");
        let both = || counted(&edge, inner).and_then(|inner| Ok([inner, counted(&edge, cover)?]));
        ensure!(both()? == [2 * u64::from(PACKETS), 0], "{:?} after {changes} changes", both()?);
    }
    edge.kill()?;
    edge.run()?;
    ensure!(counted(&edge, "192.0.2.0/24")? == 2 * u64::from(PACKETS), "after a restart");
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

fn send_from_two(lab: &Lab, frame: &[u8]) -> Result<()> {
    let program = program(lab)?;
    thread::scope(|scope| {
        let runs = [(); 2].map(|()| scope.spawn(|| program.test_run(frame, PACKETS)));
        runs.into_iter().try_for_each(|run| run.join().map_err(|_| anyhow!("a run panicked"))?.map(drop))
    })
}

fn agree(edge: &Edge, source: &str, packets: u64) -> Result<()> {
    let (_, why) = edge.json_any(&["why", source])?;
    let counted = [&why["block"]["packets"], &why["block"]["bytes"]];
    let wanted = [packets, packets * frame(source)?.len() as u64];
    ensure!(counted == wanted, "{source} counted {counted:?}, not {wanted:?}");
    Ok(())
}
