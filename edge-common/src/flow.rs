//! What this host sent over UDP, so that answers are told from new traffic.

use crate::address::{Addr4, Addr6};

/// An answer passes for so long after what it answers was sent.
pub const ANSWERED_WITHIN_NS: u64 = 180_000_000_000;

/// Both ends of what was sent: the remote end is an answer's source. Ports as they lie in a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Flow {
    remote: [u64; 2],
    local: [u64; 2],
    remote_port: u16,
    local_port: u16,
    reserved: u32,
}

/// One family's addresses, as a flow holds them.
pub trait End: Copy {
    fn halves(self) -> [u64; 2];
}

impl End for Addr4 {
    #[inline(always)]
    fn halves(self) -> [u64; 2] {
        [0, 0xffff_0000_0000 | self.bits() as u64]
    }
}

impl End for Addr6 {
    #[inline(always)]
    fn halves(self) -> [u64; 2] {
        [self.unit(), self.low()]
    }
}

impl Flow {
    #[inline(always)]
    pub fn new<A: End>(remote: A, remote_port: u16, local: A, local_port: u16) -> Flow {
        Flow { remote: remote.halves(), local: local.halves(), remote_port, local_port, reserved: 0 }
    }
}

const _: () = assert!(size_of::<Flow>() == 40);
