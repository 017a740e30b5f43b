//! Frames through parser and judge on the host: rows of what comes in and what is said of it, and that no cut or
//! random frame is read past its end.

extern crate std;

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    net::Ipv6Addr,
    vec::Vec,
};

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn at<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at + N)?.try_into().ok()
    }
}

impl Packet for Bytes<'_> {
    fn u8(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }
    fn u16(&self, at: usize) -> Option<u16> {
        self.at(at).map(u16::from_ne_bytes)
    }
    fn u32(&self, at: usize) -> Option<u32> {
        self.at(at).map(u32::from_ne_bytes)
    }
    fn u128(&self, at: usize) -> Option<(u64, u64)> {
        Some((self.at(at).map(u64::from_ne_bytes)?, self.at(at + 8).map(u64::from_ne_bytes)?))
    }
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.u32(at + index * 4)?;
        }
        Some(words)
    }
    fn completes(&self, _: usize, _: bool, _: Upper) -> bool {
        // By the frame's last byte.
        self.0.last() == Some(&HALF_OPEN)
    }
    fn readable(&self) -> u64 {
        self.0.len() as u64
    }
    fn whole(&self) -> u64 {
        self.0.len() as u64
    }
}

/// Ends a frame that belongs to a handshake.
const HALF_OPEN: u8 = 0xac;

#[derive(Default)]
struct Sets {
    blocked4: HashSet<Addr4>,
    blocked6: HashSet<Addr6>,
    trust4: Vec<(Addr4, Trust)>,
    drops_fragments: bool,
    exposed: HashSet<Exposure>,
    answered: HashSet<Flow>,
    /// SYNs and packets that are left; `None`: not limited.
    syns: Option<Cell<u32>>,
    packets: Option<Cell<u32>>,
    capped: HashSet<u16>,
    full: HashSet<Addr4>,
    /// Ports of SYNs that passed.
    opened: RefCell<Vec<u16>>,
}

impl Lists<Addr4> for Sets {
    fn trust(&self, source: Addr4) -> Trust {
        self.trust4.iter().find(|(address, _)| *address == source).map_or(Trust::NONE, |(_, trust)| *trust)
    }
    fn blocked(&self, source: Addr4, _: u64) -> Block {
        if self.blocked4.contains(&source) { Block::Again } else { Block::None }
    }
    fn admits_syn(&self, _: Addr4) -> bool {
        take(&self.syns)
    }
    fn admits_packet(&self, _: Addr4) -> bool {
        take(&self.packets)
    }
    fn is_at_cap(&self, source: Addr4) -> bool {
        self.full.contains(&source)
    }
    fn note_opening(&self, _: Addr4, port: u16) {
        self.opened.borrow_mut().push(port);
    }
}

impl Lists<Addr6> for Sets {
    fn trust(&self, _: Addr6) -> Trust {
        Trust::NONE
    }
    fn blocked(&self, source: Addr6, _: u64) -> Block {
        if self.blocked6.contains(&source) { Block::Again } else { Block::None }
    }
    fn admits_syn(&self, _: Addr6) -> bool {
        take(&self.syns)
    }
    fn admits_packet(&self, _: Addr6) -> bool {
        take(&self.packets)
    }
    fn is_at_cap(&self, _: Addr6) -> bool {
        false
    }
    fn note_opening(&self, _: Addr6, _: u16) {}
}

fn take(left: &Option<Cell<u32>>) -> bool {
    left.as_ref().is_none_or(|left| left.replace(left.get().saturating_sub(1)) > 0)
}

impl Tables for Sets {
    fn drops_fragments(&self) -> bool {
        self.drops_fragments
    }
    fn limits_ports(&self) -> bool {
        !self.exposed.is_empty()
    }
    fn limits_syns(&self) -> bool {
        self.syns.is_some()
    }
    fn limits_packets(&self) -> bool {
        self.packets.is_some()
    }
    fn caps_connections(&self) -> bool {
        !self.capped.is_empty()
    }
    fn caps(&self, port: u16) -> bool {
        self.capped.contains(&port)
    }
    fn exposes(&self, what: Exposure) -> bool {
        self.exposed.contains(&what)
    }
    fn answers(&self, flow: &Flow) -> bool {
        self.answered.contains(flow)
    }
}

fn four(last: u8) -> Addr4 {
    Addr4::from(std::net::Ipv4Addr::new(203, 0, 113, last))
}

fn six() -> Ipv6Addr {
    "2001:db8::7".parse().unwrap()
}

fn frame4(last: u8) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([203, 0, 113, last], [192, 0, 2, 1], 64).tcp(1, 2, 3, 4);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame
}

fn frame6() -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(six().octets(), [1; 16], 64).tcp(1, 2, 3, 4);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame
}

fn tagged(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    [&frame[..12], &tags.concat(), &frame[12..]].concat()
}

fn tables() -> Sets {
    Sets {
        blocked4: [four(7), four(8), four(9)].into(),
        blocked6: [Addr6::from(six())].into(),
        trust4: [(four(8), Trust::PROTECTED), (four(9), Trust::ALLOWED), (four(10), Trust::OWN)].into(),
        ..Sets::default()
    }
}

fn reason_of(frame: &[u8]) -> (Reason, Family) {
    let judgement = judge(&Bytes(frame), &tables());
    assert_eq!(judgement.bytes, frame.len() as u64);
    (judgement.reason, judgement.family)
}

const VLAN: [u8; 4] = [0x81, 0, 0, 5];
const QINQ: [u8; 4] = [0x88, 0xa8, 0, 6];

#[test]
fn each_frame_has_its_reason() {
    let mut other_version = frame4(7);
    other_version[14] = 0x65;
    let mut short_header = frame4(1);
    short_header[14] = 0x44;
    let mut short_header_blocked = frame4(7);
    short_header_blocked[14] = 0x44;
    let mut short_length = frame4(1);
    short_length[16..18].copy_from_slice(&[0, 19]);
    let mut arp = frame4(7);
    arp[12..14].copy_from_slice(&[8, 6]);
    let mut lying_length = frame4(1);
    lying_length[16..18].copy_from_slice(&[0, 41]);
    let mut lying_length6 = frame6();
    lying_length6[19] += 1;
    lying_length6[14 + 8..14 + 24].copy_from_slice(&[1; 16]);
    let mapped = |last: u8| {
        let mut frame = frame6();
        frame[14 + 8..14 + 24].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 203, 0, 113, last]);
        frame
    };
    let rows: Vec<(&str, Vec<u8>, (Reason, Family))> = std::vec![
        ("an honest IPv4 packet", frame4(1), (Reason::Passed, Family::Ipv4)),
        ("a blocked one", frame4(7), (Reason::Blocked, Family::Ipv4)),
        ("its neighbour below", frame4(6), (Reason::Passed, Family::Ipv4)),
        ("blocked and protected", frame4(8), (Reason::Passed, Family::Ipv4)),
        ("blocked and allowed", frame4(9), (Reason::Allowed, Family::Ipv4)),
        ("our own address from the wire", frame4(10), (Reason::Malformed, Family::Ipv4)),
        ("blocked, one tag", tagged(&frame4(7), &[VLAN]), (Reason::Blocked, Family::Ipv4)),
        ("blocked, two tags", tagged(&frame4(7), &[QINQ, VLAN]), (Reason::Blocked, Family::Ipv4)),
        ("three tags are not looked behind", tagged(&frame4(7), &[QINQ, VLAN, VLAN]), (Reason::Passed, Family::Other)),
        ("blocked IPv6", frame6(), (Reason::Blocked, Family::Ipv6)),
        ("blocked IPv6, two tags", tagged(&frame6(), &[QINQ, VLAN]), (Reason::Blocked, Family::Ipv6)),
        ("version 6 under the type of IPv4", other_version, (Reason::Malformed, Family::Ipv4)),
        ("a header of 16 bytes", short_header, (Reason::Malformed, Family::Ipv4)),
        ("the same from a blocked source", short_header_blocked, (Reason::Blocked, Family::Ipv4)),
        ("a length under the header's", short_length, (Reason::Malformed, Family::Ipv4)),
        ("a length beyond the frame", lying_length, (Reason::Malformed, Family::Ipv4)),
        ("an IPv6 length beyond the frame", lying_length6, (Reason::Malformed, Family::Ipv6)),
        ("blocked, as an IPv4-mapped source", mapped(7), (Reason::Blocked, Family::Ipv6)),
        ("allowed, as an IPv4-mapped source", mapped(9), (Reason::Allowed, Family::Ipv6)),
        ("an honest IPv4-mapped source", mapped(1), (Reason::Malformed, Family::Ipv6)),
        ("ARP", arp, (Reason::Passed, Family::Other)),
    ];
    for (what, frame, expected) in rows {
        assert_eq!(reason_of(&frame), expected, "{what}");
    }
}

/// An IPv6 frame of an honest source with this chain of headers, the first named in the fixed header.
fn chain(first: u8, headers: &[&[u8]]) -> Vec<u8> {
    let payload = headers.concat();
    let mut frame = frame6()[..54].to_vec();
    frame[14 + 4..14 + 6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    frame[14 + 6] = first;
    frame[14 + 8..14 + 24].copy_from_slice(&[1; 16]);
    [frame, payload].concat()
}

fn tcp(port: u16, flags: u8) -> Vec<u8> {
    let port = port.to_be_bytes();
    std::vec![0, 9, port[0], port[1], 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]
}

fn udp(source: u16, port: u16) -> Vec<u8> {
    [source.to_be_bytes(), port.to_be_bytes(), [0, 8], [0, 0]].concat()
}

const SYN: u8 = 2;
const ACK: u8 = 16;

#[test]
fn only_exposed_ports_take_new_traffic() {
    let exposed = [Exposure::tcp(443), Exposure::udp(53), Exposure::protocol(50)].into();
    let remote = Addr6::from(Ipv6Addr::from([1; 16]));
    let answered = [Flow::new(remote, 123u16.to_be(), remote, 5000u16.to_be())].into();
    let tables = Sets { exposed, answered, ..Sets::default() };
    let options: &[u8] = &[6, 0, 0, 0, 0, 0, 0, 0];
    let rows: Vec<(&str, Vec<u8>, Reason)> = std::vec![
        ("a SYN to an exposed port", chain(6, &[&tcp(443, SYN)]), Reason::Passed),
        ("a SYN to another", chain(6, &[&tcp(444, SYN)]), Reason::PortClosed),
        ("a SYN with an ACK", chain(6, &[&tcp(444, SYN | ACK)]), Reason::Passed),
        ("an ACK", chain(6, &[&tcp(444, ACK)]), Reason::Passed),
        ("behind options", chain(60, &[options, &tcp(444, SYN)]), Reason::PortClosed),
        ("UDP to an exposed port", chain(17, &[&udp(9, 53)]), Reason::Passed),
        ("UDP to another", chain(17, &[&udp(9, 54)]), Reason::PortClosed),
        ("an answer", chain(17, &[&udp(123, 5000)]), Reason::Passed),
        ("an answer from another port", chain(17, &[&udp(124, 5000)]), Reason::PortClosed),
        ("DHCP", chain(17, &[&udp(547, 546)]), Reason::Passed),
        ("DHCP of the other family", chain(17, &[&udp(67, 68)]), Reason::PortClosed),
        ("ICMPv6", chain(58, &[&[128, 0, 0, 0]]), Reason::Passed),
        ("ESP, which is listed", chain(50, &[&[0; 8]]), Reason::Passed),
        ("GRE, which is not", chain(47, &[&[0; 4]]), Reason::PortClosed),
        ("no next header", chain(59, &[]), Reason::PortClosed),
        ("TCP cut short", chain(6, &[&tcp(443, SYN)[..19]]), Reason::Malformed),
        ("UDP that claims more", chain(17, &[&[0, 9, 0, 53, 0, 9, 0, 0]]), Reason::Malformed),
        ("options that run over the end", chain(60, &[&[6, 1, 0, 0, 0, 0, 0, 0]]), Reason::Malformed),
    ];
    for (what, frame, expected) in rows {
        // A payload length of 0 claims nothing.
        assert_eq!(judge(&Bytes(&frame), &tables).reason, expected, "{what}");
    }
}

#[test]
fn a_source_at_its_cap_opens_no_more_and_keeps_what_it_has() {
    const RST: u8 = 4;
    let with = |trust4| Sets { capped: [443].into(), full: [four(1)].into(), trust4, ..Sets::default() };
    // Its last byte is what `completes` looks at.
    let segment = |source: u8, from: u16, port: u16, flags: u8, last: u8| {
        let mut frame = frame4(source);
        frame[34..36].copy_from_slice(&from.to_be_bytes());
        frame[36..38].copy_from_slice(&port.to_be_bytes());
        frame[47] = flags;
        frame[16..18].copy_from_slice(&41u16.to_be_bytes());
        frame.push(last);
        frame
    };
    use Reason::{Allowed, ConnectionCap, Passed};
    let rows = [
        ("a SYN", segment(1, 9, 443, SYN, 0), ConnectionCap),
        ("a SYN of its neighbour", segment(2, 8, 443, SYN, 0), Passed),
        ("a SYN to a port that is not capped", segment(1, 9, 444, SYN, 0), Passed),
        ("an ACK of a connection", segment(1, 9, 443, ACK, 0), Passed),
        ("an ACK that completes a handshake", segment(1, 9, 443, ACK, HALF_OPEN), ConnectionCap),
        ("data that completes a handshake", segment(1, 9, 443, ACK | 8, HALF_OPEN), ConnectionCap),
        ("the same to a port that is not capped", segment(1, 9, 444, ACK, HALF_OPEN), Passed),
        ("the same of its neighbour", segment(2, 9, 443, ACK, HALF_OPEN), Passed),
        ("a RST", segment(1, 9, 443, RST | ACK, HALF_OPEN), Passed),
        ("an answer to a SYN of this host", segment(1, 9, 443, SYN | ACK, HALF_OPEN), Passed),
    ];
    let tables = with(Vec::new());
    for (what, frame, expected) in rows.clone() {
        assert_eq!(judge(&Bytes(&frame), &tables).reason, expected, "{what}");
    }
    // SYNs that pass are noted, and nothing else.
    assert_eq!(tables.opened.take(), [8, 9]);
    for (what, frame, _) in rows {
        let proxy = with(std::vec![(four(1), Trust::PROTECTED.with(Trust::PROXY))]);
        assert_eq!(judge(&Bytes(&frame), &proxy).reason, Passed, "{what}, of a proxy");
        let allowed = if frame[29] == 1 { Allowed } else { Passed };
        assert_eq!(
            judge(&Bytes(&frame), &with(std::vec![(four(1), Trust::ALLOWED)])).reason,
            allowed,
            "{what}, allowed"
        );
    }
}

#[test]
fn a_chain_of_more_than_six_extensions_is_malformed() {
    let tables = Sets { exposed: [Exposure::tcp(443)].into(), ..Sets::default() };
    for (count, expected) in [(5, Reason::Passed), (6, Reason::Passed), (7, Reason::Malformed)] {
        let mut headers: Vec<Vec<u8>> = std::vec![std::vec![60, 0, 0, 0, 0, 0, 0, 0]; count - 1];
        headers.push(std::vec![6, 0, 0, 0, 0, 0, 0, 0]);
        headers.push(tcp(443, SYN));
        let headers: Vec<&[u8]> = headers.iter().map(Vec::as_slice).collect();
        assert_eq!(judge(&Bytes(&chain(60, &headers)), &tables).reason, expected, "{count}");
    }
}

#[test]
fn fragments_pass_without_an_upper_header_or_drop() {
    let exposed: HashSet<Exposure> = [Exposure::tcp(443)].into();
    let fragment = |offset: u8, more: u8| [6, 0, offset, more, 0, 0, 0, 1];
    let rows = [
        ("atomic", chain(44, &[&fragment(0, 0), &tcp(444, SYN)]), Reason::PortClosed, Reason::PortClosed),
        ("first", chain(44, &[&fragment(0, 1), &tcp(444, SYN)]), Reason::PortClosed, Reason::Fragment),
        ("first, too short", chain(44, &[&fragment(0, 1), &[0; 8]]), Reason::Malformed, Reason::Fragment),
        ("later", chain(44, &[&fragment(1, 0), &[0; 8]]), Reason::Passed, Reason::Fragment),
    ];
    for (what, frame, passing, dropping) in rows {
        for (drops_fragments, expected) in [(false, passing), (true, dropping)] {
            let tables = Sets { exposed: exposed.clone(), drops_fragments, ..Sets::default() };
            assert_eq!(judge(&Bytes(&frame), &tables).reason, expected, "{what}, drop: {drops_fragments}");
        }
    }
}

#[test]
fn rates_hold_for_syns_and_for_packets_but_not_for_a_trusted_proxy() {
    let with = |trust4| Sets { syns: Some(Cell::new(1)), packets: Some(Cell::new(3)), trust4, ..Sets::default() };
    let mut syn = frame4(1);
    syn[47] = SYN;
    let reasons = |tables: &Sets, frames: &[&[u8]]| -> Vec<Reason> {
        frames.iter().map(|frame| judge(&Bytes(frame), tables).reason).collect()
    };
    let ack = frame4(1);
    let frames: [&[u8]; 6] = [&syn, &syn, &ack, &ack, &ack, &syn];
    use Reason::{PacketRate, Passed, SynRate};
    assert_eq!(reasons(&with(Vec::new()), &frames), [Passed, SynRate, Passed, Passed, PacketRate, SynRate]);
    let proxy = with(std::vec![(four(1), Trust::PROTECTED.with(Trust::PROXY))]);
    assert_eq!(reasons(&proxy, &frames), [Passed; 6]);
}

#[test]
fn a_frame_cut_at_any_byte_is_judged_or_malformed() {
    for (frame, header, family) in [(frame4(7), 34, Family::Ipv4), (frame6(), 54, Family::Ipv6)] {
        for length in 0..frame.len() {
            let expected = match length {
                0..14 => (Reason::Passed, Family::Other),
                _ if length < header => (Reason::Malformed, family),
                _ => (Reason::Blocked, family),
            };
            assert_eq!(reason_of(&frame[..length]), expected, "{length}");
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
        judge(&Bytes(&bytes), &tables());
        let everything = Sets {
            drops_fragments: bytes.len() % 2 == 0,
            exposed: [Exposure::tcp(443)].into(),
            syns: Some(Cell::new(1)),
            packets: Some(Cell::new(1)),
            ..Sets::default()
        };
        judge(&Bytes(&bytes), &everything);
    }
}
