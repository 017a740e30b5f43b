//! IPv6 sources: addresses, /64s and other prefixes; what is allowed, protected and our own.

use anyhow::Result;
use edge_tests::{
    model::Reason::{Allowed, Blocked, Malformed, Passed},
    net::HOST6,
    packet::Packet,
};

use super::{Row, from, row};

pub fn rows() -> Result<Vec<Row>> {
    Ok(vec![
        row("an honest IPv6 address", from("2001:db8::1")?, Passed),
        row("a blocked /128", from("2001:db8:bad::1")?, Blocked).by("2001:db8:bad::1/128"),
        row("another of its /64", from("2001:db8:bad::2")?, Passed),
        row("the same identifier in another /64", from("2001:db8:bad:1::1")?, Passed),
        row("the same identifier elsewhere", from("2001:db8:bae::1")?, Passed),
        row("its halves the other way round", from("0:0:0:1:2001:db8:bad::")?, Passed),
        row("the first of a blocked /64", from("2001:db8:1:2::")?, Blocked).by("2001:db8:1:2::/64"),
        row("the last of a blocked /64", from("2001:db8:1:2:ffff:ffff:ffff:ffff")?, Blocked).by("2001:db8:1:2::/64"),
        row("in a /65 of a blocked /64", from("2001:db8:1:2:8000::1")?, Blocked).by("2001:db8:1:2::/64"),
        row("the /64 below, in a /60", from("2001:db8:1:1:ffff:ffff:ffff:ffff")?, Blocked).by("2001:db8:1::/60"),
        row("the /64 above, in a /60", from("2001:db8:1:3::")?, Blocked).by("2001:db8:1::/60"),
        row("the last of a blocked /60", from("2001:db8:1:f:ffff:ffff:ffff:ffff")?, Blocked).by("2001:db8:1::/60"),
        row("one above a blocked /60", from("2001:db8:1:10::")?, Passed),
        row("one below a blocked /60", from("2001:db8:0:ffff:ffff:ffff:ffff:ffff")?, Passed),
        row("inside a blocked /48", from("2001:db8:ffff:2::1")?, Blocked).by("2001:db8:ffff::/48"),
        row("an allowed /64 inside it", from("2001:db8:ffff:1::1")?, Allowed),
        row("the last of the allowed /64", from("2001:db8:ffff:1:ffff:ffff:ffff:ffff")?, Allowed),
        row("a blocked /64 inside it", from("2001:db8:ffff:3::1")?, Blocked).by("2001:db8:ffff:3::/64"),
        row("a blocked /128 inside both", from("2001:db8:ffff:3::5")?, Blocked).by("2001:db8:ffff:3::5/128"),
        row("one above the /48", from("2001:db9::")?, Passed),
        row("one below the /48", from("2001:db8:fffe:ffff:ffff:ffff:ffff:ffff")?, Passed),
        row("the first of a blocked /127", from("2001:db8:5::")?, Blocked).by("2001:db8:5::/127"),
        row("the last of a blocked /127", from("2001:db8:5::1")?, Blocked).by("2001:db8:5::/127"),
        row("one above a blocked /127", from("2001:db8:5::2")?, Passed),
        row("translated, of a blocked prefix", from("64:ff9b::192.0.2.77")?, Blocked).by("64:ff9b::/96"),
        row("translated, above that prefix", from("64:ff9b:1::192.0.2.77")?, Passed),
        row("the unspecified address", from("::")?, Passed),
        row("link-local", from("fe80::77")?, Passed),
        row("multicast as a source", from("ff02::1")?, Passed),
        row("our own IPv6 address from the wire", Packet::new(HOST6), Malformed),
        row("beside our own, in a blocked /60", from("2001:db8:1::2")?, Blocked).by("2001:db8:1::/60"),
        row("our gateway, in a blocked /60", from("2001:db8:1::9")?, Passed),
        row("IPv6 loopback from the wire", from("::1")?, Malformed),
        row("one above IPv6 loopback", from("::2")?, Passed),
        row("a blocked IPv6 address as the destination", from("2001:db8::1")?.to("2001:db8:bad::1".parse()?), Passed),
    ])
}
