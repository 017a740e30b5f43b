//! Prefixes of one family: the tries for blocked and trusted ones, and the flags of the areas they touch.

use std::collections::BTreeMap;

use aya::{
    Pod,
    maps::{
        MapData,
        lpm_trie::{Key, LpmTrie},
    },
};
use edge_common::table::{AreaFlags, Hits, NetEntry, Trust};
use edge_common::time::Until;
use ipnet::IpNet;

use super::mapping::Mapping;
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
    fn areas(net: IpNet, seed: u64) -> std::ops::RangeInclusive<u32>;
}

impl Data for u64 {
    fn key(net: IpNet) -> Key<u64> {
        let data = match net {
            IpNet::V4(four) => edge_common::address::Addr4::from(four.network()).trie_data(),
            IpNet::V6(_) => 0,
        };
        Key::new(u32::from(net.prefix_len()), data)
    }

    fn areas(net: IpNet, _: u64) -> std::ops::RangeInclusive<u32> {
        match net {
            IpNet::V4(four) => u32::from(four.network()) >> 16..=u32::from(four.broadcast()) >> 16,
            IpNet::V6(_) => 0..=AreaFlags::AREAS - 1,
        }
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

    fn areas(net: IpNet, seed: u64) -> std::ops::RangeInclusive<u32> {
        match net {
            IpNet::V6(six) if six.prefix_len() >= 32 => {
                let area = AreaFlags::area6(edge_common::address::Addr6::from(six.network()).top(), seed);
                area..=area
            }
            _ => 0..=AreaFlags::AREAS - 1,
        }
    }
}

pub struct Nets<K: Data> {
    pub blocked: LpmTrie<MapData, K, Entry>,
    pub trusted: LpmTrie<MapData, K, u64>,
    pub areas: Mapping,
    pub seed: u64,
    /// The ends as they were asked for, covering prefixes left aside.
    pub asked: BTreeMap<IpNet, Until>,
    pub trust: BTreeMap<IpNet, Trust>,
}

impl<K: Data> Nets<K> {
    pub fn set(&mut self, net: IpNet, until: Until) -> Result<(), Failure> {
        self.asked.insert(net, until);
        self.flag(net, AreaFlags::NETS);
        self.write_under(net)
    }

    pub fn clear(&mut self, net: IpNet) -> Result<(), Failure> {
        if self.asked.remove(&net).is_none() {
            return Ok(());
        }
        match self.blocked.remove(&K::key(net)) {
            Ok(()) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(failure(net, &error)),
        }
        self.write_under(net)?;
        self.flag_again();
        Ok(())
    }

    pub fn entry(&self, net: IpNet) -> Option<NetEntry> {
        self.asked.get(&net)?;
        self.blocked.get(&K::key(net), 0).ok().map(|entry| entry.0)
    }

    pub fn add_hits(&mut self, net: IpNet, hits: Hits) -> Result<(), Failure> {
        let Some(mut entry) = self.entry(net) else { return Ok(()) };
        entry.hits.packets += hits.packets;
        entry.hits.bytes += hits.bytes;
        self.blocked.insert(&K::key(net), Entry(entry), 0).map_err(|error| failure(net, &error))
    }

    pub fn replace_trust(&mut self, wanted: BTreeMap<IpNet, Trust>) -> Result<(), Failure> {
        for (net, trust) in &wanted {
            if self.trust.get(net) != Some(trust) {
                self.flag(*net, AreaFlags::TRUST);
                self.trusted.insert(&K::key(*net), trust.bits(), 0).map_err(|error| failure(*net, &error))?;
            }
        }
        for net in self.trust.keys().filter(|net| !wanted.contains_key(net)) {
            match self.trusted.remove(&K::key(*net)) {
                Ok(()) => {}
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(failure(*net, &error)),
            }
        }
        self.trust = wanted;
        self.flag_again();
        Ok(())
    }

    /// The trie finds only the longest prefix, so each carries the latest end of those that cover it.
    fn write_under(&mut self, net: IpNet) -> Result<(), Failure> {
        let under: Vec<IpNet> = self.asked.keys().copied().filter(|inner| net.contains(inner)).collect();
        for inner in under {
            let latest = self.asked.iter().filter(|(outer, _)| outer.contains(&inner)).map(|(_, until)| *until).max();
            let until = u64::from(latest.unwrap_or(Until::EMPTY).bits());
            let held = self.blocked.get(&K::key(inner), 0).ok().map(|entry| entry.0);
            if held.is_some_and(|held| held.until == until) {
                continue;
            }
            let entry = NetEntry { until, hits: held.map_or(Hits::default(), |held| held.hits) };
            self.blocked.insert(&K::key(inner), Entry(entry), 0).map_err(|error| failure(inner, &error))?;
        }
        Ok(())
    }

    fn flag(&self, net: IpNet, flag: AreaFlags) {
        for area in K::areas(net, self.seed) {
            let (index, shift) = AreaFlags::place(area);
            let word = self.areas.load(index as usize);
            self.areas.store(index as usize, word | u64::from(flag.bits()) << shift);
        }
    }

    /// After something went: every word as the prefixes that are left would have it.
    fn flag_again(&self) {
        let mut words = vec![0u64; AreaFlags::WORDS as usize];
        let nets = self.asked.keys().map(|net| (*net, AreaFlags::NETS));
        let trusted = self.trust.keys().map(|net| (*net, AreaFlags::TRUST));
        for (net, flag) in nets.chain(trusted) {
            for area in K::areas(net, self.seed) {
                let (index, shift) = AreaFlags::place(area);
                words[index as usize] |= u64::from(flag.bits()) << shift;
            }
        }
        for (index, word) in words.into_iter().enumerate() {
            self.areas.store(index, word);
        }
    }
}

/// Which trust each prefix has, that of covering prefixes included.
pub fn with_covering(prefixes: &[(Target, Trust)], of: fn(&IpNet) -> bool) -> BTreeMap<IpNet, Trust> {
    let mine = || prefixes.iter().map(|(target, trust)| (target.net(), *trust)).filter(|(net, _)| of(net));
    let mut result: BTreeMap<IpNet, Trust> = BTreeMap::new();
    for (net, _) in mine() {
        let trust = mine().filter(|(outer, _)| outer.contains(&net)).fold(Trust::NONE, |all, (_, one)| all.with(one));
        result.insert(net, trust);
    }
    result
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
