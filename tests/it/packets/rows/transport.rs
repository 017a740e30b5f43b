//! TCP and UDP headers that are cut short or lie, where ports are looked at. Exposed are 22 and 443 of TCP, 53 and 443
//! of UDP.

use anyhow::Result;
use edge_tests::{
    model::Reason::{Malformed, Passed, PortClosed},
    packet::{Packet, SYN, Upper},
};

use super::{Row, from, row};

const HONEST4: &str = "198.51.100.1";
const HONEST6: &str = "2001:db8::1";

pub fn rows() -> Result<Vec<Row>> {
    Ok([tcp()?, udp()?, datagrams()?].into_iter().flatten().collect())
}

fn tcp() -> Result<Vec<Row>> {
    let claiming = |source: &str, words| {
        from(source).map(|packet| Packet { upper: Upper::Tcp { from: 1024, to: 22, flags: SYN, words }, ..packet })
    };
    let short = |length: usize| Upper::Other { protocol: 6, bytes: TCP[..length].to_vec() };
    Ok(vec![
        row("a TCP header of 19 bytes", Packet { upper: short(19), ..from(HONEST4)? }, Malformed),
        row("a TCP header of 20 bytes", Packet { upper: short(20), ..from(HONEST4)? }, Passed),
        row("TCP's ports alone", Packet { upper: short(4), ..from(HONEST4)? }, Malformed),
        row("no TCP at all", Packet { upper: short(0), ..from(HONEST6)? }, Malformed),
        row(
            "a TCP header of 19 bytes, and padding",
            Packet { upper: short(19), trailer: 9, ..from(HONEST4)? },
            Malformed,
        ),
        row("a TCP offset of 4", claiming(HONEST4, 4)?, Malformed),
        row("a TCP offset of 0", claiming(HONEST6, 0)?, Malformed),
        row("a TCP offset a word beyond the datagram", claiming(HONEST4, 6)?, Malformed),
        row("a TCP offset at the datagram's end", claiming(HONEST4, 6)?.payload(4), Passed),
        row("a TCP offset a byte beyond the datagram", claiming(HONEST4, 6)?.payload(3), Malformed),
        row("a TCP offset into the padding", Packet { trailer: 40, ..claiming(HONEST6, 6)? }, Malformed),
        row("the largest TCP offset", claiming(HONEST6, 15)?.payload(40), Passed),
    ])
}

const TCP: [u8; 20] = [4, 0, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];

fn udp() -> Result<Vec<Row>> {
    let claiming = |source: &str, length| {
        from(source).map(|packet| Packet { upper: Upper::Udp { from: 1024, to: 53, length: Some(length) }, ..packet })
    };
    let short = Upper::Other { protocol: 17, bytes: vec![4, 0, 0, 53, 0, 7, 0] };
    Ok(vec![
        row("a UDP header of 7 bytes", Packet { upper: short, ..from(HONEST4)? }, Malformed),
        row("UDP of 8 bytes", claiming(HONEST4, 8)?, Passed),
        row("a UDP length of 7", claiming(HONEST4, 7)?, Malformed),
        row("a UDP length of 0", claiming(HONEST4, 0)?, Malformed),
        row("a jumbo UDP length of 0, IPv6", claiming(HONEST6, 0)?.payload(100), Malformed),
        row("a UDP length a byte beyond the datagram", claiming(HONEST4, 19)?.payload(10), Malformed),
        row("a UDP length a byte within the datagram", claiming(HONEST4, 17)?.payload(10), Passed),
        row("a UDP length into the padding", Packet { trailer: 9, ..claiming(HONEST6, 9)? }, Malformed),
        row("the largest UDP length", claiming(HONEST6, 0xffff)?, Malformed),
    ])
}

/// The datagram's end, not the frame's, bounds what it carries.
fn datagrams() -> Result<Vec<Row>> {
    let ending = |source: &str, length| from(source).map(|packet| Packet { length: Some(length), ..packet });
    Ok(vec![
        row("a total length that cuts TCP", ending(HONEST4, 39)?, Malformed),
        row("a total length of the header alone", ending(HONEST4, 20)?, Malformed),
        row("a payload length that cuts TCP", ending(HONEST6, 19)?, Malformed),
        row("a payload length of 0: to the frame's end", ending(HONEST6, 0)?, Passed),
        row("a payload length of 0, to a closed port", ending(HONEST6, 0)?.tcp(23, SYN), PortClosed),
        row("options that are TCP's first bytes", Packet { header_words: Some(6), ..from(HONEST4)? }, Malformed),
        row("a jumbo frame to an exposed port", from(HONEST4)?.payload(8960), Passed),
        row("a jumbo frame to a closed port", from(HONEST6)?.tcp(23, SYN).payload(8940), PortClosed),
        row("a jumbo frame of UDP", from(HONEST4)?.udp(9, 53).payload(8900), Passed),
        row(
            "ICMP of no bytes",
            Packet { upper: Upper::Other { protocol: 1, bytes: vec![] }, ..from(HONEST4)? },
            Passed,
        ),
    ])
}
