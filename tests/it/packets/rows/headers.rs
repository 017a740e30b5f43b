//! IP headers that lie: versions, header lengths, lengths of the datagram. A blocked address is blocked whatever else
//! is wrong.

use anyhow::Result;
use edge_tests::{
    model::{
        Family,
        Reason::{Allowed, Blocked, Malformed, Passed},
    },
    packet::Packet,
};

use super::{Row, from, row};

const HONEST4: &str = "198.51.100.1";
const BLOCKED4: &str = "198.51.100.7";
const ENTRY4: &str = "198.51.100.7/32";
const HONEST6: &str = "2001:db8::1";
const BLOCKED6: &str = "2001:db8:bad::1";
const ENTRY6: &str = "2001:db8:bad::1/128";

pub fn rows() -> Result<Vec<Row>> {
    Ok([versions()?, header_lengths()?, total_lengths()?, payload_lengths()?].into_iter().flatten().collect())
}

fn versions() -> Result<Vec<Row>> {
    let claiming = |source: &str, version| from(source).map(|packet| Packet { version: Some(version), ..packet });
    let typed = |source: &str, ethertype| from(source).map(|packet| Packet { ethertype: Some(ethertype), ..packet });
    Ok(vec![
        row("version 6 under the type of IPv4", claiming(BLOCKED4, 6)?, Malformed),
        row("version 0", claiming(HONEST4, 0)?, Malformed),
        row("version 5", claiming(HONEST4, 5)?, Malformed),
        row("version 15", claiming(HONEST4, 15)?, Malformed),
        row("version 4 under the type of IPv6", claiming(BLOCKED6, 4)?, Malformed),
        row("version 7 under the type of IPv6", claiming(HONEST6, 7)?, Malformed),
        row("IPv4 under the type of IPv6", typed(BLOCKED4, 0x86dd)?, Malformed).of(Family::Ipv6),
        row("IPv6 under the type of IPv4", typed(BLOCKED6, 0x0800)?, Malformed).of(Family::Ipv4),
        row("an allowed source under a wrong version", claiming("203.0.113.9", 7)?, Malformed),
    ])
}

fn header_lengths() -> Result<Vec<Row>> {
    let claiming = |source: &str, words| from(source).map(|packet| Packet { header_words: Some(words), ..packet });
    Ok(vec![
        row("a header of 16 bytes", claiming(HONEST4, 4)?, Malformed),
        row("a header of no bytes", claiming(HONEST4, 0)?, Malformed),
        row("a header of 16 bytes, blocked", claiming(BLOCKED4, 4)?, Blocked).by(ENTRY4),
        row("a header of 16 bytes, allowed", claiming("203.0.113.9", 4)?, Allowed),
        row("a header of 16 bytes, from our gateway", claiming("10.77.0.9", 4)?, Malformed),
        row("options that are TCP's first bytes", claiming(HONEST4, 6)?, Passed),
        row("the longest header, within the datagram", claiming(HONEST4, 10)?, Passed),
        row("a header beyond the datagram", claiming(HONEST4, 11)?, Malformed),
        row("a header beyond the datagram, blocked", claiming(BLOCKED4, 15)?, Blocked).by(ENTRY4),
        row("options", from(HONEST4)?.options(1), Passed),
        row("as many options as there may be", from(HONEST4)?.options(10), Passed),
        row("options, blocked", from(BLOCKED4)?.options(10), Blocked).by(ENTRY4),
    ])
}

fn total_lengths() -> Result<Vec<Row>> {
    let claiming = |source: &str, length| from(source).map(|packet| Packet { length: Some(length), ..packet });
    Ok(vec![
        row("a total length of 0", claiming(HONEST4, 0)?, Malformed),
        row("a total length of 19", claiming(HONEST4, 19)?, Malformed),
        row("a total length of the header alone", claiming(HONEST4, 20)?, Passed),
        row("a byte less than there is", claiming(HONEST4, 39)?, Passed),
        row("a byte more than there is", claiming(HONEST4, 41)?, Malformed),
        row("a byte more than there is, blocked", claiming(BLOCKED4, 41)?, Blocked).by(ENTRY4),
        row("a byte more than there is, allowed", claiming("203.0.113.9", 41)?, Allowed),
        row("a byte more than there is, from our gateway", claiming("10.77.0.9", 41)?, Malformed),
        row("the largest total length", claiming(HONEST4, 0xffff)?, Malformed),
        row("a total length in the other order", claiming(HONEST4, 40u16.swap_bytes())?, Malformed),
        row("padding behind the datagram", Packet { trailer: 6, ..from(HONEST4)? }, Passed),
        row("padding claimed as the datagram's", Packet { trailer: 6, ..claiming(HONEST4, 46)? }, Passed),
        row("a byte more than datagram and padding", Packet { trailer: 6, ..claiming(HONEST4, 47)? }, Malformed),
        row(
            "a total length below that with options",
            Packet { length: Some(27), ..from(HONEST4)?.options(2) },
            Malformed,
        ),
        row("a total length that the tags would make up for", claiming(HONEST4, 44)?.tags(&[0x8100]), Malformed),
        row("a jumbo frame", from(HONEST4)?.payload(8960), Passed),
        row("a jumbo frame, blocked", from(BLOCKED4)?.payload(8960), Blocked).by(ENTRY4),
        row(
            "a jumbo frame that claims a byte more",
            Packet { length: Some(9001), ..from(HONEST4)?.payload(8960) },
            Malformed,
        ),
    ])
}

fn payload_lengths() -> Result<Vec<Row>> {
    let claiming = |source: &str, length| from(source).map(|packet| Packet { length: Some(length), ..packet });
    Ok(vec![
        row("a payload of 0: no claim", claiming(HONEST6, 0)?, Passed),
        row("a payload of 1", claiming(HONEST6, 1)?, Passed),
        row("a payload a byte shorter than there is", claiming(HONEST6, 19)?, Passed),
        row("a payload a byte longer than there is", claiming(HONEST6, 21)?, Malformed),
        row("a payload a byte longer, blocked", claiming(BLOCKED6, 21)?, Blocked).by(ENTRY6),
        row("a payload a byte longer, allowed", claiming("2001:db8:ffff:1::1", 21)?, Allowed),
        row("the largest payload", claiming(HONEST6, 0xffff)?, Malformed),
        row("padding behind IPv6", Packet { trailer: 9, ..from(HONEST6)? }, Passed),
        row("padding claimed as IPv6's", Packet { trailer: 9, ..claiming(HONEST6, 29)? }, Passed),
        row("a byte more than IPv6 and padding", Packet { trailer: 9, ..claiming(HONEST6, 30)? }, Malformed),
        row("a jumbo frame of IPv6", from(HONEST6)?.payload(8940), Passed),
        row("a jumbo frame of IPv6, blocked", from(BLOCKED6)?.payload(8940), Blocked).by(ENTRY6),
        row(
            "a jumbo frame of IPv6 that lies",
            Packet { length: Some(8961), ..from(HONEST6)?.payload(8940) },
            Malformed,
        ),
    ])
}
