//! What the enforcer says of itself: `list`, `why`, `status`, and the numbers behind the metrics.

use std::{collections::BTreeMap, net::IpAddr};

use edge_common::reason::{Counters, Family, Reason, Run};

use super::{Enforcer, import::alike, ledger::Standing};
use crate::{
    batch::Terms,
    block::{Block, Origin, Target},
    clock::Now,
    control::protocol::{
        Blocked, Drop, Dropped, Enforced, Entry, Interface, Offence, Packets, Status, Stores, Unfiltered, Why,
    },
    datapath::{self, Connected, Tables},
    drops::Sample,
    error::Failure,
    inventory::Inventory,
    parcel::{Parcel, Part},
    targets::Kind,
};

impl<T: Tables> Enforcer<T> {
    /// The first of all that holds now, with what was dropped of it.
    pub(super) fn list(&self, origin: Option<Origin>, limit: Option<usize>, now: Now) -> Parcel {
        let mut parts = match limit {
            None => self.standing(origin, now),
            Some(limit) => {
                let is_asked = |held: &Standing<'_>| origin.is_none_or(|origin| origin == held.origin());
                alike(self.ledger.holding_now(now).filter(is_asked).take(limit).map(|held| by_clock(held.block(), now)))
            }
        };
        for Part { targets, hits, .. } in &mut parts {
            hits.extend(targets.iter().filter_map(|(position, target)| {
                let hits = self.tables.hits(target);
                (hits.packets > 0).then_some((u32::try_from(position).ok()?, hits))
            }));
            hits.sort_unstable_by_key(|(position, _)| *position);
        }
        Parcel::new(parts)
    }

    fn entry(&self, block: Block) -> Entry {
        let hits = self.tables.hits(block.target);
        Entry {
            address: block.target,
            origin: block.origin,
            reason: block.reason,
            created: block.created,
            expires: block.expires,
            offence: block.offence,
            packets: hits.packets,
            bytes: hits.bytes,
        }
    }

    pub(super) fn why(&self, address: IpAddr, now: Now) -> Result<Why, Failure> {
        let target = Target::of(address);
        let lists = self.configured.iter().chain(&self.allowed);
        let allowed = lists.into_iter().any(|allowed| allowed.covers(address));
        let protected = self.protected.why(target);
        let block = self.ledger.holding(address, now);
        let reason = match (allowed, &protected, &block) {
            (true, ..) => Reason::Allowed,
            (false, Some(_), _) if self.protected.is_own(address) => Reason::Malformed,
            (false, None, Some(_)) => Reason::Blocked,
            _ => Reason::Passed,
        };
        let run = if self.dry_run { Run::Dry } else { Run::Real };
        let passes = run.passes(reason) || self.links.filter_nothing();
        let evidence = self.learner.evidence(address, now);
        let led_to = block.as_ref().and_then(|block| self.led_to.get(&block.target)).cloned().unwrap_or_default();
        let block = block.map(|block| self.entry(by_clock(block, now)));
        let dropped = block.iter().map(|entry| (Reason::Blocked.name().to_owned(), entry.packets)).collect();
        Ok(Why {
            address: address.to_canonical(),
            verdict: if passes { "pass" } else { "drop" }.to_owned(),
            reason: reason.name().to_owned(),
            dry_run: self.dry_run,
            unfiltered: self.links.unfiltered().iter().map(unfiltered).collect(),
            allowed,
            protected,
            block,
            connections: self.connections(address, allowed),
            rates: self.tables.rates(address, now.boot),
            dropped: Dropped { by_reason: dropped },
            drops: self.drops.of(address).map(|sample| self.drop(sample)).collect(),
            offences: led_to
                .into_iter()
                .chain(evidence.recent)
                .map(|(time, kind, subject)| Offence { time, kind: kind.name().to_owned(), subject })
                .collect(),
            score: evidence.score,
            threshold: evidence.threshold,
        })
    }

    fn drop(&self, sample: &Sample) -> Drop {
        let Sample { time, reason, interface, bytes, .. } = *sample;
        let known = self.links.attached().find(|attached| attached.index == interface);
        Drop {
            time,
            reason: reason.name().to_owned(),
            interface: known.map_or_else(|| format!("interface {interface}"), |attached| attached.name.clone()),
            bytes,
        }
    }

    pub(super) fn status(&self, now: Now) -> Result<Status, Failure> {
        let counters = self.counters()?;
        let held = self.tables.inventory();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: now.boot.since(self.started).as_secs_f64(),
            dry_run: self.dry_run,
            interfaces: self.links.attached().map(interface).collect(),
            unfiltered: self.links.unfiltered().iter().map(unfiltered).collect(),
            blocked: self.totals(now),
            enforced: Enforced { total: held.entries },
            drift: self.drift_of(held),
            connections: self.connection_totals(),
            packets: packets(&counters),
            store: Stores::with(self.memory.problem()),
            certificates: Vec::new(),
            reload: self.reload,
        })
    }

    pub fn counters(&self) -> Result<Counters, Failure> {
        self.tables.counters()
    }

    fn totals(&self, now: Now) -> Blocked {
        let counts = self.ledger.counts_now(now);
        Blocked {
            total: counts.total() as u64,
            ipv4: counts.of(Kind::Host4) as u64,
            ipv6: counts.of(Kind::Host6) as u64,
            prefixes: counts.prefixes() as u64,
        }
    }

    /// Decided but not enforced, plus enforced but not decided.
    pub fn drift(&self) -> u64 {
        self.drift_of(self.tables.inventory())
    }

    /// Only where something differs is each entry asked for.
    fn drift_of(&self, all: Inventory) -> u64 {
        if all == self.ledger.inventory() {
            return 0;
        }
        let (held, wrong) = self.ledger.wanted_all().fold((0u64, 0u64), |(held, wrong), (target, wanted)| {
            let until = self.tables.until(target);
            (held + u64::from(until.is_some()), wrong + u64::from(until != Some(wanted)))
        });
        wrong + all.entries.saturating_sub(held)
    }

    /// Active blocks by origin and family.
    pub fn active(&self, now: Now) -> BTreeMap<(Origin, &'static str), u64> {
        let mut active: BTreeMap<(Origin, &'static str), u64> = BTreeMap::new();
        let mut add = |origin, family: Family, count| *active.entry((origin, family.name())).or_default() += count;
        for block in self.ledger.blocks().filter(|block| block.until.is_none_or(|end| end > now.boot)) {
            let family = if block.target.net().addr().is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
            add(block.origin, family, 1);
        }
        for (_, batch) in self.ledger.batches().filter(|(_, batch)| batch.terms.hold(now)) {
            let left = batch.left();
            add(batch.terms.origin, Family::Ipv4, (left.of(Kind::Host4) + left.of(Kind::Net4)) as u64);
            add(batch.terms.origin, Family::Ipv6, (left.of(Kind::Host6) + left.of(Kind::Net6)) as u64);
        }
        active
    }

    pub fn store_is_ok(&self) -> bool {
        self.memory.is_ok()
    }

    pub fn capacities(&self, connected: Connected) -> Vec<(&'static str, u64, u64)> {
        self.tables.capacities(connected)
    }
}

pub(super) fn by_clock(block: Block, now: Now) -> Block {
    Terms::of(&block).by_clock(now).block(block.target)
}

fn interface(attached: &datapath::Attached) -> Interface {
    Interface { name: attached.name.clone(), mode: attached.mode().to_owned(), program_id: attached.program_id }
}

fn unfiltered(unfiltered: &datapath::Unfiltered) -> Unfiltered {
    Unfiltered { name: unfiltered.name.clone(), reason: unfiltered.reason.clone() }
}

fn packets(counters: &Counters) -> Packets {
    let mut packets = Packets { passed: 0, dropped: 0, by_reason: BTreeMap::new() };
    for (run, reason, _, tally) in counters.all() {
        let carried_out = if run.passes(reason) { &mut packets.passed } else { &mut packets.dropped };
        *carried_out += tally.packets;
        *packets.by_reason.entry(reason.name().to_owned()).or_default() += tally.packets;
    }
    packets
}
