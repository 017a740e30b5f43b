//! Classes of packets in packets, large ones, damaged ones and noise.

use std::net::{IpAddr, SocketAddr};

use super::{Generator, Made, four, six};
use crate::{
    model::Flow,
    packet::{Packet, Upper},
};

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

/// Something sent comes back, and in two of three cases one thing is not as it was.
pub fn answer(generator: &mut Generator) -> Made {
    if generator.flows.is_empty() {
        return four::udp(generator);
    }
    let Flow { mut local, mut remote } = generator.flows[generator.random.usize(..generator.flows.len())];
    let step = if generator.random.bool() { 1 } else { u16::MAX };
    match generator.random.u8(..9) {
        0 => remote.set_port(remote.port().wrapping_add(step)),
        1 => local.set_port(local.port().wrapping_add(step)),
        2 => (local, remote) = (SocketAddr::new(local.ip(), remote.port()), SocketAddr::new(remote.ip(), local.port())),
        3 => remote.set_ip(neighbour(remote.ip())),
        4 => local.set_ip(neighbour(local.ip())),
        5 => local = generator.flows[generator.random.usize(..generator.flows.len())].local,
        _ => {}
    }
    let source = if local.is_ipv4() == remote.is_ipv4() { remote.ip() } else { neighbour(local.ip()) };
    let packet = Packet::new(source).to(local.ip()).payload(generator.random.usize(..40));
    let packet = packet.udp(remote.port(), local.port());
    Made::Packet(if generator.one_in(4) { packet.tags(&generator.some_tags(1..3)) } else { packet })
}

fn neighbour(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(four) => IpAddr::V4((u32::from(four) ^ 1).into()),
        IpAddr::V6(six) => IpAddr::V6((u128::from(six) ^ 1).into()),
    }
}

/// More than one buffer, with headers in the first or, behind long extension headers, beyond it.
pub fn jumbo(generator: &mut Generator) -> Made {
    let payload = generator.random.usize(3000..8900);
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
