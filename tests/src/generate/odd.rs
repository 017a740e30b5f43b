//! Classes of packets in packets, large ones, damaged ones and noise.

use super::{Generator, Made, six};
use crate::packet::{Packet, Upper};

/// IPIP, 6in4, 4in6, GRE, and VXLAN over UDP: judged by the outer header alone.
pub fn tunnel(generator: &mut Generator) -> Made {
    let inner = generator.either();
    let datagram = inner.bytes().split_off(14);
    let protocol = if inner.source.is_ipv4() { 4 } else { 41 };
    let outer = generator.either();
    let upper = match generator.random.u8(..3) {
        0 => Upper::Other { protocol, bytes: datagram },
        1 => Upper::Other { protocol: 47, bytes: [&[0, 0, 0x08, 0][..], &datagram].concat() },
        _ => {
            let bytes = [&[0x12, 0xb5, 0x12, 0xb5, 0, 8, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0][..], &datagram].concat();
            Upper::Other { protocol: 17, bytes }
        }
    };
    Made::Packet(Packet { upper, ..outer })
}

/// More than one buffer, with headers in the first or, behind long extension headers, beyond it.
pub fn jumbo(generator: &mut Generator) -> Made {
    let payload = generator.random.usize(3600..8900);
    let upper = generator.upper();
    let mut packet = Packet { upper, ..generator.either() };
    packet.payload = payload;
    if packet.source.is_ipv6() && generator.random.bool() {
        packet = packet.extended(six::chain(generator, 1..4));
    }
    Made::Packet(packet)
}

pub fn cut(generator: &mut Generator) -> Made {
    let mut frame = generator.any();
    frame.truncate(generator.random.usize(..=frame.len()));
    Made::Frame(frame)
}

/// Up to four bytes among the first hundred.
pub fn changed(generator: &mut Generator) -> Made {
    let mut frame = generator.any();
    let within = frame.len().min(100);
    for _ in 0..generator.random.usize(1..5) {
        frame[generator.random.usize(12..within)] = generator.random.u8(..);
    }
    Made::Frame(frame)
}

pub fn noise(generator: &mut Generator) -> Made {
    let length = generator.random.usize(14..200);
    let mut frame = generator.bytes(length);
    if generator.random.bool() {
        frame[12..14].copy_from_slice(if generator.random.bool() { &[0x08, 0x00] } else { &[0x86, 0xdd] });
    }
    Made::Frame(frame)
}
