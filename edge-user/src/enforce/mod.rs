//! The one writer of everything that is enforced. Each decision goes to the kernel first, then to the store; both are
//! done when a command is answered.
//!
//! [`Enforcer::start`] builds the next generation of tables from the store and puts it into force; [`offline`] runs one
//! command on the pinned tables where no agent runs.

mod answer;
mod protect;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use edge_common::time::Until;

pub use protect::{Protected, Surroundings};

use crate::{
    block::{Block, Origin, Target},
    clock::{Boot, Now, Wall},
    config::Config,
    control::{
        client,
        protocol::{Answer, BlockRequest, Changed, Command, Reply, Request, UnblockRequest},
    },
    datapath::{self, Attached, Generation, Lock, Sizes, Tables},
    error::{Blame, Context, Failure},
    metrics::{Own, Removed},
    netlink,
    offense::{self, Decision, History, Kind, Learner},
    store::Store,
};

/// Widest networks that may be blocked without `--force`.
const WIDEST4: u8 = 8;
const WIDEST6: u8 = 32;

/// Holds every map, the model of what should be in them, and the store.
pub struct Enforcer {
    lock: Lock,
    tables: Generation,
    store: Option<Store>,
    learner: Learner,
    blocks: BTreeMap<Target, BTreeMap<Origin, Block>>,
    /// The failures that led to each learned block, while it lasts.
    led_to: BTreeMap<Target, Vec<(Wall, Kind, Option<String>)>>,
    /// From the config; the run-time list is in `allowed`.
    configured: Vec<Target>,
    allowed: BTreeSet<Target>,
    protected: Protected,
    attached: Vec<Attached>,
    limits: Limits,
    store_path: PathBuf,
    started: Boot,
    first: bool,
    metrics: Own,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    blocked: usize,
    prefixes: usize,
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
    /// counted is taken over.
    pub fn start(
        config: &Config,
        lock: Lock,
        links: &[netlink::Link],
        surroundings: Surroundings,
        metrics: Own,
        now: Now,
    ) -> Result<Enforcer, Failure> {
        let before = Generation::live(&lock).unwrap_or_else(|failure| {
            tracing::warn!("{failure}; blocks come from the store, their counts begin anew");
            None
        });
        let tables = Generation::build(&lock, Sizes::of(&config.filter))?;
        let mut enforcer = Enforcer::new(config, lock, tables, surroundings, metrics, now);
        let filled = enforcer.recall(before.as_ref(), now).and_then(|()| enforcer.fill());
        let attached = filled.and_then(|()| {
            let pin_path = enforcer.lock.path().to_owned();
            datapath::attach(&mut enforcer.tables, &pin_path, links, config.filter.attach)
        });
        match attached {
            Ok(attached) => enforcer.attached = attached,
            Err(failure) => {
                enforcer.tables.discard();
                if before.is_none() {
                    datapath::unload(enforcer.lock.path())?;
                }
                return Err(failure);
            }
        }
        enforcer.first = before.is_none();
        if let Some(before) = before {
            enforcer.take_over(&before)?;
        }
        enforcer.tables.forget_others(&enforcer.lock)?;
        Ok(enforcer)
    }

    fn new(
        config: &Config,
        lock: Lock,
        tables: Generation,
        surroundings: Surroundings,
        metrics: Own,
        now: Now,
    ) -> Enforcer {
        let store = Store::open(&config.store.path).map_err(|error| {
            tracing::error!("{error}; enforcement goes on without the store");
        });
        Enforcer {
            lock,
            tables,
            store: store.ok(),
            learner: Learner::new(config.learn.clone(), config.filter.ipv6_unit),
            blocks: BTreeMap::new(),
            led_to: BTreeMap::new(),
            configured: config.filter.allow.clone(),
            allowed: BTreeSet::new(),
            protected: Protected::new(surroundings),
            attached: Vec::new(),
            limits: Limits {
                blocked: config.filter.max_blocked as usize,
                prefixes: config.filter.max_prefixes as usize,
            },
            store_path: config.store.path.clone(),
            started: now.boot,
            first: false,
            metrics,
        }
    }

    /// The model as the store has it, or as the kernel has it where the store cannot be read; then the config's own.
    fn recall(&mut self, before: Option<&Generation>, now: Now) -> Result<(), Failure> {
        let read = self.store.as_ref().map(|store| (store.blocks(now), store.allowed(), store.history()));
        match read {
            Some((Ok(blocks), Ok(allowed), Ok(history))) => {
                for block in blocks.into_iter().filter(|block| block.origin != Origin::Config) {
                    self.blocks.entry(block.target).or_default().insert(block.origin, block);
                }
                self.allowed = allowed.into_iter().collect();
                history.into_iter().for_each(|history| self.learner.restore(history));
            }
            read => {
                if read.is_some() {
                    tracing::error!("the store {} cannot be read; enforcement goes on", self.store_path.display());
                    self.store = None;
                }
                for (target, until) in before.map(Generation::entries).unwrap_or_default() {
                    let block = recovered(target, until, now);
                    self.blocks.entry(target).or_default().insert(block.origin, block);
                }
            }
        }
        Ok(())
    }

    /// Blocks that the config names: in force while it names them.
    pub fn apply_config_blocks(&mut self, targets: &[Target], now: Now) -> Result<(), Failure> {
        let request = BlockRequest {
            targets: targets.to_vec(),
            for_seconds: None,
            reason: Some("named in the config".to_owned()),
            origin: Origin::Config,
            force: true,
        };
        self.block(&request, None, now).map(drop)
    }

    fn fill(&mut self) -> Result<(), Failure> {
        self.write_trust()?;
        let targets: Vec<Target> = self.blocks.keys().copied().collect();
        targets.into_iter().try_for_each(|target| self.write(target))
    }

    /// Counts go on through a start: the generation before is read once no CPU runs it any more.
    fn take_over(&mut self, before: &Generation) -> Result<(), Failure> {
        let targets: Vec<Target> = self.blocks.keys().copied().collect();
        targets.into_iter().try_for_each(|target| self.tables.add_hits(target, before.hits(target)))
    }

    /// One command of the CLI.
    pub fn execute(&mut self, request: &Request, now: Now) -> Answer {
        match &request.command {
            Command::Status => Ok(Reply::Status(Box::new(self.status(now)?))),
            Command::Block(block) => self.block(block, request.caller, now).map(Reply::Changed),
            Command::Unblock(unblock) => self.unblock(unblock, now).map(Reply::Changed),
            Command::List { origin, limit } => Ok(Reply::List(self.list(*origin, *limit, now))),
            Command::Why { address } => Ok(Reply::Why(Box::new(self.why(*address, now)?))),
            Command::Allow { targets } => self.allow(targets).map(Reply::Changed),
            Command::Disallow { targets } => self.disallow(targets).map(Reply::Changed),
            Command::Unload => datapath::unload(self.lock.path()).map(|()| Reply::Done),
        }
    }

    /// A credential was refused, on a connection that the kernel has. Blocks at the threshold.
    pub fn offence(&mut self, kind: Kind, peer: IpAddr, account: Option<&str>, now: Now) -> Result<Outcome, Failure> {
        self.metrics.offence(kind);
        if self.never_blocked(Target::of(peer)).is_some() {
            return Ok(Outcome::Noted);
        }
        if self.holding(peer, now).is_some() {
            return Ok(Outcome::AlreadyBlocked);
        }
        let mut evidence = self.learner.evidence(peer, now).recent;
        let Some(decision) = self.learner.failure(kind, peer, account, now) else { return Ok(Outcome::Noted) };
        evidence.push((now.wall, kind, account.map(|name| offense::shown(name).to_owned())));
        self.led_to.insert(decision.client, evidence);
        self.learned(&decision, now).inspect_err(|_| self.learner.pardon(decision.client))
    }

    pub fn signed_in(&mut self, peer: IpAddr, account: &str) {
        self.learner.success(peer, account);
    }

    fn learned(&mut self, decision: &Decision, now: Now) -> Result<Outcome, Failure> {
        let block = Block {
            target: decision.client,
            origin: Origin::Auth,
            reason: decision.evidence.clone(),
            created: now.wall,
            until: Some(now.boot.plus(decision.duration)),
            expires: Some(now.wall.plus(decision.duration)),
            offence: decision.number,
        };
        self.has_room(&[decision.client])?;
        self.put(vec![block])?;
        let history =
            History { client: decision.client, number: decision.number, ended: now.wall.plus(decision.duration) };
        if let Some(store) = &mut self.store {
            store.put_history(&history).blame(Blame::System, || "the history was not stored".to_owned())?;
        }
        Ok(Outcome::Blocked(decision.client))
    }

    fn block(&mut self, request: &BlockRequest, caller: Option<IpAddr>, now: Now) -> Result<Changed, Failure> {
        for target in &request.targets {
            self.may_block(*target, request.force)?;
        }
        self.has_room(&request.targets)?;
        let duration = request.for_seconds.map(Duration::from_secs);
        let blocks = request.targets.iter().map(|target| Block {
            target: *target,
            origin: request.origin,
            reason: request.reason.clone().unwrap_or_else(|| "by hand".to_owned()),
            created: now.wall,
            until: duration.map(|duration| now.boot.plus(duration)),
            expires: duration.map(|duration| now.wall.plus(duration)),
            offence: 1,
        });
        self.put(blocks.collect())?;
        let hits_caller = |target: &&Target| caller.is_some_and(|caller| target.covers(caller));
        let warnings = request.targets.iter().filter(hits_caller).map(|target| {
            format!("{target} covers the address that you are connected from; `edge unblock {target}` lifts it")
        });
        Ok(Changed { warnings: warnings.collect(), changed: request.targets.clone(), unchanged: Vec::new() })
    }

    /// A target named exactly must not be protected; one that merely covers something protected may be blocked, for
    /// the kernel lets the protected through.
    fn may_block(&self, target: Target, force: bool) -> Result<(), Failure> {
        if let Some(why) = self.never_blocked(target) {
            return Err(Failure::refused(format!("{target} is protected and never blocked: {why}")));
        }
        let widest = if target.net().max_prefix_len() == 32 { WIDEST4 } else { WIDEST6 };
        if target.net().prefix_len() < widest && !force {
            return Err(Failure::refused(format!(
                "{target} is wider than /{widest}; `--force` blocks it all the same, protected addresses inside stay served"
            )));
        }
        Ok(())
    }

    fn has_room(&self, targets: &[Target]) -> Result<(), Failure> {
        let fresh = targets.iter().filter(|target| !self.blocks.contains_key(target));
        let (singles, prefixes): (Vec<&Target>, Vec<&Target>) =
            fresh.collect::<BTreeSet<_>>().into_iter().partition(|target: &&Target| target.is_single());
        let held = self.blocks.keys().filter(|target| target.is_single()).count();
        let held_prefixes = self.blocks.len() - held;
        for (what, key, held, more, limit) in [
            ("addresses", "max_blocked", held, singles.len(), self.limits.blocked),
            ("prefixes", "max_prefixes", held_prefixes, prefixes.len(), self.limits.prefixes),
        ] {
            if more > 0 && held + more > limit {
                return Err(Failure::refused(format!(
                    "the table is full: {held} {what} are blocked, {more} more are asked for, {limit} fit; raise `filter.{key}`"
                )));
            }
        }
        Ok(())
    }

    fn put(&mut self, blocks: Vec<Block>) -> Result<(), Failure> {
        for block in &blocks {
            self.blocks.entry(block.target).or_default().insert(block.origin, block.clone());
            self.metrics.block_added(block.origin);
            self.write(block.target)?;
        }
        let stored: Vec<Block> = blocks.into_iter().filter(|block| block.origin != Origin::Config).collect();
        match &mut self.store {
            Some(store) if !stored.is_empty() => {
                store.put_blocks(&stored).blame(Blame::System, || "in force, but not stored".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn unblock(&mut self, request: &UnblockRequest, now: Now) -> Result<Changed, Failure> {
        let targets: Vec<Target> = match &request.targets {
            Some(targets) => targets.clone(),
            None => self.blocks.keys().copied().collect(),
        };
        let mut changed = Changed::default();
        for target in targets {
            let lifted = self.lift(target, request.origin, Removed::Lifted)?;
            if lifted {
                self.pardon(target)?;
                changed.changed.push(target);
            } else {
                changed.unchanged.push(target);
                if let Some(cover) = self.cover(target, now) {
                    changed.warnings.push(format!("{target} is still covered by the block of {cover}"));
                }
            }
        }
        Ok(changed)
    }

    fn cover(&self, target: Target, now: Now) -> Option<Target> {
        self.holding(target.net().addr(), now).map(|block| block.target)
    }

    /// Lifted by hand: what was held against the client is forgiven.
    fn pardon(&mut self, target: Target) -> Result<(), Failure> {
        self.learner.pardon(target);
        match &mut self.store {
            Some(store) => store
                .forget_history(target)
                .blame(Blame::System, || "lifted, but its history is still stored".to_owned()),
            None => Ok(()),
        }
    }

    /// Ends the blocks of one target, of one origin or of all. Whether there were any.
    fn lift(&mut self, target: Target, origin: Option<Origin>, cause: Removed) -> Result<bool, Failure> {
        let Some(of_target) = self.blocks.get_mut(&target) else { return Ok(false) };
        let gone: Vec<Origin> =
            of_target.keys().copied().filter(|one| origin.is_none_or(|origin| origin == *one)).collect();
        for origin in &gone {
            of_target.remove(origin);
        }
        if of_target.is_empty() {
            self.blocks.remove(&target);
            self.led_to.remove(&target);
        }
        self.metrics.blocks_removed(cause, gone.len() as u64);
        self.write(target)?;
        let rows: Vec<(Target, Origin)> = gone.iter().map(|origin| (target, *origin)).collect();
        if let Some(store) = &mut self.store {
            store.remove_blocks(&rows).blame(Blame::System, || "lifted, but still stored".to_owned())?;
        }
        Ok(!gone.is_empty())
    }

    /// The kernel's entry as the model wants it: of several ends the latest.
    fn write(&mut self, target: Target) -> Result<(), Failure> {
        match self.wanted(target) {
            Some(until) => self.tables.set(target, until),
            None => self.tables.clear(target),
        }
    }

    fn wanted(&self, target: Target) -> Option<Until> {
        let blocks = self.blocks.get(&target)?;
        blocks.values().map(|block| block.until.map_or(Until::NEVER, |end| Until::at(end.0))).max()
    }

    fn allow(&mut self, targets: &[Target]) -> Result<Changed, Failure> {
        let (unchanged, changed): (Vec<Target>, Vec<Target>) =
            targets.iter().copied().partition(|target| self.allowed.contains(target));
        self.allowed.extend(&changed);
        self.write_trust()?;
        if let Some(store) = &mut self.store {
            store.allow(&changed).blame(Blame::System, || "allowed, but not stored".to_owned())?;
        }
        Ok(Changed { changed, unchanged, warnings: Vec::new() })
    }

    fn disallow(&mut self, targets: &[Target]) -> Result<Changed, Failure> {
        let (changed, unchanged): (Vec<Target>, Vec<Target>) =
            targets.iter().copied().partition(|target| self.allowed.contains(target));
        self.allowed.retain(|target| !changed.contains(target));
        self.write_trust()?;
        if let Some(store) = &mut self.store {
            store.disallow(&changed).blame(Blame::System, || "disallowed, but still stored".to_owned())?;
        }
        let configured = unchanged.iter().filter(|target| self.configured.contains(target));
        let warnings =
            configured.map(|target| format!("{target} is allowed by `filter.allow` of the config; remove it there"));
        Ok(Changed { warnings: warnings.collect(), changed, unchanged })
    }

    /// Follows what is protected: own addresses, gateways, resolvers, peers of live SSH sessions.
    pub fn follow(&mut self, surroundings: Surroundings) -> Result<(), Failure> {
        if self.protected.follow(surroundings) { self.write_trust() } else { Ok(()) }
    }

    fn write_trust(&mut self) -> Result<(), Failure> {
        let allowed = self.configured.iter().chain(&self.allowed).copied();
        self.tables.trust(&self.protected.trust(allowed))
    }

    /// Why this exact target, or something that covers it, is never blocked.
    fn never_blocked(&self, target: Target) -> Option<String> {
        let mut allowed = self.configured.iter().chain(&self.allowed);
        if let Some(cover) = allowed.find(|allowed| allowed.net().contains(&target.net())) {
            return Some(format!("{cover} is on the allow list"));
        }
        self.protected.why(target)
    }

    /// The block that holds for an address now, the one that ends last.
    fn holding(&self, address: IpAddr, now: Now) -> Option<&Block> {
        let address = address.to_canonical();
        let length = if address.is_ipv4() { 32 } else { 128 };
        (0..=length)
            .filter_map(|length| ipnet::IpNet::new(address, length).ok())
            .filter_map(|net| self.blocks.get(&Target::from(net)))
            .flat_map(BTreeMap::values)
            .filter(|block| holds(block, now))
            .max_by_key(|block| block.until.map_or(u64::MAX, |end| end.0))
    }

    /// Once a second: what is over is taken out of tables and store.
    pub fn sweep(&mut self, now: Now) -> Result<(), Failure> {
        self.learner.sweep(now);
        let over: Vec<(Target, Origin)> = self
            .blocks
            .values()
            .flat_map(BTreeMap::values)
            .filter(|block| !holds(block, now))
            .map(|block| (block.target, block.origin))
            .collect();
        over.into_iter().try_for_each(|(target, origin)| self.lift(target, Some(origin), Removed::Expired).map(drop))
    }

    /// Whether nothing was in force before this start.
    pub fn is_first(&self) -> bool {
        self.first
    }

    pub fn attached(&self) -> &[Attached] {
        &self.attached
    }
}

fn holds(block: &Block, now: Now) -> bool {
    block.until.is_none_or(|end| end > now.boot)
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

/// Executes a command without an agent, on its pinned maps and its store.
pub fn offline(config: &Config, request: &Request) -> Answer {
    let pin_path = &config.filter.pin_path;
    if !datapath::is_there(pin_path)? {
        return if request.command == Command::Unload { Ok(Reply::Done) } else { Err(no_agent()) };
    }
    let Some(lock) = Lock::open(pin_path)? else {
        return Err(Failure::unreachable(format!(
            "an agent holds {} but does not answer on {}",
            pin_path.display(),
            config.admin.socket.display()
        )));
    };
    if request.command == Command::Unload {
        return datapath::unload(pin_path).map(|()| Reply::Done);
    }
    let now = Now::read();
    let tables = Generation::live(&lock)?.ok_or_else(no_agent)?;
    let before = tables.entries();
    let metrics = Own::new().blame(Blame::Bug, || "the metrics contradict each other".to_owned())?;
    let mut enforcer = Enforcer::new(config, lock, tables, Surroundings::read(config), metrics, now);
    enforcer.recall(None, now)?;
    if enforcer.store.is_none() {
        for (target, until) in before {
            let block = recovered(target, until, now);
            enforcer.blocks.entry(target).or_default().insert(block.origin, block);
        }
    }
    let request = Request { caller: request.caller.or_else(client::caller), ..request.clone() };
    enforcer.execute(&request, now)
}

fn no_agent() -> Failure {
    Failure::unreachable("no agent runs and none left its maps; start it with `edge run`")
}
