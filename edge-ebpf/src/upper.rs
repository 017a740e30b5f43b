//! What lies behind the IP header: fragments, IPv6 extension headers, TCP and UDP. Read only where a feature asks.

use edge_common::{
    address::{Addr4, Addr6},
    flow::{End, Flow},
};

use crate::parse::{Datagram, Packet};

/// An extension chain of more is malformed; the longest that RFC 8200 orders has 6.
const MAX_EXTENSIONS: usize = 6;

const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// Which part of a datagram a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    Whole = 0,
    /// With the upper header, which must be whole (RFC 7112).
    First = 1,
    /// Without any.
    Later = 2,
}

/// What is looked for behind an IP header. Plain numbers, so that the kernel can look in a function of its own, which
/// the verifier walks once and not anew for every path that leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Where the IP header begins.
    pub at: u32,
    /// Its length, extensions aside.
    pub header: u32,
    /// Where the datagram ends in the frame.
    pub end: u32,
    pub six: bool,
}

/// What was found behind an IP header. Ports as they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    pub protocol: u8,
    pub piece: Piece,
    /// The upper header was to be read, and is cut short or contradicts itself.
    pub cut: bool,
    /// TCP with a SYN and without an ACK: a new connection.
    pub opens: bool,
    /// TCP with an ACK and neither SYN nor RST: it may complete a handshake.
    pub acks: bool,
    /// Of TCP and UDP.
    pub source_port: u16,
    pub port: u16,
}

impl Upper {
    pub const TCP: u8 = TCP;
    pub const UDP: u8 = UDP;
    /// Stands for headers that cannot be followed.
    pub const LOST: u64 = u64::MAX;

    /// As one number; [`LOST`](Self::LOST) stands for none.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.port as u64
            | (self.source_port as u64) << 16
            | (self.protocol as u64) << 32
            | (self.piece as u64) << 40
            | (self.cut as u64) << 42
            | (self.opens as u64) << 43
            | (self.acks as u64) << 44
    }

    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Option<Upper> {
        if bits == Self::LOST {
            return None;
        }
        let piece = match bits >> 40 & 3 {
            0 => Piece::Whole,
            1 => Piece::First,
            _ => Piece::Later,
        };
        Some(Upper {
            protocol: (bits >> 32) as u8,
            piece,
            cut: bits >> 42 & 1 == 1,
            opens: bits >> 43 & 1 == 1,
            acks: bits >> 44 & 1 == 1,
            source_port: (bits >> 16) as u16,
            port: bits as u16,
        })
    }
}

/// Follows the headers. `None`: they cannot be followed.
#[inline(always)]
pub fn look(packet: &impl Packet, asked: Asked) -> Option<Upper> {
    let payload = if asked.six { payload6(packet, asked)? } else { payload4(packet, asked)? };
    Some(upper_at(packet, payload, asked.end))
}

/// The same where no extension header is in the way, which is nearly always; `None`: one is.
#[inline(always)]
pub fn look_past_no_extension(packet: &impl Packet, asked: Asked) -> Option<Option<Upper>> {
    if !asked.six {
        return Some(look(packet, asked));
    }
    let Some([head]) = packet.words::<1>(asked.at as usize + 4) else { return Some(None) };
    let [_, _, protocol, _] = head.to_ne_bytes();
    if is_extension(protocol) {
        return None;
    }
    let payload = Payload { protocol, at: asked.at + asked.header, piece: Piece::Whole, lost: false };
    Some(Some(upper_at(packet, payload, asked.end)))
}

#[inline(always)]
fn upper_at(packet: &impl Packet, payload: Payload, end: u32) -> Upper {
    let Payload { protocol, piece, .. } = payload;
    let bare = Upper { protocol, piece, cut: false, opens: false, acks: false, source_port: 0, port: 0 };
    match piece {
        Piece::Later => bare,
        Piece::Whole | Piece::First => read(packet, payload, end, bare).unwrap_or(Upper { cut: true, ..bare }),
    }
}

/// Where the upper header begins, and whose it is.
struct Payload {
    protocol: u8,
    at: u32,
    piece: Piece,
    /// It is not known where.
    lost: bool,
}

#[inline(always)]
fn payload4(packet: &impl Packet, asked: Asked) -> Option<Payload> {
    let at = asked.at as usize;
    let [head] = packet.words::<1>(at + 8)?;
    let [_, protocol, _, _] = head.to_ne_bytes();
    let [fragment] = packet.words::<1>(at + 4)?;
    let fragment = u16::from_be(second(fragment));
    let piece = piece(fragment & 0x1fff != 0, fragment & 0x2000 != 0);
    Some(Payload { protocol, at: asked.at + asked.header, piece, lost: false })
}

/// A first fragment is one, even where the headers behind its fragment header cannot be followed.
#[inline(always)]
fn payload6(packet: &impl Packet, asked: Asked) -> Option<Payload> {
    let mut piece = Piece::Whole;
    match walk6(packet, asked, &mut piece) {
        None if matches!(piece, Piece::First) => Some(Payload { protocol: FRAGMENT, at: asked.at, piece, lost: true }),
        payload => payload,
    }
}

#[inline(always)]
fn walk6(packet: &impl Packet, asked: Asked, found: &mut Piece) -> Option<Payload> {
    let [head] = packet.words::<1>(asked.at as usize + 4)?;
    let [_, _, mut protocol, _] = head.to_ne_bytes();
    let mut at = asked.at + asked.header;
    for extensions in 0..=MAX_EXTENSIONS {
        if !is_extension(protocol) {
            return Some(Payload { protocol, at, piece: *found, lost: false });
        }
        if extensions == MAX_EXTENSIONS {
            break;
        }
        let [head] = packet.words::<1>(at as usize)?;
        let [next, length, high, low] = head.to_ne_bytes();
        let behind = at
            + match protocol {
                AUTHENTICATION => u32::from(length) * 4 + 8,
                FRAGMENT => 8,
                _ => u32::from(length) * 8 + 8,
            };
        if behind > asked.end {
            return None;
        }
        if protocol == FRAGMENT {
            match piece((high, low & 0xf8) != (0, 0), low & 1 != 0) {
                // An atomic fragment (RFC 6946) is a whole datagram.
                Piece::Whole => {}
                Piece::First => *found = Piece::First,
                Piece::Later => return Some(Payload { protocol: next, at: behind, piece: Piece::Later, lost: false }),
            }
        }
        (protocol, at) = (next, behind);
    }
    None
}

/// `None`: cut short, or its lengths contradict each other.
#[inline(always)]
fn read(packet: &impl Packet, payload: Payload, end: u32, bare: Upper) -> Option<Upper> {
    let at = payload.at as usize;
    let left = end.checked_sub(payload.at).filter(|_| !payload.lost)?;
    match payload.protocol {
        TCP => {
            // RFC 9293, section 3.1.
            let [ports, _, _, head, _] = packet.words::<5>(at)?;
            let [offset, flags, ..] = head.to_ne_bytes();
            let offset = u32::from(offset >> 4) * 4;
            let opens = flags & 0x12 == 0x02;
            let whole = left >= 20 && offset >= 20 && offset <= left;
            let acks = flags & 0x16 == 0x10;
            whole.then_some(Upper { opens, acks, source_port: first(ports), port: second(ports), ..bare })
        }
        UDP => {
            // RFC 768. A fragmented datagram is longer than this piece of it.
            let [ports, head] = packet.words::<2>(at)?;
            let length = u32::from(u16::from_be(first(head)));
            let whole = left >= 8 && length >= 8 && (length <= left || !matches!(payload.piece, Piece::Whole));
            whole.then_some(Upper { source_port: first(ports), port: second(ports), ..bare })
        }
        _ => Some(bare),
    }
}

/// A family's addresses in a datagram.
pub trait Address: End {
    const SIX: bool;
    /// The ports from which and to which a client gets its DHCP answers.
    const DHCP: (u16, u16);
    fn destination(packet: &impl Packet, datagram: &Datagram<Self>) -> Option<Self>;
}

impl Address for Addr4 {
    const SIX: bool = false;
    const DHCP: (u16, u16) = (67, 68);

    #[inline(always)]
    fn destination(packet: &impl Packet, datagram: &Datagram<Addr4>) -> Option<Addr4> {
        packet.u32(datagram.at + 16).map(Addr4::from_wire)
    }
}

impl Address for Addr6 {
    const SIX: bool = true;
    const DHCP: (u16, u16) = (547, 546);

    #[inline(always)]
    fn destination(packet: &impl Packet, datagram: &Datagram<Addr6>) -> Option<Addr6> {
        packet.u128(datagram.at + 24).map(|(hi, lo)| Addr6::from_wire(hi, lo))
    }
}

const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP | SHIM6)
}

const fn piece(offset: bool, more: bool) -> Piece {
    match (offset, more) {
        (true, _) => Piece::Later,
        (false, true) => Piece::First,
        (false, false) => Piece::Whole,
    }
}

/// The first two bytes of a word, as they lie.
#[inline(always)]
const fn first(word: u32) -> u16 {
    let [a, b, _, _] = word.to_ne_bytes();
    u16::from_ne_bytes([a, b])
}

#[inline(always)]
const fn second(word: u32) -> u16 {
    let [_, _, a, b] = word.to_ne_bytes();
    u16::from_ne_bytes([a, b])
}

/// Both ends of a UDP datagram as its answer's sender sees them: the source is the remote end.
#[inline(always)]
pub fn flow<A: Address>(packet: &impl Packet, datagram: &Datagram<A>, source_port: u16, port: u16) -> Option<Flow> {
    Some(Flow::new(datagram.source, source_port, A::destination(packet, datagram)?, port))
}

/// Of a datagram on its way out: the flow that an answer would belong to, and the local port. `None` for all but UDP.
#[inline(always)]
pub fn sent<A: Address>(packet: &impl Packet, datagram: &Datagram<A>, end: u64) -> Option<(Flow, u16)> {
    let upper = packet.upper(asked(datagram, end))?;
    if upper.protocol != UDP || upper.cut || matches!(upper.piece, Piece::Later) {
        return None;
    }
    let flow = Flow::new(A::destination(packet, datagram)?, upper.port, datagram.source, upper.source_port);
    Some((flow, u16::from_be(upper.source_port)))
}

/// A datagram that ends at `end` as the question for its upper header.
#[inline(always)]
pub fn asked<A: Address>(datagram: &Datagram<A>, end: u64) -> Asked {
    Asked { at: datagram.at as u32, header: datagram.header as u32, end: end as u32, six: A::SIX }
}
