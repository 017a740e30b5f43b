//! Which areas blocked and trusted prefixes touch: a bit is set with the first prefix and cleared with the last, so that
//! the kernel walks the tries only where they can say something.
//!
//! Measured with 100,000 random prefixes: at a byte for each /16 alone, 78 % of all honest IPv4 sources would walk the
//! trie; with a bit for each /24 beside it, those that share a /24 with a prefix.

use std::{collections::HashMap, ops::RangeInclusive, sync::atomic::Ordering};

use edge_common::{
    address::{Addr4, Addr6},
    table::{AreaFlags, Narrow},
};
use ipnet::IpNet;

use super::mapping::Mapping;

pub struct Areas {
    flags: Mapping,
    narrow: Mapping,
    seed: u64,
    /// For each area and flag, how many prefixes touch it.
    touching: Vec<[u32; AreaFlags::ALL.len()]>,
    /// The same for each narrow bit, as word and bit.
    touching_narrow: HashMap<(u32, u64), u32>,
}

impl Areas {
    pub fn new(flags: Mapping, narrow: Mapping) -> Areas {
        let touching = vec![[0; AreaFlags::ALL.len()]; AreaFlags::AREAS as usize];
        Areas { flags, narrow, seed: 0, touching, touching_narrow: HashMap::new() }
    }

    /// Before anything is counted.
    pub fn seed(&mut self, seed: u64) {
        self.seed = seed;
    }

    /// To be called before the prefix is in the trie.
    pub fn block(&mut self, net: IpNet) {
        if is_narrow(net) {
            for bit in self.narrow_bits(net) {
                let touching = self.touching_narrow.entry(bit).or_default();
                *touching += 1;
                let word = bit.0 as usize;
                self.narrow.store(word, self.narrow.load(word) | bit.1);
            }
        }
        self.count(net, flag_of(net));
    }

    /// To be called after the prefix is out of the trie.
    pub fn unblock(&mut self, net: IpNet) {
        self.uncount(net, flag_of(net));
        if is_narrow(net) {
            for bit in self.narrow_bits(net) {
                let Some(touching) = self.touching_narrow.get_mut(&bit) else { continue };
                *touching -= 1;
                if *touching == 0 {
                    self.touching_narrow.remove(&bit);
                    let word = bit.0 as usize;
                    self.narrow.store(word, self.narrow.load(word) & !bit.1);
                }
            }
        }
    }

    pub fn trust(&mut self, net: IpNet) {
        self.count(net, AreaFlags::TRUST);
    }

    pub fn distrust(&mut self, net: IpNet) {
        self.uncount(net, AreaFlags::TRUST);
    }

    /// Whether the kernel reads what the prefixes make of it.
    pub fn are_as_written(&self) -> bool {
        let bits = |count: u32, touching: &[u32; AreaFlags::ALL.len()]| {
            let touched = AreaFlags::ALL.into_iter().filter(|flag| touching[index_of(*flag)] > 0);
            touched.fold(0, |bits, flag| bits | word_of(count, flag).1)
        };
        let mut flags = vec![0u64; AreaFlags::WORDS as usize];
        for (area, touching) in (0..).zip(&self.touching) {
            flags[AreaFlags::place(area).0 as usize] |= bits(area, touching);
        }
        let narrow = self.narrow.words().iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize);
        let is_set = |(word, bit): &(u32, u64)| self.narrow.load(*word as usize) & bit != 0;
        flags.iter().enumerate().all(|(index, word)| self.flags.load(index) == *word)
            && narrow.sum::<usize>() == self.touching_narrow.len()
            && self.touching_narrow.keys().all(is_set)
    }

    fn count(&mut self, net: IpNet, flag: AreaFlags) {
        for area in self.areas(net) {
            let touching = &mut self.touching[area as usize][index_of(flag)];
            *touching += 1;
            if *touching == 1 {
                let (index, bits) = word_of(area, flag);
                self.flags.store(index, self.flags.load(index) | bits);
            }
        }
    }

    fn uncount(&mut self, net: IpNet, flag: AreaFlags) {
        for area in self.areas(net) {
            let touching = &mut self.touching[area as usize][index_of(flag)];
            *touching = touching.saturating_sub(1);
            if *touching == 0 {
                let (index, bits) = word_of(area, flag);
                self.flags.store(index, self.flags.load(index) & !bits);
            }
        }
    }

    fn areas(&self, net: IpNet) -> RangeInclusive<u32> {
        match net {
            IpNet::V4(four) => u32::from(four.network()) >> 16..=u32::from(four.broadcast()) >> 16,
            IpNet::V6(six) if six.prefix_len() >= 32 => {
                let area = AreaFlags::area6(Addr6::from(six.network()).top(), self.seed);
                area..=area
            }
            IpNet::V6(_) => 0..=AreaFlags::AREAS - 1,
        }
    }

    fn narrow_bits(&self, net: IpNet) -> Vec<(u32, u64)> {
        match net {
            IpNet::V4(four) => (u32::from(four.network()) >> 8..=u32::from(four.broadcast()) >> 8)
                .map(|index| Narrow::place4(Addr4::from(std::net::Ipv4Addr::from(index << 8))))
                .collect(),
            IpNet::V6(six) => vec![Narrow::place6(Addr6::from(six.network()), self.seed)],
        }
    }
}

fn is_narrow(net: IpNet) -> bool {
    net.prefix_len() >= if net.addr().is_ipv4() { Narrow::FROM4 } else { Narrow::FROM6 }
}

fn flag_of(net: IpNet) -> AreaFlags {
    if is_narrow(net) { AreaFlags::NARROW } else { AreaFlags::WIDE }
}

fn index_of(flag: AreaFlags) -> usize {
    flag.bits().trailing_zeros() as usize
}

fn word_of(area: u32, flag: AreaFlags) -> (usize, u64) {
    let (index, shift) = AreaFlags::place(area);
    (index as usize, u64::from(flag.bits()) << shift)
}
