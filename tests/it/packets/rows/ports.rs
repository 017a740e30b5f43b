//! Exposed ports: 22 and 443 of TCP, 53 and 443 of UDP, ESP and protocol 89.

use anyhow::Result;
use edge_tests::{
    model::Reason::{Allowed, Blocked, Fragment, Malformed, Passed, PortClosed},
    packet::{ACK, Packet, RST, SYN},
};

use super::{Row, from, row};

const HONEST4: &str = "198.51.100.1";
const HONEST6: &str = "2001:db8::1";
const FIN: u8 = 0x01;

pub fn rows() -> Result<Vec<Row>> {
    Ok([tcp()?, udp()?, others()?, sources()?].into_iter().flatten().collect())
}

fn tcp() -> Result<Vec<Row>> {
    Ok(vec![
        row("a SYN to an exposed port", from(HONEST4)?.tcp(443, SYN), Passed),
        row("a SYN to the port below", from(HONEST4)?.tcp(442, SYN), PortClosed),
        row("a SYN to the port above", from(HONEST4)?.tcp(444, SYN), PortClosed),
        row("a SYN to the port in the other order", from(HONEST4)?.tcp(443u16.swap_bytes(), SYN), PortClosed),
        row("a SYN to a port that is exposed for UDP", from(HONEST4)?.tcp(53, SYN), PortClosed),
        row("a SYN to port 0", from(HONEST4)?.tcp(0, SYN), PortClosed),
        row("a SYN to the last port", from(HONEST4)?.tcp(65_535, SYN), PortClosed),
        row("a SYN from an exposed port", tcp_from(HONEST4, 443, 1024)?, PortClosed),
        row("SYN and ACK: an answer", from(HONEST4)?.tcp(1024, SYN | ACK), Passed),
        row("an ACK to a closed port", from(HONEST4)?.tcp(1024, ACK), Passed),
        row("an RST to a closed port", from(HONEST4)?.tcp(1024, RST), Passed),
        row("no flags at all to a closed port", from(HONEST4)?.tcp(1024, 0), Passed),
        row("a FIN to a closed port", from(HONEST4)?.tcp(1024, FIN), Passed),
        row("SYN and FIN to a closed port", from(HONEST4)?.tcp(1024, SYN | FIN), PortClosed),
        row("SYN and RST to a closed port", from(HONEST4)?.tcp(1024, SYN | RST), PortClosed),
        row("every flag to a closed port", from(HONEST4)?.tcp(1024, 0xff), Passed),
        row("every flag but ACK to a closed port", from(HONEST4)?.tcp(1024, !ACK), PortClosed),
        row("every flag but ACK to an exposed port", from(HONEST4)?.tcp(22, !ACK), Passed),
        row("a SYN to an exposed port, IPv6", from(HONEST6)?.tcp(22, SYN), Passed),
        row("a SYN to a closed port, IPv6", from(HONEST6)?.tcp(23, SYN), PortClosed),
        row("a SYN to a closed port, two tags", from(HONEST4)?.tcp(23, SYN).tags(&[0x88a8, 0x8100]), PortClosed),
        row("a SYN to a closed port, options", from(HONEST4)?.tcp(23, SYN).options(7), PortClosed),
        row("a SYN to an exposed port, options", from(HONEST4)?.tcp(22, SYN).options(10), Passed),
    ])
}

fn tcp_from(source: &str, from_port: u16, to: u16) -> Result<Packet> {
    use edge_tests::packet::Upper;
    Ok(Packet { upper: Upper::Tcp { from: from_port, to, flags: SYN, words: 5 }, ..from(source)? })
}

fn udp() -> Result<Vec<Row>> {
    Ok(vec![
        row("UDP to an exposed port", from(HONEST4)?.udp(4000, 53), Passed),
        row("UDP to a port that is exposed for TCP", from(HONEST4)?.udp(4000, 22), PortClosed),
        row("UDP to a port that is exposed for both", from(HONEST4)?.udp(4000, 443), Passed),
        row("UDP from an exposed port", from(HONEST4)?.udp(53, 4000), PortClosed),
        row("UDP to the port above", from(HONEST4)?.udp(4000, 54), PortClosed),
        row("UDP to an exposed port, IPv6", from(HONEST6)?.udp(4000, 53), Passed),
        row("UDP to a closed port, IPv6", from(HONEST6)?.udp(4000, 5353), PortClosed),
        row("an answer to nothing", from(HONEST4)?.udp(53, 53_000), PortClosed),
        row("DHCP's answer", from(HONEST4)?.udp(67, 68), Passed),
        row("DHCP's question", from(HONEST4)?.udp(68, 67), PortClosed),
        row("to DHCP's client from elsewhere", from(HONEST4)?.udp(66, 68), PortClosed),
        row("DHCPv6's answer", from("fe80::77")?.udp(547, 546), Passed),
        row("DHCPv6's question", from("fe80::77")?.udp(546, 547), PortClosed),
        row("DHCP's answer in IPv6", from(HONEST6)?.udp(67, 68), PortClosed),
        row("DHCPv6's answer in IPv4", from(HONEST4)?.udp(547, 546), PortClosed),
    ])
}

fn others() -> Result<Vec<Row>> {
    Ok(vec![
        row("ICMP", from(HONEST4)?.protocol(1), Passed),
        row("IGMP", from(HONEST4)?.protocol(2), Passed),
        row("ICMPv6", from(HONEST6)?.protocol(58), Passed),
        row("ESP, listed", from(HONEST4)?.protocol(50), Passed),
        row("ESP, listed, IPv6", from(HONEST6)?.protocol(50), Passed),
        row("AH, not listed", from(HONEST4)?.protocol(51), PortClosed),
        row("OSPF, listed by its number", from(HONEST4)?.protocol(89), Passed),
        row("GRE, not listed", from(HONEST4)?.protocol(47), PortClosed),
        row("IPIP, not listed", from(HONEST4)?.protocol(4), PortClosed),
        row("SCTP, not listed", from(HONEST6)?.protocol(132), PortClosed),
        row("an unknown protocol", from(HONEST4)?.protocol(253), PortClosed),
        row("protocol 0 of IPv4", from(HONEST4)?.protocol(0), PortClosed),
        row("protocol 44 of IPv4", from(HONEST4)?.protocol(44), PortClosed),
        row("protocol 255", from(HONEST4)?.protocol(255), PortClosed),
        row("no next header", from(HONEST6)?.protocol(59), PortClosed),
    ])
}

fn sources() -> Result<Vec<Row>> {
    Ok(vec![
        row("blocked, to an exposed port", from("198.51.100.7")?.tcp(443, SYN), Blocked).by("198.51.100.7/32"),
        row("blocked, to a closed port", from("198.51.100.7")?.tcp(23, SYN), Blocked).by("198.51.100.7/32"),
        row("allowed, to a closed port", from("203.0.113.9")?.tcp(23, SYN), Allowed),
        row("our gateway, to a closed port", from("10.77.0.9")?.tcp(23, SYN), PortClosed),
        row("our own address, to an exposed port", from("10.77.0.1")?.tcp(443, SYN), Malformed),
        row("a mapped address, to an exposed port", from("::ffff:198.51.100.1")?.tcp(443, SYN), Malformed),
    ])
}

/// Exposed are 22 of TCP and 53 of UDP.
pub fn rows_of_dry_run() -> Result<Vec<Row>> {
    Ok(vec![
        row("passed, in a dry run", from(HONEST4)?.tcp(22, SYN), Passed),
        row("allowed, in a dry run", from("203.0.113.9")?, Allowed),
        row("blocked, in a dry run", from("198.51.100.7")?, Blocked).by("198.51.100.7/32"),
        row("blocked by prefix, in a dry run", from("2001:db8:ffff:2::1")?, Blocked).by("2001:db8:ffff::/48"),
        row("malformed, in a dry run", Packet { header_words: Some(4), ..from(HONEST4)? }, Malformed),
        row("a closed port, in a dry run", from(HONEST6)?.tcp(23, SYN), PortClosed),
        row("UDP to a closed port, in a dry run", from(HONEST4)?.udp(53, 54), PortClosed),
        row("a fragment, in a dry run", from(HONEST4)?.fragment(185, true), Fragment),
    ])
}
