//! Classes of IPv4.

use super::{Generator, Made};
use crate::packet::{Packet, SYN, Upper};

pub fn syn(generator: &mut Generator) -> Made {
    let port = generator.port();
    Made::Packet(generator.four().tcp(port, SYN))
}

pub fn tcp(generator: &mut Generator) -> Made {
    let upper = generator.tcp();
    carrying(generator, upper)
}

pub fn udp(generator: &mut Generator) -> Made {
    let upper = generator.udp();
    carrying(generator, upper)
}

pub fn control(generator: &mut Generator) -> Made {
    let protocol = [1, 2, 58][generator.random.usize(..3)];
    Made::Packet(generator.four().protocol(protocol))
}

pub fn other(generator: &mut Generator) -> Made {
    let upper = generator.other();
    carrying(generator, upper)
}

pub fn options(generator: &mut Generator) -> Made {
    let upper = generator.upper();
    let words = generator.random.u8(1..11);
    Made::Packet(Packet { upper, ..generator.four().options(words) })
}

pub fn dhcp(generator: &mut Generator) -> Made {
    let (from, to) = [(67, 68), (68, 67), (547, 546), (67, 67), (68, 68)][generator.random.usize(..5)];
    Made::Packet(generator.four().udp(from, to))
}

pub fn header_lies(generator: &mut Generator) -> Made {
    let header_words = Some(generator.random.u8(..16));
    let upper = generator.upper();
    Made::Packet(Packet { header_words, upper, ..generator.four() })
}

pub fn version_lies(generator: &mut Generator) -> Made {
    let version = Some(generator.random.u8(..16));
    Made::Packet(Packet { version, ..generator.four() })
}

pub fn length_below_header(generator: &mut Generator) -> Made {
    let options = generator.random.u8(..11);
    let length = Some(generator.random.u16(..=20 + u16::from(options) * 4));
    Made::Packet(Packet { length, options, ..generator.four() })
}

pub fn length_beyond_frame(generator: &mut Generator) -> Made {
    let packet = generator.four();
    let beyond = 40 + packet.payload as u16 + if generator.random.bool() { 1 } else { generator.random.u16(..60_000) };
    Made::Packet(Packet { length: Some(beyond), ..packet })
}

pub fn length_within_frame(generator: &mut Generator) -> Made {
    let upper = generator.upper();
    let length = Some(generator.random.u16(20..70));
    Made::Packet(Packet { length, upper, payload: 64, ..generator.four() })
}

pub fn first_fragment(generator: &mut Generator) -> Made {
    let upper = generator.upper();
    let mut packet = Packet { upper, ..generator.four().fragment(0, true) };
    // The whole datagram's length stands in the first fragment's UDP header.
    if let Upper::Udp { length, .. } = &mut packet.upper {
        *length = Some(generator.random.u16(..2000));
    }
    Made::Packet(packet)
}

pub fn later_fragment(generator: &mut Generator) -> Made {
    let (offset, more) = (generator.random.u16(1..0x2000), generator.random.bool());
    let upper = generator.upper();
    Made::Packet(Packet { upper, ..generator.four().fragment(offset, more) })
}

pub fn tiny_fragment(generator: &mut Generator) -> Made {
    let length = generator.random.usize(..24);
    let protocol = if generator.random.bool() { 6 } else { 17 };
    let upper = Upper::Other { protocol, bytes: generator.bytes(length) };
    let fragment = (0, generator.random.u8(..4) != 0);
    Made::Packet(Packet { upper, fragment, payload: 0, ..generator.four() })
}

pub fn offset_lies(generator: &mut Generator) -> Made {
    let (from, to) = (generator.port(), generator.port());
    let words = generator.random.u8(..16);
    Made::Packet(Packet { upper: Upper::Tcp { from, to, flags: SYN, words }, ..generator.four() })
}

pub fn udp_length_lies(generator: &mut Generator) -> Made {
    let (from, to) = (generator.port(), generator.port());
    let length = Some(generator.random.u16(..60));
    Made::Packet(Packet { upper: Upper::Udp { from, to, length }, ..generator.four() })
}

fn carrying(generator: &mut Generator, upper: Upper) -> Made {
    let packet = generator.four();
    Made::Packet(Packet { upper, ..generator.destination(packet) })
}
