//! The one writer of everything that is enforced. Each decision goes to the kernel first, then to the store; both are
//! done when a command is answered.
//!
//! [`Enforcer::start`] builds the next generation of tables from the store and puts it into force; [`offline()`] runs
//! one command on the pinned tables where no agent runs.

mod answer;
mod command;
mod ledger;
mod memory;
mod offline;
mod protect;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use edge_common::time::Until;

pub use offline::offline;
pub use protect::{Protected, Surroundings};

use self::{ledger::Ledger, memory::Memory};
use crate::{
    block::{Block, Origin, Target},
    clock::{Boot, Now, Wall},
    config::Config,
    datapath::{self, Attached, Generation, Lock, Plan, Tables},
    error::Failure,
    metrics::{Own, Removed},
    netlink,
    offense::{self, Decision, History, Kind, Learner},
};

/// The failures that led to a block: when, what kind, for which account.
type Failures = Vec<(Wall, Kind, Option<String>)>;

/// Holds every map, the model of what should be in them, and the store.
pub struct Enforcer<T = Generation> {
    tables: T,
    memory: Memory,
    learner: Learner,
    ledger: Ledger,
    /// The failures that led to each learned block, while it lasts.
    led_to: BTreeMap<Target, Failures>,
    /// What the config allows; the run-time list is in `allowed`.
    configured: Vec<Target>,
    /// What the config blocks.
    named: Vec<Target>,
    allowed: BTreeSet<Target>,
    protected: Protected,
    /// Whether the kernel has what is protected and allowed.
    trust_written: bool,
    attached: Vec<Attached>,
    limits: Limits,
    started: Boot,
    metrics: Own,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    blocked: usize,
    prefixes: usize,
}

/// How full a kind of table is.
struct Fill {
    name: &'static str,
    key: &'static str,
    held: usize,
    limit: usize,
}

/// What the kernel holds where the store cannot say what it should hold.
#[derive(Clone, Debug, Default)]
struct Held {
    blocks: Vec<(Target, Until)>,
    allowed: Vec<Target>,
}

impl Held {
    fn by(generation: &Generation) -> Held {
        Held { blocks: generation.entries(), allowed: generation.allowed() }
    }
}

/// What an offence came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Noted, or of no weight.
    Noted,
    Blocked(Target),
    /// The client was blocked before.
    AlreadyBlocked,
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
        let memory = Memory::open(config.store.path.clone())?;
        let before = Generation::live(lock).unwrap_or_else(|failure| {
            tracing::warn!("{failure}; blocks come from the store, their counts begin anew");
            None
        });
        let tables = Generation::build(lock, &Plan::of(&config.filter), before.as_ref())?;
        let mut enforcer = Enforcer::new(config, memory, tables, surroundings, metrics, now);
        let held = before.as_ref().map(Held::by).unwrap_or_default();
        let put_into_force = enforcer.recall(held, now).and_then(|()| enforcer.fill()).and_then(|()| {
            let former = before.as_ref().map(Generation::program_pin);
            datapath::attach(&mut enforcer.tables, former.as_deref(), lock.path(), links, config.filter.attach)
        });
        enforcer.attached = put_into_force.inspect_err(|_| enforcer.tables.discard())?;
        if let Some(before) = before {
            enforcer.take_over(&before)?;
        }
        enforcer.tables.forget_others(lock)?;
        Ok(enforcer)
    }

    /// Counts go on through a start: the generation before is read once no CPU runs it any more.
    fn take_over(&mut self, before: &Generation) -> Result<(), Failure> {
        self.ledger.targets().try_for_each(|target| self.tables.add_hits(target, before.hits(target)))
    }

    /// Follows the kernel's clock: jiffies stand still in suspend.
    pub fn set_clock(&mut self) -> Result<(), Failure> {
        self.tables.set_clock()
    }
}

impl<T: Tables> Enforcer<T> {
    fn new(
        config: &Config,
        memory: Memory,
        tables: T,
        surroundings: Surroundings,
        metrics: Own,
        now: Now,
    ) -> Enforcer<T> {
        Enforcer {
            tables,
            memory,
            learner: Learner::new(config.learn.clone(), config.filter.ipv6_unit),
            ledger: Ledger::default(),
            led_to: BTreeMap::new(),
            configured: config.filter.allow.clone(),
            named: config.filter.block.clone(),
            allowed: BTreeSet::new(),
            protected: Protected::new(surroundings),
            trust_written: true,
            attached: Vec::new(),
            limits: Limits {
                blocked: config.filter.max_blocked as usize,
                prefixes: config.filter.max_prefixes as usize,
            },
            started: now.boot,
            metrics,
        }
    }

    /// The model as the store has it, or as the kernel has it where there is no store to read; then what the config
    /// names.
    fn recall(&mut self, held: Held, now: Now) -> Result<(), Failure> {
        match self.memory.recall(now) {
            Some(remembered) => {
                for block in remembered.blocks.into_iter().filter(|block| block.origin != Origin::Config) {
                    self.ledger.put(block);
                }
                self.allowed = remembered.allowed.into_iter().collect();
                remembered.history.into_iter().for_each(|history| self.learner.restore(history));
            }
            None => self.adopt(held, now),
        }
        self.block_named(now);
        self.within_limits()
    }

    /// What the kernel holds is taken over, and stored where that can be.
    fn adopt(&mut self, held: Held, now: Now) {
        let Held { blocks, allowed } = held;
        for (target, until) in blocks.into_iter().filter(|(target, _)| !self.named.contains(target)) {
            self.ledger.put(recovered(target, until, now));
        }
        self.allowed = allowed.into_iter().filter(|target| !self.configured.contains(target)).collect();
        self.rewrite();
    }

    /// Blocks that the config names: in force while it names them, never stored.
    fn block_named(&mut self, now: Now) {
        for target in self.named.clone() {
            if let Some(why) = self.never_blocked(target) {
                tracing::warn!("`filter.block` names {target}, which is protected and stays served: {why}");
                continue;
            }
            self.ledger.put(Block {
                target,
                origin: Origin::Config,
                reason: "named in the config".to_owned(),
                created: now.wall,
                until: None,
                expires: None,
                offence: 1,
            });
        }
    }

    fn fill(&mut self) -> Result<(), Failure> {
        self.write_trust()?;
        for target in self.ledger.targets() {
            if let Some(until) = self.ledger.wanted(target) {
                self.tables.set(target, until)?;
            }
        }
        Ok(())
    }

    /// A credential was refused, on a connection that the kernel has. Blocks at the threshold.
    pub fn offence(&mut self, kind: Kind, peer: IpAddr, account: Option<&str>, now: Now) -> Result<Outcome, Failure> {
        self.metrics.offence(kind);
        if self.never_blocked(Target::of(peer)).is_some() {
            return Ok(Outcome::Noted);
        }
        if self.ledger.holding(peer, now).is_some() {
            return Ok(Outcome::AlreadyBlocked);
        }
        let before = self.learner.evidence(peer, now).recent;
        let Some(decision) = self.learner.failure(kind, peer, account, now) else { return Ok(Outcome::Noted) };
        self.learned(&decision, now).inspect_err(|_| self.learner.not_blocked(decision.client))?;
        let mut evidence = before;
        evidence.push((now.wall, kind, account.map(|name| offense::shown(name).to_owned())));
        self.led_to.insert(decision.client, evidence);
        Ok(Outcome::Blocked(decision.client))
    }

    pub fn signed_in(&mut self, peer: IpAddr, account: &str) {
        self.learner.success(peer, account);
    }

    fn learned(&mut self, decision: &Decision, now: Now) -> Result<(), Failure> {
        let ended = now.wall.plus(decision.duration);
        self.has_room(&[decision.client])?;
        self.put(vec![Block {
            target: decision.client,
            origin: Origin::Auth,
            reason: decision.evidence.clone(),
            created: now.wall,
            until: Some(now.boot.plus(decision.duration)),
            expires: Some(ended),
            offence: decision.number,
        }])?;
        let history = History { client: decision.client, number: decision.number, ended };
        self.memory.write(|store| store.put_history(&history));
        Ok(())
    }

    /// Refused whole where the tables could not hold so many more.
    fn has_room(&self, targets: &[Target]) -> Result<(), Failure> {
        let fresh: BTreeSet<&Target> = targets.iter().filter(|target| !self.ledger.contains(**target)).collect();
        let single = fresh.iter().filter(|target| target.is_single()).count();
        for (what, more) in self.fills().into_iter().zip([single, fresh.len() - single]) {
            if more > 0 && what.held + more > what.limit {
                return Err(Failure::refused(format!(
                    "the table is full: {} {} are blocked, {more} more are asked for, {} fit; raise `filter.{}`",
                    what.held, what.name, what.limit, what.key
                )));
            }
        }
        Ok(())
    }

    fn within_limits(&self) -> Result<(), Failure> {
        match self.fills().into_iter().find(|what| what.held > what.limit) {
            Some(what) => Err(Failure::refused(format!(
                "{} {} are blocked and `filter.{}` is {}; raise it, or lift some before",
                what.held, what.name, what.key, what.limit
            ))),
            None => Ok(()),
        }
    }

    fn fills(&self) -> [Fill; 2] {
        let Limits { blocked, prefixes } = self.limits;
        [
            Fill { name: "addresses", key: "max_blocked", held: self.ledger.singles(), limit: blocked },
            Fill { name: "prefixes", key: "max_prefixes", held: self.ledger.prefixes(), limit: prefixes },
        ]
    }

    /// All of them or none: what the kernel refuses puts back what was there.
    fn put(&mut self, blocks: Vec<Block>) -> Result<(), Failure> {
        let mut replaced = Vec::with_capacity(blocks.len());
        for block in &blocks {
            replaced.push((block.target, block.origin, self.ledger.put(block.clone())));
            if let Err(failure) = self.write(block.target) {
                self.put_back(replaced);
                return Err(failure);
            }
        }
        blocks.iter().for_each(|block| self.metrics.block_added(block.origin));
        self.memory.write(|store| store.put_blocks(&blocks));
        Ok(())
    }

    fn put_back(&mut self, replaced: Vec<(Target, Origin, Option<Block>)>) {
        for (target, origin, before) in replaced.into_iter().rev() {
            match before {
                Some(block) => drop(self.ledger.put(block)),
                None => drop(self.ledger.remove(target, origin)),
            }
            if let Err(failure) = self.write(target) {
                tracing::error!("{target} is not as it was: {failure}");
            }
        }
    }

    /// Ends the blocks of one target, of one origin or of all; gives those that ended.
    fn lift(&mut self, target: Target, origin: Option<Origin>) -> Result<Vec<Origin>, Failure> {
        let mut gone = self.ledger.origins(target);
        gone.retain(|one| origin.is_none_or(|origin| origin == *one));
        let lifted: Vec<Block> = gone.iter().filter_map(|one| self.ledger.remove(target, *one)).collect();
        if lifted.is_empty() {
            return Ok(gone);
        }
        if let Err(failure) = self.write(target) {
            lifted.into_iter().for_each(|block| drop(self.ledger.put(block)));
            return Err(failure);
        }
        if !self.ledger.contains(target) {
            self.led_to.remove(&target);
        }
        Ok(gone)
    }

    /// The kernel's entry as the model wants it.
    fn write(&mut self, target: Target) -> Result<(), Failure> {
        match self.ledger.wanted(target) {
            Some(until) => self.tables.set(target, until),
            None => self.tables.clear(target),
        }
    }

    /// Follows what is protected: own addresses, gateways, resolvers, peers of live SSH sessions.
    pub fn follow(&mut self, surroundings: Surroundings) -> Result<(), Failure> {
        if !self.protected.follow(surroundings) && self.trust_written {
            return Ok(());
        }
        self.write_trust()
    }

    /// What was read last of what is to be protected.
    pub fn surroundings(&self) -> &Surroundings {
        self.protected.surroundings()
    }

    fn write_trust(&mut self) -> Result<(), Failure> {
        let allowed = self.configured.iter().chain(&self.allowed).copied();
        let written = self.tables.trust(&self.protected.trust(allowed));
        self.trust_written = written.is_ok();
        written
    }

    /// Why this exact target, or something that covers it, is never blocked.
    fn never_blocked(&self, target: Target) -> Option<String> {
        let mut allowed = self.configured.iter().chain(&self.allowed);
        if let Some(cover) = allowed.find(|allowed| allowed.net().contains(&target.net())) {
            return Some(format!("{cover} is on the allow list"));
        }
        self.protected.why(target)
    }

    /// Once a second: what is over is taken out of tables and store.
    pub fn sweep(&mut self, now: Now) -> Result<(), Failure> {
        self.learner.sweep(now);
        if self.memory.is_due(now) {
            self.rewrite();
        }
        let over = self.ledger.ended(now);
        if over.is_empty() {
            return Ok(());
        }
        let lifted = over.iter().try_for_each(|(target, origin)| self.lift(*target, Some(*origin)).map(drop));
        self.metrics.blocks_removed(Removed::Expired, over.len() as u64);
        self.memory.write(|store| store.remove_blocks(&over));
        lifted
    }

    fn rewrite(&mut self) {
        self.memory.rewrite(self.ledger.iter(), self.allowed.iter().copied(), self.learner.histories());
    }

    pub fn attached(&self) -> &[Attached] {
        &self.attached
    }
}

/// What can be said of a kernel's entry whose story is lost with the store.
fn recovered(target: Target, until: Until, now: Now) -> Block {
    let end = (until != Until::NEVER).then(|| Boot(u64::from(until.bits()) << 28));
    Block {
        target,
        origin: Origin::Manual,
        reason: "taken over from the kernel, the store could not be read".to_owned(),
        created: now.wall,
        until: end,
        expires: end.map(|end| now.wall.plus(end.since(now.boot))),
        offence: 1,
    }
}
