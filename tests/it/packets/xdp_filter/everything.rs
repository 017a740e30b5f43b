//! Cases about addresses where everything else is blocked ("policy deny"): all of both families by hand, and an allow
//! list.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use edge_tests::{
    net::{HOST4, HOST6},
    packet::Packet,
    scene::Setting,
};
use ipnet::IpNet;

use super::{Case, REMOTE4, REMOTE6, Rig, drop, from_mac, packets, pass, prove, spread};

#[test]
fn everything_else_blocked() -> Result<()> {
    prove(&CASES, &mut Rig::start(&Setting::default())?)
}

pub const CASES: [Case<Rig>; 14] = [
    ("DirectPassSrc.none_specified", "all is blocked, nothing is allowed: nothing passes", nothing),
    ("DirectPassDst.none_specified", "nor does anything to whatever destination", nothing),
    ("DirectPassSrc.ether", "no hardware address of a source helps", hardware),
    ("DirectPassDst.ether", "no hardware address of a destination helps", hardware),
    ("DirectPassSrc.ip", "who is allowed passes, and drops again when that ends", source4),
    ("DirectPassSrc.ipv6", "the same over IPv6", source6),
    ("DirectPassDst.ip", "an allowed destination helps nobody", destination4),
    ("DirectPassDst.ipv6", "the same over IPv6", destination6),
    ("test_ipv4_deny", "an allowed address's pings pass, others drop, and ARP passes for all", pings4),
    ("test_ipv6_deny", "an allowed address's pings and neighbour discovery pass, others drop", pings6),
    ("test_ether_deny", "pings drop from every hardware address", hardware),
    ("ManyAddressesInverted.ip_status", "257 allowed addresses pass, and their neighbours drop", many),
    ("ManyAddressesInverted.ip_arrive", "an address that could not be allowed does not pass", beside_many),
    ("ManyAddressesInverted.ether_status", "257 hardware addresses drop alike", many_macs),
];

fn all() -> Result<[IpNet; 2]> {
    Ok(["0.0.0.0/0".parse()?, "::/0".parse()?])
}

fn nothing(rig: &mut Rig) -> Result<()> {
    rig.enforce(&all()?, &[])?;
    drop(rig, &packets()?)?;
    rig.hits_agree()
}

fn hardware(rig: &mut Rig) -> Result<()> {
    rig.enforce(&all()?, &[])?;
    for mac in [[0x02, 0, 0, 0, 0, 1], [0xff; 6], [0; 6]] {
        let mut frame = from_mac(&packets()?[1], mac);
        frame[..6].copy_from_slice(&mac);
        ensure!(!rig.judge(&frame)?.passes);
    }
    Ok(())
}

fn source4(rig: &mut Rig) -> Result<()> {
    come_and_go(rig, REMOTE4, &packets()?[..1])
}

fn source6(rig: &mut Rig) -> Result<()> {
    come_and_go(rig, REMOTE6, &packets()?[1..])
}

/// Not allowed, allowed, not allowed any more.
fn come_and_go(rig: &mut Rig, address: &str, packets: &[Packet]) -> Result<()> {
    rig.enforce(&all()?, &[])?;
    drop(rig, packets)?;
    rig.enforce(&all()?, &[address.parse::<IpAddr>()?.into()])?;
    pass(rig, packets)?;
    rig.enforce(&all()?, &[])?;
    drop(rig, packets)
}

fn destination4(rig: &mut Rig) -> Result<()> {
    rig.enforce(&all()?, &["203.0.113.0/24".parse()?])?;
    drop(rig, &[Packet::new(REMOTE4.parse()?).to("203.0.113.5".parse()?), Packet::new(REMOTE4.parse()?).to(HOST4)])
}

fn destination6(rig: &mut Rig) -> Result<()> {
    rig.enforce(&all()?, &["2001:db8:a::/48".parse()?])?;
    drop(rig, &[Packet::new(REMOTE6.parse()?).to("2001:db8:a::5".parse()?), Packet::new(REMOTE6.parse()?).to(HOST6)])
}

fn pings4(rig: &mut Rig) -> Result<()> {
    let ping = |source: &str| source.parse().map(|source| Packet::new(source).protocol(1));
    rig.enforce(&all()?, &["198.51.100.7/32".parse()?])?;
    pass(rig, &[ping(REMOTE4)?, Packet { ethertype: Some(0x0806), ..ping("198.51.100.8")? }])?;
    drop(rig, &[ping("198.51.100.6")?, ping("198.51.100.8")?])
}

fn pings6(rig: &mut Rig) -> Result<()> {
    let ping = |source: &str| source.parse().map(|source| Packet::new(source).protocol(58));
    rig.enforce(&all()?, &["2001:db8:bad::1/128".parse()?])?;
    pass(rig, &[ping(REMOTE6)?])?;
    drop(rig, &[ping("2001:db8:bad::2")?, ping("fe80::1")?])
}

fn many(rig: &mut Rig) -> Result<()> {
    allow_many(rig)?;
    for four in spread(257) {
        pass(rig, &[Packet::new(four.into())])?;
    }
    Ok(())
}

fn beside_many(rig: &mut Rig) -> Result<()> {
    allow_many(rig)?;
    for four in spread(257) {
        drop(rig, &[Packet::new(Ipv4Addr::from(u32::from(four) ^ 1).into())])?;
    }
    rig.hits_agree()
}

fn allow_many(rig: &mut Rig) -> Result<()> {
    let allowed: Vec<IpNet> = spread(257).map(|four| IpAddr::V4(four).into()).collect();
    rig.enforce(&all()?, &allowed)
}

fn many_macs(rig: &mut Rig) -> Result<()> {
    rig.enforce(&all()?, &[])?;
    for number in 0..257u16 {
        let [high, low] = number.to_be_bytes();
        ensure!(!rig.judge(&from_mac(&packets()?[0], [2, 0, 0, 0, high, low]))?.passes);
    }
    Ok(())
}
