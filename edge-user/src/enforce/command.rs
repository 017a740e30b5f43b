//! The commands that change something: `block`, `unblock`, `allow`, `disallow`, `unload`.

use std::time::Duration;

use super::{Enforcer, answer::by_clock, ledger::Standing, write::Gone};
use crate::{
    batch::{BatchId, Terms},
    block::{Block, Origin, Target},
    clock::{Boot, Now, Wall},
    control::protocol::{Answer, BlockRequest, Changed, Command, Reply, Request, UnblockRequest},
    datapath::Tables,
    error::Failure,
    metrics::Removed,
};

/// Of those that `unblock --all` lifts, so many are named in the answer.
const NAMED: usize = 1_000;
/// Of those that a block makes end sooner, so many have a sentence.
const SHORTENED: usize = 8;

impl<T: Tables> Enforcer<T> {
    /// One command of the CLI.
    pub fn execute(&mut self, request: &Request, now: Now) -> Answer {
        let changed = match &request.command {
            Command::Status => return Ok(Reply::Status(Box::new(self.status(now)?))),
            Command::Export { origin } => return Ok(Reply::Listed(self.export(*origin, now))),
            Command::List { origin, limit } => return Ok(Reply::Listed(self.list(*origin, *limit, now))),
            Command::Why { address } => return Ok(Reply::Why(Box::new(self.why(*address, now)?))),
            Command::Reload { .. } | Command::Keep | Command::Rotate(_) | Command::Audit(_) | Command::Note(_) => {
                return Err(Failure::bug("config and audit log are the agent's, not its enforcer's"));
            }
            Command::Unload => {
                let unloaded = self.tables.unload();
                self.links.detach();
                return unloaded.map(Reply::Unloaded);
            }
            Command::Import(import) => {
                return Ok(Reply::Imported(Box::new(self.import(import, request.caller, now)?)));
            }
            Command::Backup { .. } => {
                return match self.memory.lack() {
                    Some(problem) => Err(Failure::system(format!(
                        "no backup is made, for it would lack what the store has: {problem}; mend that, or \
                         `edge restore` an earlier one"
                    ))),
                    None => Ok(Reply::State(self.state(now))),
                };
            }
            Command::Restore(restore) => {
                return Ok(Reply::Restored(Box::new(self.restore_from(restore, request.caller, now)?)));
            }
            Command::Block(block) => self.block(block, request.caller, now),
            Command::Unblock(unblock) => self.unblock(unblock, now),
            Command::Allow { targets } => self.allow(targets),
            Command::Disallow { targets } => self.disallow(targets),
        };
        let mut changed = changed?;
        changed.warnings.extend(self.memory.warning());
        Ok(Reply::Changed(changed))
    }

    fn block(
        &mut self,
        request: &BlockRequest,
        caller: Option<std::net::IpAddr>,
        now: Now,
    ) -> Result<Changed, Failure> {
        for target in &request.targets {
            self.may_block(*target, request.force).map_err(|mut failure| {
                if request.targets.len() > 1 {
                    failure.message.push_str("; nothing was blocked");
                }
                failure
            })?;
        }
        let duration = request.for_seconds.map(Duration::from_secs);
        let terms = Terms {
            origin: request.origin,
            reason: request.reason.clone().unwrap_or_else(|| "by hand".to_owned()),
            created: now.wall,
            until: duration.map(|duration| now.boot.plus(duration)),
            expires: duration.map(|duration| now.wall.plus(duration)),
            offence: 1,
        };
        let shortened = self.shortened(&request.targets, &terms, now);
        self.put(vec![(terms, request.targets.iter().copied().collect())])?;
        let hits_caller = |target: &&Target| caller.is_some_and(|caller| target.covers(caller));
        let warnings = request.targets.iter().filter(hits_caller).map(|target| hits(*target));
        let warnings = warnings.chain(shortened).chain(self.links.warning()).collect();
        Ok(Changed { warnings, changed: request.targets.clone(), ..Changed::default() })
    }

    /// Which blocks end sooner from now on, each in a sentence; of many the first.
    fn shortened(&self, targets: &[Target], terms: &Terms, now: Now) -> Vec<String> {
        let of = |target: &Target| self.ledger.at(*target, terms.origin).filter(|held| held.holds(now));
        let later = |held: &Standing<'_>| ends_before(terms.until, held.until());
        let mut sooner = targets.iter().filter_map(of).filter(later).map(|held| by_clock(held.block(), now));
        let told = |block: Block| {
            let (target, before, now) = (block.target, end_told(block.expires), end_told(terms.expires));
            format!("{target} was blocked {before} by {}, and is {now} now", block.origin.name())
        };
        let mut told: Vec<String> = sooner.by_ref().take(SHORTENED).map(told).collect();
        let more = sooner.count();
        if more > 0 {
            told.push(format!("{more} more were blocked for longer before"));
        }
        told
    }

    /// A target named exactly must not be protected; one that merely covers something protected may be blocked, for
    /// the kernel lets the protected through.
    fn may_block(&self, target: Target, force: bool) -> Result<(), Failure> {
        if let Some(why) = self.never_blocked(target) {
            return Err(Failure::refused(format!("{target} is protected and never blocked: {why}")));
        }
        may_be_so_wide(target, force)
    }

    fn unblock(&mut self, request: &UnblockRequest, now: Now) -> Result<Changed, Failure> {
        let (mut changed, mut gone) = (Changed::default(), Gone::default());
        self.lifted_meanwhile(request);
        let lifted = match &request.targets {
            Some(targets) => self.unblock_each(targets, request.origin, now, &mut changed, &mut gone),
            None => self.unblock_all(request.origin, &mut changed, &mut gone),
        };
        self.forget(&gone);
        let named = gone.alone.iter().filter(|(_, origin)| *origin == Origin::Config);
        changed.warnings.extend(
            named.map(|(target, _)| format!("{target} is named in `filter.block` of the config; remove it there too")),
        );
        lifted.map(|()| changed)
    }

    fn unblock_each(
        &mut self,
        targets: &[Target],
        origin: Option<Origin>,
        now: Now,
        changed: &mut Changed,
        gone: &mut Gone,
    ) -> Result<(), Failure> {
        targets.iter().try_for_each(|target| {
            let lifted = self.lift(*target, origin, gone)? > 0;
            if lifted { &mut changed.changed } else { &mut changed.unchanged }.push(*target);
            changed.warnings.extend(self.still_dropped(*target, now));
            Ok(())
        })
    }

    /// The first are named, the others counted.
    fn unblock_all(&mut self, origin: Option<Origin>, changed: &mut Changed, gone: &mut Gone) -> Result<(), Failure> {
        let is_asked = |of: Origin| origin.is_none_or(|origin| origin == of);
        let before = self.ledger.counts().total();
        let blocks = self.ledger.blocks().filter(|block| is_asked(block.origin));
        let alone: Vec<(Target, Origin)> = blocks.map(|block| (block.target, block.origin)).collect();
        let batches = self.ledger.batches().filter(|(_, batch)| is_asked(batch.terms.origin));
        let batches: Vec<BatchId> = batches.map(|(id, _)| id).collect();
        let lifted = batches.into_iter().try_for_each(|id| self.lift_batch(id, gone));
        let lifted = lifted
            .and_then(|()| alone.into_iter().try_for_each(|(target, of)| self.lift(target, Some(of), gone).map(drop)));
        changed.changed = gone.targets().take(NAMED).collect();
        changed.changed.sort_unstable();
        changed.changed.dedup();
        // Of one origin, no target is there twice.
        let count = if origin.is_some() { gone.len() } else { before - self.ledger.counts().total() };
        changed.more = (count - changed.changed.len()) as u64;
        lifted
    }

    fn still_dropped(&self, target: Target, now: Now) -> Option<String> {
        let Block { target: cover, origin, .. } = self.ledger.holding(target.net().addr(), now)?;
        // An address of a network may be blocked, and the network not.
        let covers = cover.net().contains(&target.net());
        let remedy = if origin == Origin::Config { "; remove it from `filter.block` of the config" } else { "" };
        covers.then(|| format!("{target} is still dropped: {cover} is blocked by {}{remedy}", origin.name()))
    }

    /// Lifted by hand: what was held against the client is forgiven.
    fn forget(&mut self, gone: &Gone) {
        let pardoned = self.learner.pardon(&gone.targets().collect());
        self.metrics.blocks_removed(Removed::Lifted, gone.len() as u64);
        self.keep(gone, &[], Vec::new());
        self.memory.write(|store| store.forget_history(&pardoned));
    }

    fn allow(&mut self, targets: &[Target]) -> Result<Changed, Failure> {
        let (unchanged, changed): (Vec<Target>, Vec<Target>) =
            targets.iter().copied().partition(|target| self.allowed.contains(target));
        self.allowed.extend(&changed);
        if let Err(failure) = self.write_trust() {
            self.allowed.retain(|target| !changed.contains(target));
            let _ = self.write_trust();
            return Err(failure);
        }
        self.memory.write(|store| store.allow(&changed));
        let all = targets.iter().filter(|target| target.net().prefix_len() == 0);
        let warnings = all.map(|target| {
            let family = if target.net().addr().is_ipv4() { "IPv4" } else { "IPv6" };
            format!("{target} lets all of {family} pass, whatever is blocked; `edge disallow {target}` ends that")
        });
        Ok(Changed { warnings: warnings.collect(), changed, unchanged, ..Changed::default() })
    }

    fn disallow(&mut self, targets: &[Target]) -> Result<Changed, Failure> {
        let (changed, unchanged): (Vec<Target>, Vec<Target>) =
            targets.iter().copied().partition(|target| self.allowed.contains(target));
        self.allowed.retain(|target| !changed.contains(target));
        self.write_trust()?;
        self.disallowed_meanwhile(targets);
        self.memory.write(|store| store.disallow(&changed));
        let configured = unchanged.iter().filter(|target| self.configured.contains(target));
        let warnings =
            configured.map(|target| format!("{target} is allowed by `filter.allow` of the config; remove it there"));
        Ok(Changed { warnings: warnings.collect(), changed, unchanged, ..Changed::default() })
    }
}

/// `None`: never.
fn ends_before(end: Option<Boot>, other: Option<Boot>) -> bool {
    end.is_some_and(|end| other.is_none_or(|other| end < other))
}

fn end_told(expires: Option<Wall>) -> String {
    expires.map_or_else(|| "until lifted".to_owned(), |at| format!("until {at}"))
}

pub(super) fn may_be_so_wide(target: Target, force: bool) -> Result<(), Failure> {
    if target.is_wide() && !force {
        let widest = target.widest();
        return Err(Failure::refused(format!(
            "{target} is wider than /{widest}; `--force` blocks it all the same, protected addresses inside stay served"
        )));
    }
    Ok(())
}

/// A warning to the caller.
pub(super) fn hits(target: Target) -> String {
    format!("{target} covers the address that you are connected from; `edge unblock {target}` lifts it")
}
