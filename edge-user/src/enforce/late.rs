//! A store that could not be read at the start and can be now: what it holds joins what was decided meanwhile, which
//! counts more.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use edge_common::time::Until;

use super::{Enforcer, Held, RECOVERED, memory::Remembered, write::Gone};
use crate::{
    batch::Terms,
    block::{Origin, Target},
    clock::Now,
    control::protocol::UnblockRequest,
    datapath::Tables,
    error::Failure,
    offense::History,
    store::Blocked,
    targets::Targets,
};

/// So much is kept in mind of what was undone; of more, what the store holds is not brought back at all.
const MOST: usize = 100_000;

/// What was undone while it was not known what the store holds.
#[derive(Debug, Default)]
pub struct Meanwhile {
    /// Of `None` all.
    lifted: BTreeSet<(Option<Target>, Option<Origin>)>,
    disallowed: BTreeSet<Target>,
    /// That what the store held does not fit in, which is tried again.
    is_told: bool,
    /// More was undone than is kept in mind.
    is_full: bool,
}

impl Meanwhile {
    fn bound(&mut self) {
        if self.lifted.len().max(self.disallowed.len()) <= MOST {
            return;
        }
        if !mem::replace(&mut self.is_full, true) {
            tracing::error!(
                "more than {MOST} addresses were lifted or disallowed while the store could not be read; when it can be, \
                 what it holds is left out; `edge restore` brings back what a backup has"
            );
        }
        (self.lifted, self.disallowed) = Default::default();
    }

    fn disallowed(&self, target: &Target) -> bool {
        self.is_full || self.disallowed.contains(target)
    }

    fn lifted(&self, target: Target, origin: Origin) -> bool {
        let named = [Some(target), None].into_iter().flat_map(|one| [(one, Some(origin)), (one, None)]);
        self.is_full || named.into_iter().any(|one| self.lifted.contains(&one))
    }
}

impl<T: Tables> Enforcer<T> {
    pub(super) fn lifted_meanwhile(&mut self, UnblockRequest { targets, origin }: &UnblockRequest) {
        if self.memory.is_complete() {
            return;
        }
        match targets {
            Some(targets) => self.meanwhile.lifted.extend(targets.iter().map(|target| (Some(*target), *origin))),
            None => drop(self.meanwhile.lifted.insert((None, *origin))),
        }
        self.meanwhile.bound();
    }

    pub(super) fn disallowed_meanwhile(&mut self, targets: &[Target]) {
        if !self.memory.is_complete() {
            self.meanwhile.disallowed.extend(targets);
            self.meanwhile.bound();
        }
    }

    /// The store lacks what was changed last, since nothing could be written any more: the kernel has it.
    pub(super) fn catch_up(&mut self, held: Held, now: Now) {
        let Held { blocks, allowed } = held;
        let held: BTreeMap<Target, Until> =
            blocks.into_iter().filter(|(_, until)| until.holds_at(now.boot.0)).collect();
        let is_named = |target: &Target| self.named.contains(target);
        let known: Vec<Target> = self.ledger.wanted_all().map(|(target, _)| target).collect();
        let other = |target: &&Target| self.ledger.wanted(**target) != held.get(target).copied();
        let other: Vec<Target> = known.iter().filter(other).copied().filter(|target| !is_named(target)).collect();
        for target in &other {
            self.ledger.origins(*target).into_iter().for_each(|origin| drop(self.ledger.remove(*target, origin)));
        }
        let new = held.into_iter().filter(|(target, _)| !is_named(target) && !self.ledger.contains(*target));
        let new: Vec<(Target, Until)> = new.collect();
        tracing::warn!(
            "the store lacked what was changed last; of the kernel {} blocks are taken over, {} others are over",
            new.len(),
            other.len()
        );
        self.adopt(Held { blocks: new, allowed }, now);
    }

    /// What does not fit in, as into a full table, stays where it is, and is tried again.
    pub(super) fn merge(&mut self, remembered: Remembered) {
        let Remembered { blocked, allowed, history } = remembered;
        let meanwhile = mem::take(&mut self.meanwhile);
        let known: BTreeSet<Target> = self.learner.histories().map(|History { client, .. }| client).collect();
        history.into_iter().filter(|one| !known.contains(&one.client)).for_each(|one| self.learner.restore(one));
        self.allowed.extend(allowed.into_iter().filter(|target| !meanwhile.disallowed(target)));
        let parts = self.unknown(blocked, &meanwhile);
        let stories = Targets::union(parts.iter().map(|(_, targets)| targets));
        let count = stories.len();
        let merged = self.write_trust().and_then(|()| self.put(parts)).and_then(|()| self.without_recovered(&stories));
        match merged {
            Ok(()) => tracing::info!("the store can be read now: {count} blocks of it are in force"),
            Err(failure) => {
                if !meanwhile.is_told {
                    tracing::error!("what the store held is not all in force: {failure}");
                }
                self.meanwhile = Meanwhile { is_told: true, ..meanwhile };
                self.memory.not_merged();
            }
        }
    }

    /// What the store holds and nobody has decided anew.
    fn unknown(&self, blocked: Blocked, meanwhile: &Meanwhile) -> Vec<(Terms, Targets)> {
        let Blocked { blocks, batches } = blocked;
        let alone = blocks.iter().map(|block| (Terms::of(block), [block.target].into_iter().collect()));
        let batches = batches.iter().map(|(_, batch)| (batch.terms.clone(), batch.rest()));
        let new = |(terms, targets): (Terms, Targets)| {
            let is_new = |target: &Target| {
                let here = self.ledger.at(*target, terms.origin).map(|held| held.block().reason);
                here.is_none_or(|reason| reason == RECOVERED) && !meanwhile.lifted(*target, terms.origin)
            };
            let targets = targets.iter().map(|(_, target)| target).filter(is_new).collect();
            (terms, targets)
        };
        alone.chain(batches).filter(|(terms, _)| terms.origin != Origin::Config).map(new).collect()
    }

    /// Those whose story is known again. The store is written anew after this.
    fn without_recovered(&mut self, known: &Targets) -> Result<(), Failure> {
        let mut gone = Gone::default();
        let is_recovered = |target: &Target| {
            let here = self.ledger.at(*target, Origin::Manual).map(|held| held.block().reason);
            here.is_some_and(|reason| reason == RECOVERED)
        };
        let recovered: Vec<Target> = known.iter().map(|(_, target)| target).filter(is_recovered).collect();
        recovered.into_iter().try_for_each(|target| self.lift(target, Some(Origin::Manual), &mut gone).map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_undone_is_kept_in_mind_up_to_a_bound_and_then_nothing_comes_back() {
        let target = |number: u32| Target::of(std::net::Ipv4Addr::from_bits(number).into());
        let mut meanwhile = Meanwhile::default();
        meanwhile.lifted.extend((0..MOST as u32).map(|number| (Some(target(number)), None)));
        meanwhile.bound();
        let (first, other) = (target(0), target(u32::MAX));
        assert!(meanwhile.lifted(first, Origin::Manual) && !meanwhile.lifted(other, Origin::Manual));
        assert!(!meanwhile.disallowed(&first));
        meanwhile.lifted.insert((Some(other), None));
        meanwhile.bound();
        assert!(meanwhile.lifted.is_empty());
        assert!(meanwhile.lifted(target(7_000_000), Origin::Feed) && meanwhile.disallowed(&first));
    }
}
