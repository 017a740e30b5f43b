//! What the agent tells the running program. All fields are words of 64 bits, so that each is written in one store
//! through a memory mapping while packets are judged.

use crate::{
    names::ABI,
    rate::{Limit, RateGeometry},
    table::Geometry,
    time::Jiffies,
};

/// The one value of the map `SETTINGS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// [`Settings::VALID`]; anything else, zero above all, means that nothing here may be believed.
    pub valid: u64,
    pub clock: Jiffies,
    /// Bits of [`InUse`].
    pub in_use: u64,
    pub blocked4: Geometry,
    pub units6: Geometry,
    pub hosts6: Geometry,
    /// Seed of the hash that finds an IPv6 /32 in `AREAS6`.
    pub areas6_seed: u64,
    pub rates: RateGeometry,
    /// SYNs of a source.
    pub syns: Limit,
    /// Packets of a source.
    pub packets: Limit,
    /// Connections of a source at once.
    pub connections: u64,
    /// The cookie of the agent's network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
    pub namespace: u64,
}

impl Settings {
    pub const VALID: u64 = 0x6564_6765_0000_0000 | ABI as u64;

    #[inline(always)]
    pub const fn is_valid(&self) -> bool {
        self.valid == Self::VALID
    }
}

/// Which tables hold anything, so that the empty ones are not looked into.
pub struct InUse;

impl InUse {
    pub const BLOCKED4: u64 = 1;
    pub const UNITS6: u64 = 2;
    pub const HOSTS6: u64 = 4;
}

/// What is switched on. Read-only once the program is loaded (a global of this name for each), so that the verifier
/// removes what is off; a change loads the program anew and replaces it in place.
pub mod switch {
    /// Log each judgement.
    pub const TRACE: &str = "TRACE";
    /// Count what would be dropped, drop nothing.
    pub const DRY_RUN: &str = "DRY_RUN";
    /// Fragments are dropped.
    pub const DROP_FRAGMENTS: &str = "DROP_FRAGMENTS";
    /// Only exposed ports take new traffic.
    pub const PORTS: &str = "PORTS";
    /// SYNs of a source are limited.
    pub const SYNS: &str = "SYNS";
    /// Packets of a source are limited.
    pub const PACKETS: &str = "PACKETS";
    /// Connections of a source are capped.
    pub const CONNECTIONS: &str = "CONNECTIONS";

    pub const ALL: [&str; 7] = [TRACE, DRY_RUN, DROP_FRAGMENTS, PORTS, SYNS, PACKETS, CONNECTIONS];
}

/// How many words of 64 bits [`Settings`] is, and where each lies.
pub mod word {
    use super::Settings;
    pub const VALID: usize = core::mem::offset_of!(Settings, valid) / 8;
    pub const CLOCK: usize = core::mem::offset_of!(Settings, clock) / 8;
    pub const IN_USE: usize = core::mem::offset_of!(Settings, in_use) / 8;
    pub const BLOCKED4: usize = core::mem::offset_of!(Settings, blocked4) / 8;
    pub const UNITS6: usize = core::mem::offset_of!(Settings, units6) / 8;
    pub const HOSTS6: usize = core::mem::offset_of!(Settings, hosts6) / 8;
    pub const AREAS6_SEED: usize = core::mem::offset_of!(Settings, areas6_seed) / 8;
    pub const RATES: usize = core::mem::offset_of!(Settings, rates) / 8;
    pub const SYNS: usize = core::mem::offset_of!(Settings, syns) / 8;
    pub const PACKETS: usize = core::mem::offset_of!(Settings, packets) / 8;
    pub const CONNECTIONS: usize = core::mem::offset_of!(Settings, connections) / 8;
    pub const NAMESPACE: usize = core::mem::offset_of!(Settings, namespace) / 8;
    pub const COUNT: usize = size_of::<Settings>() / 8;
}

const _: () = assert!(size_of::<Settings>() == 8 * 27);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_zero_is_not_valid() {
        assert!(!Settings::default().is_valid());
        assert!(Settings { valid: Settings::VALID, ..Settings::default() }.is_valid());
    }
}
