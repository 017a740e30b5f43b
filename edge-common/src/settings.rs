//! What the agent tells the running program. All fields are words of 64 bits, so that each is written in one store
//! through a memory mapping while packets are judged.

use crate::{names::ABI, table::Geometry, time::Jiffies};

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
    pub const COUNT: usize = size_of::<Settings>() / 8;
}

const _: () = assert!(size_of::<Settings>() == 8 * 14);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_zero_is_not_valid() {
        assert!(!Settings::default().is_valid());
        assert!(Settings { valid: Settings::VALID, ..Settings::default() }.is_valid());
    }
}
