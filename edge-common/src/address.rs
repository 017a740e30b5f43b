//! Addresses as the tables hold them. Host byte order inside, made only from `core::net` types or from the bytes of a
//! packet, so that the order can not be mixed up.

use core::net::{Ipv4Addr, Ipv6Addr};

/// An IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Addr4(u32);

impl Addr4 {
    /// From the four bytes of a packet, loaded as they lie.
    #[inline(always)]
    pub const fn from_wire(raw: u32) -> Addr4 {
        Addr4(u32::from_be(raw))
    }

    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The index of its /16.
    #[inline(always)]
    pub const fn area(self) -> u32 {
        self.0 >> 16
    }

    /// As a trie's key data: the four bytes first, in network order.
    #[inline(always)]
    pub const fn trie_data(self) -> u64 {
        self.0.to_be() as u64
    }
}

impl From<Ipv4Addr> for Addr4 {
    fn from(address: Ipv4Addr) -> Addr4 {
        Addr4(u32::from(address))
    }
}

impl From<Addr4> for Ipv4Addr {
    fn from(address: Addr4) -> Ipv4Addr {
        Ipv4Addr::from(address.0)
    }
}

/// An IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Addr6 {
    hi: u64,
    lo: u64,
}

impl Addr6 {
    /// From the sixteen bytes of a packet, loaded as two words as they lie.
    #[inline(always)]
    pub const fn from_wire(hi: u64, lo: u64) -> Addr6 {
        Addr6 { hi: u64::from_be(hi), lo: u64::from_be(lo) }
    }

    pub const fn from_halves(hi: u64, lo: u64) -> Addr6 {
        Addr6 { hi, lo }
    }

    /// The /64: the unit that stands for one client.
    pub const fn unit(self) -> u64 {
        self.hi
    }

    /// The interface identifier: the low 64 bits.
    pub const fn low(self) -> u64 {
        self.lo
    }

    /// The IPv4 address that an IPv4-mapped one is (RFC 4291, section 2.5.5.2).
    #[inline(always)]
    pub const fn mapped(self) -> Option<Addr4> {
        if self.hi == 0 && self.lo >> 32 == 0xffff { Some(Addr4(self.lo as u32)) } else { None }
    }

    /// The top 32 bits.
    #[inline(always)]
    pub const fn top(self) -> u32 {
        (self.hi >> 32) as u32
    }

    /// As a trie's key data: sixteen bytes in network order.
    #[inline(always)]
    pub const fn trie_data(self) -> [u64; 2] {
        [self.hi.to_be(), self.lo.to_be()]
    }
}

impl From<Ipv6Addr> for Addr6 {
    fn from(address: Ipv6Addr) -> Addr6 {
        let bits = u128::from(address);
        Addr6 { hi: (bits >> 64) as u64, lo: bits as u64 }
    }
}

impl From<Addr6> for Ipv6Addr {
    fn from(address: Addr6) -> Ipv6Addr {
        Ipv6Addr::from((address.hi as u128) << 64 | address.lo as u128)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_packet_and_core_net_agree() {
        let four = Ipv4Addr::new(203, 0, 113, 7);
        assert_eq!(Addr4::from_wire(u32::from_ne_bytes(four.octets())), Addr4::from(four));
        assert_eq!(Addr4::from(four).area(), 0xcb00);
        assert_eq!(Addr4::from(four).trie_data().to_ne_bytes()[..4], four.octets());

        let six: Ipv6Addr = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        let bytes = six.octets();
        let half = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        let address = Addr6::from_wire(half(0), half(8));
        assert_eq!(address, Addr6::from(six));
        assert_eq!(Ipv6Addr::from(address), six);
        assert_eq!(address.unit(), 0x2001_0db8_0001_0002);
        assert_eq!(address.top(), 0x2001_0db8);
        let data = address.trie_data();
        assert_eq!([data[0].to_ne_bytes(), data[1].to_ne_bytes()].concat(), bytes);
    }
}
