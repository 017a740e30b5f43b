//! Connections that others opened to this host: which are open, and how many a client has. Counted by the kernel's own
//! TCP state, never by packets, so nothing that is forged changes a count.

use crate::{
    address::Addr6,
    rate::{Place, RateGeometry},
};

/// Entries a line.
pub const ENTRIES: usize = 8;

/// `SO_MARK` of a connection over its client's cap, set before anybody can accept it. Marks are the host's (`ip rule`,
/// nftables); this one is only ever on connections that are about to be closed.
pub const EXCESS_MARK: u32 = 0x6564_6765;

/// How many connections a client has: a tag of it in the upper 24 bits, the number in the lower 40. Zero: nobody. A word
/// that comes down to no connection is cleared in the same compare-and-swap, so a count is never negative and never wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Held(u64);

impl Held {
    pub const NONE: Held = Held(0);
    const COUNT_BITS: u32 = 40;

    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Held {
        Held(bits)
    }

    #[inline(always)]
    pub const fn bits(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub const fn count(self) -> u64 {
        self.0 & ((1 << Self::COUNT_BITS) - 1)
    }

    pub const fn tag(self) -> u32 {
        (self.0 >> Self::COUNT_BITS) as u32
    }

    /// Whether connections of this client are counted here.
    #[inline(always)]
    pub const fn is_of(self, tag: u32) -> bool {
        self.0 >> Self::COUNT_BITS == tag as u64 && self.0 != 0
    }

    /// With one more connection of the client.
    #[inline(always)]
    pub const fn one_more(self, tag: u32) -> Held {
        Held((tag as u64) << Self::COUNT_BITS | (self.count() + 1))
    }

    /// With one fewer; nobody's, if it was the last.
    #[inline(always)]
    pub const fn one_fewer(self) -> Held {
        if self.count() <= 1 { Self::NONE } else { Held(self.0 - 1) }
    }
}

/// A line of clients: all that a look-up touches. Several entries of one client add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct LineHeld {
    pub clients: [Held; ENTRIES],
}

/// What a look into a line found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Connections of the client.
    pub count: u64,
    /// Whether all entries are others'.
    pub full: bool,
}

/// One entry of a line, to be swapped for another as long as it is still what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub slot: usize,
    pub from: Held,
    pub to: Held,
    /// Connections of the client in the whole line after it.
    pub count: u64,
}

impl LineHeld {
    #[inline(always)]
    pub fn find(&self, tag: u32) -> Found {
        let mut found = Found { count: 0, full: true };
        for held in self.clients {
            if held.is_of(tag) {
                found.count += held.count();
            }
            found.full &= held.bits() != 0 && !held.is_of(tag);
        }
        found
    }

    /// In the client's own entry, else in the first that is nobody's; `None` where neither is.
    #[inline(always)]
    pub fn one_more(&self, tag: u32) -> Option<Step> {
        let (mut own, mut free) = (ENTRIES, ENTRIES);
        for slot in (0..ENTRIES).rev() {
            let held = self.clients[slot];
            if held.is_of(tag) {
                own = slot;
            } else if held.bits() == 0 {
                free = slot;
            }
        }
        let slot = if own < ENTRIES { own } else { free };
        let from = *self.clients.get(slot)?;
        Some(Step { slot, from, to: from.one_more(tag), count: self.find(tag).count + 1 })
    }

    /// `None` where the client has no entry.
    #[inline(always)]
    pub fn one_fewer(&self, tag: u32) -> Option<Step> {
        let mut own = ENTRIES;
        for slot in (0..ENTRIES).rev() {
            if self.clients[slot].is_of(tag) {
                own = slot;
            }
        }
        let from = *self.clients.get(own)?;
        Some(Step { slot: own, from, to: from.one_fewer(), count: self.find(tag).count - 1 })
    }
}

/// An open connection, and where it is counted. It is named by its socket's cookie, which no other socket of any network
/// namespace has until the next boot (`bpf_get_socket_cookie`, `sock_diag`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counted {
    /// Halves of the other end's address, IPv4 as IPv4-mapped.
    pub remote: [u64; 2],
    /// Of the [`Place`].
    pub line: u32,
    pub tag: u32,
    /// What the listener listens on.
    pub port: u32,
    /// [`Counted::OWN`] and others.
    pub flags: u32,
}

impl Counted {
    /// Of the agent's own network namespace, where it can be compared with the kernel's sockets.
    pub const OWN: u32 = 1;
    /// Over its client's cap when it was established, so that what it receives is dropped.
    pub const EXCESS: u32 = 2;
    /// Older than the program that counts, which does not see its end: who compares with the sockets counts it off.
    pub const OLDER: u32 = 4;

    pub const fn is_own(&self) -> bool {
        self.flags & Self::OWN != 0
    }

    pub const fn is_excess(&self) -> bool {
        self.flags & Self::EXCESS != 0
    }

    pub const fn is_older(&self) -> bool {
        self.flags & Self::OLDER != 0
    }

    #[inline(always)]
    pub const fn place(&self) -> Place {
        Place { line: self.line, tag: self.tag }
    }
}

/// A connection over its client's cap, to be closed. Addresses in halves, IPv4 as IPv4-mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Excess {
    pub cookie: u64,
    pub remote: [u64; 2],
    pub local: [u64; 2],
    pub remote_port: u16,
    pub port: u16,
    /// Index of the interface that the socket is bound to, as between link-local addresses; 0: to none.
    pub interface: u32,
}

impl Excess {
    pub const BYTES: usize = size_of::<Excess>();

    pub fn of_bytes(bytes: &[u8; Self::BYTES]) -> Excess {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at * 8..at * 8 + 8]);
            u64::from_ne_bytes(word)
        };
        Excess {
            cookie: word(0),
            remote: [word(1), word(2)],
            local: [word(3), word(4)],
            remote_port: u16::from_ne_bytes([bytes[40], bytes[41]]),
            port: u16::from_ne_bytes([bytes[42], bytes[43]]),
            interface: u32::from_ne_bytes([bytes[44], bytes[45], bytes[46], bytes[47]]),
        }
    }
}

/// What the kernel counts beside the connections. Each is a word of the map `TALLY`, and only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Tally {
    /// Connections that could not be counted, since a table was full, or could not be counted off.
    Miscounted = 0,
    /// Connections that were established over their client's cap.
    Excess = 1,
    /// Of these, those that could not be kept from being served.
    Audible = 2,
}

impl Tally {
    pub const WORDS: u32 = 3;
}

/// Bytes of the ring buffer: what one receive batch of several queues can write at once, many times over.
pub const RING_BYTES: u32 = 64 * 1024;

/// Where a client's connections are counted; `None` for loopback, which is none of others'.
#[inline(always)]
pub fn place(remote: Addr6, geometry: &RateGeometry) -> Option<Place> {
    match remote.mapped() {
        Some(four) if four.bits() >> 24 == 127 => None,
        Some(four) => Some(geometry.place4(four)),
        None if remote.unit() == 0 && remote.low() == 1 => None,
        None => Some(geometry.place6(remote.unit(), remote.low())),
    }
}

/// Where IPv6 clients that find no entry are counted, with others of their /48; `None` for IPv4.
#[inline(always)]
pub fn shared_place(remote: Addr6, geometry: &RateGeometry) -> Option<Place> {
    if remote.mapped().is_some() { None } else { Some(geometry.place48(remote.unit())) }
}

const _: () = {
    assert!(size_of::<LineHeld>() == 64 && align_of::<LineHeld>() == 64);
    assert!(size_of::<Counted>() == 32 && size_of::<Excess>() == 48);
};

#[cfg(test)]
mod tests {
    use super::*;

    fn step(line: &mut LineHeld, step: Option<Step>) -> u64 {
        let step = step.unwrap();
        assert_eq!(line.clients[step.slot], step.from);
        line.clients[step.slot] = step.to;
        step.count
    }

    #[test]
    fn a_count_comes_back_to_nobody() {
        let mut line = LineHeld::default();
        for count in 1..=3 {
            let more = line.one_more(7);
            assert_eq!(step(&mut line, more), count);
            assert_eq!(line.find(7), Found { count, full: false });
            assert_eq!(line.find(8), Found { count: 0, full: false });
        }
        for left in [2, 1, 0] {
            let fewer = line.one_fewer(7);
            assert_eq!(step(&mut line, fewer), left);
        }
        assert_eq!(line, LineHeld::default());
        assert_eq!(line.one_fewer(7), None);
        assert_eq!(Held::NONE.one_fewer(), Held::NONE);
    }

    #[test]
    fn tag_zero_is_somebody() {
        assert!(Held::NONE.one_more(0).is_of(0) && !Held::NONE.is_of(0));
    }

    #[test]
    fn entries_of_one_client_add_up_and_a_full_line_takes_its_own_alone() {
        let mut line = LineHeld { clients: core::array::from_fn(|slot| Held::NONE.one_more(slot as u32 % 6)) };
        assert_eq!(line.find(1), Found { count: 2, full: false });
        assert_eq!(line.find(9), Found { count: 0, full: true });
        assert_eq!(line.one_more(9), None);
        let more = line.one_more(1);
        assert_eq!(step(&mut line, more), 3);
        for left in [2, 1, 0] {
            let fewer = line.one_fewer(1);
            assert_eq!(step(&mut line, fewer), left);
        }
        assert!(line.one_more(9).is_some());
    }

    #[test]
    fn an_excess_is_read_as_it_was_written() {
        let excess = Excess { cookie: 1, remote: [2, 3], local: [4, 5], remote_port: 6, port: 7, interface: 8 };
        let mut bytes = [0; Excess::BYTES];
        let words = [1u64, 2, 3, 4, 5].map(u64::to_ne_bytes).into_iter().flatten();
        let ports = [6u16, 7].map(u16::to_ne_bytes).into_iter().flatten();
        bytes.iter_mut().zip(words.chain(ports).chain(8u32.to_ne_bytes())).for_each(|(byte, value)| *byte = value);
        assert_eq!(Excess::of_bytes(&bytes), excess);
    }
}
