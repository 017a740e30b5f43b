//! The 56 cases of xdp-filter's own tests (xdp-tools, `xdp-filter/tests`), each in our words: the same wish, and what
//! edge does about it. Where edge has another idea (it judges no hardware address, no source port and no destination
//! address) the case says so and holds it to that.

mod addresses;
mod commands;
mod everything;
mod ports;

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::{Context, Result, ensure};
use edge_tests::packet::Packet;

use super::rig::Rig;

/// Their name, our words, and the proof, on what the cases of a table share.
pub type Case<On> = (&'static str, &'static str, fn(&mut On) -> Result<()>);

#[test]
fn there_are_all_56_of_them() -> Result<()> {
    let names = [names(&addresses::CASES), names(&everything::CASES), names(&ports::CASES), names(&commands::CASES)];
    let different: BTreeSet<_> = names.concat().into_iter().collect();
    ensure!(different.len() == 56, "{} cases: {different:?}", different.len());
    Ok(())
}

fn names<On>(cases: &[Case<On>]) -> Vec<&'static str> {
    cases.iter().map(|case| case.0).collect()
}

fn prove<On>(cases: &[Case<On>], on: &mut On) -> Result<()> {
    cases.iter().try_for_each(|(theirs, ours, proof)| proof(on).with_context(|| format!("{theirs}: {ours}")))
}

fn pass(rig: &mut Rig, packets: &[Packet]) -> Result<()> {
    packets.iter().try_for_each(|packet| {
        let judgement = rig.judge(&packet.bytes())?;
        ensure!(judgement.passes, "{packet:?} is dropped: {judgement:?}");
        Ok(())
    })
}

fn drop(rig: &mut Rig, packets: &[Packet]) -> Result<()> {
    packets.iter().try_for_each(|packet| {
        let judgement = rig.judge(&packet.bytes())?;
        ensure!(!judgement.passes, "{packet:?} passes: {judgement:?}");
        Ok(())
    })
}

/// Both families' packet over UDP from one remote host, from port 60001 to 60002.
fn packets() -> Result<[Packet; 2]> {
    let from = |remote: &str| remote.parse().map(|remote| Packet::new(remote).udp(60_001, 60_002));
    Ok([from(REMOTE4)?, from(REMOTE6)?])
}

const REMOTE4: &str = "198.51.100.7";
const REMOTE6: &str = "2001:db8:bad::1";

/// The same frame from another hardware address.
fn from_mac(packet: &Packet, mac: [u8; 6]) -> Vec<u8> {
    let mut frame = packet.bytes();
    frame[6..12].copy_from_slice(&mac);
    frame
}

/// So many addresses, evenly over all of IPv4, but for loopback, which is never blocked.
fn spread(count: u32) -> impl Iterator<Item = Ipv4Addr> {
    (0..count).map(move |number| (number * (u32::MAX / count)).into()).filter(|four: &Ipv4Addr| !four.is_loopback())
}
