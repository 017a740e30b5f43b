//! Cases about ports and what stands before them. Edge closes what is not exposed, so "allow by default" is a list
//! without the port, and "deny by default" a list with it.

use anyhow::{Result, ensure};
use edge_tests::{
    packet::{Extension, Packet, SYN},
    scene::Setting,
};

use super::{Case, REMOTE4, REMOTE6, Rig, drop, packets, pass, prove};

/// Exposed: 10001, 55555 and 60002 over both, and 257 ports of TCP.
#[test]
fn ports() -> Result<()> {
    let few = [10_001, 55_555, 60_002].into_iter().flat_map(|port| [format!("{port}/tcp"), format!("{port}/udp")]);
    let exposed = few.chain(many().map(|port| format!("{port}/tcp"))).collect();
    prove(&CASES, &mut Rig::start(&Setting { exposed, ..Setting::default() })?)
}

pub const CASES: [Case<Rig>; 15] = [
    ("DirectDropSrc.port", "a source port is not judged: an exposed port is reached from any", any_source_port),
    ("DirectPassSrc.port", "a closed port is reached from none, exposed ones included", no_source_port),
    ("DirectDropDst.port", "a port that is not exposed drops, over both families", closed),
    ("DirectPassDst.port", "a port that is exposed passes, over both families", exposed),
    ("IPv6ExtensionHeader.routing", "a port is found behind a routing header", routing),
    ("IPv6ExtensionHeader.hop_by_hop", "a port is found behind hop-by-hop options", hop_by_hop),
    ("IPv6ExtensionHeader.destination_options", "a port is found behind destination options", destination_options),
    ("IPv6ExtensionHeader.fragment", "a port is found behind a fragment header", fragment),
    ("test_ports_allow", "10000 drops and 10001 passes, of TCP and of UDP", neighbours),
    ("test_ports_deny", "a port is exposed for the protocols that are named, and no other", by_protocol),
    ("ManyAddresses.port_status", "257 exposed ports all pass", many_exposed),
    ("ManyAddresses.port_arrive", "their neighbours drop", many_closed),
    ("ManyAddressesInverted.port_status", "of a closed port every packet is counted", counted),
    ("ManyAddressesInverted.port_arrive", "257 closed ports of UDP all drop", many_of_udp),
    ("Status.udp_feature", "what a closed port dropped is in the status", status),
];

/// Spread over all ports, the named ones and 0 left out.
fn many() -> impl Iterator<Item = u16> {
    (1..=257).map(|number| number * 251)
}

fn any_source_port(rig: &mut Rig) -> Result<()> {
    for port in [0, 1, 22, 60_001, 65_535] {
        pass(rig, &packets()?.map(|packet| packet.udp(port, 60_002)))?;
    }
    Ok(())
}

fn no_source_port(rig: &mut Rig) -> Result<()> {
    for port in [0, 22, 55_555, 60_002, 65_535] {
        drop(rig, &packets()?.map(|packet| packet.udp(port, 60_001)))?;
    }
    Ok(())
}

fn closed(rig: &mut Rig) -> Result<()> {
    drop(rig, &packets()?.map(|packet| packet.udp(60_001, 60_003)))?;
    drop(rig, &packets()?.map(|packet| packet.tcp(60_003, SYN)))
}

fn exposed(rig: &mut Rig) -> Result<()> {
    pass(rig, &packets()?)?;
    pass(rig, &packets()?.map(|packet| packet.tcp(60_002, SYN)))
}

fn routing(rig: &mut Rig) -> Result<()> {
    behind(rig, Extension::sized(43, 8))
}

fn hop_by_hop(rig: &mut Rig) -> Result<()> {
    behind(rig, Extension::sized(0, 8))
}

fn destination_options(rig: &mut Rig) -> Result<()> {
    behind(rig, Extension::sized(60, 8))
}

fn fragment(rig: &mut Rig) -> Result<()> {
    behind(rig, Extension::fragment(0, false))
}

fn behind(rig: &mut Rig, extension: Extension) -> Result<()> {
    let packet = Packet::new(REMOTE6.parse()?).extended([extension]);
    pass(rig, &[packet.clone().udp(53, 55_555), packet.clone().tcp(55_555, SYN)])?;
    drop(rig, &[packet.clone().udp(53, 55_556), packet.tcp(55_556, SYN)])
}

fn neighbours(rig: &mut Rig) -> Result<()> {
    let [four, six] = packets()?;
    pass(rig, &[four.clone().tcp(10_001, SYN), six.clone().tcp(10_001, SYN), four.clone().udp(9, 10_001)])?;
    drop(rig, &[four.clone().tcp(10_000, SYN), six.clone().tcp(10_000, SYN), four.udp(9, 10_000), six.udp(9, 10_002)])
}

fn by_protocol(rig: &mut Rig) -> Result<()> {
    let port = 251;
    pass(rig, &packets()?.map(|packet| packet.tcp(port, SYN)))?;
    drop(rig, &packets()?.map(|packet| packet.udp(9, port)))
}

fn many_exposed(rig: &mut Rig) -> Result<()> {
    many().try_for_each(|port| pass(rig, &[Packet::new(REMOTE4.parse()?).tcp(port, SYN)]))
}

fn many_closed(rig: &mut Rig) -> Result<()> {
    many().try_for_each(|port| drop(rig, &[Packet::new(REMOTE6.parse()?).tcp(port + 1, SYN)]))
}

fn many_of_udp(rig: &mut Rig) -> Result<()> {
    many().try_for_each(|port| drop(rig, &[Packet::new(REMOTE4.parse()?).udp(port, port)]))
}

fn counted(rig: &mut Rig) -> Result<()> {
    let before = port_closed(rig)?;
    for _ in 0..257 {
        drop(rig, &packets()?.map(|packet| packet.udp(60_001, 60_003)))?;
    }
    ensure!(port_closed(rig)? == before + 2 * 257);
    rig.status_agrees()
}

fn status(rig: &mut Rig) -> Result<()> {
    let before = port_closed(rig)?;
    drop(rig, &[Packet::new(REMOTE4.parse()?).udp(53, 54)])?;
    ensure!(port_closed(rig)? == before + 1);
    rig.status_agrees()
}

fn port_closed(rig: &Rig) -> Result<u64> {
    let status = rig.edge().json(&["status"])?;
    Ok(status["packets"]["by_reason"]["port_closed"].as_u64().unwrap_or(0))
}
