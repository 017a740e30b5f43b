//! Frames through parser and judge on the host: rows of what comes in and what is said of it, and that no cut or
//! random frame is read past its end.

extern crate std;

use std::{collections::HashSet, net::Ipv6Addr, vec::Vec};

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
    fn readable(&self) -> u64 {
        self.0.len() as u64
    }
    fn whole(&self) -> u64 {
        self.0.len() as u64
    }
}

#[derive(Default)]
struct Sets {
    blocked4: HashSet<Addr4>,
    blocked6: HashSet<Addr6>,
    trust4: Vec<(Addr4, Trust)>,
}

impl Tables for Sets {
    fn trust4(&self, source: Addr4) -> Trust {
        self.trust4.iter().find(|(address, _)| *address == source).map_or(Trust::NONE, |(_, trust)| *trust)
    }
    fn trust6(&self, _: Addr6) -> Trust {
        Trust::NONE
    }
    fn blocked4(&self, source: Addr4, _: u64) -> bool {
        self.blocked4.contains(&source)
    }
    fn blocked6(&self, source: Addr6, _: u64) -> bool {
        self.blocked6.contains(&source)
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
        ("ARP", arp, (Reason::Passed, Family::Other)),
    ];
    for (what, frame, expected) in rows {
        assert_eq!(reason_of(&frame), expected, "{what}");
    }
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
    }
}
