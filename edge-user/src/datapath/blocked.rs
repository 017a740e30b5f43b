//! What a generation blocks: which table or trie a target belongs to, and the calls of the one writer.
//!
//! Addresses and IPv6 /64s have a table each; what finds both its lines full there goes to the trie of its family, as
//! prefixes do.

use std::net::IpAddr;

use edge_common::{
    address::{Addr4, Addr6},
    names,
    reason::Counters,
    settings::{InUse, word},
    table::{Hits, Trust},
    time::Until,
};
use ipnet::IpNet;

use super::{
    Connected, Connections, Generation, Tables, Unloaded,
    nets::{Held, with_covering},
    room::{Singles6, is_crowded, is_unlucky},
    sum,
    table::{Key, Layout, Table},
};
use crate::{
    block::Target,
    clock::Boot,
    control::protocol::Rates,
    error::{Blame, Context, Failure},
    inventory::Inventory,
};

/// What somebody else wrote into the kernel's tables, or took out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    Blocks {
        wanted: u64,
        found: u64,
    },
    /// The allow list, what is protected, or the flags by which prefixes are found.
    Prefixes,
    Settings,
}

/// How many entries are looked at ahead of the one that is written.
const AHEAD: usize = 32;

/// Prefixes, and what found no room in its table.
#[derive(Default)]
struct Rest {
    four: Vec<(IpNet, Option<Until>)>,
    six: Vec<(IpNet, Option<Until>)>,
}

impl Rest {
    fn push(&mut self, target: Target, until: Option<Until>) {
        match target.net() {
            net @ IpNet::V4(_) => self.four.push((net, until)),
            net @ IpNet::V6(_) => self.six.push((net, until)),
        }
    }
}

impl Tables for Generation {
    fn settle(&mut self, mut wanted: impl Iterator<Item = (Target, Option<Until>)>) -> Result<(), Failure> {
        let mut rest = Rest::default();
        let mut ahead: Vec<(Target, Option<Until>)> = Vec::with_capacity(AHEAD);
        loop {
            ahead.clear();
            ahead.extend(wanted.by_ref().take(AHEAD));
            if ahead.is_empty() {
                break;
            }
            for (layout, key) in ahead.iter().filter_map(|(target, _)| place(*target)) {
                self.table(layout).fetch(key);
            }
            ahead.iter().try_for_each(|(target, until)| self.settle_one(*target, *until, &mut rest))?;
        }
        self.nets4.settle(&rest.four)?;
        self.nets6.settle(&rest.six)
    }

    fn until(&self, target: Target) -> Option<Until> {
        let in_table = place(target).and_then(|(layout, key)| self.table(layout).until(key));
        in_table.or_else(|| match target.net() {
            net @ IpNet::V4(_) => self.nets4.until(net),
            net @ IpNet::V6(_) => self.nets6.until(net),
        })
    }

    fn hits(&self, target: Target) -> Hits {
        let in_table = place(target).and_then(|(layout, key)| self.table(layout).hits(key));
        in_table.or_else(|| self.trie_hits(target)).unwrap_or_default()
    }

    fn inventory(&self) -> Inventory {
        self.inventory_with([&self.nets4.held(), &self.nets6.held()])
    }

    fn capacities(&self, connected: Connected) -> Vec<(&'static str, u64, u64)> {
        let of = |name, table: &Table| (name, table.used() as u64, table.capacity() as u64);
        let mut all =
            vec![of(names::BLOCKED4, &self.table4), of(names::UNITS6, &self.units6), of(names::HOSTS6, &self.hosts6)];
        all.extend(self.nets4.capacities([names::NETS4, names::TRUST4]));
        all.extend(self.nets6.capacities([names::NETS6, names::TRUST6]));
        all.extend(self.connections.as_ref().map(|open| (names::OPEN, connected.total, open.capacity())));
        all
    }

    fn counters(&self) -> Result<Counters, Failure> {
        let values = self.counters.get(&0, 0).blame(Blame::System, || "the counters cannot be read".to_owned())?;
        Ok(sum(values.iter().map(|value| value.0)))
    }

    fn rates(&self, address: IpAddr, now: Boot) -> Rates {
        self.rates_of(address, now)
    }

    fn connections(&self, address: IpAddr) -> Option<u64> {
        self.connections.as_ref().map(|connections| connections.of_address(address))
    }

    fn connected(&self) -> Connected {
        self.connections.as_ref().map(Connections::connected).unwrap_or_default()
    }

    fn cap(&self) -> Option<u64> {
        self.connections.as_ref().map(Connections::cap)
    }

    fn unload(&mut self) -> Result<Unloaded, Failure> {
        // Held links stay attached without their pins.
        self.counting = None;
        super::unload(self.pin_path())
    }

    fn trust(&mut self, prefixes: &[(Target, Trust)]) -> Result<(), Failure> {
        self.nets4.replace_trust(with_covering(prefixes, |net| matches!(net, IpNet::V4(_))))?;
        self.nets6.replace_trust(with_covering(prefixes, |net| matches!(net, IpNet::V6(_))))
    }
}

impl Generation {
    /// Whether the kernel holds these blocks, and what else was written, and nothing that was not. Only where this
    /// process built the generation.
    pub fn differs(&self, wanted: Inventory) -> Option<Difference> {
        let held = (self.nets4.held(), self.nets6.held());
        let found = self.inventory_with([&held.0, &held.1]);
        if found != wanted {
            return Some(Difference::Blocks { wanted: wanted.entries, found: found.entries });
        }
        if !self.nets4.are_as_written(&held.0) || !self.nets6.are_as_written(&held.1) {
            return Some(Difference::Prefixes);
        }
        (!self.settings_are_as_written()).then_some(Difference::Settings)
    }

    fn inventory_with(&self, nets: [&Held; 2]) -> Inventory {
        let singles = [&self.table4, &self.units6, &self.hosts6].into_iter().flat_map(Table::entries);
        let mut inventory: Inventory = singles.map(|(key, until)| (target_of(key), until)).collect();
        let nets = nets.into_iter().flat_map(Held::asked);
        nets.for_each(|(net, until)| inventory.add(Target::from(net), until));
        inventory
    }

    /// How many IPv6 targets it holds that belong into tables, wherever they are.
    pub fn singles6(&self) -> Singles6 {
        Singles6 {
            units: self.units6.used() as u64 + self.nets6.of_length(64),
            hosts: self.hosts6.used() as u64 + self.nets6.of_length(128),
        }
    }

    /// Whether with so many more too many would find no room in their tables, or too many do already.
    pub fn is_crowded_by(&self, more: Singles6) -> bool {
        let Singles6 { units, hosts } = self.singles6().plus(more);
        is_crowded(self.units6.capacity() as u64, units)
            || is_crowded(self.hosts6.capacity() as u64, hosts)
            || self.is_unlucky()
    }

    /// Whether other seeds would do better.
    fn is_unlucky(&self) -> bool {
        let of = |table: &Table, in_trie| is_unlucky(table.used() as u64, in_trie);
        of(&self.table4, self.nets4.of_length(32))
            || of(&self.units6, self.nets6.of_length(64))
            || of(&self.hosts6, self.nets6.of_length(128))
    }

    /// Takes over what was counted in an earlier generation, which no CPU may run any more.
    pub fn add_hits(&mut self, target: Target, hits: Hits) -> Result<(), Failure> {
        match place(target).map(|(layout, key)| (self.table_mut(layout), key)) {
            Some((table, key)) if table.until(key).is_some() => {
                table.add_hits(key, hits);
                Ok(())
            }
            _ => match target.net() {
                net @ IpNet::V4(_) => self.nets4.add_hits(net, hits),
                net @ IpNet::V6(_) => self.nets6.add_hits(net, hits),
            },
        }
    }

    /// Every entry that counted a packet.
    pub fn counted(&self) -> Vec<(Target, Hits)> {
        let singles = [&self.table4, &self.units6, &self.hosts6].into_iter().flat_map(Table::counted);
        let nets = self.nets4.counted().chain(self.nets6.counted());
        let singles = singles.map(|(key, hits)| (target_of(key), hits));
        singles.chain(nets.map(|(net, hits)| (Target::from(net), hits))).collect()
    }

    /// Every entry that the kernel holds.
    pub fn entries(&self) -> Vec<(Target, Until)> {
        let singles = [&self.table4, &self.units6, &self.hosts6].into_iter().flat_map(Table::entries);
        let nets = self.nets4.entries().chain(self.nets6.entries());
        let singles = singles.map(|(key, until)| (target_of(key), until));
        singles.chain(nets.map(|(net, until)| (Target::from(net), until))).collect()
    }

    /// The allow list as the kernel has it, without what a wider entry covers.
    pub fn allowed(&self) -> Vec<Target> {
        let trusted = self.nets4.trusted().chain(self.nets6.trusted());
        let listed: Vec<IpNet> = trusted.filter(|(_, trust)| trust.has(Trust::ALLOWED)).map(|(net, _)| net).collect();
        let covered = |net: &IpNet| listed.iter().any(|cover| cover != net && cover.contains(net));
        listed.iter().filter(|net| !covered(net)).map(|net| Target::from(*net)).collect()
    }

    /// In its table, or left to the trie.
    fn settle_one(&mut self, target: Target, until: Option<Until>, rest: &mut Rest) -> Result<(), Failure> {
        let Some((layout, key)) = place(target) else {
            rest.push(target, until);
            return Ok(());
        };
        let Some(until) = until else {
            self.table_mut(layout).clear(key);
            if self.is_in_trie(target) {
                rest.push(target, None);
            }
            return Ok(());
        };
        self.use_table(layout);
        match self.table_mut(layout).set(key, until) {
            Ok(()) => self.leave_trie(target),
            Err(_) => {
                rest.push(target, Some(until));
                Ok(())
            }
        }
    }

    /// An address that found no room in its table once, and does now: the trie's entry would outlast a shorter end.
    fn leave_trie(&mut self, target: Target) -> Result<(), Failure> {
        if !self.is_in_trie(target) {
            return Ok(());
        }
        let hits = self.trie_hits(target).unwrap_or_default();
        match target.net() {
            net @ IpNet::V4(_) => self.nets4.settle(&[(net, None)])?,
            net @ IpNet::V6(_) => self.nets6.settle(&[(net, None)])?,
        }
        self.add_hits(target, hits)
    }

    fn is_in_trie(&self, target: Target) -> bool {
        match target.net() {
            net @ IpNet::V4(_) => self.nets4.is_asked(net),
            net @ IpNet::V6(_) => self.nets6.is_asked(net),
        }
    }

    fn trie_hits(&self, target: Target) -> Option<Hits> {
        match target.net() {
            net @ IpNet::V4(_) => self.nets4.hits(net),
            net @ IpNet::V6(_) => self.nets6.hits(net),
        }
    }

    fn table(&self, layout: Layout) -> &Table {
        match layout {
            Layout::Four => &self.table4,
            Layout::Unit => &self.units6,
            Layout::Host => &self.hosts6,
        }
    }

    fn table_mut(&mut self, layout: Layout) -> &mut Table {
        match layout {
            Layout::Four => &mut self.table4,
            Layout::Unit => &mut self.units6,
            Layout::Host => &mut self.hosts6,
        }
    }

    fn use_table(&self, layout: Layout) {
        let bit = match layout {
            Layout::Four => InUse::BLOCKED4,
            Layout::Unit => InUse::UNITS6,
            Layout::Host => InUse::HOSTS6,
        };
        let in_use = self.settings.load(word::IN_USE);
        if in_use & bit == 0 {
            self.settings.store(word::IN_USE, in_use | bit);
        }
    }
}

/// The table that a target belongs to; `None`: the trie.
fn place(target: Target) -> Option<(Layout, Key)> {
    match target.net() {
        IpNet::V4(four) if four.prefix_len() == 32 => Some((Layout::Four, Key::Four(Addr4::from(four.addr())))),
        IpNet::V6(six) if six.prefix_len() == 128 => Some((Layout::Host, Key::Host(Addr6::from(six.addr())))),
        IpNet::V6(six) if six.prefix_len() == 64 => Some((Layout::Unit, Key::Unit(Addr6::from(six.addr()).unit()))),
        _ => None,
    }
}

fn target_of(key: Key) -> Target {
    match key {
        Key::Four(address) => Target::of(std::net::Ipv4Addr::from(address).into()),
        Key::Host(address) => Target::of(std::net::Ipv6Addr::from(address).into()),
        Key::Unit(unit) => {
            let network = std::net::Ipv6Addr::from(u128::from(unit) << 64);
            Target::client(network.into(), 64)
        }
    }
}
