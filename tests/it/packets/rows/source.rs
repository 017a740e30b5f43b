//! IPv4 sources: members, borders and neighbours of what is blocked; what is allowed, protected and our own.

use anyhow::Result;
use edge_tests::{
    model::Reason::{Allowed, Blocked, Malformed, Passed},
    net::HOST4,
    packet::Packet,
};

use super::{Row, from, row};

pub fn rows() -> Result<Vec<Row>> {
    Ok(vec![
        row("an honest address", from("198.51.100.1")?, Passed),
        row("a blocked address", from("198.51.100.7")?, Blocked).by("198.51.100.7/32"),
        row("its neighbour below", from("198.51.100.6")?, Passed),
        row("its neighbour above", from("198.51.100.8")?, Passed),
        row("the same bytes in the other order", from("7.100.51.198")?, Passed),
        row("the first of a blocked /25", from("198.51.100.128")?, Blocked).by("198.51.100.128/25"),
        row("the last of a blocked /25", from("198.51.100.255")?, Blocked).by("198.51.100.128/25"),
        row("one below a blocked /25", from("198.51.100.127")?, Passed),
        row("one above a blocked /25", from("198.51.101.0")?, Passed),
        row("inside a blocked /24", from("203.0.113.77")?, Blocked).by("203.0.113.64/26"),
        row("inside a blocked /24, outside the /26 in it", from("203.0.113.63")?, Blocked).by("203.0.113.0/24"),
        row("above the /26 in a /24", from("203.0.113.128")?, Blocked).by("203.0.113.0/24"),
        row("an address in a /26 in a /24", from("203.0.113.65")?, Blocked).by("203.0.113.65/32"),
        row("allowed inside a blocked /24", from("203.0.113.9")?, Allowed),
        row("beside the allowed one", from("203.0.113.10")?, Blocked).by("203.0.113.0/24"),
        row("allowed and not blocked", from("192.0.2.200")?, Allowed),
        row("beside the allowed and not blocked", from("192.0.2.201")?, Passed),
        row("the first of an allowed /12", from("172.16.0.0")?, Allowed),
        row("the last of an allowed /12", from("172.31.255.255")?, Allowed),
        row("one below an allowed /12", from("172.15.255.255")?, Passed),
        row("one above an allowed /12", from("172.32.0.0")?, Passed),
        row("the first of a blocked /10", from("100.64.0.0")?, Blocked).by("100.64.0.0/10"),
        row("the last of a blocked /10", from("100.127.255.255")?, Blocked).by("100.64.0.0/10"),
        row("one below a blocked /10", from("100.63.255.255")?, Passed),
        row("one above a blocked /10", from("100.128.0.0")?, Passed),
        row("0.0.0.0, blocked by hand", from("0.0.0.0")?, Blocked).by("0.0.0.0/32"),
        row("0.0.0.1", from("0.0.0.1")?, Passed),
        row("255.255.255.255, blocked by hand", from("255.255.255.255")?, Blocked).by("255.255.255.255/32"),
        row("255.255.255.254", from("255.255.255.254")?, Passed),
        row("the last of a blocked /28", from("192.0.2.15")?, Blocked).by("192.0.2.0/28"),
        row("one above a blocked /28", from("192.0.2.16")?, Passed),
        row("multicast as a source", from("224.0.0.1")?, Passed),
        row("our own address from the wire", Packet::new(HOST4), Malformed),
        row("beside our own, in a blocked /28", from("10.77.0.2")?, Blocked).by("10.77.0.0/28"),
        row("our gateway, in a blocked /28", from("10.77.0.9")?, Passed),
        row("beside our gateway", from("10.77.0.10")?, Blocked).by("10.77.0.0/28"),
        row("loopback from the wire", from("127.0.0.1")?, Malformed),
        row("loopback's last", from("127.255.255.255")?, Malformed),
        row("one below loopback", from("126.255.255.255")?, Passed),
        row("one above loopback", from("128.0.0.0")?, Passed),
        row("a blocked address as the destination", from("192.0.2.77")?.to("198.51.100.7".parse()?), Passed),
        row("an allowed address as the destination", from("192.0.2.1")?.to("192.0.2.200".parse()?), Blocked)
            .by("192.0.2.0/28"),
    ])
}
