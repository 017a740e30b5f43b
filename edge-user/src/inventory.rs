//! A set of entries as their number and a sum in no order: two sets that agree in both are the same, all but certainly.
//! So what was decided and what the kernel holds are compared in one walk over each, whoever is told first. Pure.

use edge_common::time::Until;
use ipnet::IpNet;

use crate::block::Target;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    pub entries: u64,
    sum: u64,
}

impl Inventory {
    pub fn add(&mut self, target: Target, until: Until) {
        self.entries += 1;
        self.sum = self.sum.wrapping_add(digest(target, until));
    }

    /// Of two sets that have nothing in common.
    pub fn plus(self, other: Inventory) -> Inventory {
        Inventory { entries: self.entries + other.entries, sum: self.sum.wrapping_add(other.sum) }
    }
}

impl FromIterator<(Target, Until)> for Inventory {
    fn from_iter<I: IntoIterator<Item = (Target, Until)>>(entries: I) -> Inventory {
        let mut inventory = Inventory::default();
        entries.into_iter().for_each(|(target, until)| inventory.add(target, until));
        inventory
    }
}

/// Against accidents, not against forgers: whoever writes the maps needs no forgery. Odd numbers without a pattern
/// (digits of pi), so that no word of an entry is multiplied away.
fn digest(target: Target, until: Until) -> u64 {
    let (family, bits) = match target.net() {
        IpNet::V4(four) => (4, u128::from(four.addr().to_bits())),
        IpNet::V6(six) => (6, six.addr().to_bits()),
    };
    let rest = u64::from(until.bits()) | u64::from(target.net().prefix_len()) << 32 | family << 40;
    let address = folded(bits as u64 ^ 0x243f_6a88_85a3_08d3, (bits >> 64) as u64 ^ 0x1319_8a2e_0370_7345);
    folded(address ^ 0xa409_3822_299f_31d1, rest ^ 0x082e_fa98_ec4e_6c89)
}

fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    fn target(number: u16) -> Target {
        let names = ["10.0.0.1", "10.0.0.0/8", "10.0.0.0", "2001:db8::/64", "2001:db8::", "::a00:1", "10.0.0.0/24"];
        match names.get(usize::from(number)) {
            Some(name) => name.parse().unwrap(),
            None => Target::of(std::net::Ipv4Addr::from_bits(number.into()).into()),
        }
    }

    type Entries = BTreeMap<u16, u32>;

    fn inventory<'a>(entries: impl Iterator<Item = (&'a u16, &'a u32)>) -> Inventory {
        entries.map(|(number, until)| (target(*number), Until::from_bits(*until))).collect()
    }

    proptest! {
        #[test]
        fn sets_agree_if_they_are_the_same(
            a in proptest::collection::btree_map(0u16..12, 1u32..4, 0..10),
            b in proptest::collection::btree_map(0u16..12, 1u32..4, 0..10),
        ) {
            let (a, b): (Entries, Entries) = (a, b);
            prop_assert_eq!(inventory(a.iter()), inventory(a.iter().rev()));
            prop_assert_eq!(inventory(a.iter()) == inventory(b.iter()), a == b);
        }
    }

    #[test]
    fn neighbours_have_digests_of_their_own() {
        let all = (0..100_000u32).map(|n| Target::of(std::net::Ipv4Addr::from_bits(n).into()));
        let digests: HashSet<u64> =
            all.flat_map(|target| [1, 2].map(|end| digest(target, Until::from_bits(end)))).collect();
        assert_eq!(digests.len(), 200_000);
    }
}
