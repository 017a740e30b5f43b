//! Classes of IPv6.

use std::net::IpAddr;

use super::{Generator, Made};
use crate::packet::{Extension, Packet, SYN, Upper};

/// Types that are extension headers: hop-by-hop, routing, destination options, mobility, HIP, shim6.
const KINDS: [u8; 6] = [0, 43, 60, 135, 139, 140];

pub fn syn(generator: &mut Generator) -> Made {
    let port = generator.port();
    Made::Packet(generator.six().tcp(port, SYN))
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
    let kind = [1, 2, 3, 4, 128, 133, 134, 135, 136][generator.random.usize(..9)];
    let protocol = [58, 58, 58, 1, 2][generator.random.usize(..5)];
    let upper = Upper::Other { protocol, bytes: vec![kind, 0, 0, 0, 0, 0, 0, 0] };
    carrying(generator, upper)
}

pub fn other(generator: &mut Generator) -> Made {
    let upper = generator.other();
    carrying(generator, upper)
}

pub fn dhcp(generator: &mut Generator) -> Made {
    let (from, to) = [(547, 546), (546, 547), (67, 68), (547, 547)][generator.random.usize(..4)];
    Made::Packet(generator.six().udp(from, to))
}

pub fn version_lies(generator: &mut Generator) -> Made {
    let version = Some(generator.random.u8(..16));
    Made::Packet(Packet { version, ..generator.six() })
}

pub fn length_beyond_frame(generator: &mut Generator) -> Made {
    let packet = generator.six();
    let beyond = 20 + packet.payload as u16 + if generator.random.bool() { 1 } else { generator.random.u16(..60_000) };
    Made::Packet(Packet { length: Some(beyond), ..packet })
}

pub fn length_within_frame(generator: &mut Generator) -> Made {
    let (upper, extensions) = (generator.upper(), chain(generator, 0..3));
    let length = Some(generator.random.u16(1..60));
    Made::Packet(Packet { length, upper, payload: 64, ..generator.six().extended(extensions) })
}

pub fn length_zero(generator: &mut Generator) -> Made {
    let (upper, extensions) = (generator.upper(), chain(generator, 0..3));
    Made::Packet(Packet { length: Some(0), upper, ..generator.six().extended(extensions) })
}

pub fn extended(generator: &mut Generator) -> Made {
    let (upper, extensions) = (generator.upper(), chain(generator, 1..7));
    Made::Packet(Packet { upper, ..generator.six().extended(extensions) })
}

pub fn over_extended(generator: &mut Generator) -> Made {
    let (upper, extensions) = (generator.upper(), chain(generator, 6..10));
    Made::Packet(Packet { upper, ..generator.six().extended(extensions) })
}

pub fn extension_lies(generator: &mut Generator) -> Made {
    let (upper, mut extensions) = (generator.upper(), chain(generator, 1..5));
    let liar = generator.random.usize(..extensions.len());
    extensions[liar].rest[0] = if generator.random.bool() { generator.random.u8(..8) } else { generator.random.u8(..) };
    Made::Packet(Packet { upper, ..generator.six().extended(extensions) })
}

pub fn first_fragment(generator: &mut Generator) -> Made {
    let mut packet = fragment(generator, 0, true);
    if let Upper::Udp { length, .. } = &mut packet.upper {
        *length = Some(generator.random.u16(..2000));
    }
    Made::Packet(packet)
}

pub fn later_fragment(generator: &mut Generator) -> Made {
    let (offset, more) = (generator.random.u16(1..0x2000), generator.random.bool());
    Made::Packet(fragment(generator, offset, more))
}

pub fn atomic_fragment(generator: &mut Generator) -> Made {
    Made::Packet(fragment(generator, 0, false))
}

pub fn upper_lies(generator: &mut Generator) -> Made {
    let (from, to) = (generator.port(), generator.port());
    let upper = match generator.random.bool() {
        true => Upper::Tcp { from, to, flags: SYN, words: generator.random.u8(..16) },
        false => Upper::Udp { from, to, length: Some(generator.random.u16(..60)) },
    };
    let extensions = chain(generator, 0..2);
    Made::Packet(Packet { upper, ..generator.six().extended(extensions) })
}

pub fn mapped(generator: &mut Generator) -> Made {
    let source = generator.sources.mapped(&mut generator.random);
    let upper = generator.upper();
    Made::Packet(Packet { source, upper, ..generator.six() })
}

/// 6to4, NAT64, Teredo, and IPv4-compatible addresses: no IPv4 address is read from any of them.
pub fn translated(generator: &mut Generator) -> Made {
    let IpAddr::V4(four) = generator.sources.four(&mut generator.random) else { return syn(generator) };
    let four = u128::from(u32::from(four));
    let bits = [0x2002 << 112 | four << 80, 0x64_ff9b << 96 | four, 0x2001 << 112 | !four & 0xffff_ffff, four];
    let source = IpAddr::V6(bits[generator.random.usize(..4)].into());
    Made::Packet(Packet { source, ..generator.six() })
}

/// A fragment whose header stands first, last or between others.
fn fragment(generator: &mut Generator, offset: u16, more: bool) -> Packet {
    let (before, after) = (chain(generator, 0..3), chain(generator, 0..2));
    let upper = generator.upper();
    let extensions = before.into_iter().chain([Extension::fragment(offset, more)]).chain(after);
    Packet { upper, ..generator.six().extended(extensions) }
}

pub fn chain(generator: &mut Generator, count: std::ops::Range<usize>) -> Vec<Extension> {
    let count = generator.random.usize(count);
    (0..count).map(|_| extension(generator)).collect()
}

fn extension(generator: &mut Generator) -> Extension {
    let length = 8 * generator.random.usize(1..5);
    match generator.random.u8(..10) {
        0 => Extension::authentication(length + 4 * generator.random.usize(..2)),
        1 => Extension::fragment(0, false),
        _ => Extension::sized(KINDS[generator.random.usize(..KINDS.len())], length),
    }
}

fn carrying(generator: &mut Generator, upper: Upper) -> Made {
    let packet = generator.six();
    Made::Packet(Packet { upper, ..generator.destination(packet) })
}
