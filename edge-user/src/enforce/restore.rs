//! `backup`: all that the agent would lose with its store. `restore`: that in place of what is in force, all of it or
//! nothing. What the config names is the config's and in neither.

use std::{collections::BTreeSet, mem, net::IpAddr};

use super::{
    Enforcer,
    import::{NAMED, terms},
    ledger::Ledger,
};
use crate::{
    backup::State,
    batch::Terms,
    block::{Origin, Target},
    clock::Now,
    control::protocol::{Imported, RestoreRequest, Restored},
    datapath::{TRUSTED, Tables},
    error::Failure,
    metrics::Removed,
    parcel::{Parcel, Part},
    targets::Targets,
};

impl<T: Tables> Enforcer<T> {
    pub(super) fn state(&self, now: Now) -> State {
        let mut blocks = self.standing(None, now);
        blocks.retain(|part| part.about.origin != Origin::Config);
        State {
            blocks: Parcel::new(blocks),
            allowed: self.allowed.iter().copied().collect(),
            history: self.learner.histories().collect(),
        }
    }

    pub(super) fn restore_from(
        &mut self,
        request: &RestoreRequest,
        caller: Option<IpAddr>,
        now: Now,
    ) -> Result<Restored, Failure> {
        let RestoreRequest { id, state, .. } = request;
        none_over(&state.allowed)?;
        let before = self.state(now);
        let allowed = mem::replace(&mut self.allowed, state.allowed.iter().copied().collect());
        let mut imported = Imported::default();
        let parts = self.parts_of(state, &mut imported, now);
        let ledger = self.replace_ledger(parts, now);
        if let Err(failure) = self.within_limits().and_then(|()| self.put_in_place_of(&ledger, &allowed)) {
            (self.ledger, self.allowed) = (ledger, allowed);
            return Err(failure);
        }
        self.count_restored(&ledger);
        self.learner.forget_past();
        state.history.iter().for_each(|history| self.learner.restore(*history));
        let Enforcer { ledger, led_to, .. } = self;
        led_to.retain(|target, _| ledger.contains(*target));
        self.memory.give_up();
        self.memory.is_restored_by(id);
        self.rewrite(now);
        imported.warnings.extend(self.memory.told_aside());
        self.warn_of_restored(&mut imported, caller, now);
        let (allowed, offences) = (self.allowed.len() as u64, self.learner.histories().count() as u64);
        Ok(Restored { imported, allowed, offences, before })
    }

    /// The blocks that have not ended meanwhile, without those that are protected now.
    fn parts_of(&self, state: &State, imported: &mut Imported, now: Now) -> Vec<(Terms, Targets)> {
        let mut parts = Vec::new();
        for Part { about, targets, .. } in state.blocks.parts() {
            let Some(terms) = terms(about, now) else {
                imported.ended += targets.len() as u64;
                continue;
            };
            let targets = self.without_protected(targets, imported);
            if terms.origin == Origin::Config {
                parts.extend(self.of_config(terms, &targets, imported));
            } else {
                parts.push((terms, targets.into_owned()));
            }
        }
        let counts = Targets::union(parts.iter().map(|(_, targets)| targets)).counts();
        imported.imported = counts.total() as u64;
        imported.addresses = counts.singles() as u64;
        imported.prefixes = counts.prefixes() as u64;
        imported.warnings.extend(wide(parts.iter().map(|(_, targets)| targets)));
        parts
    }

    /// In the model alone; gives the one before.
    fn replace_ledger(&mut self, parts: Vec<(Terms, Targets)>, now: Now) -> Ledger {
        let named = self.named_blocks();
        let before = mem::take(&mut self.ledger);
        if self.without_agent {
            // As far as it was in force: the rest is the next start's.
            named.into_values().for_each(|block| drop(self.ledger.put(block)));
        } else {
            self.block_named(&named, now);
        }
        for (terms, targets) in parts.into_iter().filter(|(_, targets)| !targets.is_empty()) {
            self.enter(terms, targets);
        }
        before
    }

    /// The kernel's entries as the model has them now. Who is allowed before or after passes meanwhile, and who is
    /// blocked before and after is blocked meanwhile.
    fn put_in_place_of(&mut self, ledger: &Ledger, allowed: &BTreeSet<Target>) -> Result<(), Failure> {
        let now_allowed = self.allowed.clone();
        self.allowed.extend(allowed);
        let written = self.write_trust().and_then(|()| {
            self.settle_in_place_of(ledger)?;
            self.allowed = now_allowed;
            self.write_trust()
        });
        if let Err(failure) = written {
            let wanted = mem::replace(&mut self.allowed, allowed.clone());
            let undone = self.undo(ledger).and_then(|()| self.write_trust());
            self.allowed = wanted;
            if let Err(failure) = undone {
                tracing::error!("what was there before a refused restore is not in force as it was: {failure}");
            }
            return Err(failure);
        }
        Ok(())
    }

    fn settle_in_place_of(&mut self, before: &Ledger) -> Result<(), Failure> {
        let over: Vec<Target> =
            before.wanted_all().map(|(target, _)| target).filter(|target| !self.ledger.contains(*target)).collect();
        let ended = over.into_iter().map(|target| (target, None));
        let wanted = self.ledger.wanted_all().map(|(target, until)| (target, Some(until)));
        // Where both find room together, nobody who stays blocked has a gap.
        if self.fits_beside(before) {
            self.tables.settle(wanted.chain(ended))
        } else {
            self.tables.settle(ended.chain(wanted))
        }
    }

    fn undo(&mut self, before: &Ledger) -> Result<(), Failure> {
        let over: Vec<Target> =
            self.ledger.wanted_all().map(|(target, _)| target).filter(|target| !before.contains(*target)).collect();
        let ended = over.into_iter().map(|target| (target, None));
        self.tables.settle(ended.chain(before.wanted_all().map(|(target, until)| (target, Some(until)))))
    }

    fn fits_beside(&self, before: &Ledger) -> bool {
        let (was, is) = (before.counts(), self.ledger.counts());
        self.limits.hold(was.plus(is))
    }

    fn count_restored(&mut self, before: &Ledger) {
        let lifted = before.counts().total() as u64;
        self.metrics.blocks_removed(Removed::Lifted, lifted);
        let mut added: Vec<(Origin, u64)> = self.ledger.blocks().map(|block| (block.origin, 1)).collect();
        added.extend(self.ledger.batches().map(|(_, batch)| (batch.terms.origin, batch.left().total() as u64)));
        added.into_iter().for_each(|(origin, count)| self.metrics.blocks_added(origin, count));
    }

    fn warn_of_restored(&self, imported: &mut Imported, caller: Option<IpAddr>, now: Now) {
        let hit = caller.and_then(|caller| self.ledger.holding(caller, now)).map(|block| block.target);
        imported.warnings.extend(hit.map(super::command::hits));
        imported.warnings.extend(self.links.warning());
        imported.warnings.extend(self.memory.warning());
    }
}

/// Those who made them had to insist; whoever restores them hears of it.
fn wide<'a>(targets: impl Iterator<Item = &'a Targets>) -> Option<String> {
    let wide: Vec<String> =
        targets.flat_map(Targets::nets).filter(|net| net.is_wide()).map(|net| net.to_string()).collect();
    let named = wide.get(..wide.len().min(NAMED)).unwrap_or_default().join(", ");
    (!wide.is_empty()).then(|| {
        format!("{named}: wider than /8, or /32 of IPv6, and blocked as the backup has it; `edge unblock` lifts what is too much")
    })
}

/// More than the kernel holds cannot have been allowed anywhere.
fn none_over(allowed: &[Target]) -> Result<(), Failure> {
    let v4 = allowed.iter().filter(|target| matches!(target.net(), ipnet::IpNet::V4(_))).count();
    let most = TRUSTED as usize;
    match v4.max(allowed.len() - v4) {
        over if over > most => Err(Failure::refused(format!(
            "nothing was changed: {over} are allowed there of one family, and {most} is the most"
        ))),
        _ => Ok(()),
    }
}
