//! How a change of what is blocked is made: the model first, then the kernel, which may refuse, then the store. What is
//! refused leaves everything as it was.

use std::collections::BTreeMap;

use super::{
    Enforcer,
    ledger::{Displaced, Former},
};
use crate::{
    batch::{Batch, BatchId, Terms},
    block::{Origin, Target},
    config,
    datapath::Tables,
    error::Failure,
    store::Changes,
    targets::{Counts, Targets},
};

/// Fewer that come together are kept alone, for each batch is one more place to look into.
const BATCH_FROM: usize = 256;
/// Of a batch that loses more than this at once, what is left is stored anew; else a row is written for each.
const LIFTED_ROWS: usize = 1_000;

/// How many different targets may be blocked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    blocked: usize,
    prefixes: usize,
}

impl Limits {
    pub(super) fn of(filter: &config::Filter) -> Limits {
        Limits { blocked: filter.max_blocked as usize, prefixes: filter.max_prefixes as usize }
    }

    pub(super) fn hold(self, counts: Counts) -> bool {
        counts.singles() <= self.blocked && counts.prefixes() <= self.prefixes
    }
}

/// How full a kind of table is.
struct Fill {
    name: &'static str,
    key: &'static str,
    held: usize,
    limit: usize,
}

/// What was added to the model, and what brings it back to where it was.
pub(super) enum Entered {
    Alone(Origin, Vec<(Target, Option<Former>)>),
    Batch(BatchId, Displaced),
}

/// What went out of the model, as the store has to know it.
#[derive(Debug, Default)]
pub(super) struct Gone {
    pub alone: Vec<(Target, Origin)>,
    pub members: Vec<(BatchId, Target)>,
    pub batches: Vec<(BatchId, Batch)>,
}

impl Gone {
    fn note(&mut self, target: Target, origin: Origin, former: &Former) {
        match former {
            Former::Alone(_) => self.alone.push((target, origin)),
            Former::In(id) => self.members.push((*id, target)),
        }
    }

    pub(super) fn len(&self) -> usize {
        let in_batches: usize = self.batches.iter().map(|(_, batch)| batch.left().total()).sum();
        self.alone.len() + self.members.len() + in_batches
    }

    /// Every target of which at least one block went.
    pub(super) fn targets(&self) -> impl Iterator<Item = Target> {
        let alone = self.alone.iter().map(|(target, _)| *target);
        let members = self.members.iter().map(|(_, target)| *target);
        alone.chain(members).chain(self.batches.iter().flat_map(|(_, batch)| batch.iter()))
    }
}

impl<T: Tables> Enforcer<T> {
    /// Puts blocks into force, each set on its terms; all of them or none. Refused whole where the tables could not hold
    /// so many more.
    pub(super) fn put(&mut self, parts: Vec<(Terms, Targets)>) -> Result<(), Failure> {
        let parts: Vec<(Terms, Targets)> = parts.into_iter().filter(|(_, targets)| !targets.is_empty()).collect();
        if parts.is_empty() {
            return Ok(());
        }
        let touched = Targets::union(parts.iter().map(|(_, targets)| targets));
        self.has_room(self.ledger.fresh(&touched))?;
        let added: Vec<(Origin, usize)> = parts.iter().map(|(terms, targets)| (terms.origin, targets.len())).collect();
        let entered: Vec<Entered> = parts.into_iter().map(|(terms, targets)| self.enter(terms, targets)).collect();
        if let Err(failure) = self.settle(&touched) {
            entered.into_iter().rev().for_each(|entered| self.take_back(entered));
            self.settle_again(&touched);
            return Err(failure);
        }
        added.into_iter().for_each(|(origin, count)| self.metrics.blocks_added(origin, count as u64));
        self.keep_entered(entered);
        Ok(())
    }

    /// Adds to the model alone.
    pub(super) fn enter(&mut self, terms: Terms, targets: Targets) -> Entered {
        if targets.len() >= BATCH_FROM {
            let (id, displaced) = self.ledger.add(Batch::new(terms, targets));
            return Entered::Batch(id, displaced);
        }
        let put = |(_, target)| (target, self.ledger.put(terms.block(target)));
        Entered::Alone(terms.origin, targets.iter().map(put).collect())
    }

    fn take_back(&mut self, entered: Entered) {
        match entered {
            Entered::Alone(origin, formers) => {
                for (target, former) in formers.into_iter().rev() {
                    self.ledger.put_back(target, origin, former);
                }
            }
            Entered::Batch(id, displaced) => self.ledger.take_back(id, displaced),
        }
    }

    fn keep_entered(&mut self, entered: Vec<Entered>) {
        let mut gone = Gone::default();
        let (mut alone, mut batches) = (Vec::new(), Vec::new());
        for entered in entered {
            match entered {
                Entered::Alone(origin, formers) => {
                    for (target, former) in formers {
                        former.iter().for_each(|former| gone.note(target, origin, former));
                        alone.push((target, origin));
                    }
                }
                Entered::Batch(id, displaced) => {
                    gone.alone.extend(displaced.blocks.iter().map(|block| (block.target, block.origin)));
                    gone.members.extend(self.ledger.displaced_members(&displaced));
                    batches.push(id);
                }
            }
        }
        self.keep(&gone, &alone, batches);
    }

    /// Ends the blocks of one target, of one origin or of all; notes those that ended.
    pub(super) fn lift(&mut self, target: Target, origin: Option<Origin>, gone: &mut Gone) -> Result<usize, Failure> {
        let mut origins = self.ledger.origins(target);
        origins.retain(|one| origin.is_none_or(|origin| origin == *one));
        origins.retain(|one| !(self.without_agent && *one == Origin::Config));
        let remove = |one: Origin| self.ledger.remove(target, one).map(|former| (one, former));
        let lifted: Vec<(Origin, Former)> = origins.into_iter().filter_map(remove).collect();
        if lifted.is_empty() {
            return Ok(0);
        }
        if let Err(failure) = self.tables.settle([(target, self.ledger.wanted(target))].into_iter()) {
            lifted.into_iter().for_each(|(one, former)| self.ledger.put_back(target, one, Some(former)));
            return Err(failure);
        }
        if !self.ledger.contains(target) {
            self.led_to.remove(&target);
        }
        lifted.iter().for_each(|(one, former)| gone.note(target, *one, former));
        Ok(lifted.len())
    }

    /// Ends a whole batch.
    pub(super) fn lift_batch(&mut self, id: BatchId, gone: &mut Gone) -> Result<(), Failure> {
        let Some(batch) = self.ledger.take(id) else { return Ok(()) };
        if let Err(failure) = self.settle(batch.targets()) {
            let targets = batch.rest();
            self.ledger.insert(id, batch);
            self.settle_again(&targets);
            return Err(failure);
        }
        let Enforcer { ledger, led_to, .. } = self;
        led_to.retain(|target, _| ledger.contains(*target));
        gone.batches.push((id, batch));
        Ok(())
    }

    /// The store learns what went, what is kept alone now, and which batches came.
    pub(super) fn keep(&mut self, gone: &Gone, alone: &[(Target, Origin)], mut batches: Vec<BatchId>) {
        let mut ended = self.ledger.forget_empty();
        ended.extend(gone.batches.iter().map(|(id, _)| *id));
        let mut losses: BTreeMap<BatchId, usize> = BTreeMap::new();
        gone.members.iter().for_each(|(id, _)| *losses.entry(*id).or_default() += 1);
        batches.extend(losses.iter().filter(|(_, lost)| **lost > LIFTED_ROWS).map(|(id, _)| *id));
        let is_anew = |id: &BatchId| batches.contains(id) || ended.contains(id);
        let changes = Changes {
            removed: gone.alone.clone(),
            lifted: gone.members.iter().filter(|(id, _)| !is_anew(id)).copied().collect(),
            blocks: alone.iter().filter_map(|(target, origin)| self.ledger.block(*target, *origin)).collect(),
            batches: batches.iter().filter_map(|id| Some((*id, self.ledger.batch(*id)?))).collect(),
            ended,
        };
        self.memory.write(|store| store.change(&changes));
    }

    /// The kernel's entries as the model wants them.
    fn settle(&mut self, targets: &Targets) -> Result<(), Failure> {
        self.tables.settle(self.ledger.wanted_each(targets))
    }

    fn settle_again(&mut self, targets: &Targets) {
        if let Err(failure) = self.settle(targets) {
            tracing::error!("what was there before a refused change is not in force as it was: {failure}");
        }
    }

    /// Refused whole where the tables could not hold so many more.
    pub fn has_room(&self, fresh: Counts) -> Result<(), Failure> {
        for (what, more) in self.fills().into_iter().zip([fresh.singles(), fresh.prefixes()]) {
            if more > 0 && what.held + more > what.limit {
                return Err(Failure::refused(format!(
                    "the table is full: {} {} are blocked, {more} more are asked for, {} fit; raise `filter.{}`",
                    what.held, what.name, what.limit, what.key
                )));
            }
        }
        Ok(())
    }

    pub(super) fn within_limits(&self) -> Result<(), Failure> {
        match self.fills().into_iter().find(|what| what.held > what.limit) {
            Some(what) => Err(Failure::refused(format!(
                "{} {} are blocked and `filter.{}` is {}; raise it, or lift some before",
                what.held, what.name, what.key, what.limit
            ))),
            None => Ok(()),
        }
    }

    fn fills(&self) -> [Fill; 2] {
        let (Limits { blocked, prefixes }, held) = (self.limits, self.ledger.counts());
        [
            Fill { name: "addresses", key: "max_blocked", held: held.singles(), limit: blocked },
            Fill { name: "prefixes", key: "max_prefixes", held: held.prefixes(), limit: prefixes },
        ]
    }
}
