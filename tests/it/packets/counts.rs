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
