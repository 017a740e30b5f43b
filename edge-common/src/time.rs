//! The kernel's unit of expiry, and how jiffies become boot time.
//!
//! An expiry is a count of 2^28 ns (0.268 s) of boot time in 32 bits, so that it fits beside an IPv4 address in one
//! word. It is rounded up: a block never ends early and ends at most 0.268 s late. 32 bits of it last 36 years of
//! uptime; what would lie beyond is held as [`Until::NEVER`].

const SHIFT: u32 = 28;

/// When a block ends, in units of 2^28 ns of boot time (`CLOCK_BOOTTIME`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Until(u32);

impl Until {
    /// No block: what an empty slot of a table reads as.
    pub const EMPTY: Until = Until(0);
    /// Until lifted.
    pub const NEVER: Until = Until(u32::MAX);

    /// The first unit that begins at or after `boot_ns`, and at least 1, so that it never reads as empty.
    pub const fn at(boot_ns: u64) -> Until {
        let units = boot_ns.div_ceil(1 << SHIFT);
        if units == 0 {
            Until(1)
        } else if units >= u32::MAX as u64 {
            Until::NEVER
        } else {
            Until(units as u32)
        }
    }

    pub const fn from_bits(bits: u32) -> Until {
        Until(bits)
    }

    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether a block with this end still holds at `boot_ns`.
    pub const fn holds_at(self, boot_ns: u64) -> bool {
        self.0 as u64 > boot_ns >> SHIFT
    }
}

/// Both clocks at one moment, written by the program `edge_clock`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ClockSample {
    pub jiffies: u64,
    pub boot_ns: u64,
}

/// Boot time from jiffies, which cost one load where the boot clock costs a call. Jiffies advance by whole ticks of
/// the monotonic clock (Linux 2.6.21 and later with high-resolution timers), so they do not drift from it; in suspend
/// they stand still, which the agent mends by measuring the offset again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Jiffies {
    /// Nanoseconds of one jiffy.
    pub tick_ns: u64,
    /// Boot time at jiffy 0; wraps, since jiffies start near 2^32.
    pub offset_ns: u64,
}

impl Jiffies {
    #[inline(always)]
    pub const fn boot_ns(&self, jiffies: u64) -> u64 {
        jiffies.wrapping_mul(self.tick_ns).wrapping_add(self.offset_ns)
    }

    /// The jiffy of a boot time.
    pub const fn at(&self, boot_ns: u64) -> u64 {
        match boot_ns.wrapping_sub(self.offset_ns).checked_div(self.tick_ns) {
            Some(jiffies) => jiffies,
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_rounded_up_and_never_reads_as_empty() {
        assert_eq!(Until::at(0).bits(), 1);
        assert_eq!(Until::at(1).bits(), 1);
        assert_eq!(Until::at(1 << 28).bits(), 1);
        assert_eq!(Until::at((1 << 28) + 1).bits(), 2);
        assert_eq!(Until::at(u64::MAX), Until::NEVER);
    }

    #[test]
    fn a_block_holds_to_its_end_and_less_than_a_unit_longer() {
        for end in [1u64, 999_999_999, 1 << 28, (1 << 28) + 1, 86_400_000_000_000] {
            let until = Until::at(end);
            assert!(until.holds_at(end - 1), "{end}");
            assert!(!until.holds_at(end + (1 << 28)), "{end}");
        }
        assert!(!Until::EMPTY.holds_at(0));
        assert!(Until::NEVER.holds_at(u64::MAX >> 5));
    }

    #[test]
    fn jiffies_become_boot_time_across_the_wrap_of_the_offset() {
        let start = (1u64 << 32) - 75_000;
        let clock = Jiffies { tick_ns: 4_000_000, offset_ns: 0u64.wrapping_sub(start * 4_000_000) };
        assert_eq!(clock.boot_ns(start), 0);
        assert_eq!(clock.boot_ns(start + 250), 1_000_000_000);
    }
}
