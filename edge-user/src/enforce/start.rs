//! The start: tables are built from the store, or from what the kernel holds where there is no store to read, and put into
//! force in place of those before.

use std::{collections::BTreeMap, mem};

use edge_common::time::Until;

use super::{
    Enforcer, Surroundings,
    memory::{Memory, Remembered},
};
use crate::{
    batch::{Batch, Terms},
    block::{Origin, Target},
    clock::{Boot, Now},
    config::{self, Config},
    datapath::{self, Generation, Lock, Plan, Tables},
    error::Failure,
    metrics::Own,
    netlink,
    targets::Targets,
};

/// What the kernel holds where the store cannot say what it should hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub blocks: Vec<(Target, Until)>,
    pub allowed: Vec<Target>,
}

impl Held {
    pub(super) fn by(generation: &Generation) -> Held {
        Held { blocks: generation.entries(), allowed: generation.allowed() }
    }
}

impl Enforcer {
    /// Builds tables from the store, fills them and puts them into force on `links`; what the generation before
    /// counted is taken over. A failure leaves in force what was.
    pub fn start(
        config: &Config,
        lock: &Lock,
        links: &[netlink::Link],
        surroundings: Surroundings,
        metrics: Own,
        now: Now,
    ) -> Result<Enforcer, Failure> {
        let mut memory = Memory::open(config.store.path.clone())?.marking(lock.path());
        let is_marked = memory.is_marked();
        let remembered = memory.recall(now);
        let before = Generation::live(lock).unwrap_or_else(|failure| {
            tracing::warn!("{failure}; blocks come from the store, their counts begin anew");
            None
        });
        let singles6 = match &remembered {
            Some(remembered) => remembered.singles6(),
            None => before.as_ref().map(Generation::singles6).unwrap_or_default(),
        };
        let tables = Generation::build(lock, &Plan::of(&config.filter, singles6), before.as_ref())?;
        let mut enforcer = Enforcer::new(config, memory, tables, surroundings, metrics, now);
        let held = |_: &Generation| before.as_ref().map(Held::by).unwrap_or_default();
        enforcer.restore(remembered, held, now).inspect_err(|_| enforcer.tables.discard())?;
        if let Some(before) = before.as_ref().filter(|_| is_marked) {
            enforcer.catch_up(Held::by(before), now);
        }
        enforcer.unread = before.as_ref().and_then(|before| before.events().ok());
        enforcer.put_into_force(lock, links, config.filter.attach, before.as_ref())?;
        Ok(enforcer)
    }

    /// Fills the tables from the model and puts them into force in place of those of `before`, whose counts go on. A
    /// failure leaves in force what was, and removes these tables' pins.
    pub(super) fn put_into_force(
        &mut self,
        lock: &Lock,
        links: &[netlink::Link],
        mode: config::Attach,
        before: Option<&Generation>,
    ) -> Result<(), Failure> {
        let former = before.map(Generation::directory);
        let attached = self.fill().and_then(|()| datapath::attach(&mut self.tables, former, lock.path(), links, mode));
        let links = attached.inspect_err(|_| self.tables.discard())?;
        mem::replace(&mut self.links, links).hand_over(&self.links);
        // The rest loses no packet and no block, so it undoes nothing.
        if let Some(Err(failure)) = before.map(|before| self.take_over(before)) {
            tracing::error!("what was counted of blocked addresses is lost in part: {failure}");
        }
        if let Err(failure) = self.tables.forget_others(lock) {
            tracing::error!("pins of the tables before are left: {failure}");
        }
        Ok(())
    }

    /// Counts go on through a start: the generation before is read once no CPU runs it any more.
    fn take_over(&mut self, before: &Generation) -> Result<(), Failure> {
        let counted = before.counted().into_iter().filter(|(target, _)| self.ledger.contains(*target));
        counted.into_iter().try_for_each(|(target, hits)| self.tables.add_hits(target, hits))
    }
}

impl<T: Tables> Enforcer<T> {
    /// The model as the store has it, or as the kernel has it where there is no store to read; then what the config
    /// names.
    pub(super) fn recall(&mut self, held: impl FnOnce(&T) -> Held, now: Now) -> Result<(), Failure> {
        let remembered = self.memory.recall(now);
        self.restore(remembered, held, now)
    }

    pub(super) fn restore(
        &mut self,
        remembered: Option<Remembered>,
        held: impl FnOnce(&T) -> Held,
        now: Now,
    ) -> Result<(), Failure> {
        match remembered {
            Some(remembered) => {
                for block in remembered.blocked.blocks.into_iter().filter(|block| block.origin != Origin::Config) {
                    self.ledger.put(block);
                }
                remembered.blocked.batches.into_iter().for_each(|(id, batch)| drop(self.ledger.insert(id, batch)));
                self.allowed = remembered.allowed.into_iter().collect();
                remembered.history.into_iter().for_each(|history| self.learner.restore(history));
                if self.memory.is_of_another_boot() {
                    self.rewrite(now);
                }
            }
            None => {
                let held = held(&self.tables);
                self.adopt(held, now);
            }
        }
        self.block_named(&BTreeMap::new(), now);
        self.within_limits()
    }

    /// What the kernel holds is taken over, and stored where that can be.
    pub(super) fn adopt(&mut self, held: Held, now: Now) {
        let Held { blocks, allowed } = held;
        let mut of_end: BTreeMap<Until, Targets> = BTreeMap::new();
        for (target, until) in blocks.into_iter().filter(|(target, _)| !self.named.contains(target)) {
            of_end.entry(until).or_default().push(target);
        }
        for (until, targets) in of_end {
            self.ledger.add(Batch::new(recovered(until, now), targets.sorted()));
        }
        self.allowed = allowed.into_iter().filter(|target| !self.configured.contains(target)).collect();
        self.rewrite(now);
    }
}

pub(super) const RECOVERED: &str = "taken over from the kernel, the store could not be read";

/// What can be said of the kernel's entries whose story is lost with the store.
fn recovered(until: Until, now: Now) -> Terms {
    let end = (until != Until::NEVER).then(|| Boot(u64::from(until.bits()) << 28));
    Terms {
        origin: Origin::Manual,
        reason: RECOVERED.to_owned(),
        created: now.wall,
        until: end,
        expires: end.map(|end| now.wall.plus(end.since(now.boot))),
        offence: 1,
    }
}
