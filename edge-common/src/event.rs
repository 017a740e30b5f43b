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

impl Event {
    pub const BYTES: usize = size_of::<Event>();

    /// As it lies in the ring buffer.
    pub fn of_bytes(bytes: &[u8; Event::BYTES]) -> Event {
        let word = |at: usize| u64::from_ne_bytes(array(&bytes[at * 8..]));
        let half = |at: usize| u32::from_ne_bytes(array(&bytes[at * 4..]));
        Event { boot_ns: word(0), source: [word(1), word(2)], reason: half(6), interface: half(7), bytes: word(4) }
    }
}

/// The first of them; what is missing is zero.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_where_the_kernel_wrote_it() {
        let event =
            Event { boot_ns: 1 << 60, source: [2 << 40, 3 << 40], reason: 4 << 20, interface: 5 << 20, bytes: 6 << 50 };
        let mut bytes = [0; Event::BYTES];
        for (at, word) in [event.boot_ns, event.source[0], event.source[1]].into_iter().enumerate() {
            bytes[at * 8..][..8].copy_from_slice(&word.to_ne_bytes());
        }
        bytes[24..28].copy_from_slice(&event.reason.to_ne_bytes());
        bytes[28..32].copy_from_slice(&event.interface.to_ne_bytes());
        bytes[32..].copy_from_slice(&event.bytes.to_ne_bytes());
        assert_eq!(Event::of_bytes(&bytes), event);
        let places = [core::mem::offset_of!(Event, reason), core::mem::offset_of!(Event, interface)];
        assert_eq!((places, core::mem::offset_of!(Event, bytes)), ([24, 28], 32));
    }
}
