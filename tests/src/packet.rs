//! Frames to the letter, lies included: what each field claims is set apart from what is there. By hand, since a
//! library that builds packets builds true ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::{HOST4, HOST6};

pub const VLAN: u16 = 0x8100;
pub const SERVICE: u16 = 0x88a8;

pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// An Ethernet frame with an IP packet, true unless told otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// EtherTypes of the tags, outermost first.
    pub tags: Vec<u16>,
    /// In place of that of the source's family.
    pub ethertype: Option<u16>,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// In place of the true version.
    pub version: Option<u8>,
    /// Words of 4 bytes: the IPv4 options.
    pub options: u8,
    /// In place of the true length of the IPv4 header in words.
    pub header_words: Option<u8>,
    /// In place of the true total length (IPv6: payload length).
    pub length: Option<u16>,
    /// Of IPv4: the offset in units of 8 bytes, and whether more follows.
    pub fragment: (u16, bool),
    pub extensions: Vec<Extension>,
    pub upper: Upper,
    pub payload: usize,
    /// Bytes behind the datagram, as Ethernet's padding.
    pub trailer: usize,
}

/// An IPv6 extension header: its type, and its bytes after the first, which is the next one's type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    pub kind: u8,
    pub rest: Vec<u8>,
}

/// What IP carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upper {
    /// `words` is what the data offset claims; the header has 20 bytes.
    Tcp {
        from: u16,
        to: u16,
        flags: u8,
        words: u8,
    },
    /// `length`: in place of the true one.
    Udp {
        from: u16,
        to: u16,
        length: Option<u16>,
    },
    Other {
        protocol: u8,
        bytes: Vec<u8>,
    },
}

impl Packet {
    /// A SYN to port 443 of the lab's host.
    pub fn new(source: IpAddr) -> Packet {
        Packet {
            tags: Vec::new(),
            ethertype: None,
            source,
            destination: if source.is_ipv4() { HOST4 } else { HOST6 },
            version: None,
            options: 0,
            header_words: None,
            length: None,
            fragment: (0, false),
            extensions: Vec::new(),
            upper: Upper::Tcp { from: 12_345, to: 443, flags: SYN, words: 5 },
            payload: 0,
            trailer: 0,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        bytes
    }

    /// Appends the frame.
    pub fn write(&self, to: &mut Vec<u8>) {
        to.extend([0x02; 6]);
        to.extend([0x04; 6]);
        for (number, tag) in self.tags.iter().enumerate() {
            to.extend(tag.to_be_bytes());
            to.extend([0, number as u8 + 5]);
        }
        self.write_datagram(to);
        to.resize(to.len() + self.trailer, 0);
    }

    /// EtherType and datagram.
    fn write_datagram(&self, to: &mut Vec<u8>) {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.write4(source, destination, to),
            (source, destination) => self.write6(as6(source), as6(destination), to),
        }
    }

    fn write4(&self, source: Ipv4Addr, destination: Ipv4Addr, to: &mut Vec<u8>) {
        let words = 5 + self.options;
        let total = usize::from(words) * 4 + self.upper_length();
        let (offset, more) = self.fragment;
        to.extend(self.ethertype.unwrap_or(0x0800).to_be_bytes());
        to.extend([self.version.unwrap_or(4) << 4 | self.header_words.unwrap_or(words) & 15, 0]);
        to.extend(self.length.unwrap_or(total as u16).to_be_bytes());
        to.extend([0x12, 0x34]);
        to.extend((offset & 0x1fff | u16::from(more) << 13).to_be_bytes());
        to.extend([64, self.upper.protocol(), 0, 0]);
        to.extend(source.octets());
        to.extend(destination.octets());
        // No operation.
        to.resize(to.len() + usize::from(self.options) * 4, 1);
        self.write_upper(to);
    }

    fn write6(&self, source: Ipv6Addr, destination: Ipv6Addr, to: &mut Vec<u8>) {
        let extended: usize = self.extensions.iter().map(|extension| 1 + extension.rest.len()).sum();
        let payload = extended + self.upper_length();
        let mut kinds = self.extensions.iter().map(|extension| extension.kind).chain([self.upper.protocol()]);
        to.extend(self.ethertype.unwrap_or(0x86dd).to_be_bytes());
        to.extend([self.version.unwrap_or(6) << 4, 0, 0, 0]);
        to.extend(self.length.unwrap_or(payload as u16).to_be_bytes());
        to.extend(kinds.next());
        to.push(64);
        to.extend(source.octets());
        to.extend(destination.octets());
        for extension in &self.extensions {
            to.extend(kinds.next());
            to.extend(&extension.rest);
        }
        self.write_upper(to);
    }

    fn upper_length(&self) -> usize {
        self.upper.head_length() + self.payload
    }

    fn write_upper(&self, to: &mut Vec<u8>) {
        match &self.upper {
            Upper::Tcp { from, to: port, flags, words } => {
                to.extend(from.to_be_bytes());
                to.extend(port.to_be_bytes());
                to.extend([0, 0, 0, 1, 0, 0, 0, 0, words << 4, *flags, 0xff, 0xff, 0, 0, 0, 0]);
            }
            Upper::Udp { from, to: port, length } => {
                to.extend(from.to_be_bytes());
                to.extend(port.to_be_bytes());
                to.extend(length.unwrap_or(self.upper_length() as u16).to_be_bytes());
                to.extend([0, 0]);
            }
            Upper::Other { bytes, .. } => to.extend(bytes),
        }
        to.resize(to.len() + self.payload, 0xa5);
    }
}

/// What rows say in a word.
impl Packet {
    pub fn tags(mut self, tags: &[u16]) -> Packet {
        self.tags = tags.to_vec();
        self
    }

    pub fn to(mut self, destination: IpAddr) -> Packet {
        self.destination = destination;
        self
    }

    pub fn tcp(mut self, port: u16, flags: u8) -> Packet {
        self.upper = Upper::Tcp { from: 12_345, to: port, flags, words: 5 };
        self
    }

    pub fn udp(mut self, from: u16, port: u16) -> Packet {
        self.upper = Upper::Udp { from, to: port, length: None };
        self
    }

    /// Another protocol, 8 bytes of it.
    pub fn protocol(mut self, protocol: u8) -> Packet {
        self.upper = Upper::Other { protocol, bytes: vec![0x80, 0, 0, 0, 0, 1, 0, 1] };
        self
    }

    pub fn payload(mut self, length: usize) -> Packet {
        self.payload = length;
        self
    }

    pub fn options(mut self, words: u8) -> Packet {
        self.options = words;
        self
    }

    /// Of IPv4: the offset in units of 8 bytes, and whether more follows.
    pub fn fragment(mut self, offset: u16, more: bool) -> Packet {
        self.fragment = (offset, more);
        self
    }

    pub fn extended(mut self, extensions: impl IntoIterator<Item = Extension>) -> Packet {
        self.extensions.extend(extensions);
        self
    }

    pub fn lying(mut self, lie: impl FnOnce(&mut Packet)) -> Packet {
        lie(&mut self);
        self
    }
}

impl Extension {
    /// A header of so many bytes, a multiple of 8.
    pub fn sized(kind: u8, length: usize) -> Extension {
        let mut rest = vec![0; length.max(8) - 1];
        rest[0] = (length / 8).saturating_sub(1) as u8;
        Extension { kind, rest }
    }

    /// The offset is in units of 8 bytes.
    pub fn fragment(offset: u16, more: bool) -> Extension {
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        Extension { kind: 44, rest: vec![0, high, low, 0, 0, 0x12, 0x34] }
    }

    /// A header of so many bytes, a multiple of 4.
    pub fn authentication(length: usize) -> Extension {
        let mut rest = vec![0; length.max(8) - 1];
        rest[0] = (length / 4).saturating_sub(2) as u8;
        Extension { kind: 51, rest }
    }

    /// Claims another length, in its own unit.
    pub fn claiming(mut self, length: u8) -> Extension {
        self.rest[0] = length;
        self
    }
}

impl Upper {
    pub fn protocol(&self) -> u8 {
        match self {
            Upper::Tcp { .. } => 6,
            Upper::Udp { .. } => 17,
            Upper::Other { protocol, .. } => *protocol,
        }
    }

    fn head_length(&self) -> usize {
        match self {
            Upper::Tcp { .. } => 20,
            Upper::Udp { .. } => 8,
            Upper::Other { bytes, .. } => bytes.len(),
        }
    }
}

fn as6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(four) => four.to_ipv6_mapped(),
        IpAddr::V6(six) => six,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    fn four() -> Packet {
        Packet::new("192.0.2.1".parse().unwrap())
    }

    fn six() -> Packet {
        Packet::new("2001:db8::1".parse().unwrap())
    }

    #[test]
    fn a_packet_that_does_not_lie_is_what_others_read() {
        let extensions = [Extension::sized(0, 16), Extension::authentication(16), Extension::sized(60, 8)];
        for packet in [four().options(3).payload(9), six().payload(9), six().extended(extensions)] {
            let bytes = packet.tags(&[SERVICE, VLAN]).tcp(8443, SYN | ACK).bytes();
            let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
            assert_eq!(sliced.link_exts.len(), 2);
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("{sliced:?}") };
            assert_eq!((tcp.destination_port(), tcp.syn(), tcp.ack()), (8443, true, true));
        }
        let bytes = six().udp(53, 5353).payload(4).bytes();
        let Some(TransportSlice::Udp(udp)) = SlicedPacket::from_ethernet(&bytes).unwrap().transport else { panic!() };
        assert_eq!((udp.source_port(), udp.destination_port(), udp.length()), (53, 5353, 12));
    }

    #[test]
    fn fragments_say_where_they_lie() {
        let bytes = four().fragment(3, true).bytes();
        let Some(NetSlice::Ipv4(ip)) = SlicedPacket::from_ethernet(&bytes).unwrap().net else { panic!() };
        assert_eq!((ip.header().fragments_offset().value(), ip.header().more_fragments()), (3, true));
        let bytes = six().extended([Extension::fragment(5, false)]).bytes();
        assert_eq!(bytes[14 + 40..][..4], [6, 0, 0, 5 << 3]);
    }
}
