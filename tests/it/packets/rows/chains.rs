//! IPv6 extension headers, where ports are looked at. Exposed are 22 and 443 of TCP, 53 and 443 of UDP, ESP.

use anyhow::Result;
use edge_tests::{
    model::Reason::{Allowed, Blocked, Malformed, Passed, PortClosed},
    packet::{Extension, Packet, SYN, Upper},
};

use super::{Row, from, row};

const HONEST: &str = "2001:db8::1";

pub fn rows() -> Result<Vec<Row>> {
    Ok([kinds()?, counts()?, lengths()?, ends()?].into_iter().flatten().collect())
}

fn behind(extensions: impl IntoIterator<Item = Extension>) -> Result<Packet> {
    Ok(from(HONEST)?.tcp(23, SYN).extended(extensions))
}

/// Behind each kind the closed port is found.
fn kinds() -> Result<Vec<Row>> {
    Ok(vec![
        row("a closed port behind hop-by-hop", behind([Extension::sized(0, 8)])?, PortClosed),
        row("a closed port behind routing", behind([Extension::sized(43, 24)])?, PortClosed),
        row("a closed port behind destination options", behind([Extension::sized(60, 8)])?, PortClosed),
        row("a closed port behind AH", behind([Extension::authentication(24)])?, PortClosed),
        row("a closed port behind AH of 12 bytes", behind([Extension::authentication(12)])?, PortClosed),
        row("a closed port behind mobility", behind([Extension::sized(135, 16)])?, PortClosed),
        row("a closed port behind HIP", behind([Extension::sized(139, 40)])?, PortClosed),
        row("a closed port behind shim6", behind([Extension::sized(140, 8)])?, PortClosed),
        row("a closed port behind an atomic fragment", behind([Extension::fragment(0, false)])?, PortClosed),
        row("an exposed port behind hop-by-hop", behind([Extension::sized(0, 8)])?.tcp(22, SYN), Passed),
        row("an exposed port behind AH", behind([Extension::authentication(12)])?.tcp(22, SYN), Passed),
        row("UDP behind destination options", behind([Extension::sized(60, 8)])?.udp(9, 53), Passed),
        row("UDP to a closed port behind routing", behind([Extension::sized(43, 8)])?.udp(9, 54), PortClosed),
        row(
            "hop-by-hop where it may not stand",
            behind([Extension::sized(60, 8), Extension::sized(0, 8)])?,
            PortClosed,
        ),
        row("253 is no extension header", behind([Extension::sized(253, 8)])?, PortClosed),
    ])
}

fn counts() -> Result<Vec<Row>> {
    let many = |count: usize| (0..count).map(|_| Extension::sized(60, 8));
    Ok(vec![
        row("six headers, then an exposed port", behind(many(6))?.tcp(22, SYN), Passed),
        row("six headers, then a closed port", behind(many(6))?, PortClosed),
        row("seven headers", behind(many(7))?.tcp(22, SYN), Malformed),
        row("twenty headers", behind(many(20))?.tcp(22, SYN), Malformed),
        row("seven headers, blocked", from("2001:db8:bad::1")?.extended(many(7)), Blocked).by("2001:db8:bad::1/128"),
        row("seven headers, allowed", from("2001:db8:ffff:1::1")?.extended(many(7)), Allowed),
        row("six kinds, then an exposed port", behind(six_kinds())?.tcp(22, SYN), Passed),
        row("six kinds, then a closed port", behind(six_kinds())?, PortClosed),
    ])
}

fn six_kinds() -> [Extension; 6] {
    [
        Extension::sized(0, 16),
        Extension::sized(60, 8),
        Extension::sized(43, 24),
        Extension::fragment(0, false),
        Extension::authentication(28),
        Extension::sized(135, 32),
    ]
}

fn lengths() -> Result<Vec<Row>> {
    let lying = |claimed| behind([Extension::sized(60, 16).claiming(claimed)]);
    Ok(vec![
        row("a header that ends with the datagram", lying(3)?.protocol(58).payload(8), Passed),
        row("a header that ends 4 bytes behind it", lying(3)?.protocol(58).payload(4), Malformed),
        row("a header far beyond the datagram", lying(255)?, Malformed),
        row("a header shorter than it is", lying(0)?.tcp(22, SYN), Malformed),
        row("AH far beyond the datagram", behind([Extension::authentication(12).claiming(255)])?, Malformed),
        row("AH of 8 bytes", behind([Extension::authentication(8)])?.tcp(22, SYN), Passed),
        row("a header of 2048 bytes", behind([Extension::sized(60, 2048)])?.tcp(22, SYN), Passed),
        row("a header of 2048 bytes, a closed port", behind([Extension::sized(60, 2048)])?, PortClosed),
        row("a fragment header has no length", behind([Extension::fragment(0, false).claiming(255)])?, PortClosed),
        row("a payload length that cuts the chain", cut(12)?, Malformed),
        row("a payload length that ends with the chain", cut(16)?, Malformed),
    ])
}

/// Two headers of 8 bytes, and a payload length that claims less.
fn cut(length: u16) -> Result<Packet> {
    let packet = behind([Extension::sized(60, 8), Extension::sized(60, 8)])?;
    Ok(Packet { length: Some(length), ..packet })
}

fn ends() -> Result<Vec<Row>> {
    let empty = |protocol| Upper::Other { protocol, bytes: Vec::new() };
    let options = || Extension::sized(60, 8);
    Ok(vec![
        row("no next header behind options", behind([options()])?.protocol(59), PortClosed),
        row("ESP behind options", behind([options()])?.protocol(50), Passed),
        row("ESP of no bytes", Packet { upper: empty(50), ..behind([])? }, Passed),
        row("ICMPv6 behind options", behind([options()])?.protocol(58), Passed),
        row("GRE behind options", behind([options()])?.protocol(47), PortClosed),
        row("options announced and not there", Packet { upper: empty(60), ..behind([])? }, Malformed),
        row(
            "options of one byte",
            Packet { upper: Upper::Other { protocol: 60, bytes: vec![6] }, ..behind([])? },
            Malformed,
        ),
        row(
            "a fragment header cut short",
            Packet { upper: Upper::Other { protocol: 44, bytes: vec![6; 7] }, ..behind([])? },
            Malformed,
        ),
        row(
            "TCP announced behind options and not there",
            Packet { upper: empty(6), ..behind([options()])? },
            Malformed,
        ),
    ])
}
