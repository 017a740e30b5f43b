//! From a frame to the reason for its verdict. The order is that of the interface, section 5: allowed, blocked, then
//! the rest. Whether a reason passes or drops is not decided here.

use edge_common::{
    address::{Addr4, Addr6},
    flow::{End, Flow},
    ports::Exposure,
    reason::{Family, Reason},
    table::Trust,
};

use crate::{
    parse::{Datagram, Frame, Packet, parse},
    upper::{Address, Piece, Upper, asked, flow},
};

/// What the agent has written for the kernel about one family's sources.
pub trait Lists<A> {
    fn trust(&self, source: A) -> Trust;
    /// Whether a block of this source holds now; if so, a packet of `bytes` is counted for it.
    fn blocked(&self, source: A, bytes: u64) -> Block;
    /// Takes one SYN from what the source may send now; `false` where nothing is left.
    fn admits_syn(&self, source: A) -> bool;
    /// The same of packets.
    fn admits_packet(&self, source: A) -> bool;
    /// Whether the source has as many connections as it may.
    fn is_at_cap(&self, source: A) -> bool;
    /// Its SYN from this port passes.
    fn note_opening(&self, source: A, port: u16);
}

/// What a look among the blocks found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    None,
    /// The first packet that this block counts.
    First,
    Again,
}

/// What the agent has switched on, and what holds for all sources.
pub trait Tables: Lists<Addr4> + Lists<Addr6> {
    fn drops_fragments(&self) -> bool;
    fn limits_ports(&self) -> bool;
    fn limits_syns(&self) -> bool;
    fn limits_packets(&self) -> bool;
    fn caps_connections(&self) -> bool;
    /// Whether connections to this TCP port count.
    fn caps(&self, port: u16) -> bool;
    fn exposes(&self, what: Exposure) -> bool;
    /// Whether this host sent something lately to which a datagram of this flow is an answer.
    fn answers(&self, flow: &Flow) -> bool;
}

/// A verdict's reason, and what it is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub reason: Reason,
    pub family: Family,
    pub bytes: u64,
    /// Whether its drop is worth a sample by itself: the first of a block, and any for another reason.
    pub notable: bool,
}

/// What speaks of a packet, and whether its drop is notable.
type Verdict = (Reason, bool);

#[inline(always)]
pub fn judge(packet: &impl Packet, tables: &impl Tables) -> Judgement {
    match parse(packet) {
        Frame::V4(datagram) => {
            let bytes = bytes(packet, datagram.end);
            let (reason, notable) = reason(packet, &datagram, bytes, tables);
            Judgement { reason, family: Family::Ipv4, bytes, notable }
        }
        Frame::V6(datagram) => {
            let bytes = bytes(packet, datagram.end);
            let (reason, notable) = match datagram.source.mapped() {
                None => reason(packet, &datagram, bytes, tables),
                // It is its IPv4 address to every list, and to be on a wire as such is an error (Linux 5.4 drops it too).
                Some(four) => listed(tables, four, bytes).1.unwrap_or((Reason::Malformed, true)),
            };
            Judgement { reason, family: Family::Ipv6, bytes, notable }
        }
        Frame::Malformed(family) => {
            Judgement { reason: Reason::Malformed, family, bytes: packet.whole(), notable: true }
        }
        Frame::Other => {
            Judgement { reason: Reason::Passed, family: Family::Other, bytes: packet.whole(), notable: true }
        }
    }
}

#[inline(always)]
fn reason<A: Address, T: Tables + Lists<A>>(
    packet: &impl Packet,
    datagram: &Datagram<A>,
    bytes: u64,
    tables: &T,
) -> Verdict {
    let (trust, listed) = listed(tables, datagram.source, bytes);
    match listed {
        Some(verdict) => verdict,
        None => (unlisted(packet, datagram, bytes, trust, tables), true),
    }
}

/// Of a source that no list decides.
#[inline(always)]
fn unlisted<A: Address, T: Tables + Lists<A>>(
    packet: &impl Packet,
    datagram: &Datagram<A>,
    bytes: u64,
    trust: Trust,
    tables: &T,
) -> Reason {
    let end = datagram.end.unwrap_or(bytes);
    if !datagram.sound || end > bytes {
        return Reason::Malformed;
    }
    let limited = !trust.has(Trust::PROXY);
    let mut opens_from = None;
    if tables.drops_fragments() || tables.limits_ports() || tables.limits_syns() || tables.caps_connections() {
        let Some(upper) = packet.upper(asked(datagram, end)) else { return Reason::Malformed };
        if tables.drops_fragments() && !matches!(upper.piece, Piece::Whole) {
            return Reason::Fragment;
        }
        if let Some(reason) = by_upper(packet, datagram, upper, tables, limited) {
            return reason;
        }
        opens_from = (upper.opens && tables.caps_connections()).then_some(upper.source_port);
    }
    if tables.limits_packets() && limited && !tables.admits_packet(datagram.source) {
        return Reason::PacketRate;
    }
    // Of every port: the one that the socket listens on is another where the destination is translated.
    if let Some(port) = opens_from {
        tables.note_opening(datagram.source, u16::from_be(port));
    }
    Reason::Passed
}

/// What the lists alone say of a source. Protected is no pass: the packet goes on to every other check.
#[inline(always)]
fn listed<A: Copy>(tables: &impl Lists<A>, source: A, bytes: u64) -> (Trust, Option<Verdict>) {
    let trust = tables.trust(source);
    if trust.has(Trust::ALLOWED) {
        return (trust, Some((Reason::Allowed, false)));
    }
    if !trust.has(Trust::PROTECTED) {
        match tables.blocked(source, bytes) {
            Block::First => return (trust, Some((Reason::Blocked, true))),
            Block::Again => return (trust, Some((Reason::Blocked, false))),
            Block::None => {}
        }
    }
    (trust, trust.has(Trust::OWN).then_some((Reason::Malformed, true)))
}

/// What ports and SYN rates say, where they are limited.
#[inline(always)]
fn by_upper<A: Address, T: Tables + Lists<A>>(
    packet: &impl Packet,
    datagram: &Datagram<A>,
    upper: Upper,
    tables: &T,
    limited: bool,
) -> Option<Reason> {
    if matches!(upper.piece, Piece::Later)
        || !(tables.limits_ports() || tables.limits_syns() || tables.caps_connections())
    {
        return None;
    }
    if upper.cut {
        return Some(Reason::Malformed);
    }
    if tables.limits_ports() && !exposed(packet, datagram, upper, tables) {
        return Some(Reason::PortClosed);
    }
    if tables.caps_connections() && limited && opens_too_many(packet, datagram, upper, tables) {
        return Some(Reason::ConnectionCap);
    }
    if upper.opens && tables.limits_syns() && limited && !tables.admits_syn(datagram.source) {
        return Some(Reason::SynRate);
    }
    None
}

/// A source at its cap opens no more: its SYNs, and what would complete a handshake. All else of it is looked up among the
/// sockets, which costs about 100 ns, only while it is there.
#[inline(always)]
fn opens_too_many<A: Address, T: Tables + Lists<A>>(
    packet: &impl Packet,
    datagram: &Datagram<A>,
    upper: Upper,
    tables: &T,
) -> bool {
    let may = upper.opens || upper.acks;
    may && tables.caps(u16::from_be(upper.port))
        && tables.is_at_cap(datagram.source)
        && (upper.opens || packet.completes(datagram.at, A::SIX, upper))
}

#[inline(always)]
fn exposed<A: Address, T: Tables + Lists<A>>(
    packet: &impl Packet,
    datagram: &Datagram<A>,
    upper: Upper,
    tables: &T,
) -> bool {
    const ICMP: u8 = 1;
    const IGMP: u8 = 2;
    const ICMPV6: u8 = 58;
    let Upper { source_port, port, .. } = upper;
    match upper.protocol {
        // What is no SYN belongs to a connection that the stack knows, or does not.
        Upper::TCP => !upper.opens || tables.exposes(Exposure::tcp(u16::from_be(port))),
        Upper::UDP => {
            (u16::from_be(source_port), u16::from_be(port)) == A::DHCP
                || tables.exposes(Exposure::udp(u16::from_be(port)))
                || flow(packet, datagram, source_port, port).is_some_and(|flow| tables.answers(&flow))
        }
        ICMP | IGMP | ICMPV6 => true,
        protocol => tables.exposes(Exposure::protocol(protocol)),
    }
}

/// The source as IPv6 halves, IPv4 as IPv4-mapped; zero where there is none.
#[inline(always)]
pub fn source(packet: &impl Packet) -> [u64; 2] {
    match parse(packet) {
        Frame::V4(datagram) => datagram.source.halves(),
        Frame::V6(datagram) => datagram.source.halves(),
        Frame::Other | Frame::Malformed(_) => [0; 2],
    }
}

/// Only a datagram that goes on beyond the first buffer needs the dearer length.
#[inline(always)]
fn bytes(packet: &impl Packet, end: Option<u64>) -> u64 {
    let readable = packet.readable();
    if end.is_none_or(|end| end > readable) { packet.whole() } else { readable }
}

#[cfg(test)]
mod tests;
