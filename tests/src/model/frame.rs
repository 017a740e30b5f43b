//! From the wire's bytes to an IP header: tags, version, addresses, and where the datagram ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A frame as it comes in.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub bytes: &'a [u8],
    /// How many of them lie in the first buffer; nothing beyond can be read.
    pub readable: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ipv4,
    Ipv6,
    Other,
}

impl Family {
    pub const fn name(self) -> &'static str {
        match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
            Family::Other => "other",
        }
    }
}

/// Bytes that end where a length field says, or the frame.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    bytes: &'a [u8],
    readable: usize,
}

/// An IP header whose fixed part could be read. What it claims is not checked yet.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    pub family: Family,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Of IPv4 the protocol, of IPv6 the first next header.
    pub next: u8,
    /// From the tags on, to the frame's end.
    bytes: Datagram<'a>,
}

impl<'a> Frame<'a> {
    /// All of it in one buffer.
    pub fn whole(bytes: &'a [u8]) -> Frame<'a> {
        Frame { bytes, readable: bytes.len() }
    }

    /// What follows Ethernet and at most two tags; `None` if that is not IP.
    pub fn network(self) -> Option<(Family, Datagram<'a>)> {
        let all = Datagram { bytes: self.bytes, readable: self.readable };
        let mut at = 12;
        for _ in 0..2 {
            if !matches!(all.word(at)?, 0x8100 | 0x88a8) {
                break;
            }
            at += 4;
        }
        let family = match all.word(at)? {
            0x0800 => Family::Ipv4,
            0x86dd => Family::Ipv6,
            _ => return None,
        };
        let begin = at + 2;
        Some((family, Datagram { bytes: self.bytes.get(begin..)?, readable: self.readable.saturating_sub(begin) }))
    }
}

impl<'a> Datagram<'a> {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of the datagram that can be read.
    pub fn at(&self, begin: usize, length: usize) -> Option<&'a [u8]> {
        let end = begin + length;
        if end <= self.readable { self.bytes.get(begin..end) } else { None }
    }

    pub fn word(&self, at: usize) -> Option<u16> {
        self.at(at, 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
    }

    fn ending_at(self, end: usize) -> Option<Datagram<'a>> {
        self.bytes.get(..end).map(|bytes| Datagram { bytes, ..self })
    }
}

impl<'a> Header<'a> {
    pub fn read(family: Family, bytes: Datagram<'a>) -> Option<Header<'a>> {
        match family {
            Family::Ipv4 => Header::read4(bytes),
            Family::Ipv6 => Header::read6(bytes),
            Family::Other => None,
        }
    }

    fn read4(bytes: Datagram<'a>) -> Option<Header<'a>> {
        let fixed = bytes.at(0, 20)?;
        let address = |at: usize| IpAddr::V4(Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]));
        let (source, destination) = (address(12), address(16));
        (fixed[0] >> 4 == 4).then_some(Header { family: Family::Ipv4, source, destination, next: fixed[9], bytes })
    }

    fn read6(bytes: Datagram<'a>) -> Option<Header<'a>> {
        let fixed = bytes.at(0, 40)?;
        let address = |at: usize| <[u8; 16]>::try_from(&fixed[at..at + 16]).ok().map(Ipv6Addr::from).map(IpAddr::V6);
        let (source, destination) = (address(8)?, address(24)?);
        (fixed[0] >> 4 == 6).then_some(Header { family: Family::Ipv6, source, destination, next: fixed[6], bytes })
    }

    /// The header with what follows, to the end that its length field claims; `None` if it cannot be true.
    pub fn datagram(&self) -> Option<Datagram<'a>> {
        match self.family {
            Family::Ipv4 => {
                let total = usize::from(self.bytes.word(2)?);
                (self.length() >= 20 && total >= self.length()).then_some(())?;
                self.bytes.ending_at(total)
            }
            _ => match usize::from(self.bytes.word(4)?) {
                0 => Some(self.bytes),
                payload => self.bytes.ending_at(40 + payload),
            },
        }
    }

    /// Of the header: IPv4 with its options, IPv6 without extensions.
    pub fn length(&self) -> usize {
        match (self.family, self.bytes.at(0, 1)) {
            (Family::Ipv4, Some(first)) => usize::from(first[0] & 15) * 4,
            _ => 40,
        }
    }

    /// How many bytes are counted: of the whole frame, or of the first buffer where the datagram ends in it.
    pub fn counted(&self, frame: Frame) -> u64 {
        let begin = frame.bytes.len() - self.bytes.len();
        let (fixed, at) = if self.family == Family::Ipv4 { (0, 2) } else { (40, 4) };
        let length = usize::from(self.bytes.word(at).unwrap_or(0));
        let claims_nothing = self.family == Family::Ipv6 && length == 0;
        (if begin + fixed + length <= frame.readable && !claims_nothing { frame.readable } else { frame.bytes.len() })
            as u64
    }

    /// Of IPv4: how far into the whole datagram this lies, in units of 8 bytes, and whether more follows.
    pub fn fragment4(&self) -> (u16, bool) {
        let word = if self.family == Family::Ipv4 { self.bytes.word(6).unwrap_or(0) } else { 0 };
        (word & 0x1fff, word & 0x2000 != 0)
    }
}
