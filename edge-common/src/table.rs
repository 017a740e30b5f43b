//! Cache-line tables: how a key finds its two candidate lines, and how entries are packed into them.
//!
//! A look-up costs one cache miss as a rule, two at most, and no helper call: the second line is looked into only where the
//! first says that entries of its own are elsewhere. A drop is counted in the line that was found. The agent alone makes
//! and ends entries, through a memory mapping, each with one store that puts it into force or ends it; the kernel only adds
//! to counts. Lines are never rearranged: what finds both its lines full becomes a prefix of full length in the trie.
//!
//! Why not the kernel's hash, a million IPv4 addresses in each (Linux 6.18, nanoseconds without those of the run itself;
//! `cargo xtask bench xdp` and `bench bulk` measure anew):
//!
//! | | these tables | hash |
//! |---|---|---|
//! | drop with counts, random sources | 164 | 469 |
//! | drop with counts, one source, the whole path | 14 | 46 (xdp-filter) |
//! | a million set | 0.05 s, stores | 0.80 s, batched calls |
//! | one more | a store | 1.3 µs, a call |
//! | memory, counts included | 32 bytes | 97 bytes |
//!
//! The kernel's trie of 100,000 prefixes costs 72 hot and 510 cold a look-up, hit or miss, so it is asked only where the
//! areas' flags and the narrow bits below say that it can hold something.

use crate::{
    address::{Addr4, Addr6},
    time::Until,
};

/// Where a table's keys lie. The seeds are random for each table, so that nobody can aim addresses at one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Geometry {
    /// Number of lines, under 2^32.
    pub lines: u64,
    /// Odd.
    pub seed_a: u64,
    /// Odd.
    pub seed_b: u64,
}

impl Geometry {
    /// The two lines in which `key` may lie.
    #[inline(always)]
    pub const fn candidates(&self, key: u64) -> [u32; 2] {
        let mixed = key.wrapping_mul(self.seed_a);
        let again = (mixed ^ (mixed >> 29)).wrapping_mul(self.seed_b);
        [self.line(mixed), self.line(again)]
    }

    /// Both halves of an IPv6 address as one key for [`candidates`](Self::candidates).
    #[inline(always)]
    pub const fn fold(&self, address: Addr6) -> u64 {
        let mixed = address.unit().wrapping_mul(self.seed_b);
        (mixed ^ (mixed >> 31)).wrapping_add(address.low())
    }

    #[inline(always)]
    const fn line(&self, mixed: u64) -> u32 {
        (((mixed >> 32) * self.lines) >> 32) as u32
    }
}

/// Packets and bytes dropped since the entry was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Hits {
    pub packets: u64,
    pub bytes: u64,
}

/// [`Hits`] in one word, in the line of its entry, so that a drop pays one addition and no further cache line: packets in
/// the low 24 bits, bytes in 38, and two flags. Whoever finds it half full moves it to `SPILLED`; until then every CPU has
/// room for half a word more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Count(u64);

impl Count {
    /// There is more of it in `SPILLED`.
    pub const SPILLED: u64 = 1 << 63;
    /// Of a line's first slot, and of the line: entries whose first line it is lie in their second.
    pub const OVERFLOWN: u64 = 1 << 62;
    const PACKET_BITS: u32 = 24;
    const BYTE_BITS: u32 = 38;
    const HALF_FULL: u64 = 1 << (Self::PACKET_BITS - 1) | 1 << (Self::PACKET_BITS + Self::BYTE_BITS - 1);

    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Count {
        Count(bits)
    }

    pub const fn bits(self) -> u64 {
        self.0
    }

    /// What one packet adds.
    #[inline(always)]
    pub const fn packet(bytes: u64) -> u64 {
        bytes << Self::PACKET_BITS | 1
    }

    /// `None`: too many for a word that is less than half full.
    pub const fn of(hits: Hits) -> Option<Count> {
        let fits = hits.packets < 1 << (Self::PACKET_BITS - 1) && hits.bytes < 1 << (Self::BYTE_BITS - 1);
        if fits { Some(Count(hits.bytes << Self::PACKET_BITS | hits.packets)) } else { None }
    }

    /// What the word itself says.
    #[inline(always)]
    pub const fn hits(self) -> Hits {
        let bytes = self.0 >> Self::PACKET_BITS & ((1 << Self::BYTE_BITS) - 1);
        Hits { packets: self.0 & ((1 << Self::PACKET_BITS) - 1), bytes }
    }

    #[inline(always)]
    pub const fn is_spilled(self) -> bool {
        self.0 & Self::SPILLED != 0
    }

    #[inline(always)]
    pub const fn is_overflown(self) -> bool {
        self.0 & Self::OVERFLOWN != 0
    }

    /// Nothing was counted yet.
    #[inline(always)]
    pub const fn is_new(self) -> bool {
        self.0 & !Self::OVERFLOWN == 0
    }

    /// What stays in the word once its hits are in `SPILLED`.
    #[inline(always)]
    pub const fn emptied(self) -> u64 {
        self.0 & Self::OVERFLOWN | Self::SPILLED
    }

    #[inline(always)]
    pub const fn is_half_full(self) -> bool {
        self.0 & Self::HALF_FULL != 0
    }
}

/// The tables of single addresses, as keys of `SPILLED` name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Single {
    Four = 1,
    Unit = 2,
    Host = 3,
}

impl Single {
    /// The key of a slot in `SPILLED`.
    #[inline(always)]
    pub const fn spill(self, slot: u32) -> u64 {
        (self as u64) << 32 | slot as u64
    }
}

/// Four IPv4 entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Line4 {
    pub entries: [Entry4; Line4::SLOTS],
    pub counts: [Count; Line4::SLOTS],
}

impl Line4 {
    pub const SLOTS: usize = 4;
}

/// An IPv4 address and its end in one word. An empty slot reads as 0.0.0.0 with an end that never holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Entry4(u64);

impl Entry4 {
    pub const EMPTY: Entry4 = Entry4(0);

    pub const fn new(address: Addr4, until: Until) -> Entry4 {
        Entry4((address.bits() as u64) << 32 | until.bits() as u64)
    }

    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Entry4 {
        Entry4(bits)
    }

    pub const fn bits(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub const fn is_of(self, address: Addr4) -> bool {
        (self.0 >> 32) as u32 == address.bits()
    }

    pub const fn address(self) -> Addr4 {
        Addr4::from_wire(((self.0 >> 32) as u32).to_be())
    }

    #[inline(always)]
    pub const fn until(self) -> Until {
        Until::from_bits(self.0 as u32)
    }
}

/// Three IPv6 /64 entries. A key is written before its end, the end cleared before the key: the end is the one store
/// that puts the entry into force and ends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct LineUnit6 {
    pub units: [u64; LineUnit6::SLOTS],
    pub counts: [Count; LineUnit6::SLOTS],
    /// [`Until`]; the last is none's.
    pub untils: [u32; LineUnit6::SLOTS + 1],
}

impl LineUnit6 {
    pub const SLOTS: usize = 3;
}

/// Two IPv6 address entries, written in the order of [`LineUnit6`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct LineHost6 {
    pub units: [u64; LineHost6::SLOTS],
    pub lows: [u64; LineHost6::SLOTS],
    pub counts: [Count; LineHost6::SLOTS],
    /// [`Until`]; the last two are none's.
    pub untils: [u32; LineHost6::SLOTS + 2],
}

impl LineHost6 {
    pub const SLOTS: usize = 2;
}

/// A blocked prefix in a trie. The end that holds is the latest of its own and of those that cover it, since the trie
/// finds only the longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NetEntry {
    /// The end that holds in the low 32 bits, the one that was asked for in the high 32.
    pub ends: u64,
    pub hits: Hits,
}

impl NetEntry {
    pub const fn new(holds: Until, asked: Until, hits: Hits) -> NetEntry {
        NetEntry { ends: (asked.bits() as u64) << 32 | holds.bits() as u64, hits }
    }

    #[inline(always)]
    pub const fn end_of(ends: u64) -> Until {
        Until::from_bits(ends as u32)
    }

    pub const fn holds(&self) -> Until {
        NetEntry::end_of(self.ends)
    }

    pub const fn asked(&self) -> Until {
        Until::from_bits((self.ends >> 32) as u32)
    }
}

/// What is said of a prefix in a trust trie: bits, those of covering prefixes included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Trust(u64);

impl Trust {
    pub const NONE: Trust = Trust(0);
    /// On the allow list: everything passes.
    pub const ALLOWED: Trust = Trust(1);
    /// Never blocked, but no pass: the source of a packet proves nothing.
    pub const PROTECTED: Trust = Trust(2);
    /// An address of this host, or loopback: it cannot come from a wire.
    pub const OWN: Trust = Trust(4);
    /// A trusted proxy: neither caps nor rates hold for it.
    pub const PROXY: Trust = Trust(8);

    pub const fn from_bits(bits: u64) -> Trust {
        Trust(bits)
    }

    pub const fn bits(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub const fn has(self, other: Trust) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn with(self, other: Trust) -> Trust {
        Trust(self.0 | other.0)
    }
}

/// Of an area (an IPv4 /16, or all IPv6 /32 of one hash): what prefixes touch it, so that the tries are walked only
/// where they can say something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct AreaFlags(u8);

impl AreaFlags {
    /// A trusted prefix covers it or lies in it.
    pub const TRUST: AreaFlags = AreaFlags(1);
    /// A wide blocked prefix covers it or lies in it: the trie is asked.
    pub const WIDE: AreaFlags = AreaFlags(2);
    /// Narrow blocked prefixes lie in it: a [`Narrow`] bit says whether the trie is asked.
    pub const NARROW: AreaFlags = AreaFlags(4);

    pub const ALL: [AreaFlags; 3] = [AreaFlags::TRUST, AreaFlags::WIDE, AreaFlags::NARROW];

    /// Areas of each family.
    pub const AREAS: u32 = 65_536;
    /// Eight areas share a word of the map.
    pub const WORDS: u32 = Self::AREAS / 8;

    /// The map's index and the shift within its word.
    #[inline(always)]
    pub const fn place(area: u32) -> (u32, u32) {
        (area >> 3, (area & 7) * 8)
    }

    #[inline(always)]
    pub const fn in_word(word: u64, area: u32) -> AreaFlags {
        AreaFlags((word >> Self::place(area).1) as u8)
    }

    #[inline(always)]
    pub const fn has(self, other: AreaFlags) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The area of an IPv6 address by its top 32 bits.
    #[inline(always)]
    pub const fn area6(top: u32, seed: u64) -> u32 {
        ((top as u64).wrapping_mul(seed) >> 48) as u32
    }
}

/// One bit for each IPv4 /24, or for all IPv6 /48 of one hash: whether a narrow prefix touches it.
pub struct Narrow;

impl Narrow {
    /// IPv4 prefixes of at least this length are narrow.
    pub const FROM4: u8 = 17;
    /// IPv6 prefixes of at least this length are narrow.
    pub const FROM6: u8 = 48;
    pub const WORDS4: u32 = (1 << 24) / 64;
    const BITS6_LOG2: u32 = 23;
    pub const WORDS6: u32 = (1 << Self::BITS6_LOG2) / 64;

    #[inline(always)]
    pub const fn place4(address: Addr4) -> (u32, u64) {
        let index = address.bits() >> 8;
        (index >> 6, 1 << (index & 63))
    }

    #[inline(always)]
    pub const fn place6(address: Addr6, seed: u64) -> (u32, u64) {
        let mixed = (address.unit() >> 16).wrapping_mul(seed);
        let index = ((mixed ^ (mixed >> 32)).wrapping_mul(seed) >> (64 - Self::BITS6_LOG2)) as u32;
        (index >> 6, 1 << (index & 63))
    }
}

const _: () = {
    assert!(size_of::<Line4>() == 64 && align_of::<Line4>() == 64);
    assert!(size_of::<LineUnit6>() == 64 && align_of::<LineUnit6>() == 64);
    assert!(size_of::<LineHost6>() == 64 && align_of::<LineHost6>() == 64);
    assert!(size_of::<NetEntry>() == 24 && align_of::<NetEntry>() == 8);
    assert!(size_of::<Hits>() == 16);
};

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn an_entry_gives_back_what_was_put_in() {
        let address = Addr4::from(Ipv4Addr::new(192, 0, 2, 1));
        let entry = Entry4::new(address, Until::at(5 << 28));
        assert!(entry.is_of(address));
        assert!(!entry.is_of(Addr4::from(Ipv4Addr::new(192, 0, 2, 2))));
        assert_eq!(entry.address(), address);
        assert_eq!(entry.until(), Until::at(5 << 28));
        assert_eq!(Entry4::EMPTY.until(), Until::EMPTY);
    }

    #[test]
    fn a_count_is_full_long_before_its_parts_run_over() {
        let mut word = 0u64;
        for _ in 0..(1 << 23) - 1 {
            word += Count::packet(1500);
        }
        let hits = Hits { packets: (1 << 23) - 1, bytes: 1500 * ((1 << 23) - 1) };
        assert_eq!(Count::from_bits(word).hits(), hits);
        assert_eq!(Count::of(hits), Some(Count::from_bits(word)));
        assert!(!Count::from_bits(word).is_half_full());
        assert!(Count::from_bits(word + Count::packet(1500)).is_half_full());
        assert!(Count::from_bits(Count::packet(1 << 37)).is_half_full());
        let beside = Count::from_bits(Count::SPILLED | Count::OVERFLOWN | word);
        assert!(beside.is_spilled() && beside.is_overflown() && !beside.is_half_full() && beside.hits() == hits);
        assert_eq!(beside.emptied(), Count::SPILLED | Count::OVERFLOWN);
        assert!(Count::from_bits(Count::OVERFLOWN).is_new() && !Count::from_bits(Count::SPILLED).is_new());
        assert_eq!(Count::of(Hits { packets: 1 << 23, bytes: 0 }), None);
        assert_eq!(Count::of(Hits { packets: 0, bytes: 1 << 37 }), None);
    }

    #[test]
    fn candidates_lie_in_the_table_and_spread() {
        let geometry = Geometry { lines: 1000, seed_a: 0x9E37_79B9_7F4A_7C15, seed_b: 0xBF58_476D_1CE4_E5B9 };
        let mut load = [0u32; 1000];
        for key in 0..100_000u64 {
            for line in geometry.candidates(key) {
                load[line as usize] += 1;
            }
        }
        assert!(load.iter().all(|n| (100..400).contains(n)), "{:?}", load.iter().minmax_pair());
    }

    trait MinMax {
        fn minmax_pair(self) -> (Option<u32>, Option<u32>);
    }
    impl<'a, I: Iterator<Item = &'a u32> + Clone> MinMax for I {
        fn minmax_pair(self) -> (Option<u32>, Option<u32>) {
            (self.clone().min().copied(), self.max().copied())
        }
    }

    #[test]
    fn fold_tells_both_halves_apart() {
        let geometry = Geometry { lines: 8, seed_a: 3, seed_b: 0xBF58_476D_1CE4_E5B9 };
        let key = |text: &str| geometry.fold(Addr6::from(text.parse::<Ipv6Addr>().unwrap()));
        assert_ne!(key("2001:db8::1"), key("2001:db8::2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    }

    #[test]
    fn area_flags_lie_where_place_says() {
        for area in [0u32, 7, 8, 65_535] {
            let (index, shift) = AreaFlags::place(area);
            assert!(index < AreaFlags::WORDS);
            let word = u64::from(AreaFlags::NARROW.bits()) << shift;
            assert!(AreaFlags::in_word(word, area).has(AreaFlags::NARROW));
            assert!(!AreaFlags::in_word(word, area).has(AreaFlags::TRUST));
            assert!(!AreaFlags::in_word(word, area ^ 1).has(AreaFlags::NARROW));
        }
        assert!(AreaFlags::area6(u32::MAX, u64::MAX) < AreaFlags::AREAS);
        let last4 = Narrow::place4(Addr4::from(Ipv4Addr::BROADCAST));
        assert_eq!(last4, (Narrow::WORDS4 - 1, 1 << 63));
        let six = |text: &str| Addr6::from(text.parse::<Ipv6Addr>().unwrap());
        assert_eq!(
            Narrow::place6(six("2001:db8:1::"), 0x9E37_79B9_7F4A_7C15),
            Narrow::place6(six("2001:db8:1:ffff::1"), 0x9E37_79B9_7F4A_7C15)
        );
        assert!(Narrow::place6(six("ffff::"), u64::MAX).0 < Narrow::WORDS6);
    }
}
