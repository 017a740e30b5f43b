//! Fragments: where the configuration drops them, and first ones where ports are looked at.

use anyhow::Result;
use edge_tests::{
    model::Reason::{Allowed, Blocked, Fragment, Malformed, Passed, PortClosed},
    packet::{Extension, Packet, SYN, Upper},
};

use super::{Row, from, row};

const HONEST4: &str = "198.51.100.1";
const HONEST6: &str = "2001:db8::1";

/// Where fragments are dropped, and no port is looked at.
pub fn rows() -> Result<Vec<Row>> {
    let six = |extensions: &[Extension]| from(HONEST6).map(|packet| packet.extended(extensions.to_vec()));
    let options = || Extension::sized(60, 8);
    let many = || (0..6).map(|_| Extension::sized(60, 8));
    let empty = Upper::Other { protocol: 44, bytes: vec![6; 4] };
    let mut reserved = from(HONEST4)?.bytes();
    reserved[20] = 0xc0;
    Ok(vec![
        row("no fragment", from(HONEST4)?, Passed),
        row("a first fragment", from(HONEST4)?.fragment(0, true), Fragment),
        row("a middle fragment", from(HONEST4)?.fragment(1, true), Fragment),
        row("a last fragment", from(HONEST4)?.fragment(1, false), Fragment),
        row("the farthest fragment", from(HONEST4)?.fragment(0x1fff, false), Fragment),
        Row { frame: reserved, ..row("must not be fragmented, and the reserved bit", from(HONEST4)?, Passed) },
        row("a fragment, blocked", from("198.51.100.7")?.fragment(1, true), Blocked).by("198.51.100.7/32"),
        row("a fragment, allowed", from("203.0.113.9")?.fragment(1, true), Allowed),
        row("a fragment from our gateway", from("10.77.0.9")?.fragment(1, true), Fragment),
        row("a fragment from our own address", from("10.77.0.1")?.fragment(1, true), Malformed),
        row("a fragment that lies", Packet { length: Some(41), ..from(HONEST4)?.fragment(1, true) }, Malformed),
        row("a fragment of TCP of 3 bytes", Packet { length: Some(23), ..from(HONEST4)?.fragment(0, true) }, Fragment),
        row("TCP of 3 bytes, no fragment", Packet { length: Some(23), ..from(HONEST4)? }, Passed),
        row("a first fragment of IPv6", six(&[Extension::fragment(0, true)])?, Fragment),
        row("a middle fragment of IPv6", six(&[Extension::fragment(1, true)])?, Fragment),
        row("a last fragment of IPv6", six(&[Extension::fragment(1, false)])?, Fragment),
        row("the farthest fragment of IPv6", six(&[Extension::fragment(0x1fff, false)])?, Fragment),
        row("an atomic fragment", six(&[Extension::fragment(0, false)])?, Passed),
        row("a fragment behind options", six(&[options(), Extension::fragment(1, true)])?, Fragment),
        row(
            "a fragment behind an atomic one",
            six(&[Extension::fragment(0, false), Extension::fragment(1, true)])?,
            Fragment,
        ),
        row(
            "a fragment as the seventh header",
            from(HONEST6)?.extended(many()).extended([Extension::fragment(1, true)]),
            Malformed,
        ),
        row("six headers and no fragment", from(HONEST6)?.extended(many()), Passed),
        row(
            "a fragment behind ESP is not seen",
            six(&[Extension::sized(50, 8), Extension::fragment(1, true)])?,
            Passed,
        ),
        row("a fragment header cut short", Packet { upper: empty, ..from(HONEST6)? }, Malformed),
        row(
            "a fragment, behind a header that lies",
            six(&[options().claiming(200), Extension::fragment(1, true)])?,
            Malformed,
        ),
        row(
            "a fragment, then a header that lies",
            six(&[Extension::fragment(1, true), options().claiming(200)])?,
            Fragment,
        ),
        row("no fragment, and an unknown header", six(&[Extension::sized(253, 8)])?, Passed),
    ])
}

/// Where fragments pass, and ports are looked at: exposed are 22 and 443 of TCP, 53 and 443 of UDP, ESP.
pub fn rows_of_first() -> Result<Vec<Row>> {
    Ok([first4()?, first6()?].into_iter().flatten().collect())
}

fn first4() -> Result<Vec<Row>> {
    let first = |upper| from(HONEST4).map(|packet| Packet { upper, ..packet.fragment(0, true) });
    let udp = |to, length| Upper::Udp { from: 9, to, length: Some(length) };
    let cut = |protocol, length| Upper::Other { protocol, bytes: vec![0; length] };
    let words = |words| Upper::Tcp { from: 9, to: 22, flags: SYN, words };
    Ok(vec![
        row("a first fragment to an exposed port", from(HONEST4)?.fragment(0, true), Passed),
        row("a first fragment to a closed port", from(HONEST4)?.tcp(23, SYN).fragment(0, true), PortClosed),
        row("a later fragment to anything", from(HONEST4)?.tcp(23, SYN).fragment(1, true), Passed),
        row("a last fragment to anything", from(HONEST4)?.udp(9, 54).fragment(1, false), Passed),
        row("a later fragment of GRE", from(HONEST4)?.protocol(47).fragment(1, false), Passed),
        row("a first fragment of GRE", from(HONEST4)?.protocol(47).fragment(0, true), PortClosed),
        row("a tiny first fragment of TCP", first(cut(6, 8))?, Malformed),
        row("a tiny later fragment", Packet { upper: cut(6, 8), ..from(HONEST4)?.fragment(2, false) }, Passed),
        row("a tiny first fragment of UDP", first(cut(17, 4))?, Malformed),
        row("a first fragment with half of TCP's options", first(words(7))?.payload(4), Malformed),
        row("a first fragment with all of TCP's options", first(words(7))?.payload(8), Passed),
        row("a UDP length beyond the first fragment", first(udp(53, 4000))?.payload(64), Passed),
        row("the same to a closed port", first(udp(54, 4000))?.payload(64), PortClosed),
        row("a UDP length of 7 in a first fragment", first(udp(53, 7))?.payload(64), Malformed),
        row("a first fragment of ICMP", first(cut(1, 0))?, Passed),
    ])
}

fn first6() -> Result<Vec<Row>> {
    let behind = |extension| from(HONEST6).map(|packet| packet.extended([extension]));
    let (first, later) = (Extension::fragment(0, true), Extension::fragment(1, true));
    let options = || Extension::sized(60, 8);
    let cut = |protocol, length| Upper::Other { protocol, bytes: vec![0; length] };
    let udp = |to| Upper::Udp { from: 9, to, length: Some(4000) };
    Ok(vec![
        row("IPv6, a first fragment to an exposed port", behind(first.clone())?, Passed),
        row("IPv6, a first fragment to a closed port", behind(first.clone())?.tcp(23, SYN), PortClosed),
        row("IPv6, a later fragment to anything", behind(later.clone())?.tcp(23, SYN), Passed),
        row("IPv6, options in a first fragment", behind(first.clone())?.extended([options()]).tcp(23, SYN), PortClosed),
        row(
            "IPv6, half of the chain in a first fragment",
            Packet { upper: cut(60, 4), ..behind(first.clone())? },
            Malformed,
        ),
        row("IPv6, a tiny first fragment of TCP", Packet { upper: cut(6, 16), ..behind(first.clone())? }, Malformed),
        row("IPv6, a tiny later fragment", Packet { upper: cut(6, 1), ..behind(later.clone())? }, Passed),
        row("IPv6, a lie behind a later fragment", behind(later)?.extended([options().claiming(99)]), Passed),
        row(
            "IPv6, a lie behind a first fragment",
            behind(first.clone())?.extended([options().claiming(99)]),
            Malformed,
        ),
        row("IPv6, a UDP length beyond the first fragment", Packet { upper: udp(53), ..behind(first)? }, Passed),
        row("IPv6, the same whole", Packet { upper: udp(53), ..from(HONEST6)? }, Malformed),
        row(
            "IPv6, the same in an atomic fragment",
            Packet { upper: udp(53), ..behind(Extension::fragment(0, false))? },
            Malformed,
        ),
    ])
}
