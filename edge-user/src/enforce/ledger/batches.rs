//! The batches of the ledger: adding one, which displaces what was there of its targets and origin, and taking one out.

use edge_common::time::Until;

use super::{Ledger, Standing, end};
use crate::{
    batch::{Batch, BatchId},
    block::{Block, Origin, Target},
    clock::Now,
    targets::{Counts, Kind, Marks, Targets},
};

/// What a batch took the place of.
#[derive(Debug, Default)]
pub struct Displaced {
    pub blocks: Vec<Block>,
    /// Of other batches, by position.
    pub members: Vec<(BatchId, Vec<usize>)>,
}

impl Ledger {
    /// Adds a batch under an id of its own, in place of what was there of the same targets and origin.
    pub fn add(&mut self, batch: Batch) -> (BatchId, Displaced) {
        let id = self.batches.last_key_value().map_or(BatchId(1), |(last, _)| BatchId(last.0 + 1));
        let displaced = self.insert(id, batch);
        (id, displaced)
    }

    /// As [`add`](Self::add), with the id that the store has given.
    pub fn insert(&mut self, id: BatchId, batch: Batch) -> Displaced {
        self.distinct = self.distinct.plus(self.fresh(&batch.rest()));
        let displaced = Displaced { blocks: self.displace_blocks(&batch), members: self.displace_members(&batch) };
        self.batches.insert(id, batch);
        displaced
    }

    /// Takes a batch out; what it displaced does not come back.
    pub fn take(&mut self, id: BatchId) -> Option<Batch> {
        let batch = self.batches.remove(&id)?;
        self.distinct = self.distinct.minus(self.fresh(&batch.rest()));
        Some(batch)
    }

    /// As it was before [`add`](Self::add).
    pub fn take_back(&mut self, id: BatchId, displaced: Displaced) {
        self.batches.remove(&id);
        for (id, positions) in displaced.members {
            if let Some(batch) = self.batches.get_mut(&id) {
                positions.into_iter().for_each(|position| batch.restore_at(position));
            }
        }
        displaced.blocks.into_iter().for_each(|block| drop(self.put(block)));
        self.distinct = self.counted();
    }

    /// The members that went to a new batch, by name.
    pub fn displaced_members(&self, displaced: &Displaced) -> impl Iterator<Item = (BatchId, Target)> {
        displaced.members.iter().flat_map(|(id, positions)| {
            let targets = self.batch(*id).map(Batch::targets);
            positions.iter().filter_map(move |position| Some((*id, targets?.at(*position)?)))
        })
    }

    pub fn batch(&self, id: BatchId) -> Option<&Batch> {
        self.batches.get(&id)
    }

    pub fn batches(&self) -> impl Iterator<Item = (BatchId, &Batch)> {
        self.batches.iter().map(|(id, batch)| (*id, batch))
    }

    /// Those of which nothing is left are forgotten.
    pub fn forget_empty(&mut self) -> Vec<BatchId> {
        let empty: Vec<BatchId> =
            self.batches().filter(|(_, batch)| batch.left().total() == 0).map(|(id, _)| id).collect();
        empty.iter().for_each(|id| drop(self.batches.remove(id)));
        empty
    }

    pub fn ended_batches(&self, now: Now) -> Vec<BatchId> {
        self.batches().filter(|(_, batch)| !batch.terms.hold(now)).map(|(id, _)| id).collect()
    }

    /// How many of these targets nothing blocks yet, by kind.
    pub fn fresh(&self, targets: &Targets) -> Counts {
        targets.count_without(&self.known(targets))
    }

    /// Which of these targets are blocked.
    fn known(&self, targets: &Targets) -> Marks {
        let mut known = Marks::of(targets);
        for batch in self.batches.values() {
            targets.each_common(batch.targets(), |here, there| {
                if batch.is_left(there) {
                    known.mark(here);
                }
            });
        }
        self.each_alone(targets, |position, _| {
            known.mark(position);
        });
        known
    }

    /// Each block that is kept alone and of one of these targets.
    fn each_alone(&self, targets: &Targets, mut found: impl FnMut(usize, &Block)) {
        if self.blocks.len() <= targets.len() {
            let mut finder = targets.finder();
            for block in self.blocks() {
                if let Some(position) = finder.find(block.target) {
                    found(position, block);
                }
            }
        } else {
            for (position, target) in targets.iter() {
                self.alone(target).for_each(|block| found(position, block));
            }
        }
    }

    fn displace_blocks(&mut self, batch: &Batch) -> Vec<Block> {
        let mut displaced = Vec::new();
        self.each_alone(batch.targets(), |position, block| {
            if block.origin == batch.terms.origin && batch.is_left(position) {
                displaced.push(block.clone());
            }
        });
        for block in &displaced {
            self.blocks.remove(&(block.target, block.origin));
            if let Some(end) = block.until {
                self.ends.remove(&(end, block.target, block.origin));
            }
        }
        displaced
    }

    fn displace_members(&mut self, batch: &Batch) -> Vec<(BatchId, Vec<usize>)> {
        let mut displaced = Vec::new();
        for (id, other) in self.batches.iter_mut().filter(|(_, other)| other.terms.origin == batch.terms.origin) {
            let mut common = Vec::new();
            batch.targets().each_common(other.targets(), |here, there| {
                if batch.is_left(here) {
                    common.push(there);
                }
            });
            common.retain(|position| other.lift_at(*position));
            if !common.is_empty() {
                displaced.push((*id, common));
            }
        }
        displaced
    }

    pub(super) fn lift_from_batch(&mut self, target: Target, origin: Origin) -> Option<BatchId> {
        let mut of_origin = self.batches.iter_mut().filter(|(_, batch)| batch.terms.origin == origin);
        of_origin.find_map(|(id, batch)| batch.lift(target).then_some(*id))
    }

    pub(super) fn restore_to_batch(&mut self, target: Target, id: BatchId) {
        if !self.contains(target) {
            self.distinct.add(Kind::of(target));
        }
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.restore(target);
        }
    }

    /// Each of these targets with the end that the kernel should hold for it.
    pub fn wanted_each<'a>(&'a self, targets: &'a Targets) -> impl Iterator<Item = (Target, Option<Until>)> + 'a {
        let mut batches: Vec<_> = self.batches.values().map(|batch| (batch.targets().finder(), batch)).collect();
        targets.iter().map(move |(_, target)| {
            let members = batches.iter_mut().filter_map(|(finder, batch)| {
                let is_left = finder.find(target).is_some_and(|position| batch.is_left(position));
                is_left.then(|| end(Standing::In(target, &batch.terms)))
            });
            let alone = self.alone(target).map(|block| end(Standing::Alone(block)));
            (target, members.chain(alone).max())
        })
    }
}
