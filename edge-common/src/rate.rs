//! Rates: the generic cell rate algorithm (ITU-T I.371) with its whole state in one word, so that one compare-and-swap
//! is exact over all CPUs. Pure: the time is an argument.
//!
//! A word holds the theoretical arrival time in its upper 40 bits and a tag of the source in its lower 24. An arrival
//! time that lies in the past says nothing that no entry would not say, so such an entry may be replaced at no loss.

use crate::address::Addr4;

/// Bits of an arrival time. It wraps; what lies more than the tolerance ahead is of the past.
const TIME_BITS: u32 = 40;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
const TAG_BITS: u32 = 24;
/// Set in the tags of IPv6 sources, so that the families never meet.
const TAG_SIX: u32 = 1 << (TAG_BITS - 1);
/// Binary places of [`Limit::units`].
const POINT: u32 = 24;
/// Units of one admitted packet, where the tolerance leaves room for it: 1/256 of a packet is the resolution.
const INTERVAL: u64 = 256;
/// The tolerance stays under a sixteenth of what the arrival time can hold.
const TOLERANCE_MAX: u64 = 1 << 36;
/// Entries a line.
pub const ENTRIES: u32 = 8;

/// A limit as the kernel applies it. All zero: off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Limit {
    /// Units a jiffy, a fixed-point number of 24 binary places.
    pub units: u64,
    /// Units that one packet takes.
    pub interval: u64,
    /// Units that a source may be ahead: its burst.
    pub tolerance: u64,
}

impl Limit {
    /// `per_second` and `burst` from 1 to 10^9; `tick_ns` is the length of a jiffy. Time passes in jiffies, so a burst
    /// under what the rate lets through in one is raised to that: else the rate itself would not be reached.
    pub const fn new(per_second: u64, burst: u64, tick_ns: u64) -> Limit {
        let a_jiffy = (per_second * tick_ns).div_ceil(1_000_000_000);
        let burst = if burst > a_jiffy { burst } else { a_jiffy };
        let fitting = TOLERANCE_MAX / burst;
        let interval = if fitting < INTERVAL { fitting } else { INTERVAL };
        let a_second = (per_second as u128 * interval as u128) << POINT;
        let units = (a_second * tick_ns as u128 / 1_000_000_000) as u64;
        Limit { units, interval, tolerance: interval * burst }
    }

    /// The time in units. Exact modulo 2^40 however far the jiffies are.
    #[inline(always)]
    pub const fn now(&self, jiffies: u64) -> u64 {
        (jiffies.wrapping_mul(self.units) >> POINT) & TIME_MASK
    }

    /// How far ahead of `now` an arrival time is; 0 for what lies in the past.
    #[inline(always)]
    pub const fn ahead(&self, cell: Cell, now: u64) -> u64 {
        let ahead = cell.arrival().wrapping_sub(now) & TIME_MASK;
        if ahead > self.tolerance { 0 } else { ahead }
    }

    /// How many packets pass in a second, and at once: what [`Limit::new`] was asked for, the burst raised where it had to be.
    /// Nothing where the limit, or the length of a jiffy, cannot be one.
    pub const fn allows(&self, tick_ns: u64) -> (u64, u64) {
        let Some(burst) = self.tolerance.checked_div(self.interval) else { return (0, 0) };
        let a_second = self.units as u128 * 1_000_000_000;
        let a_packet = (self.interval as u128 * tick_ns as u128) << POINT;
        match (a_second + a_packet / 2).checked_div(a_packet) {
            Some(per_second) => (per_second as u64, burst),
            None => (0, 0),
        }
    }

    /// How many packets pass at once at `now`.
    pub const fn left(&self, cell: Cell, now: u64) -> u64 {
        match (self.tolerance - self.ahead(cell, now)).checked_div(self.interval) {
            Some(left) => left,
            None => 0,
        }
    }

    /// The cell after one more packet; `None` where it is too many.
    #[inline(always)]
    pub const fn admit(&self, cell: Cell, tag: u32, now: u64) -> Option<Cell> {
        let ahead = self.ahead(cell, now) + self.interval;
        if ahead > self.tolerance { None } else { Some(Cell::new(now.wrapping_add(ahead), tag)) }
    }
}

/// One source's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Cell(u64);

impl LineRates {
    /// The cell of a source; empty where it has none.
    pub fn cell(&self, tag: u32) -> Cell {
        self.cells.into_iter().find(|cell| cell.tag() == tag).unwrap_or_default()
    }
}

impl Cell {
    pub const EMPTY: Cell = Cell(0);

    #[inline(always)]
    pub const fn new(arrival: u64, tag: u32) -> Cell {
        Cell((arrival & TIME_MASK) << TAG_BITS | tag as u64)
    }

    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Cell {
        Cell(bits)
    }

    pub const fn bits(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub const fn tag(self) -> u32 {
        self.0 as u32 & ((1 << TAG_BITS) - 1)
    }

    const fn arrival(self) -> u64 {
        self.0 >> TAG_BITS
    }
}

/// A line of cells: all that a source's look-up touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct LineRates {
    pub cells: [Cell; ENTRIES as usize],
}

/// Where sources lie. For IPv4 line and tag together are the whole address, by a keyed permutation, so no two share a
/// state; two IPv6 units of one line share one with a chance of 2^-23.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RateGeometry {
    /// The binary logarithm of the number of lines, 9 to 23.
    pub lines_log2: u64,
    /// Odd, random for each table.
    pub seed_a: u64,
    /// Odd, random for each table.
    pub seed_b: u64,
    /// What of an IPv6 address's halves stands for the client, link-local ones apart.
    pub unit_mask: [u64; 2],
}

/// A source's line, and its tag in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub line: u32,
    pub tag: u32,
}

impl RateGeometry {
    /// For at least `sources` of them at once: twice as many cells, so that full lines are rare.
    pub const fn lines_log2_for(sources: u32) -> u32 {
        let lines = (sources / (ENTRIES / 2)).next_power_of_two();
        let log2 = lines.trailing_zeros();
        if log2 < 9 {
            9
        } else if log2 > 23 {
            23
        } else {
            log2
        }
    }

    #[inline(always)]
    pub const fn place4(&self, source: Addr4) -> Place {
        let mixed = source.bits().wrapping_mul(self.seed_a as u32);
        let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(self.seed_b as u32);
        let mixed = mixed ^ (mixed >> 16);
        let tag_bits = 32 - self.lines_log2 as u32;
        Place { line: mixed >> (tag_bits & 31), tag: mixed & ((1 << (tag_bits & 31)) - 1) }
    }

    #[inline(always)]
    pub const fn place6(&self, hi: u64, lo: u64) -> Place {
        // All of a link shares fe80::/64, so a link-local address (RFC 4291, fe80::/10) stands for itself.
        let whole = 0u64.wrapping_sub((hi >> 54 == 0xfe80 >> 6) as u64);
        let [high_mask, low_mask] = [self.unit_mask[0] | whole, self.unit_mask[1] | whole];
        let mixed = (hi & high_mask).wrapping_mul(self.seed_a);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_add(lo & low_mask).wrapping_mul(self.seed_b);
        let mixed = mixed ^ (mixed >> 29);
        let line = (mixed >> 40) as u32 >> ((24 - self.lines_log2 as u32) & 31);
        Place { line, tag: (mixed as u32 & (TAG_SIX - 1)) | TAG_SIX }
    }
}

impl RateGeometry {
    /// A place that all units of a /48 share, and that is none of theirs: the seeds change parts. A unit that is as wide
    /// stands for itself.
    #[inline(always)]
    pub const fn place48(&self, hi: u64) -> Place {
        let mixed = (hi & self.unit_mask[0] & !0xffff).wrapping_mul(self.seed_b);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(self.seed_a);
        let mixed = mixed ^ (mixed >> 29);
        let line = (mixed >> 40) as u32 >> ((24 - self.lines_log2 as u32) & 31);
        Place { line, tag: (mixed as u32 & (TAG_SIX - 1)) | TAG_SIX }
    }
}

const _: () = assert!(size_of::<LineRates>() == 64 && align_of::<LineRates>() == 64);

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use core::net::Ipv4Addr;

    const TICK_NS: u64 = 4_000_000;

    /// How many of `offered` packets a jiffy pass in so many jiffies, from any moment of a long uptime.
    fn admitted(limit: Limit, start: u64, jiffies: u64, offered: u64) -> u64 {
        let (mut cell, mut passed) = (Cell::EMPTY, 0);
        for jiffy in start..start + jiffies {
            for _ in 0..offered {
                if let Some(next) = limit.admit(cell, 7, limit.now(jiffy)) {
                    cell = next;
                    passed += 1;
                }
            }
        }
        passed
    }

    #[test]
    fn a_limit_tells_what_it_was_made_of_and_what_is_left() {
        for (per_second, burst) in [(50, 100), (1, 1), (20_000, 40_000), (1_000_000_000, 1_000_000_000)] {
            let limit = Limit::new(per_second, burst, TICK_NS);
            assert_eq!(limit.allows(TICK_NS), (per_second, burst.max(per_second / 250)));
            assert_eq!(limit.left(Cell::EMPTY, limit.now(7)), burst.max(per_second / 250));
        }
        let limit = Limit::new(50, 100, TICK_NS);
        let mut cell = Cell::EMPTY;
        for taken in 1..=100 {
            cell = limit.admit(cell, 7, limit.now(1_000)).unwrap();
            assert_eq!(limit.left(cell, limit.now(1_000)), 100 - taken);
        }
        assert_eq!(limit.left(cell, limit.now(1_000 + 250)), 50);
        assert_eq!(Limit::default().allows(TICK_NS), (0, 0));
    }

    #[test]
    fn damaged_settings_allow_nothing_and_panic_nowhere() {
        assert_eq!(Limit::new(50, 100, TICK_NS).allows(0), (0, 0));
        for word in [1, 1 << 63, u64::MAX] {
            let damaged = Limit { units: word, interval: word, tolerance: word };
            for tick_ns in [0, 1, 1 << 41, u64::MAX] {
                damaged.allows(tick_ns);
            }
            damaged.left(Cell::from_bits(word), word);
        }
    }

    #[test]
    fn over_ten_seconds_the_burst_and_ten_times_the_rate_pass() {
        for (per_second, burst) in [(1, 1), (50, 100), (20_000, 40_000), (1_000_000, 1), (333, 7), (1, 1_000_000_000)] {
            let limit = Limit::new(per_second, burst, TICK_NS);
            for start in [0, 4_294_892_296, u64::from(u32::MAX) - 1000, 1 << 40] {
                let offered = (per_second * 4 / 250).clamp(2, 100_000);
                let passed = admitted(limit, start, 2500, offered);
                let expected = (burst + per_second * 10).min(2500 * offered);
                let slack = expected / 100 + 1;
                assert!(passed.abs_diff(expected) <= slack, "{per_second}/{burst} from {start}: {passed}, {expected}");
            }
        }
    }

    #[test]
    fn a_long_silence_gives_the_burst_back_and_no_more() {
        let limit = Limit::new(50, 100, TICK_NS);
        let mut cell = Cell::EMPTY;
        for jiffy in [0u64, 10_000, 1 << 32] {
            let now = limit.now(jiffy);
            let mut passed = 0;
            while let Some(next) = limit.admit(cell, 1, now) {
                cell = next;
                passed += 1;
            }
            assert_eq!(passed, 100);
            assert_eq!(limit.ahead(cell, now), limit.tolerance);
        }
    }

    #[test]
    fn no_two_ipv4_addresses_share_a_place() {
        let geometry =
            RateGeometry { lines_log2: 9, seed_a: 0x9E37_79B9, seed_b: 0x85EB_CA6B, unit_mask: [u64::MAX, 0] };
        let mut seen = std::collections::HashSet::new();
        for low in 0..300_000u32 {
            let place = geometry.place4(Addr4::from(Ipv4Addr::from(0x0a00_0000 + low * 7)));
            assert!(place.line < 512 && place.tag < TAG_SIX);
            assert!(seen.insert((place.line, place.tag)));
        }
    }

    #[test]
    fn an_ipv6_unit_is_one_source() {
        let geometry =
            RateGeometry { lines_log2: 16, seed_a: 0x9E37_79B9_7F4A_7C15, seed_b: 3, unit_mask: [u64::MAX, 0] };
        assert_eq!(geometry.place6(1, 2), geometry.place6(1, 3));
        assert_ne!(geometry.place6(1, 2), geometry.place6(2, 2));
        let link = 0xfe80u64 << 48;
        assert_ne!(geometry.place6(link, 2), geometry.place6(link, 3));
        for other in [link - 1, link + (1 << 54)] {
            assert_eq!(geometry.place6(other, 2), geometry.place6(other, 3));
        }
        let place = geometry.place6(u64::MAX, 0);
        assert!(place.line < 1 << 16 && place.tag & TAG_SIX != 0 && place.tag < 1 << 24);
    }

    #[test]
    fn the_units_of_a_48_share_a_place_of_their_own() {
        let geometry =
            RateGeometry { lines_log2: 16, seed_a: 0x9E37_79B9_7F4A_7C15, seed_b: 3, unit_mask: [u64::MAX, 0] };
        let unit = 0x2001_0db8_0007_0000;
        assert_eq!(geometry.place48(unit), geometry.place48(unit + 0xffff));
        assert_ne!(geometry.place48(unit), geometry.place48(unit + 0x1_0000));
        assert_ne!(geometry.place48(unit), geometry.place6(unit, 0));
        assert!(geometry.place48(unit).line < 1 << 16);
    }

    #[test]
    fn lines_hold_twice_the_sources() {
        assert_eq!(RateGeometry::lines_log2_for(262_144), 16);
        assert_eq!(RateGeometry::lines_log2_for(1), 9);
        assert_eq!(RateGeometry::lines_log2_for(u32::MAX), 23);
    }
}
