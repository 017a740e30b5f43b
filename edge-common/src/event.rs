//! Samples of what was dropped, through a ring buffer. Never the source of a count.

/// One dropped packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Boot time, to a jiffy.
    pub boot_ns: u64,
    /// The source as an IPv6 address in halves of host order; IPv4 as IPv4-mapped.
    pub source: [u64; 2],
    /// A [`Reason`](crate::reason::Reason).
    pub reason: u32,
    pub interface: u32,
    /// The whole frame.
    pub bytes: u64,
}

/// What one CPU knows of its sampling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sampler {
    /// The jiffy of the last sample.
    pub jiffy: u64,
    /// Samples taken in it.
    pub taken: u64,
    /// Events that found the ring buffer full.
    pub lost: u64,
}

/// A source and reason as [`SAMPLED`](crate::names::SAMPLED) remembers them.
#[inline(always)]
pub const fn mark(source: [u64; 2], reason: u32) -> u64 {
    let mixed = (source[0] ^ (reason as u64) << 56).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ source[1];
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    mixed ^ (mixed >> 32)
}

/// Bytes of the ring buffer.
pub const RING_BYTES: u32 = 256 << 10;
/// A source is sampled again for the same reason after so long.
pub const AGAIN_AFTER_NS: u64 = 10_000_000_000;
/// Samples a jiffy and CPU; what is beyond is not sampled.
pub const A_JIFFY: u64 = 8;
/// Sources whose last sample is remembered, by a hash; others are sampled as if new.
pub const REMEMBERED: u32 = 4096;

const _: () = assert!(size_of::<Event>() == 40);
