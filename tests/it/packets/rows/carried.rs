//! What lies behind the IP header, where nothing wants to know: it can make no packet malformed.

use anyhow::Result;
use edge_tests::{
    model::Reason::{Allowed, Blocked, Passed},
    packet::{Extension, Packet, Upper},
};

use super::{Row, from, row};

const HONEST4: &str = "198.51.100.1";
const HONEST6: &str = "2001:db8::1";

pub fn rows() -> Result<Vec<Row>> {
    Ok([lies()?, fragments()?, extensions()?, tunnels()?].into_iter().flatten().collect())
}

fn lies() -> Result<Vec<Row>> {
    let carrying = |source: &str, protocol, bytes: &[u8]| {
        from(source).map(|packet| Packet { upper: Upper::Other { protocol, bytes: bytes.to_vec() }, ..packet })
    };
    let offset = Upper::Tcp { from: 1, to: 2, flags: 2, words: 15 };
    let length = Upper::Udp { from: 1, to: 2, length: Some(7) };
    Ok(vec![
        row("TCP of 3 bytes", carrying(HONEST4, 6, &[1, 2, 3])?, Passed),
        row("TCP of no bytes", carrying(HONEST4, 6, &[])?, Passed),
        row("a TCP offset beyond the datagram", Packet { upper: offset, ..from(HONEST4)? }, Passed),
        row("UDP of 7 bytes", carrying(HONEST6, 17, &[0; 7])?, Passed),
        row("a UDP length below its header", Packet { upper: length, ..from(HONEST4)? }, Passed),
        row("an unknown protocol", carrying(HONEST4, 253, &[])?, Passed),
        row("protocol 255", carrying(HONEST4, 255, &[9])?, Passed),
        row("no next header", carrying(HONEST6, 59, &[])?, Passed),
        row("an allowed source with TCP of 3 bytes", carrying("203.0.113.9", 6, &[1, 2, 3])?, Allowed),
    ])
}

fn fragments() -> Result<Vec<Row>> {
    let (blocked4, blocked6) = ("198.51.100.7", "2001:db8:bad::1");
    let later = [Extension::fragment(185, true)];
    Ok(vec![
        row("a first fragment", from(HONEST4)?.fragment(0, true), Passed),
        row("a later fragment", from(HONEST4)?.fragment(185, true), Passed),
        row("a last fragment", from(HONEST4)?.fragment(185, false), Passed),
        row("the farthest fragment", from(HONEST4)?.fragment(0x1fff, true), Passed),
        row("a later fragment, blocked", from(blocked4)?.fragment(185, true), Blocked).by("198.51.100.7/32"),
        row("a last fragment, blocked", from(blocked4)?.fragment(185, false), Blocked).by("198.51.100.7/32"),
        row("a later fragment of IPv6", from(HONEST6)?.extended(later.clone()), Passed),
        row("a later fragment of IPv6, blocked", from(blocked6)?.extended(later), Blocked).by("2001:db8:bad::1/128"),
    ])
}

fn extensions() -> Result<Vec<Row>> {
    let many = (0..9).map(|_| Extension::sized(60, 8));
    Ok(vec![
        row("nine extension headers", from(HONEST6)?.extended(many.clone()), Passed),
        row("nine extension headers, blocked", from("2001:db8:1:2::9")?.extended(many), Blocked)
            .by("2001:db8:1:2::/64"),
        row("an extension header that lies", from(HONEST6)?.extended([Extension::sized(0, 8).claiming(255)]), Passed),
        row("hop-by-hop that is not there", from(HONEST6)?.protocol(0), Passed),
    ])
}

fn tunnels() -> Result<Vec<Row>> {
    let inner = |source: &str| from(source).map(|packet| packet.bytes().split_off(14));
    let around = |source: &str, protocol, bytes: Vec<u8>| {
        from(source).map(|packet| Packet { upper: Upper::Other { protocol, bytes }, ..packet })
    };
    let gre = [&[0, 0, 8, 0][..], &inner("198.51.100.7")?].concat();
    Ok(vec![
        row("a blocked address inside IPIP", around(HONEST4, 4, inner("198.51.100.7")?)?, Passed),
        row("a blocked address inside 6in4", around(HONEST4, 41, inner("2001:db8:bad::1")?)?, Passed),
        row("a blocked address inside 4in6", around(HONEST6, 4, inner("198.51.100.7")?)?, Passed),
        row("a blocked address inside GRE", around(HONEST4, 47, gre)?, Passed),
        row("an allowed address inside a blocked one's", around("198.51.100.7", 4, inner("203.0.113.9")?)?, Blocked)
            .by("198.51.100.7/32"),
    ])
}
