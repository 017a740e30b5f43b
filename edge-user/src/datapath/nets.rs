//! Prefixes of one family: the tries for blocked and trusted ones, and the flags of the areas they touch.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, OwnedFd},
};

use aya::{
    Pod,
    maps::{
        MapData,
        lpm_trie::{Key, LpmTrie},
    },
};
use edge_common::{
    amend::Amendment,
    table::{Hits, NetEntry, Trust},
    time::Until,
};
use ipnet::IpNet;

use super::{amend::Amender, areas::Areas, batch};
use crate::{
    block::Target,
    error::{Blame, Context, Failure},
};

/// [`NetEntry`] as aya wants to have it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Entry(pub NetEntry);

// SAFETY: three words of 64 bits, no padding.
unsafe impl Pod for Entry {}

/// A family's key data: `u64` or `[u64; 2]`.
pub trait Data: Pod {
    fn key(net: IpNet) -> Key<Self>;
    fn net(key: &Key<Self>) -> Option<IpNet>;
    /// The key's data and its family, as [`Amendment`] has them.
    fn amended(self) -> ([u64; 2], u32);
}

impl Data for u64 {
    fn key(net: IpNet) -> Key<u64> {
        let data = match net {
            IpNet::V4(four) => edge_common::address::Addr4::from(four.network()).trie_data(),
            IpNet::V6(_) => 0,
        };
        Key::new(u32::from(net.prefix_len()), data)
    }

    fn net(key: &Key<u64>) -> Option<IpNet> {
        let data = key.data();
        let [a, b, c, d, ..] = data.to_ne_bytes();
        ipnet::Ipv4Net::new([a, b, c, d].into(), key.prefix_len() as u8).ok().map(IpNet::V4)
    }

    fn amended(self) -> ([u64; 2], u32) {
        ([self, 0], 4)
    }
}

impl Data for [u64; 2] {
    fn key(net: IpNet) -> Key<[u64; 2]> {
        let data = match net {
            IpNet::V6(six) => edge_common::address::Addr6::from(six.network()).trie_data(),
            IpNet::V4(_) => [0; 2],
        };
        Key::new(u32::from(net.prefix_len()), data)
    }

    fn net(key: &Key<[u64; 2]>) -> Option<IpNet> {
        let [hi, lo] = key.data();
        let bits = u128::from(u64::from_be(hi)) << 64 | u128::from(u64::from_be(lo));
        ipnet::Ipv6Net::new(bits.into(), key.prefix_len() as u8).ok().map(IpNet::V6)
    }

    fn amended(self) -> ([u64; 2], u32) {
        (self, 6)
    }
}

/// So many prefixes each look for what covers them; more are found in one walk over all.
const FEW: usize = 64;

pub struct Nets<K: Data> {
    blocked: LpmTrie<MapData, K, Entry>,
    /// Of `blocked`.
    descriptor: OwnedFd,
    amender: Amender,
    trusted: LpmTrie<MapData, K, u64>,
    /// Of `trusted`.
    trusted_descriptor: OwnedFd,
    areas: Areas,
    /// How many entries fit into `blocked` and into `trusted`.
    capacities: [u64; 2],
    /// The ends as they were asked for, covering prefixes left aside.
    asked: BTreeMap<IpNet, Until>,
    trust: BTreeMap<IpNet, Trust>,
    lengths: Lengths,
}

impl<K: Data> Nets<K> {
    pub fn new(
        blocked: LpmTrie<MapData, K, Entry>,
        [descriptor, trusted_descriptor]: [OwnedFd; 2],
        amender: Amender,
        trusted: LpmTrie<MapData, K, u64>,
        areas: Areas,
        capacities: [u64; 2],
    ) -> Nets<K> {
        let (asked, trust) = (BTreeMap::new(), BTreeMap::new());
        Nets {
            blocked,
            descriptor,
            amender,
            trusted,
            trusted_descriptor,
            areas,
            capacities,
            asked,
            trust,
            lengths: Lengths::default(),
        }
    }

    /// Of a new generation, before anything is in it.
    pub fn seed(&mut self, seed: u64) {
        self.areas.seed(seed);
    }

    /// Of an opened generation: takes over what the kernel holds.
    pub fn recall(&mut self, seed: u64) {
        self.areas.seed(seed);
        let blocked = self.all().into_iter();
        self.asked = blocked.filter_map(|(key, entry)| Some((K::net(&key)?, entry.0.asked()))).collect();
        let trusted = self.trusted.iter().filter_map(Result::ok);
        self.trust = trusted.filter_map(|(key, bits)| Some((K::net(&key)?, Trust::from_bits(bits)))).collect();
        for net in self.asked.keys() {
            self.areas.block(*net);
            self.lengths.add(*net);
        }
        for net in self.trust.keys() {
            self.areas.trust(*net);
        }
    }

    /// Removes prefixes without an end, then puts the others into force or changes their ends; all in order. After a
    /// failure some are done and some are not.
    pub fn settle(&mut self, wanted: &[(IpNet, Option<Until>)]) -> Result<(), Failure> {
        wanted.iter().filter(|(_, until)| until.is_none()).try_for_each(|(net, _)| self.clear(*net))?;
        let asked = wanted.iter().filter_map(|(net, until)| Some((*net, (*until)?)));
        let fresh = asked.filter(|(net, until)| self.ask(*net, *until)).map(|(net, _)| net).collect();
        let touched = self.touched(wanted.iter().map(|(net, _)| *net));
        self.write(&touched, &fresh)
    }

    /// Whether it was not asked for before.
    fn ask(&mut self, net: IpNet, until: Until) -> bool {
        let is_fresh = self.asked.insert(net, until).is_none();
        if is_fresh {
            self.areas.block(net);
            self.lengths.add(net);
        }
        is_fresh
    }

    fn clear(&mut self, net: IpNet) -> Result<(), Failure> {
        if self.asked.contains_key(&net) {
            remove(&mut self.blocked, net)?;
            self.forget(net);
        }
        Ok(())
    }

    pub fn is_asked(&self, net: IpNet) -> bool {
        self.lengths.has(net.prefix_len()) && self.asked.contains_key(&net)
    }

    /// How many of this length are asked for.
    pub fn of_length(&self, length: u8) -> u64 {
        self.lengths.of(length)
    }

    fn forget(&mut self, net: IpNet) {
        self.asked.remove(&net);
        self.lengths.remove(net);
        self.areas.unblock(net);
    }

    /// The end that was asked for, if the kernel holds it.
    pub fn until(&self, net: IpNet) -> Option<Until> {
        self.entry(net).map(|entry| entry.asked())
    }

    pub fn hits(&self, net: IpNet) -> Option<Hits> {
        self.entry(net).map(|entry| entry.hits)
    }

    pub fn add_hits(&mut self, net: IpNet, hits: Hits) -> Result<(), Failure> {
        let Some(entry) = self.entry(net) else { return Ok(()) };
        self.amend(net, entry.ends, entry.ends, hits)
    }

    /// Where it lies, since packets count there meanwhile. Only where that cannot be the entry is replaced, and what is
    /// counted between the two calls is lost.
    fn amend(&mut self, net: IpNet, from: u64, to: u64, hits: Hits) -> Result<(), Failure> {
        let key = K::key(net);
        let (data, family) = key.data().amended();
        if self.amender.amend(&Amendment { from, to, hits, data, prefix_len: key.prefix_len(), family }) {
            return Ok(());
        }
        let Hits { packets, bytes } = self.hits(net).unwrap_or_default();
        let hits = Hits { packets: packets + hits.packets, bytes: bytes + hits.bytes };
        self.blocked.insert(&key, Entry(NetEntry { ends: to, hits }), 0).map_err(|error| failure(net, &error))
    }

    /// What should be in the kernel, by what was written.
    pub fn entries(&self) -> impl Iterator<Item = (IpNet, Until)> {
        self.asked.iter().map(|(net, until)| (*net, *until))
    }

    /// Every prefix that the kernel holds.
    pub fn held(&self) -> Held {
        Held(self.all().into_iter().filter_map(|(key, entry)| Some((K::net(&key)?, entry.0.ends))).collect())
    }

    /// Whether the kernel holds what was written, and reads it where it should.
    pub fn are_as_written(&self, held: &Held) -> bool {
        let expected = self.latest_of(&self.asked.keys().copied().collect::<Vec<_>>());
        let expected =
            expected.into_iter().map(|(net, latest, asked)| (net, NetEntry::new(latest, asked, Hits::default()).ends));
        let Ok(trusted) = batch::all::<Key<K>, u64>(self.trusted_descriptor.as_fd()) else {
            // What cannot be read is not known to differ, and tables that are built anew could be read no better.
            return true;
        };
        let trust = |(key, bits): &(Key<K>, u64)| {
            K::net(key).is_some_and(|net| self.trust.get(&net) == Some(&Trust::from_bits(*bits)))
        };
        is_same(expected, &held.0)
            && trusted.len() == self.trust.len()
            && trusted.iter().all(trust)
            && self.areas.are_as_written()
    }

    /// Every prefix that counted a packet.
    pub fn counted(&self) -> impl Iterator<Item = (IpNet, Hits)> {
        let counted = self.all().into_iter().filter(|(_, entry)| entry.0.hits.packets > 0);
        counted.filter_map(|(key, entry)| Some((K::net(&key)?, entry.0.hits)))
    }

    /// What cannot be read is not there.
    fn all(&self) -> Vec<(Key<K>, Entry)> {
        batch::all(self.descriptor.as_fd()).unwrap_or_else(|error| {
            tracing::error!("the blocked prefixes cannot be read from the kernel: {error}");
            Vec::new()
        })
    }

    /// Name, entries and capacity of `blocked` and `trusted`, for metrics.
    pub fn capacities(&self, names: [&'static str; 2]) -> [(&'static str, u64, u64); 2] {
        let [blocked, trusted] = self.capacities;
        [(names[0], self.asked.len() as u64, blocked), (names[1], self.trust.len() as u64, trusted)]
    }

    pub fn trusted(&self) -> impl Iterator<Item = (IpNet, Trust)> {
        self.trust.iter().map(|(net, trust)| (*net, *trust))
    }

    pub fn replace_trust(&mut self, wanted: BTreeMap<IpNet, Trust>) -> Result<(), Failure> {
        for (net, trust) in &wanted {
            if self.trust.get(net) == Some(trust) {
                continue;
            }
            if self.trust.insert(*net, *trust).is_none() {
                self.areas.trust(*net);
            }
            let written = self.trusted.insert(&K::key(*net), trust.bits(), 0).map_err(|error| failure(*net, &error));
            // What is not written is not remembered, so that the next replacement tries again.
            written.inspect_err(|_| self.distrust(*net))?;
        }
        let gone: Vec<IpNet> = self.trust.keys().filter(|net| !wanted.contains_key(net)).copied().collect();
        for net in gone {
            remove(&mut self.trusted, net)?;
            self.distrust(net);
        }
        Ok(())
    }

    fn distrust(&mut self, net: IpNet) {
        self.trust.remove(&net);
        self.areas.distrust(net);
    }

    /// Only of what was written: for anything else the trie answers with what covers it.
    fn entry(&self, net: IpNet) -> Option<NetEntry> {
        self.asked.get(&net)?;
        self.blocked.get(&K::key(net), 0).ok().map(|entry| entry.0)
    }

    /// What changed and what lies under it, in order.
    fn touched(&self, changed: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
        let mut touched: Vec<IpNet> = Vec::new();
        let mut cover: Option<IpNet> = None;
        for net in changed {
            // What lies under a cover was found with it.
            if !cover.is_some_and(|cover| cover.contains(&net)) {
                cover = Some(net);
                let under = self.asked.range(net..).map(|(inner, _)| *inner).take_while(|inner| net.contains(inner));
                touched.extend(under);
            }
        }
        touched
    }

    /// The trie finds only the longest prefix, so each carries the latest end of those that cover it.
    fn write(&mut self, touched: &[IpNet], fresh: &BTreeSet<IpNet>) -> Result<(), Failure> {
        let (mut changed, mut nets, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        for (net, latest, asked) in self.latest_of(touched) {
            let entry = NetEntry::new(latest, asked, Hits::default());
            match if fresh.contains(&net) { None } else { self.entry(net) } {
                None => {
                    nets.push(net);
                    entries.push((K::key(net), Entry(entry)));
                }
                Some(held) if held.ends != entry.ends => changed.push((net, held.ends, entry.ends)),
                Some(_) => {}
            }
        }
        let amended = changed.into_iter().try_for_each(|(net, from, to)| self.amend(net, from, to, Hits::default()));
        let (done, written) =
            if amended.is_ok() { batch::update(self.descriptor.as_fd(), &entries) } else { (0, Ok(())) };
        // What is not written is not remembered: the trie would answer for it with what covers it.
        let missing = nets.iter().skip(done).filter(|net| fresh.contains(net));
        missing.for_each(|net| self.forget(*net));
        amended?;
        written.blame(Blame::System, || {
            let at = nets.get(done).map_or(String::new(), ToString::to_string);
            format!("the kernel did not take the prefix {at}, the {} of {}", done + 1, nets.len())
        })
    }

    /// Prefixes with the latest end of those that cover them and the one that was asked for.
    fn latest_of(&self, touched: &[IpNet]) -> Vec<(IpNet, Until, Until)> {
        if touched.len() <= FEW {
            let each = touched.iter().filter_map(|net| Some((*net, self.latest(*net)?, *self.asked.get(net)?)));
            return each.collect();
        }
        // One walk over all, with those that cover the present one on a stack.
        let mut covers: Vec<(IpNet, Until)> = Vec::new();
        let mut touched = touched.iter().peekable();
        let mut found = Vec::new();
        for (net, asked) in &self.asked {
            while covers.pop_if(|(cover, _)| !cover.contains(net)).is_some() {}
            let latest = covers.last().map_or(*asked, |(_, latest)| *asked.max(latest));
            covers.push((*net, latest));
            if touched.next_if_eq(&net).is_some() {
                found.push((*net, latest, *asked));
            }
        }
        found
    }

    /// The latest end of a prefix and those that cover it.
    fn latest(&self, net: IpNet) -> Option<Until> {
        self.lengths
            .up_to(net.prefix_len())
            .filter_map(|length| IpNet::new(net.addr(), length).ok())
            .filter_map(|cover| self.asked.get(&cover.trunc()).copied())
            .max()
    }
}

/// What was read of a trie once: each prefix with its ends ([`NetEntry::ends`]).
pub struct Held(Vec<(IpNet, u64)>);

impl Held {
    /// With the end that was asked for.
    pub fn asked(&self) -> impl Iterator<Item = (IpNet, Until)> {
        self.0.iter().map(|(net, ends)| (*net, NetEntry { ends: *ends, hits: Hits::default() }.asked()))
    }
}

/// Whether these are the same prefixes with the same ends, in whatever order they were read.
fn is_same(expected: impl Iterator<Item = (IpNet, u64)>, held: &[(IpNet, u64)]) -> bool {
    let mut held = held.to_vec();
    held.sort_unstable();
    expected.eq(held)
}

fn remove<K: Data, V: Pod>(trie: &mut LpmTrie<MapData, K, V>, net: IpNet) -> Result<(), Failure> {
    match trie.remove(&K::key(net)) {
        Err(error) if !is_absent(&error) => Err(failure(net, &error)),
        _ => Ok(()),
    }
}

/// How many prefixes of each length there are, so that a look for covering ones asks only for lengths in use.
struct Lengths([u32; 129]);

impl Default for Lengths {
    fn default() -> Lengths {
        Lengths([0; 129])
    }
}

impl Lengths {
    fn add(&mut self, net: IpNet) {
        self.0[usize::from(net.prefix_len())] += 1;
    }

    fn remove(&mut self, net: IpNet) {
        let count = &mut self.0[usize::from(net.prefix_len())];
        *count = count.saturating_sub(1);
    }

    fn of(&self, length: u8) -> u64 {
        self.0.get(usize::from(length)).copied().unwrap_or_default().into()
    }

    fn has(&self, length: u8) -> bool {
        self.of(length) > 0
    }

    fn up_to(&self, longest: u8) -> impl Iterator<Item = u8> {
        (0..=longest).filter(|length| self.has(*length))
    }
}

/// Which trust each prefix has, that of covering prefixes included.
pub fn with_covering(prefixes: &[(Target, Trust)], of: fn(&IpNet) -> bool) -> BTreeMap<IpNet, Trust> {
    let mut said: BTreeMap<IpNet, Trust> = BTreeMap::new();
    for (target, trust) in prefixes.iter().filter(|(target, _)| of(&target.net())) {
        let all = said.entry(target.net()).or_insert(Trust::NONE);
        *all = all.with(*trust);
    }
    let covers = |net: &IpNet| {
        let covering = (0..=net.prefix_len()).filter_map(|length| IpNet::new(net.addr(), length).ok());
        covering.filter_map(|cover| said.get(&cover.trunc())).fold(Trust::NONE, |all, one| all.with(*one))
    };
    said.keys().map(|net| (*net, covers(net))).collect()
}

fn is_absent(error: &aya::maps::MapError) -> bool {
    match error {
        aya::maps::MapError::KeyNotFound => true,
        aya::maps::MapError::SyscallError(call) => call.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

fn failure(net: IpNet, error: &aya::maps::MapError) -> Failure {
    let result: Result<(), String> = Err(error.to_string());
    match result.blame(Blame::System, || format!("the kernel did not take the prefix {net}")) {
        Err(failure) => failure,
        Ok(()) => Failure::bug("no failure"),
    }
}
