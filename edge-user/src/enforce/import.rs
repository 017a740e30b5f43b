//! `import`: many blocks, all of them in force when it is answered, or none; what is protected is left out and named.
//! `export`: all that is blocked, as `import` takes it.

use std::{borrow::Cow, collections::HashMap, net::IpAddr};

use super::{Enforcer, command::hits};
use crate::{
    batch::Terms,
    block::{Block, Origin, Target},
    clock::Now,
    control::protocol::{ImportRequest, Imported, LeftOut},
    datapath::Tables,
    error::Failure,
    parcel::{About, End, Parcel, Part},
    targets::{Lengths, Marks, Targets},
};

/// Of what is left out, so many are named.
pub(super) const NAMED: usize = 20;

impl<T: Tables> Enforcer<T> {
    pub(super) fn import(
        &mut self,
        request: &ImportRequest,
        caller: Option<IpAddr>,
        now: Now,
    ) -> Result<Imported, Failure> {
        let mut imported = Imported::default();
        let mut parts: Vec<(Terms, Targets)> = Vec::new();
        if !request.force {
            none_too_wide(request.parcel.parts().iter().flat_map(|part| part.targets.nets()))?;
        }
        for Part { about, targets, .. } in request.parcel.parts() {
            let Some(terms) = terms(about, now) else {
                imported.ended += targets.len() as u64;
                continue;
            };
            let targets = self.without_protected(targets, &mut imported);
            if terms.origin == Origin::Config {
                parts.extend(self.of_config(terms, &targets, &mut imported));
            } else {
                parts.push((terms, targets.into_owned()));
            }
        }
        let all = Targets::union(parts.iter().map(|(_, targets)| targets));
        let counts = all.counts();
        self.put(parts)?;
        imported.imported = counts.total() as u64;
        imported.addresses = counts.singles() as u64;
        imported.prefixes = counts.prefixes() as u64;
        imported.warnings.extend(caller.and_then(|caller| cover(&all, caller)).map(hits));
        imported.warnings.extend(self.links.warning());
        imported.warnings.extend(self.memory.warning());
        Ok(imported)
    }

    pub(super) fn export(&self, origin: Option<Origin>, now: Now) -> Parcel {
        Parcel::new(self.standing(origin, now))
    }

    /// All that holds now.
    pub(super) fn standing(&self, origin: Option<Origin>, now: Now) -> Vec<Part> {
        let is_asked = |of: Origin| origin.is_none_or(|origin| origin == of);
        let alone = self.ledger.blocks().filter(|block| is_asked(block.origin));
        let alone = alone.filter(|block| block.until.is_none_or(|end| end > now.boot));
        let alone = alone.map(|block| Terms::of(block).by_clock(now).block(block.target));
        let batches = self.ledger.batches().map(|(_, batch)| batch);
        let batches = batches.filter(|batch| is_asked(batch.terms.origin) && batch.terms.hold(now));
        let batches = batches.map(|batch| Part::new(about(batch.terms.clone().by_clock(now)), batch.rest()));
        batches.chain(alike(alone)).collect()
    }

    /// Exactly those that nothing protected covers; what merely covers something protected may be blocked.
    pub(super) fn without_protected<'a>(&self, targets: &'a Targets, imported: &mut Imported) -> Cow<'a, Targets> {
        let mut marks = Marks::of(targets);
        let allowed = self.configured.iter().chain(&self.allowed).copied();
        let mut found = Vec::new();
        for cover in allowed.chain(self.protected.all()) {
            targets.each_inside(cover, |position| found.extend(marks.mark(position).then_some(position)));
        }
        if found.is_empty() {
            return Cow::Borrowed(targets);
        }
        found.sort_unstable();
        let room = NAMED.saturating_sub(imported.left_out.len());
        let named = found.iter().filter_map(|position| targets.at(*position)).take(room);
        imported
            .left_out
            .extend(named.filter_map(|address| Some(LeftOut { address, reason: self.never_blocked(address)? })));
        imported.left_out_total += found.len() as u64;
        Cow::Owned(targets.without(&marks))
    }

    /// What this config names is the config's, and ends with it; what another named is a person's here.
    pub(super) fn of_config(&self, terms: Terms, targets: &Targets, imported: &mut Imported) -> [(Terms, Targets); 2] {
        let targets = targets.iter().map(|(_, target)| target);
        let (named, others): (Vec<Target>, Vec<Target>) = targets.partition(|target| self.named.contains(target));
        if !others.is_empty() {
            let count = others.len();
            imported
                .warnings
                .push(format!("{count} of origin config are not named by this config: now of origin manual"));
        }
        let manual = Terms { origin: Origin::Manual, ..terms.clone() };
        [(terms, named.into_iter().collect()), (manual, others.into_iter().collect())]
    }
}

/// Names those that are, so that all can be left out at once.
fn none_too_wide(nets: impl Iterator<Item = Target>) -> Result<(), Failure> {
    let wide: Vec<String> = nets.filter(|net| net.is_wide()).map(|net| net.to_string()).collect();
    if wide.is_empty() {
        return Ok(());
    }
    let named = wide[..wide.len().min(NAMED)].join(", ");
    let more = if wide.len() > NAMED { format!(" and {} more", wide.len() - NAMED) } else { String::new() };
    Err(Failure::refused(format!(
        "nothing was changed: {named}{more} of the list are wider than /8, or /32 of IPv6; leave them out, or `--force` \
         blocks them all the same, protected addresses inside stay served"
    )))
}

/// What shares all but the target is one part.
pub(super) fn alike(blocks: impl Iterator<Item = Block>) -> Vec<Part> {
    let mut parts: HashMap<About, Targets> = HashMap::new();
    blocks.for_each(|block| parts.entry(about(Terms::of(&block))).or_default().push(block.target));
    parts.into_iter().map(|(about, targets)| Part::new(about, targets.sorted())).collect()
}

fn about(terms: Terms) -> About {
    let Terms { origin, reason, created, expires, offence, .. } = terms;
    About { origin, reason, created: Some(created), end: expires.map_or(End::UntilLifted, End::At), offence }
}

/// `None`: it has ended already.
pub(super) fn terms(about: &About, now: Now) -> Option<Terms> {
    let About { origin, reason, created, end, offence } = about.clone();
    let (until, expires) = match end {
        End::UntilLifted => (None, None),
        End::After(seconds) => {
            let length = std::time::Duration::from_secs(seconds);
            (Some(now.boot.plus(length)), Some(now.wall.plus(length)))
        }
        End::At(expires) => {
            let left = u64::try_from(expires.0.saturating_sub(now.wall.0)).ok().filter(|left| *left > 0)?;
            (Some(now.boot.plus(std::time::Duration::from_millis(left))), Some(expires))
        }
    };
    Some(Terms { origin, reason, created: created.unwrap_or(now.wall), until, expires, offence })
}

/// The widest of these that covers an address.
fn cover(targets: &Targets, address: IpAddr) -> Option<Target> {
    let lengths = Lengths::of(targets);
    lengths.covering(Target::of(address)).find(|cover| targets.position(*cover).is_some())
}
