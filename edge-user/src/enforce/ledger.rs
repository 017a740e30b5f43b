//! The model of what is blocked, by target and origin: what the kernel should hold, and what bounds it. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use edge_common::time::Until;
use ipnet::IpNet;

use crate::{
    block::{Block, Origin, Target},
    clock::{Boot, Now},
};

/// Every block that was not lifted and has not been swept.
#[derive(Debug, Default)]
pub struct Ledger {
    blocks: BTreeMap<Target, BTreeMap<Origin, Block>>,
    /// Those that end, the next first.
    ends: BTreeSet<(Boot, Target, Origin)>,
    single: usize,
}

impl Ledger {
    /// Adds a block; one of the same target and origin is replaced and given back.
    pub fn put(&mut self, block: Block) -> Option<Block> {
        let (target, origin) = (block.target, block.origin);
        if let Some(end) = block.until {
            self.ends.insert((end, target, origin));
        }
        let of_target = self.blocks.entry(target).or_default();
        self.single += usize::from(of_target.is_empty() && target.is_single());
        let replaced = of_target.insert(origin, block);
        let former_end = replaced.as_ref().and_then(|former| former.until);
        if let Some(end) = former_end
            && self.blocks.get(&target).and_then(|of| of.get(&origin)?.until) != Some(end)
        {
            self.ends.remove(&(end, target, origin));
        }
        replaced
    }

    pub fn remove(&mut self, target: Target, origin: Origin) -> Option<Block> {
        let of_target = self.blocks.get_mut(&target)?;
        let removed = of_target.remove(&origin)?;
        if of_target.is_empty() {
            self.blocks.remove(&target);
            self.single -= usize::from(target.is_single());
        }
        if let Some(end) = removed.until {
            self.ends.remove(&(end, target, origin));
        }
        Some(removed)
    }

    /// Who blocks this very target.
    pub fn origins(&self, target: Target) -> Vec<Origin> {
        self.blocks.get(&target).map(|of_target| of_target.keys().copied().collect()).unwrap_or_default()
    }

    pub fn contains(&self, target: Target) -> bool {
        self.blocks.contains_key(&target)
    }

    pub fn targets(&self) -> impl Iterator<Item = Target> {
        self.blocks.keys().copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Block> {
        self.blocks.values().flat_map(BTreeMap::values)
    }

    /// Those that hold now: what is over and not swept yet is left out.
    pub fn holding_now(&self, now: Now) -> impl Iterator<Item = &Block> {
        self.iter().filter(move |block| holds(block, now))
    }

    /// The end that the kernel should hold: of several the latest.
    pub fn wanted(&self, target: Target) -> Option<Until> {
        let blocks = self.blocks.get(&target)?;
        blocks.values().map(|block| block.until.map_or(Until::NEVER, |end| Until::at(end.0))).max()
    }

    /// The block that holds for an address now, the one that ends last.
    pub fn holding(&self, address: IpAddr, now: Now) -> Option<&Block> {
        let address = address.to_canonical();
        let length = if address.is_ipv4() { 32 } else { 128 };
        (0..=length)
            .filter_map(|length| IpNet::new(address, length).ok())
            .filter_map(|net| self.blocks.get(&Target::from(net)))
            .flat_map(BTreeMap::values)
            .filter(|block| holds(block, now))
            .max_by_key(|block| block.until.map_or(u64::MAX, |end| end.0))
    }

    /// What is over.
    pub fn ended(&self, now: Now) -> Vec<(Target, Origin)> {
        self.ends
            .iter()
            .take_while(|(end, ..)| *end <= now.boot)
            .map(|(_, target, origin)| (*target, *origin))
            .collect()
    }

    /// How many addresses are blocked.
    pub fn singles(&self) -> usize {
        self.single
    }

    /// How many networks are blocked.
    pub fn prefixes(&self) -> usize {
        self.blocks.len() - self.single
    }
}

fn holds(block: &Block, now: Now) -> bool {
    block.until.is_none_or(|end| end > now.boot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Wall;

    fn block(target: &str, origin: Origin, until: Option<u64>) -> Block {
        Block {
            target: target.parse().unwrap(),
            origin,
            reason: String::new(),
            created: Wall(0),
            until: until.map(Boot),
            expires: until.map(|_| Wall(0)),
            offence: 1,
        }
    }

    fn at(boot: u64) -> Now {
        Now { boot: Boot(boot), wall: Wall(0) }
    }

    #[test]
    fn of_several_ends_the_latest_holds_until_it_is_lifted() {
        let mut ledger = Ledger::default();
        let target = "203.0.113.7".parse().unwrap();
        ledger.put(block("203.0.113.7", Origin::Auth, Some(1 << 32)));
        ledger.put(block("203.0.113.7", Origin::Manual, None));
        assert_eq!(ledger.wanted(target), Some(Until::NEVER));
        assert!(ledger.remove(target, Origin::Manual).is_some());
        assert_eq!(ledger.wanted(target), Some(Until::at(1 << 32)));
        assert!(ledger.remove(target, Origin::Auth).is_some());
        assert_eq!((ledger.wanted(target), ledger.singles(), ledger.prefixes()), (None, 0, 0));
    }

    #[test]
    fn a_replaced_block_leaves_no_end_behind() {
        let mut ledger = Ledger::default();
        ledger.put(block("203.0.113.7", Origin::Manual, Some(10)));
        ledger.put(block("203.0.113.7", Origin::Manual, Some(10)));
        assert_eq!(ledger.ended(at(10)).len(), 1);
        let former = ledger.put(block("203.0.113.7", Origin::Manual, Some(20)));
        assert_eq!(former.and_then(|former| former.until), Some(Boot(10)));
        assert_eq!(ledger.ended(at(19)), []);
        ledger.put(block("203.0.113.7", Origin::Manual, None));
        assert_eq!(ledger.ended(at(u64::MAX)), []);
        assert_eq!((ledger.singles(), ledger.prefixes()), (1, 0));
    }

    #[test]
    fn the_cover_that_ends_last_is_the_one_that_holds() {
        let mut ledger = Ledger::default();
        ledger.put(block("203.0.113.7", Origin::Auth, Some(10)));
        ledger.put(block("203.0.113.0/24", Origin::Manual, Some(20)));
        let holding = |ledger: &Ledger, address: &str, now| {
            ledger.holding(address.parse().unwrap(), at(now)).map(|block| block.target.to_string())
        };
        assert_eq!(holding(&ledger, "203.0.113.7", 5).as_deref(), Some("203.0.113.0/24"));
        assert_eq!(holding(&ledger, "::ffff:203.0.113.7", 15).as_deref(), Some("203.0.113.0/24"));
        assert_eq!(holding(&ledger, "203.0.113.7", 20), None);
        assert_eq!(holding(&ledger, "203.0.114.7", 5), None);
        assert_eq!((ledger.singles(), ledger.prefixes()), (1, 1));
    }
}
