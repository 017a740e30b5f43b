//! Cases about addresses where nothing else is blocked ("policy allow").

use std::net::IpAddr;

use anyhow::{Result, ensure};
use edge_tests::{
    net::{HOST4, HOST6},
    packet::{Extension, Packet},
    scene::Setting,
};

use super::{Case, REMOTE4, REMOTE6, Rig, drop, from_mac, packets, pass, prove, spread};

#[test]
fn addresses() -> Result<()> {
    prove(&CASES, &mut Rig::start(&Setting::default())?)
}

pub const CASES: [Case<Rig>; 16] = [
    ("DirectDropSrc.none_specified", "nothing is blocked: everything passes", nothing),
    ("DirectDropDst.none_specified", "nothing is blocked: everything passes, whatever its destination", nothing),
    ("DirectDropSrc.ether", "a source's hardware address is not judged", hardware_source),
    ("DirectDropDst.ether", "a destination's hardware address is not judged", hardware_destination),
    ("DirectDropSrc.ip", "a source passes, is blocked and drops, is lifted and passes", source4),
    ("DirectDropSrc.ipv6", "the same over IPv6", source6),
    ("DirectDropDst.ip", "a blocked address is none as a destination", destination4),
    ("DirectDropDst.ipv6", "the same over IPv6", destination6),
    (
        "IPv4ToIPv6Mapping.filter_explicit_address",
        "::ffff:198.51.100.7 is 198.51.100.7, by name and on the wire",
        explicit,
    ),
    ("IPv4ToIPv6Mapping.filter_converted_address", "::ffff:c633:6407 is 198.51.100.7 too", converted),
    (
        "test_ipv4_allow",
        "a blocked address's pings drop, its ARP passes, and both are as before when it is lifted",
        pings4,
    ),
    ("test_ipv6_allow", "a blocked address's pings drop, and its neighbour discovery with them", pings6),
    ("test_ether_allow", "pings pass from every hardware address", pings_from_macs),
    ("ManyAddresses.ip_status", "257 addresses spread over all of IPv4 are listed, and each of them drops", many),
    (
        "ManyAddresses.ether_status",
        "257 hardware addresses, and one IP address that passes from all of them",
        many_macs,
    ),
    (
        "ManyAddresses.ether_arrive",
        "257 hardware addresses, and one IP address that drops from all of them",
        many_macs_blocked,
    ),
];

fn nothing(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[], &[])?;
    pass(rig, &packets()?)
}

fn hardware_source(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[REMOTE4.parse::<IpAddr>()?.into()], &[])?;
    for mac in [[0x02, 0, 0, 0, 0, 1], [0xff; 6], [0; 6]] {
        let [four, six] = packets()?;
        ensure!(!rig.judge(&from_mac(&four, mac))?.passes && rig.judge(&from_mac(&six, mac))?.passes);
    }
    Ok(())
}

fn hardware_destination(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[], &[])?;
    for mac in [[0x33, 0x33, 0, 0, 0, 1], [0xff; 6], [0; 6]] {
        let mut frame = packets()?[0].bytes();
        frame[..6].copy_from_slice(&mac);
        ensure!(rig.judge(&frame)?.passes);
    }
    Ok(())
}

fn source4(rig: &mut Rig) -> Result<()> {
    come_and_go(rig, REMOTE4, &packets()?[..1], drop)
}

fn source6(rig: &mut Rig) -> Result<()> {
    come_and_go(rig, REMOTE6, &packets()?[1..], drop)
}

fn destination4(rig: &mut Rig) -> Result<()> {
    come_and_go(rig, REMOTE4, &[Packet::new("192.0.2.1".parse()?).to(REMOTE4.parse()?)], pass)
}

fn destination6(rig: &mut Rig) -> Result<()> {
    come_and_go(rig, REMOTE6, &[Packet::new("2001:db8::1".parse()?).to(REMOTE6.parse()?)], pass)
}

type Becomes = fn(&mut Rig, &[Packet]) -> Result<()>;

/// Not blocked, blocked, lifted.
fn come_and_go(rig: &mut Rig, address: &str, packets: &[Packet], blocked: Becomes) -> Result<()> {
    rig.enforce(&[], &[])?;
    pass(rig, packets)?;
    rig.enforce(&[address.parse::<IpAddr>()?.into()], &[])?;
    blocked(rig, packets)?;
    rig.hits_agree()?;
    rig.enforce(&[], &[])?;
    pass(rig, packets)
}

fn explicit(rig: &mut Rig) -> Result<()> {
    mapped(rig, "::ffff:198.51.100.7")
}

fn converted(rig: &mut Rig) -> Result<()> {
    mapped(rig, "::ffff:c633:6407")
}

/// Blocked by its name in IPv6, it is the IPv4 address that is blocked and listed.
fn mapped(rig: &mut Rig, name: &str) -> Result<()> {
    rig.enforce(&[], &[])?;
    pass(rig, &packets()?)?;
    rig.edge().cli(&["block", name])?.good()?;
    let list = rig.edge().json(&["list"])?;
    ensure!(list[0]["address"] == "198.51.100.7/32" && list.as_array().is_some_and(|all| all.len() == 1), "{list}");
    rig.enforce(&[REMOTE4.parse::<IpAddr>()?.into()], &[])?;
    drop(rig, &[packets()?[0].clone(), Packet::new(name.parse()?)])?;
    rig.edge().cli(&["unblock", name])?.good()?;
    rig.enforce(&[], &[])?;
    pass(rig, &packets()?)
}

fn pings4(rig: &mut Rig) -> Result<()> {
    let ping = Packet::new(REMOTE4.parse()?).protocol(1);
    let arp = Packet { ethertype: Some(0x0806), ..ping.clone() };
    rig.enforce(&[], &[])?;
    pass(rig, &[ping.clone(), arp.clone()])?;
    rig.enforce(&["198.51.100.7/32".parse()?], &[])?;
    drop(rig, std::slice::from_ref(&ping))?;
    pass(rig, std::slice::from_ref(&arp))?;
    rig.enforce(&[], &[])?;
    pass(rig, &[ping.to(HOST4), arp])
}

fn pings6(rig: &mut Rig) -> Result<()> {
    let ping = Packet::new(REMOTE6.parse()?).protocol(58);
    let report = ping.clone().extended([Extension::sized(0, 8)]);
    rig.enforce(&[], &[])?;
    pass(rig, &[ping.clone(), report.clone()])?;
    rig.enforce(&["2001:db8:bad::1/128".parse()?], &[])?;
    drop(rig, &[ping.clone(), report.clone()])?;
    rig.enforce(&[], &[])?;
    pass(rig, &[ping.to(HOST6), report])
}

fn pings_from_macs(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[], &[])?;
    for mac in [[0x02, 0, 0, 0, 0, 1], [0x02, 0, 0, 0, 0, 2]] {
        ensure!(rig.judge(&from_mac(&Packet::new(REMOTE6.parse()?).protocol(58), mac))?.passes);
    }
    Ok(())
}

fn many(rig: &mut Rig) -> Result<()> {
    let nets: Vec<_> = spread(257).map(|four| IpAddr::V4(four).into()).collect();
    rig.enforce(&nets, &[])?;
    for net in &nets {
        drop(rig, &[Packet::new(net.addr())])?;
    }
    rig.hits_agree()
}

fn many_macs(rig: &mut Rig) -> Result<()> {
    rig.enforce(&[], &[])?;
    (0..257u16).try_for_each(|number| from_numbered(rig, number, true))
}

fn many_macs_blocked(rig: &mut Rig) -> Result<()> {
    rig.enforce(&["198.51.100.7/32".parse()?], &[])?;
    (0..257u16).try_for_each(|number| from_numbered(rig, number, false))
}

fn from_numbered(rig: &mut Rig, number: u16, passes: bool) -> Result<()> {
    let [high, low] = number.to_be_bytes();
    ensure!(rig.judge(&from_mac(&packets()?[0], [2, 0, 0, 0, high, low]))?.passes == passes, "number {number}");
    Ok(())
}
