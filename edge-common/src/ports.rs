//! Which ports and protocols are exposed: one bit each.

/// Something that can be exposed. Its number is its bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exposure(u32);

impl Exposure {
    const UDP: u32 = 1 << 16;
    const PROTOCOLS: u32 = 2 << 16;
    /// Words of 64 bits that hold them all.
    pub const WORDS: u32 = (Self::PROTOCOLS + 256) / 64;

    #[inline(always)]
    pub const fn tcp(port: u16) -> Exposure {
        Exposure(port as u32)
    }

    #[inline(always)]
    pub const fn udp(port: u16) -> Exposure {
        Exposure(Self::UDP | port as u32)
    }

    /// By its number in the IANA registry of protocol numbers.
    #[inline(always)]
    pub const fn protocol(number: u8) -> Exposure {
        Exposure(Self::PROTOCOLS | number as u32)
    }

    pub const fn is_udp(self) -> bool {
        self.0 & !0xffff == Self::UDP
    }

    /// The word's index and the bit within it.
    #[inline(always)]
    pub const fn place(self) -> (u32, u64) {
        (self.0 >> 6, 1 << (self.0 & 63))
    }
}

/// TCP ports whose connections are capped: one bit each.
pub struct Capped;

impl Capped {
    /// Words of 64 bits that hold them all.
    pub const WORDS: u32 = (1 << 16) / 64;

    /// The word's index and the bit within it.
    #[inline(always)]
    pub const fn place(port: u16) -> (u32, u64) {
        (port as u32 >> 6, 1 << (port & 63))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_place_of_its_own() {
        let places = [
            Exposure::tcp(0),
            Exposure::tcp(u16::MAX),
            Exposure::udp(0),
            Exposure::udp(u16::MAX),
            Exposure::protocol(0),
            Exposure::protocol(u8::MAX),
        ]
        .map(Exposure::place);
        assert!(places.windows(2).all(|pair| pair[0].0 < pair[1].0 || pair[0].1 < pair[1].1), "{places:?}");
        assert!(places.iter().all(|(word, _)| *word < Exposure::WORDS));
    }
}
