//! All blocks in one order, by target and then origin, out of those kept alone and each batch.

use std::{cmp::Reverse, collections::BinaryHeap};

use edge_common::time::Until;

use super::{Ledger, Standing, end};
use crate::{
    block::{Origin, Target},
    clock::Now,
    inventory::Inventory,
};

type Source<'a> = Box<dyn Iterator<Item = Standing<'a>> + 'a>;

/// Takes the least of what its sources offer.
struct Merge<'a> {
    sources: Vec<Source<'a>>,
    /// What each source offers next, with the source's index.
    offered: BinaryHeap<Reverse<Offer<'a>>>,
}

struct Offer<'a> {
    key: (Target, Origin),
    source: usize,
    held: Standing<'a>,
}

impl<'a> Merge<'a> {
    fn of(sources: Vec<Source<'a>>) -> Merge<'a> {
        let mut merge = Merge { offered: BinaryHeap::with_capacity(sources.len()), sources };
        (0..merge.sources.len()).for_each(|source| merge.refill(source));
        merge
    }

    fn refill(&mut self, source: usize) {
        if let Some(held) = self.sources[source].next() {
            self.offered.push(Reverse(Offer { key: (held.target(), held.origin()), source, held }));
        }
    }
}

impl<'a> Iterator for Merge<'a> {
    type Item = Standing<'a>;

    fn next(&mut self) -> Option<Standing<'a>> {
        let Reverse(Offer { source, held, .. }) = self.offered.pop()?;
        self.refill(source);
        Some(held)
    }
}

impl Ord for Offer<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.key, self.source).cmp(&(other.key, other.source))
    }
}

impl PartialOrd for Offer<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Offer<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Offer<'_> {}

impl Ledger {
    pub fn iter(&self) -> impl Iterator<Item = Standing<'_>> {
        let alone: Source<'_> = Box::new(self.blocks().map(Standing::Alone));
        let batches = self.batches().map(|(_, batch)| -> Source<'_> {
            Box::new(batch.iter().map(|target| Standing::In(target, &batch.terms)))
        });
        Merge::of([alone].into_iter().chain(batches).collect())
    }

    /// Those that hold now: what is over and not swept yet is left out.
    pub fn holding_now(&self, now: Now) -> impl Iterator<Item = Standing<'_>> {
        self.iter().filter(move |held| held.holds(now))
    }

    /// What the kernel should hold. Where no target is blocked twice, which is the rule, no order is needed for it, and
    /// batches know their share.
    pub fn inventory(&self) -> Inventory {
        let in_batches: usize = self.batches().map(|(_, batch)| batch.left().total()).sum();
        if in_batches + self.blocks.len() != self.distinct.total() {
            return self.wanted_all().collect();
        }
        let alone = self.blocks().map(|block| (block.target, end(Standing::Alone(block)))).collect();
        self.batches().map(|(_, batch)| batch.inventory()).fold(alone, Inventory::plus)
    }

    /// Each target with the end that the kernel should hold.
    pub fn wanted_all(&self) -> impl Iterator<Item = (Target, Until)> {
        let mut all = self.iter().peekable();
        std::iter::from_fn(move || {
            let first = all.next()?;
            let mut latest = end(first);
            while let Some(same) = all.next_if(|held| held.target() == first.target()) {
                latest = latest.max(end(same));
            }
            Some((first.target(), latest))
        })
    }
}
