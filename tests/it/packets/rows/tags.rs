//! Tags, and types that are no IP.

use anyhow::Result;
use edge_tests::{
    model::{
        Family,
        Reason::{Blocked, Malformed, Passed},
    },
    packet::{Packet, SERVICE, VLAN},
};

use super::{Row, from, row};

pub fn rows() -> Result<Vec<Row>> {
    let blocked4 = |tags: &[u16]| from("198.51.100.7").map(|packet| packet.tags(tags));
    let blocked6 = |tags: &[u16]| from("2001:db8:bad::1").map(|packet| packet.tags(tags));
    let (entry4, entry6) = ("198.51.100.7/32", "2001:db8:bad::1/128");
    let mut rows = vec![
        row("blocked, one tag", blocked4(&[VLAN])?, Blocked).by(entry4),
        row("blocked, one service tag", blocked4(&[SERVICE])?, Blocked).by(entry4),
        row("blocked, two tags", blocked4(&[SERVICE, VLAN])?, Blocked).by(entry4),
        row("blocked, two tags the wrong way round", blocked4(&[VLAN, SERVICE])?, Blocked).by(entry4),
        row("blocked, two equal tags", blocked4(&[VLAN, VLAN])?, Blocked).by(entry4),
        row("blocked, two equal service tags", blocked4(&[SERVICE, SERVICE])?, Blocked).by(entry4),
        row("three tags are not looked behind", blocked4(&[SERVICE, VLAN, VLAN])?, Passed),
        row("nor are four", blocked4(&[SERVICE, SERVICE, VLAN, VLAN])?, Passed),
        row("a tag by its old number is none", blocked4(&[0x9100])?, Passed).of(Family::Other),
        row("a tag behind one by its old number", blocked4(&[0x9100, VLAN])?, Passed).of(Family::Other),
        row("an MPLS label", blocked4(&[0x8847])?, Passed).of(Family::Other),
        row("a PPPoE session", blocked4(&[0x8864])?, Passed).of(Family::Other),
        row("honest, one tag", from("198.51.100.1")?.tags(&[VLAN]), Passed),
        row("honest, two tags", from("198.51.100.1")?.tags(&[SERVICE, VLAN]), Passed),
        row("blocked IPv6, one tag", blocked6(&[VLAN])?, Blocked).by(entry6),
        row("blocked IPv6, two tags", blocked6(&[SERVICE, VLAN])?, Blocked).by(entry6),
        row("blocked IPv6, three tags", blocked6(&[SERVICE, VLAN, VLAN])?, Passed),
        row("honest IPv6, two tags", from("2001:db8::1")?.tags(&[SERVICE, VLAN]), Passed),
        row("our own address behind two tags", from("10.77.0.1")?.tags(&[SERVICE, VLAN]), Malformed),
    ];
    let types = [
        ("ARP", 0x0806),
        ("RARP", 0x8035),
        ("LLDP", 0x88cc),
        ("EAPOL", 0x888e),
        ("a length, not a type", 0x0040),
        ("the longest length", 0x05dc),
        ("type 0", 0),
        ("type 0xffff", 0xffff),
        ("IPv4's type in the other order", 0x0008),
        ("IPv6's type in the other order", 0xdd86),
    ];
    for (what, ethertype) in types {
        rows.push(row(what, Packet { ethertype: Some(ethertype), ..from("198.51.100.7")? }, Passed));
    }
    let arp = Packet { ethertype: Some(0x0806), ..blocked4(&[SERVICE, VLAN])? };
    rows.push(row("ARP behind two tags", arp, Passed));
    Ok(rows)
}
