//! From a frame to its source address: Ethernet, up to two VLAN tags, the fixed headers of IPv4 and IPv6. What lies
//! behind those is [`upper`](crate::upper)'s.

use edge_common::{
    address::{Addr4, Addr6},
    reason::Family,
};

use crate::upper::{Asked, Upper, look};

/// A frame, as far as its first bytes can be read. Loads give the bytes as they lie, in network order.
pub trait Packet {
    fn u8(&self, at: usize) -> Option<u8>;
    fn u16(&self, at: usize) -> Option<u16>;
    fn u32(&self, at: usize) -> Option<u32>;
    /// Two words in a row.
    fn u128(&self, at: usize) -> Option<(u64, u64)>;
    /// Several words in a row, checked once: where a place is not constant, the verifier believes only the pointer that
    /// was compared.
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]>;
    /// What lies behind the IP header, by [`look`].
    #[inline(always)]
    fn upper(&self, asked: Asked) -> Option<Upper>
    where
        Self: Sized,
    {
        look(self, asked)
    }
    /// Whether the host holds a handshake that this TCP packet, whose IP header begins at `at`, would complete.
    #[inline(always)]
    fn completes(&self, _at: usize, _six: bool, _upper: Upper) -> bool {
        false
    }
    /// Bytes that can be read.
    fn readable(&self) -> u64;
    /// Bytes of the whole frame, those in further buffers included; dearer than [`readable`](Self::readable).
    fn whole(&self) -> u64;
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    V4(Datagram<Addr4>),
    V6(Datagram<Addr6>),
    /// ARP, LLDP, more than two tags, and everything else that is not IP: not edge's to judge.
    Other,
    /// Says it is IP and is too short to hold a source address, or is of another version.
    Malformed(Family),
}

/// What the fixed header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<A> {
    pub source: A,
    /// Where the header begins in the frame.
    pub at: usize,
    /// Bytes of the header; of IPv6 without its extensions.
    pub header: usize,
    /// Whether the header's fields agree with each other.
    pub sound: bool,
    /// Where the datagram ends in the frame, as its length field says; `None` where it says nothing.
    pub end: Option<u64>,
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
const MAX_TAGS: usize = 2;
const TAG: usize = 4;
const HEADER4: usize = 20;
const HEADER6: usize = 40;

#[inline(always)]
pub fn parse(packet: &impl Packet) -> Frame {
    let mut at = 12;
    let mut tags = 0;
    loop {
        let Some(ethertype) = packet.u16(at) else { return Frame::Other };
        at += 2;
        match u16::from_be(ethertype) {
            ETHERTYPE_IPV4 => return ipv4(packet, at),
            ETHERTYPE_IPV6 => return ipv6(packet, at),
            ETHERTYPE_VLAN | ETHERTYPE_QINQ if tags < MAX_TAGS => {
                tags += 1;
                at += TAG - 2;
            }
            _ => return Frame::Other,
        }
    }
}

/// RFC 791, section 3.1.
#[inline(always)]
fn ipv4(packet: &impl Packet, at: usize) -> Frame {
    let malformed = Frame::Malformed(Family::Ipv4);
    // The last word first: what can be read to the end of the header can be read before it.
    let (Some(_), Some(source)) = (packet.u32(at + 16), packet.u32(at + 12)) else { return malformed };
    let (Some(version), Some(length)) = (packet.u8(at), packet.u16(at + 2)) else { return malformed };
    if version >> 4 != 4 {
        return malformed;
    }
    let header = usize::from(version & 15) * 4;
    let length = usize::from(u16::from_be(length));
    let sound = header >= HEADER4 && length >= header;
    Frame::V4(Datagram { source: Addr4::from_wire(source), at, header, sound, end: Some((at + length) as u64) })
}

/// RFC 8200, section 3. A payload length of 0 is a jumbogram's (RFC 2675), or none, and claims nothing.
#[inline(always)]
fn ipv6(packet: &impl Packet, at: usize) -> Frame {
    let malformed = Frame::Malformed(Family::Ipv6);
    let (Some(_), Some((hi, lo))) = (packet.u128(at + 24), packet.u128(at + 8)) else { return malformed };
    let (Some(version), Some(length)) = (packet.u8(at), packet.u16(at + 4)) else { return malformed };
    if version >> 4 != 6 {
        return malformed;
    }
    let length = usize::from(u16::from_be(length));
    let end = (length != 0).then_some((at + HEADER6 + length) as u64);
    Frame::V6(Datagram { source: Addr6::from_wire(hi, lo), at, header: HEADER6, sound: true, end })
}
