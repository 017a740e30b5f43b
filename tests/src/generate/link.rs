//! Classes of the link layer: tags, ARP, other types.

use super::{Generator, Made};
use crate::packet::Packet;

pub fn tagged(generator: &mut Generator) -> Made {
    let (tags, upper) = (generator.some_tags(1..3), generator.upper());
    Made::Packet(Packet { upper, ..generator.either().tags(&tags) })
}

pub fn over_tagged(generator: &mut Generator) -> Made {
    let tags = generator.some_tags(3..6);
    Made::Packet(generator.either().tags(&tags))
}

/// Tags by other names: old QinQ, MACsec, PBB, MPLS, PPPoE.
pub fn mistagged(generator: &mut Generator) -> Made {
    let other = [0x9100, 0x9200, 0x88e5, 0x88e7, 0x8847, 0x8864][generator.random.usize(..6)];
    let mut tags = generator.some_tags(0..3);
    tags.insert(generator.random.usize(..=tags.len()), other);
    Made::Packet(generator.either().tags(&tags))
}

pub fn arp(generator: &mut Generator) -> Made {
    let tags = generator.some_tags(0..3);
    let mut packet = generator.four().tags(&tags);
    packet.ethertype = Some(0x0806);
    Made::Packet(packet)
}

/// LLDP, EAPOL, RARP, PTP, a frame of 802.3, anything.
pub fn other_type(generator: &mut Generator) -> Made {
    let known = [0x88cc, 0x888e, 0x8035, 0x88f7, 0x0040, 0x05dc, 0x0000, 0xffff];
    let any = generator.random.u16(..);
    let mut packet = generator.either();
    packet.ethertype = Some(if generator.one_in(4) { any } else { known[generator.random.usize(..known.len())] });
    Made::Packet(packet)
}
