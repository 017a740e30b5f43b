//! Another `[filter]` for a running agent: tables of its own, built and filled beside those in force, then the program
//! replaced in place. All of it or nothing.

use std::mem;

use super::{Enforcer, write::Limits};
use crate::{
    block::{Block, Origin, Target},
    clock::Now,
    config::Filter,
    control::protocol::{LastResult, Reload},
    datapath::{Generation, Lock, Plan, Singles6, Tables},
    error::Failure,
    netlink,
};

/// What the config said before.
struct Configured {
    allowed: Vec<Target>,
    named: Vec<Target>,
    /// Those of them that were in force.
    blocks: Vec<Block>,
    limits: Limits,
}

impl Enforcer {
    /// Puts another `[filter]` into force on `links`; gives what it names to be blocked and was not before. A failure
    /// leaves in force what was.
    pub fn reload(
        &mut self,
        filter: &Filter,
        lock: &Lock,
        links: &[netlink::Link],
        now: Now,
    ) -> Result<Vec<Target>, Failure> {
        let tables = Generation::build(lock, &Plan::of(filter, self.tables.singles6()), Some(&self.tables))?;
        let before = mem::replace(&mut self.tables, tables);
        let former = self.configure(filter, now);
        // It fails before anything but the pins of these tables was written.
        let fit = self.within_limits().inspect_err(|_| self.tables.discard());
        if let Err(failure) = fit.and_then(|()| self.put_into_force(lock, links, filter.attach, Some(&before))) {
            self.tables = before;
            self.unconfigure(former);
            return Err(failure);
        }
        self.dry_run = filter.dry_run;
        self.learner.set_ipv6_unit(filter.ipv6_unit);
        let is_new = |block: &&Block| !former.blocks.iter().any(|known| known.target == block.target);
        Ok(self.named_blocks().iter().filter(is_new).map(|block| block.target).collect())
    }

    /// Whether so many more would find no room in their tables too often.
    pub fn is_crowded_by(&self, more: Singles6) -> bool {
        self.tables.is_crowded_by(more)
    }

    /// Tables with more room, by the config in force. A failure leaves in force what was.
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
    /// How the attempt to change the config ended.
    pub fn reloaded(&mut self, result: LastResult, now: Now) -> Reload {
        let applied = u64::from(result != LastResult::Refused);
        self.reload = Reload { generation: self.reload.generation + applied, last_result: result };
        self.metrics.reloaded(result == LastResult::Ok, now.wall);
        self.reload
    }

    /// Takes over what the config says into the model alone.
    fn configure(&mut self, filter: &Filter, now: Now) -> Configured {
        let blocks = self.named_blocks();
        blocks.iter().for_each(|block| drop(self.ledger.remove(block.target, Origin::Config)));
        let former = Configured {
            allowed: mem::replace(&mut self.configured, filter.allow.clone()),
            named: mem::replace(&mut self.named, filter.block.clone()),
            limits: mem::replace(&mut self.limits, Limits::of(filter)),
            blocks,
        };
        self.block_named(&former.blocks, now);
        former
    }

    fn unconfigure(&mut self, former: Configured) {
        for block in self.named_blocks() {
            drop(self.ledger.remove(block.target, Origin::Config));
        }
        let Configured { allowed, named, blocks, limits } = former;
        blocks.into_iter().for_each(|block| drop(self.ledger.put(block)));
        (self.configured, self.named, self.limits) = (allowed, named, limits);
    }

    fn named_blocks(&self) -> Vec<Block> {
        self.ledger.blocks().filter(|block| block.origin == Origin::Config).cloned().collect()
    }
}
