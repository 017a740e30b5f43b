//! TCP and UDP headers, as far as ports, flags and lengths go.

use super::{chain::Upper, frame::Datagram};

pub const ICMP: u8 = 1;
pub const IGMP: u8 = 2;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// What an IP datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    Tcp { to: u16, flags: u8 },
    Udp { from: u16, to: u16 },
    Other { protocol: u8 },
}

impl Segment {
    /// `None`: the header is cut short or lies.
    pub fn read(upper: Upper, datagram: Datagram) -> Option<Segment> {
        match upper.protocol {
            TCP => Segment::tcp(upper, datagram),
            UDP => Segment::udp(upper, datagram),
            protocol => Some(Segment::Other { protocol }),
        }
    }

    fn tcp(upper: Upper, datagram: Datagram) -> Option<Segment> {
        let fixed = datagram.at(upper.begin, 20)?;
        let length = usize::from(fixed[12] >> 4) * 4;
        let is_whole = length >= 20 && upper.begin + length <= datagram.len();
        is_whole.then_some(Segment::Tcp { to: datagram.word(upper.begin + 2)?, flags: fixed[13] })
    }

    fn udp(upper: Upper, datagram: Datagram) -> Option<Segment> {
        datagram.at(upper.begin, 8)?;
        let length = usize::from(datagram.word(upper.begin + 4)?);
        // The rest of a first fragment's datagram comes in other packets.
        let is_true = length >= 8 && (upper.is_first_fragment || upper.begin + length <= datagram.len());
        is_true.then_some(Segment::Udp { from: datagram.word(upper.begin)?, to: datagram.word(upper.begin + 2)? })
    }

    /// Opens a connection: SYN without ACK.
    pub fn is_syn(&self) -> bool {
        matches!(self, Segment::Tcp { flags, .. } if flags & (SYN | ACK) == SYN)
    }
}
