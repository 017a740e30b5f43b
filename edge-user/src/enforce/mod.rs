//! The one writer of everything that is enforced. Each decision goes to the kernel first, then to the store; both are
//! done when a command is answered.
//!
//! [`Enforcer::start`] builds the next generation of tables from the store and puts it into force; [`offline()`] runs
//! one command on the pinned tables where no agent runs.

mod again;
mod answer;
mod command;
mod connections;
mod import;
mod late;
mod ledger;
mod memory;
mod nowhere;
mod offline;
mod protect;
mod reload;
mod restore;
mod start;
#[cfg(test)]
mod tests;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use edge_common::time::Until;

pub use offline::{offline, silent_agent};
pub use protect::{Protected, Surroundings};

use self::{
    connections::{Counting, Ever},
    late::Meanwhile,
    ledger::Ledger,
    memory::Memory,
    start::{Held, RECOVERED},
    write::{Gone, Limits},
};
use crate::{
    batch::Terms,
    block::{Block, Origin, Target},
    clock::{Boot, Now, Wall},
    config::Config,
    control::protocol::{LastResult, Reload},
    datapath::{self, Difference, Events, Generation, Links, Look, Tables},
    drops::{Drops, Sample},
    error::Failure,
    metrics::{Drift, Own, Removed},
    offense::{self, Decision, History, Kind, Learner},
    store::Changes,
};

/// The failures that led to a block: when, what kind, for which account.
type Failures = Vec<(Wall, Kind, Option<String>)>;

/// Holds every map, the model of what should be in them, and the store.
pub struct Enforcer<T = Generation> {
    tables: T,
    memory: Memory,
    meanwhile: Meanwhile,
    learner: Learner,
    ledger: Ledger,
    /// The failures that led to each learned block, while it lasts.
    led_to: BTreeMap<Target, Failures>,
    /// What the config allows; the run-time list is in `allowed`.
    configured: BTreeSet<Target>,
    /// What the config blocks.
    named: BTreeSet<Target>,
    /// No agent runs: what the config names holds until one starts, since nobody would remember that it was lifted.
    without_agent: bool,
    /// Of what the config names, those that are protected now; blocked once they are no more.
    held_back: BTreeSet<Target>,
    allowed: BTreeSet<Target>,
    protected: Protected,
    /// Whether the kernel has what is protected and allowed.
    trust_written: bool,
    links: Links,
    drops: Drops,
    counting: Counting,
    /// Connections that found no room to be counted, as far as they are in the metrics.
    uncounted: u64,
    excess: Ever,
    /// Samples of the generation before the start that nobody read yet.
    unread: Option<Events>,
    limits: Limits,
    /// Nothing is dropped, all is counted.
    dry_run: bool,
    reload: Reload,
    started: Boot,
    metrics: Own,
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
    /// Puts the links and pins right that came loose from outside, and follows interfaces as they come and go.
    pub fn mend(&mut self, look: &Look) -> Result<(), Failure> {
        let pinned = self.tables.pin_again();
        let unpinned = *pinned.as_ref().unwrap_or(&0);
        if unpinned > 0 {
            tracing::warn!("{unpinned} maps and programs were not pinned any more; they are again");
        }
        let mended = self.tables.mend(&mut self.links, look);
        let links = mended.as_ref().copied().unwrap_or_default();
        self.metrics.drift_repaired(Drift::Detached, links.detached);
        self.metrics.drift_repaired(Drift::Unpinned, unpinned + links.unpinned);
        pinned.and(mended).map(drop)
    }

    /// What somebody else changed in the kernel.
    pub fn differs(&self) -> Option<Difference> {
        self.tables.differs(self.ledger.inventory())
    }

    /// The same of settings and ports alone.
    pub fn settings_differ(&self) -> Option<Difference> {
        (!self.tables.settings_are_as_written()).then_some(Difference::Settings)
    }

    /// The samples of what is dropped, of the tables in force. To be called within the runtime.
    pub fn events(&self) -> Result<Events, Failure> {
        self.tables.events()
    }

    /// The connections that the tables in force count; `None` where none are capped.
    pub fn counted(&self) -> Result<Option<datapath::Connections>, Failure> {
        self.tables.open_connections()
    }

    /// What was sampled before the start, once.
    pub fn unread(&mut self) -> Option<Events> {
        self.unread.take()
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
            meanwhile: Meanwhile::default(),
            learner: Learner::new(config.learn.clone(), config.filter.ipv6_unit),
            ledger: Ledger::default(),
            led_to: BTreeMap::new(),
            configured: config.filter.allow.iter().copied().collect(),
            named: config.filter.block.iter().copied().collect(),
            without_agent: false,
            held_back: BTreeSet::new(),
            allowed: BTreeSet::new(),
            protected: Protected::new(surroundings),
            trust_written: true,
            links: Links::default(),
            drops: Drops::default(),
            counting: Counting::of(&config.filter),
            uncounted: 0,
            excess: Ever::default(),
            unread: None,
            limits: Limits::of(&config.filter),
            dry_run: config.filter.dry_run,
            reload: Reload { generation: 1, last_result: LastResult::Ok, reverts_at: None },
            started: now.boot,
            metrics,
        }
    }

    /// Blocks that the config names: in force while it names them, never stored. What it named before is as old as it
    /// was.
    fn block_named(&mut self, before: &BTreeMap<Target, Block>, now: Now) {
        let (held_back, blocked): (BTreeSet<Target>, BTreeSet<Target>) =
            self.named.iter().partition(|target| self.protected.why(**target).is_some());
        for target in &held_back {
            let why = self.protected.why(*target).unwrap_or_default();
            tracing::warn!("`filter.block` names {target}, which is protected and stays served: {why}");
        }
        self.held_back = held_back;
        for target in blocked {
            // As one that was blocked before it was allowed: blocked again once it is allowed no more.
            if let Some(why) = self.never_blocked(target) {
                tracing::warn!("`filter.block` names {target}, which stays served: {why}");
            }
            self.ledger.put(of_config(target, before.get(&target).map_or(now.wall, |block| block.created)));
        }
    }

    /// For a command while no agent runs: what the config names is blocked as far as the kernel has it; the rest begins with
    /// the next start.
    fn go_without_agent(&mut self) {
        self.without_agent = true;
        let absent = |target: &Target| self.tables.until(*target) != Some(Until::NEVER);
        let absent: Vec<Target> = self.named.iter().copied().filter(absent).collect();
        absent.into_iter().for_each(|target| drop(self.ledger.remove(target, Origin::Config)));
    }

    /// Those that the config names and that were protected until now.
    fn block_held_back(&mut self, now: Now) -> Result<(), Failure> {
        let free: Vec<Target> =
            self.held_back.iter().copied().filter(|target| self.protected.why(*target).is_none()).collect();
        let mut failed = Ok(());
        for target in free {
            match self.put(vec![(Terms::of(&of_config(target, now.wall)), [target].into_iter().collect())]) {
                Ok(()) => {
                    self.held_back.remove(&target);
                    tracing::warn!("{target}, which `filter.block` names, is protected no more and blocked now");
                }
                // It is tried again.
                Err(failure) => failed = Err(failure),
            }
        }
        failed
    }

    fn fill(&mut self) -> Result<(), Failure> {
        self.write_trust()?;
        self.tables.settle(self.ledger.wanted_all().map(|(target, until)| (target, Some(until))))
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

    /// For `why`.
    pub fn dropped(&mut self, sample: Sample) {
        self.drops.note(sample);
    }

    /// The reason of the block that holds.
    pub fn why_blocked(&self, address: IpAddr, now: Now) -> Option<String> {
        self.ledger.holding(address, now).map(|block| block.reason)
    }

    pub fn signed_in(&mut self, peer: IpAddr, account: &str) {
        self.learner.success(peer, account);
    }

    fn learned(&mut self, decision: &Decision, now: Now) -> Result<(), Failure> {
        let ended = now.wall.plus(decision.duration);
        let terms = Terms {
            origin: Origin::Auth,
            reason: decision.evidence.clone(),
            created: now.wall,
            until: Some(now.boot.plus(decision.duration)),
            expires: Some(ended),
            offence: decision.number,
        };
        self.put(vec![(terms, [decision.client].into_iter().collect())])?;
        let history = History { client: decision.client, number: decision.number, ended };
        self.memory.write(|store| store.put_history(&history));
        Ok(())
    }

    /// Follows what is protected: own addresses, gateways, resolvers, peers of live SSH sessions.
    pub fn follow(&mut self, surroundings: Surroundings, now: Now) -> Result<(), Failure> {
        self.follow_trust(surroundings)?;
        self.block_held_back(now)
    }

    fn follow_trust(&mut self, surroundings: Surroundings) -> Result<(), Failure> {
        if self.protected.follow(surroundings) || !self.trust_written { self.write_trust() } else { Ok(()) }
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

    /// Whether packets of this address are dropped for a block.
    pub fn is_blocked(&self, address: IpAddr, now: Now) -> bool {
        self.never_blocked(Target::of(address)).is_none() && self.ledger.holding(address, now).is_some()
    }

    /// Once a second: what is over is taken out of tables and store.
    pub fn sweep(&mut self, now: Now) -> Result<(), Failure> {
        self.learner.sweep(now);
        self.drops.sweep(now.boot);
        self.look_after_store(now);
        let (over, batches) = (self.ledger.ended(now), self.ledger.ended_batches(now));
        if over.is_empty() && batches.is_empty() {
            return Ok(());
        }
        let mut gone = Gone::default();
        let mut lift = |(target, origin): (Target, Origin)| self.lift(target, Some(origin), &mut gone).map(drop);
        let alone = over.into_iter().try_for_each(&mut lift);
        let lifted = batches.into_iter().try_for_each(|id| self.lift_batch(id, &mut gone)).and(alone);
        self.metrics.blocks_removed(Removed::Expired, gone.len() as u64);
        self.keep(&gone, &[], Vec::new());
        lifted
    }

    fn look_after_store(&mut self, now: Now) {
        self.memory.look();
        self.memory.see(now);
        if self.memory.is_due(now) {
            if let Some(remembered) = self.memory.recall_late(now) {
                self.merge(remembered);
            }
            self.rewrite(now);
        }
    }

    fn rewrite(&mut self, now: Now) {
        let blocked = Changes {
            blocks: self.ledger.blocks().collect(),
            batches: self.ledger.batches().collect(),
            ..Changes::default()
        };
        self.memory.rewrite(now, &blocked, self.allowed.iter().copied(), self.learner.histories());
    }

    /// The restore that all of it came from last, if any; the outer `None`: the store cannot tell.
    pub fn restored(&self) -> Option<Option<String>> {
        self.memory.restored()
    }

    pub fn links(&self) -> &Links {
        &self.links
    }
}

/// As long as the config names it.
fn of_config(target: Target, created: Wall) -> Block {
    Block {
        target,
        origin: Origin::Config,
        reason: "named in the config".to_owned(),
        created,
        until: None,
        expires: None,
        offence: 1,
    }
}
