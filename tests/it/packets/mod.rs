//! Rows through the loaded program (`BPF_PROG_TEST_RUN`): a frame in, the verdict out, and what was counted for it.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context, Result, ensure};
use edge_common::{names, reason::Reason};
use edge_tests::{
    agent::Edge,
    bpf::Program,
    net::{HOST4, HOST6, Lab},
};

const DROP: u32 = 1;
const PASS: u32 = 2;
/// So often is each row run, so that what else passes in the namespace (neighbour discovery) cannot be mistaken for it.
const TIMES: u64 = 1000;

const VLAN: [u8; 4] = [0x81, 0x00, 0x00, 0x05];
const QINQ: [u8; 4] = [0x88, 0xa8, 0x00, 0x06];

struct Row {
    what: &'static str,
    frame: Vec<u8>,
    reason: Reason,
    /// The entry of `list` that counts the packet.
    counted_for: Option<&'static str>,
}

#[test]
fn each_row_has_its_verdict_and_is_counted_once() -> Result<()> {
    let lab = Lab::new()?;
    let edge = guarded(&lab)?;
    let program = program(&lab)?;
    for row in rows()? {
        check(&edge, &program, &row).with_context(|| row.what)?;
    }
    Ok(())
}

#[test]
fn a_frame_cut_at_any_byte_has_a_stated_reason() -> Result<()> {
    let lab = Lab::new()?;
    let edge = guarded(&lab)?;
    let program = program(&lab)?;
    let (four, six) = (source4("198.51.100.7")?, source6("2001:db8:bad::1")?);
    let (four_entry, six_entry) = ("198.51.100.7/32", "2001:db8:bad::1/128");
    // Where IP's header begins and how long its fixed part is.
    let templates = [
        (frame(four.clone(), &[]), 14, 20, four_entry),
        (frame(four, &[QINQ, VLAN]), 22, 20, four_entry),
        (frame(six.clone(), &[]), 14, 40, six_entry),
        (frame(six, &[QINQ, VLAN]), 22, 40, six_entry),
    ];
    for (whole, begin, fixed, entry) in templates {
        // The kernel hands no frame over that is shorter than an Ethernet header.
        for length in 14..=whole.len() {
            let (reason, counted_for) = match length {
                // Cut within the tags it is no IP.
                short if short < begin => (Reason::Passed, None),
                short if short < begin + fixed => (Reason::Malformed, None),
                _ => (Reason::Blocked, Some(entry)),
            };
            let row = Row { what: "a frame that is cut", frame: whole[..length].to_vec(), reason, counted_for };
            check(&edge, &program, &row).with_context(|| format!("{length} of {} bytes", whole.len()))?;
        }
    }
    Ok(())
}

fn check(edge: &Edge, program: &Program, row: &Row) -> Result<()> {
    let (before, hits_before) = counts(edge, row.counted_for)?;
    let verdict = program.test_run(&row.frame, TIMES as u32)?.verdict;
    let (after, hits_after) = counts(edge, row.counted_for)?;
    let expected = if row.reason.passes() { PASS } else { DROP };
    ensure!(verdict == expected, "verdict {verdict}, expected {expected}");
    for reason in Reason::ALL {
        let more = after.get(reason.name()).unwrap_or(&0) - before.get(reason.name()).unwrap_or(&0);
        let wanted = if reason == row.reason { TIMES } else { 0 };
        let noise = if reason == Reason::Passed { TIMES / 2 } else { 0 };
        ensure!((wanted..=wanted + noise).contains(&more), "{} more counted as {}", more, reason.name());
    }
    let wanted = if row.counted_for.is_some() { TIMES } else { 0 };
    let (packets, bytes) = (hits_after.0 - hits_before.0, hits_after.1 - hits_before.1);
    ensure!(packets == wanted, "{packets} packets counted for {:?}", row.counted_for);
    ensure!(bytes == wanted * row.frame.len() as u64, "{bytes} bytes counted for {:?}", row.counted_for);
    Ok(())
}

type Counts = (BTreeMap<String, u64>, (u64, u64));

fn counts(edge: &Edge, entry: Option<&str>) -> Result<Counts> {
    let status = edge.json(&["status"])?;
    let reasons = serde_json::from_value(status["packets"]["by_reason"].clone())?;
    let Some(entry) = entry else { return Ok((reasons, (0, 0))) };
    let list = edge.json(&["list"])?;
    let row = list.as_array().and_then(|rows| rows.iter().find(|row| row["address"] == entry));
    let row = row.with_context(|| format!("{entry} is not listed"))?;
    Ok((reasons, (row["packets"].as_u64().unwrap_or(0), row["bytes"].as_u64().unwrap_or(0))))
}

fn guarded(lab: &Lab) -> Result<Edge> {
    let edge = Edge::start(lab)?;
    edge.cli(&["block", "198.51.100.7", "198.51.100.128/25", "203.0.113.0/24"])?.good()?;
    edge.cli(&["block", "2001:db8:bad::1", "2001:db8:1:2::/64", "2001:db8:ffff::/48"])?.good()?;
    edge.cli(&["block", "0.0.0.0", "255.255.255.255", "192.0.2.0/28", "--for", "1h"])?.good()?;
    edge.cli(&["allow", "203.0.113.9", "2001:db8:ffff:1::/64", "192.0.2.200"])?.good()?;
    Ok(edge)
}

/// The program of the one generation that is in force.
fn program(lab: &Lab) -> Result<Program> {
    let generations = fs::read_dir(lab.pin_path())?.filter_map(Result::ok).map(|entry| entry.path());
    let mut generations = generations.filter(|path| path.is_dir());
    let generation = generations.next().context("no generation is pinned")?;
    ensure!(generations.next().is_none(), "two generations are pinned");
    Program::pinned(&generation.join(names::PROGRAM))
}

fn rows() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut row = |what, frame: Vec<u8>, reason, counted_for| rows.push(Row { what, frame, reason, counted_for });
    let four = |text: &str| source4(text).map(|packet| frame(packet, &[]));
    let six = |text: &str| source6(text).map(|packet| frame(packet, &[]));
    use Reason::{Allowed, Blocked, Malformed, Passed};

    row("an honest address", four("198.51.100.1")?, Passed, None);
    row("a blocked address", four("198.51.100.7")?, Blocked, Some("198.51.100.7/32"));
    row("its neighbour below", four("198.51.100.6")?, Passed, None);
    row("its neighbour above", four("198.51.100.8")?, Passed, None);
    row("the same bytes in the other order", four("7.100.51.198")?, Passed, None);
    row("the first of a blocked /25", four("198.51.100.128")?, Blocked, Some("198.51.100.128/25"));
    row("the last of a blocked /25", four("198.51.100.255")?, Blocked, Some("198.51.100.128/25"));
    row("one below a blocked /25", four("198.51.100.127")?, Passed, None);
    row("one above a blocked /25", four("198.51.101.0")?, Passed, None);
    row("inside a blocked /24", four("203.0.113.77")?, Blocked, Some("203.0.113.0/24"));
    row("allowed inside a blocked /24", four("203.0.113.9")?, Allowed, None);
    row("beside the allowed one", four("203.0.113.10")?, Blocked, Some("203.0.113.0/24"));
    row("allowed and not blocked", four("192.0.2.200")?, Allowed, None);
    row("0.0.0.0, blocked by hand", four("0.0.0.0")?, Blocked, Some("0.0.0.0/32"));
    row("0.0.0.1", four("0.0.0.1")?, Passed, None);
    row("255.255.255.255, blocked by hand", four("255.255.255.255")?, Blocked, Some("255.255.255.255/32"));
    row("the last of a blocked /28", four("192.0.2.15")?, Blocked, Some("192.0.2.0/28"));
    row("one above a blocked /28", four("192.0.2.16")?, Passed, None);
    row("our own address from the wire", frame(packet(HOST4), &[]), Malformed, None);
    row("loopback from the wire", four("127.0.0.1")?, Malformed, None);
    row("loopback's last", four("127.255.255.255")?, Malformed, None);
    row("one above loopback", four("128.0.0.0")?, Passed, None);

    let blocked4 = source4("198.51.100.7")?;
    row("blocked, one tag", frame(blocked4.clone(), &[VLAN]), Blocked, Some("198.51.100.7/32"));
    row("blocked, one service tag", frame(blocked4.clone(), &[QINQ]), Blocked, Some("198.51.100.7/32"));
    row("blocked, two tags", frame(blocked4.clone(), &[QINQ, VLAN]), Blocked, Some("198.51.100.7/32"));
    row("blocked, two equal tags", frame(blocked4.clone(), &[VLAN, VLAN]), Blocked, Some("198.51.100.7/32"));
    row("three tags are not looked behind", frame(blocked4.clone(), &[QINQ, VLAN, VLAN]), Passed, None);
    row("honest, two tags", frame(source4("198.51.100.1")?, &[QINQ, VLAN]), Passed, None);

    row("an honest IPv6 address", six("2001:db8::1")?, Passed, None);
    row("a blocked /128", six("2001:db8:bad::1")?, Blocked, Some("2001:db8:bad::1/128"));
    row("another of its /64", six("2001:db8:bad::2")?, Passed, None);
    row("the same identifier elsewhere", six("2001:db8:bae::1")?, Passed, None);
    row("the first of a blocked /64", six("2001:db8:1:2::")?, Blocked, Some("2001:db8:1:2::/64"));
    row("the last of a blocked /64", six("2001:db8:1:2:ffff:ffff:ffff:ffff")?, Blocked, Some("2001:db8:1:2::/64"));
    row("the /64 below", six("2001:db8:1:1:ffff:ffff:ffff:ffff")?, Passed, None);
    row("the /64 above", six("2001:db8:1:3::")?, Passed, None);
    row("inside a blocked /48", six("2001:db8:ffff:2::1")?, Blocked, Some("2001:db8:ffff::/48"));
    row("an allowed /64 inside it", six("2001:db8:ffff:1::1")?, Allowed, None);
    row("one above the /48", six("2001:db9::")?, Passed, None);
    row("the unspecified address", six("::")?, Passed, None);
    row("our own IPv6 address from the wire", frame(packet(HOST6), &[]), Malformed, None);
    row("IPv6 loopback from the wire", six("::1")?, Malformed, None);
    let blocked6 = source6("2001:db8:bad::1")?;
    row("blocked IPv6, two tags", frame(blocked6.clone(), &[QINQ, VLAN]), Blocked, Some("2001:db8:bad::1/128"));
    row("blocked IPv6, three tags", frame(blocked6, &[QINQ, VLAN, VLAN]), Passed, None);

    let changed = |at: usize, value: u8, from: &str| -> Result<Vec<u8>> {
        let mut bytes = four(from)?;
        bytes[at] = value;
        Ok(bytes)
    };
    row("version 6 under the type of IPv4", changed(14, 0x65, "198.51.100.7")?, Malformed, None);
    row("version 0", changed(14, 0x05, "198.51.100.1")?, Malformed, None);
    row("a header of 16 bytes", changed(14, 0x44, "198.51.100.1")?, Malformed, None);
    row("the same, blocked", changed(14, 0x44, "198.51.100.7")?, Blocked, Some("198.51.100.7/32"));
    row("options", changed(14, 0x46, "198.51.100.1")?, Passed, None);
    row("options, blocked", changed(14, 0x4f, "198.51.100.7")?, Blocked, Some("198.51.100.7/32"));
    row("a later fragment, blocked", changed(21, 0xb9, "198.51.100.7")?, Blocked, Some("198.51.100.7/32"));
    row("a later fragment, honest", changed(21, 0xb9, "198.51.100.1")?, Passed, None);
    row("an unknown protocol, honest", changed(23, 253, "198.51.100.1")?, Passed, None);
    let mut version4 = six("2001:db8:bad::1")?;
    version4[14] = 0x40;
    row("version 4 under the type of IPv6", version4, Malformed, None);
    for (what, ethertype) in [("ARP", [0x08, 0x06]), ("LLDP", [0x88, 0xcc]), ("a length, not a type", [0x00, 0x40])] {
        let mut bytes = four("198.51.100.7")?;
        bytes[12..14].copy_from_slice(&ethertype);
        row(what, bytes, Passed, None);
    }
    Ok(rows)
}

fn source4(text: &str) -> Result<Vec<u8>> {
    Ok(packet(text.parse::<Ipv4Addr>()?.into()))
}

fn source6(text: &str) -> Result<Vec<u8>> {
    Ok(packet(text.parse::<Ipv6Addr>()?.into()))
}

/// A TCP segment from an address, its EtherType before it.
fn packet(source: IpAddr) -> Vec<u8> {
    let tcp = [0x30, 0x39, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0];
    match source {
        IpAddr::V4(source) => {
            let head = [0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
            [&head[..], &source.octets(), &[192, 0, 2, 1], &tcp].concat()
        }
        IpAddr::V6(source) => {
            let head = [0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64];
            [&head[..], &source.octets(), &[0xfd; 16], &tcp].concat()
        }
    }
}

fn frame(packet: Vec<u8>, tags: &[[u8; 4]]) -> Vec<u8> {
    [&[0x02; 6][..], &[0x04; 6], &tags.concat(), &packet].concat()
}
