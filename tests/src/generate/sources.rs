//! Whom packets come from: members of what a policy names, their neighbours on both sides of every border, and others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::model::Policy;

/// `fe80::`, which every link has.
const LINK_LOCAL: u128 = 0xfe80 << 112;

#[derive(Debug)]
pub struct Sources {
    four: Vec<u32>,
    six: Vec<u128>,
}

impl Sources {
    pub fn around(policy: &Policy, random: &mut Rng) -> Sources {
        let mut sources = Sources { four: Vec::new(), six: Vec::new() };
        let named = [&policy.allowed, &policy.own, &policy.protected, &policy.proxies];
        let named = named.into_iter().flat_map(|nets| nets.iter().map(|(net, ())| net));
        for net in named.chain(policy.blocked.iter().map(|(net, _)| net)) {
            match net {
                IpNet::V4(four) => sources.four.extend(around4(four, random)),
                IpNet::V6(six) => sources.six.extend(around6(six, random)),
            }
        }
        sources
    }

    pub fn four(&self, random: &mut Rng) -> IpAddr {
        let known = pick(&self.four, random);
        let bits = match (random.u8(..20), known) {
            (0, _) => [0, u32::MAX, 0x7f00_0001, 0xe000_0001][random.usize(..4)],
            (1..14, Some(bits)) => bits,
            (14, Some(bits)) => bits.swap_bytes(),
            (15 | 16, Some(bits)) => bits ^ 1 << random.u8(..32),
            _ => random.u32(..),
        };
        IpAddr::V4(Ipv4Addr::from(bits))
    }

    pub fn six(&self, random: &mut Rng) -> IpAddr {
        let known = pick(&self.six, random);
        let bits = match (random.u8(..20), known) {
            (0, _) => {
                [0, 1, u128::MAX, LINK_LOCAL | 1, LINK_LOCAL | 2, LINK_LOCAL - 1, 0xff02 << 112 | 1][random.usize(..7)]
            }
            (1..14, Some(bits)) => bits,
            (14, Some(bits)) => bits.rotate_left(64),
            (15 | 16, Some(bits)) => bits ^ 1 << random.u8(..128),
            _ => random.u128(..) >> 3 | 1 << 125,
        };
        IpAddr::V6(Ipv6Addr::from(bits))
    }

    /// The IPv4 address of a source, as IPv6 has it.
    pub fn mapped(&self, random: &mut Rng) -> IpAddr {
        match self.four(random) {
            IpAddr::V4(four) => IpAddr::V6(four.to_ipv6_mapped()),
            six => six,
        }
    }
}

fn pick<T: Copy>(from: &[T], random: &mut Rng) -> Option<T> {
    (!from.is_empty()).then(|| from[random.usize(..from.len())])
}

fn around4(net: Ipv4Net, random: &mut Rng) -> [u32; 7] {
    let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
    let inside = |random: &mut Rng| first | random.u32(..) & u32::from(net.hostmask());
    let sibling = first ^ 1u32.checked_shl(32 - u32::from(net.prefix_len())).unwrap_or(0);
    [first, last, inside(random), inside(random), sibling, first.wrapping_sub(1), last.wrapping_add(1)]
}

fn around6(net: Ipv6Net, random: &mut Rng) -> [u128; 9] {
    let (first, last) = (u128::from(net.network()), u128::from(net.broadcast()));
    let inside = |random: &mut Rng| first | random.u128(..) & u128::from(net.hostmask());
    let sibling = first ^ 1u128.checked_shl(128 - u32::from(net.prefix_len())).unwrap_or(0);
    let unit = 1u128 << 64;
    let (below, above) = (first.wrapping_sub(1), last.wrapping_add(1));
    let (unit_below, unit_above) = (first.wrapping_sub(unit), last.wrapping_add(unit));
    [first, last, inside(random), inside(random), sibling, below, above, unit_below, unit_above]
}
