//! The model of what is blocked, by target and origin: what the kernel should hold, and what bounds it. Pure.
//!
//! A block is kept alone, or as a member of the batch that it came with: never both, and in one batch only. Callers see
//! no difference but where they ask for one ([`Former`]), since the store keeps them apart too.

mod batches;
mod merge;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use edge_common::time::Until;
use ipnet::IpNet;

pub use self::batches::Displaced;
use crate::{
    batch::{Batch, BatchId, Terms},
    block::{Block, Origin, Target},
    clock::{Boot, Now},
    targets::{Counts, Kind},
};

/// Every block that was not lifted and has not been swept.
#[derive(Debug, Default)]
pub struct Ledger {
    blocks: BTreeMap<(Target, Origin), Block>,
    /// Those that end, the next first.
    ends: BTreeSet<(Boot, Target, Origin)>,
    batches: BTreeMap<BatchId, Batch>,
    /// How many different targets there are.
    distinct: Counts,
}

/// What a block was before it was replaced or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Former {
    Alone(Block),
    In(BatchId),
}

/// A block that holds, wherever it is kept.
#[derive(Clone, Copy, Debug)]
pub enum Standing<'a> {
    Alone(&'a Block),
    In(Target, &'a Terms),
}

impl Standing<'_> {
    pub fn target(self) -> Target {
        match self {
            Standing::Alone(block) => block.target,
            Standing::In(target, _) => target,
        }
    }

    pub fn origin(self) -> Origin {
        match self {
            Standing::Alone(block) => block.origin,
            Standing::In(_, terms) => terms.origin,
        }
    }

    pub fn until(self) -> Option<Boot> {
        match self {
            Standing::Alone(block) => block.until,
            Standing::In(_, terms) => terms.until,
        }
    }

    pub fn block(self) -> Block {
        match self {
            Standing::Alone(block) => block.clone(),
            Standing::In(target, terms) => terms.block(target),
        }
    }

    pub fn holds(self, now: Now) -> bool {
        self.until().is_none_or(|end| end > now.boot)
    }
}

impl Ledger {
    /// Adds a block; gives what was there of the same target and origin.
    pub fn put(&mut self, block: Block) -> Option<Former> {
        let (target, origin) = (block.target, block.origin);
        let former = self.remove(target, origin);
        if !self.contains(target) {
            self.distinct.add(Kind::of(target));
        }
        if let Some(end) = block.until {
            self.ends.insert((end, target, origin));
        }
        self.blocks.insert((target, origin), block);
        former
    }

    pub fn remove(&mut self, target: Target, origin: Origin) -> Option<Former> {
        let former = match self.blocks.remove(&(target, origin)) {
            Some(block) => {
                if let Some(end) = block.until {
                    self.ends.remove(&(end, target, origin));
                }
                Former::Alone(block)
            }
            None => Former::In(self.lift_from_batch(target, origin)?),
        };
        if !self.contains(target) {
            self.distinct.subtract(Kind::of(target));
        }
        Some(former)
    }

    /// As it was before [`put`](Self::put) or [`remove`](Self::remove) gave `former`.
    pub fn put_back(&mut self, target: Target, origin: Origin, former: Option<Former>) {
        self.remove(target, origin);
        match former {
            Some(Former::Alone(block)) => drop(self.put(block)),
            Some(Former::In(id)) => self.restore_to_batch(target, id),
            None => {}
        }
    }

    /// Who blocks this very target.
    pub fn origins(&self, target: Target) -> Vec<Origin> {
        let mut origins: Vec<Origin> = self.of(target).map(Standing::origin).collect();
        origins.sort_unstable();
        origins
    }

    /// The block of this very target and origin, wherever it is kept.
    pub fn at(&self, target: Target, origin: Origin) -> Option<Standing<'_>> {
        self.of(target).find(|held| held.origin() == origin)
    }

    pub fn contains(&self, target: Target) -> bool {
        self.of(target).next().is_some()
    }

    /// The end that the kernel should hold: of several the latest.
    pub fn wanted(&self, target: Target) -> Option<Until> {
        self.of(target).map(end).max()
    }

    /// The block that holds for an address now, the one that ends last.
    pub fn holding(&self, address: IpAddr, now: Now) -> Option<Block> {
        let address = address.to_canonical();
        let length = if address.is_ipv4() { 32 } else { 128 };
        let nets = (0..=length).filter_map(|length| IpNet::new(address, length).ok());
        let alone = nets.flat_map(|net| self.alone(Target::from(net))).map(Standing::Alone);
        let members = self
            .batches
            .values()
            .flat_map(|batch| batch.covering(address).map(|target| Standing::In(target, &batch.terms)));
        let all = alone.chain(members).filter(|held| held.holds(now));
        all.max_by_key(|held| held.until().map_or(u64::MAX, |end| end.0)).map(Standing::block)
    }

    /// What is over, but for whole batches.
    pub fn ended(&self, now: Now) -> Vec<(Target, Origin)> {
        self.ends
            .iter()
            .take_while(|(end, ..)| *end <= now.boot)
            .map(|(_, target, origin)| (*target, *origin))
            .collect()
    }

    /// How many different targets of each kind are blocked.
    pub fn counts(&self) -> Counts {
        self.distinct
    }

    /// The same, without those that are over and not swept yet.
    pub fn counts_now(&self, now: Now) -> Counts {
        if self.ended_batches(now).is_empty() {
            let over: BTreeSet<Target> = self.ended(now).into_iter().map(|(target, _)| target).collect();
            let over = over.into_iter().filter(|target| !self.of(*target).any(|held| held.holds(now)));
            return self.distinct.minus(over.map(Kind::of).collect());
        }
        counted(self.holding_now(now))
    }

    fn counted(&self) -> Counts {
        counted(self.iter())
    }

    /// A block that is kept alone.
    pub fn block(&self, target: Target, origin: Origin) -> Option<&Block> {
        self.blocks.get(&(target, origin))
    }

    /// Those that are kept alone.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.values()
    }

    fn alone(&self, target: Target) -> impl Iterator<Item = &Block> {
        let of_target = (target, Origin::ALL[0])..=(target, Origin::ALL[Origin::ALL.len() - 1]);
        self.blocks.range(of_target).map(|(_, block)| block)
    }

    fn of(&self, target: Target) -> impl Iterator<Item = Standing<'_>> {
        let holding = self.batches.values().filter(move |batch| batch.holds(target));
        self.alone(target).map(Standing::Alone).chain(holding.map(move |batch| Standing::In(target, &batch.terms)))
    }
}

/// How many different targets there are, of blocks in order.
fn counted<'a>(blocks: impl Iterator<Item = Standing<'a>>) -> Counts {
    let mut last = None;
    blocks.map(Standing::target).filter(|target| last.replace(*target) != Some(*target)).map(Kind::of).collect()
}

fn end(held: Standing<'_>) -> Until {
    held.until().map_or(Until::NEVER, |end| Until::at(end.0))
}
