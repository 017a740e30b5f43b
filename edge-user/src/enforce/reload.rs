//! Another `[filter]` for a running agent: tables of its own, built and filled beside those in force, then the program
//! replaced in place. All of it or nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use super::{Enforcer, connections::Counting, protect::Surroundings, write::Limits};
use crate::{
    block::{Block, Origin, Target},
    clock::Now,
    config::{Filter, Learn},
    control::protocol::{LastResult, Reload},
    datapath::{Generation, Lock, Plan, Singles6, Tables},
    error::Failure,
    netlink,
};

/// What the config said before.
pub(super) struct Configured {
    allowed: BTreeSet<Target>,
    named: BTreeSet<Target>,
    held_back: BTreeSet<Target>,
    /// Those of them that were in force.
    blocks: BTreeMap<Target, Block>,
    limits: Limits,
    surroundings: Surroundings,
}

impl Enforcer {
    /// Puts another `[filter]` into force on `links`, and whom the config protects beside it. A failure leaves in force
    /// what was.
    pub fn reload(
        &mut self,
        filter: &Filter,
        surroundings: Surroundings,
        lock: &Lock,
        links: &[netlink::Link],
        now: Now,
    ) -> Result<(), Failure> {
        let tables = Generation::build(lock, &Plan::of(filter, self.tables.singles6()), Some(&self.tables))?;
        let before = mem::replace(&mut self.tables, tables);
        let former = self.configure(filter, surroundings, now);
        // It fails before anything but the pins of these tables was written.
        let fit = self.within_limits().inspect_err(|_| self.tables.discard());
        if let Err(failure) = fit.and_then(|()| self.put_into_force(lock, links, filter.attach, Some(&before))) {
            self.tables = before;
            self.unconfigure(former);
            return Err(failure);
        }
        self.dry_run = filter.dry_run;
        self.learner.set_ipv6_unit(filter.ipv6_unit);
        self.counting = Counting::of(filter);
        Ok(())
    }

    /// Whether with so many more too many would find no room in their tables, or too many do already.
    pub fn is_crowded_by(&self, more: Singles6) -> bool {
        self.tables.is_crowded_by(more)
    }

    /// Tables with more room and other seeds, by the config in force. A failure leaves in force what was.
    pub fn grow(
        &mut self,
        filter: &Filter,
        lock: &Lock,
        links: &[netlink::Link],
        more: Singles6,
    ) -> Result<(), Failure> {
        let plan = Plan::of(filter, self.tables.singles6().plus(more));
        let tables = Generation::build(lock, &plan, Some(&self.tables))?;
        let before = mem::replace(&mut self.tables, tables);
        if let Err(failure) = self.put_into_force(lock, links, filter.attach, Some(&before)) {
            self.tables = before;
            return Err(failure);
        }
        Ok(())
    }
}

impl<T: Tables> Enforcer<T> {
    /// Another `[learn]`; the evidence stays.
    pub fn set_policy(&mut self, learn: Learn) {
        self.learner.set_policy(learn);
    }

    /// How the attempt to change the config ended.
    pub fn reloaded(&mut self, result: LastResult, now: Now) -> Reload {
        let applied = u64::from(result != LastResult::Refused);
        let generation = self.reload.generation + applied;
        self.reload = Reload { generation, last_result: result, reverts_at: None };
        self.metrics.reloaded(result == LastResult::Ok, now.wall);
        self.reload
    }

    /// What others were asked for at the last reload could not all be had.
    pub fn reloaded_in_part(&mut self, now: Now) {
        if self.reload.last_result == LastResult::Ok {
            self.reload.last_result = LastResult::Partial;
            self.metrics.reloaded(false, now.wall);
        }
    }

    /// It began with the config that was confirmed last, which is not the file's.
    pub fn began_reverted(&mut self, now: Now) {
        self.reload.last_result = LastResult::Reverted;
        self.metrics.reloaded(false, now.wall);
    }

    pub fn reload_state(&self) -> Reload {
        self.reload
    }

    /// The same `[filter]`, but the config protects others beside it. A failure leaves protected who was.
    pub fn surround(&mut self, surroundings: Surroundings, now: Now) -> Result<(), Failure> {
        let former = self.protected.surroundings().clone();
        if let Err(failure) = self.follow_trust(surroundings) {
            self.protected.follow(former);
            // What the kernel has now is compared and put right as any drift.
            let _ = self.write_trust();
            return Err(failure);
        }
        if let Err(failure) = self.block_held_back(now) {
            tracing::error!("`filter.block` is not all in force: {failure}; it is tried again");
        }
        Ok(())
    }

    /// Takes over what the config says into the model alone.
    pub(super) fn configure(&mut self, filter: &Filter, surroundings: Surroundings, now: Now) -> Configured {
        let former_surroundings = self.protected.surroundings().clone();
        self.protected.follow(surroundings);
        let blocks = self.named_blocks();
        blocks.keys().for_each(|target| drop(self.ledger.remove(*target, Origin::Config)));
        let former = Configured {
            allowed: mem::replace(&mut self.configured, filter.allow.iter().copied().collect()),
            named: mem::replace(&mut self.named, filter.block.iter().copied().collect()),
            held_back: mem::take(&mut self.held_back),
            limits: mem::replace(&mut self.limits, Limits::of(filter)),
            surroundings: former_surroundings,
            blocks,
        };
        self.block_named(&former.blocks, now);
        former
    }

    pub(super) fn unconfigure(&mut self, former: Configured) {
        self.named_blocks().into_keys().for_each(|target| drop(self.ledger.remove(target, Origin::Config)));
        let Configured { allowed, named, held_back, blocks, limits, surroundings } = former;
        self.protected.follow(surroundings);
        blocks.into_values().for_each(|block| drop(self.ledger.put(block)));
        (self.configured, self.named, self.held_back, self.limits) = (allowed, named, held_back, limits);
    }

    pub(super) fn named_blocks(&self) -> BTreeMap<Target, Block> {
        let named = self.ledger.blocks().filter(|block| block.origin == Origin::Config);
        named.map(|block| (block.target, block.clone())).collect()
    }
}
