//! IPv4 addresses in IPv6's clothes: mapped ones are the IPv4 address, no other form is.

use anyhow::Result;
use edge_tests::model::Reason::{Allowed, Blocked, Malformed, Passed};

use super::{Row, from, row};

pub fn rows() -> Result<Vec<Row>> {
    Ok(vec![
        row("a blocked address, mapped", from("::ffff:198.51.100.7")?, Blocked).by("198.51.100.7/32"),
        row("its neighbour, mapped", from("::ffff:198.51.100.8")?, Malformed),
        row("of a blocked prefix, mapped", from("::ffff:203.0.113.1")?, Blocked).by("203.0.113.0/24"),
        row("0.0.0.0, mapped", from("::ffff:0.0.0.0")?, Blocked).by("0.0.0.0/32"),
        row("an allowed address, mapped", from("::ffff:203.0.113.9")?, Allowed),
        row("an honest address, mapped", from("::ffff:198.51.100.1")?, Malformed),
        row("our own address, mapped", from("::ffff:10.77.0.1")?, Malformed),
        row("loopback, mapped", from("::ffff:127.0.0.1")?, Malformed),
        row("our gateway, mapped", from("::ffff:10.77.0.9")?, Malformed),
        row("a mapped destination", from("2001:db8::1")?.to("::ffff:198.51.100.7".parse()?), Passed),
        row("a blocked address, compatible", from("::198.51.100.7")?, Passed),
        row("a blocked address, translated (SIIT)", from("::ffff:0:198.51.100.7")?, Passed),
        row("a blocked address, 6to4", from("2002:c633:6407::1")?, Passed),
        row("a blocked address, Teredo", from("2001:0:1:2:3:4:39cc:9bf8")?, Passed),
        row("a blocked address, ISATAP", from("2001:db8::5efe:198.51.100.7")?, Passed),
        row("almost mapped: a bit too few", from("::fffe:198.51.100.7")?, Passed),
        row("almost mapped: a bit too many", from("1::ffff:198.51.100.7")?, Passed),
    ])
}
