//! From a frame to the reason for its verdict. The order is that of the interface, section 5: allowed, blocked, then
//! the rest. Whether a reason passes or drops is not decided here.

use edge_common::{
    address::{Addr4, Addr6},
    reason::{Family, Reason},
    table::Trust,
};

use crate::parse::{Frame, Packet, Rest, parse};

/// What the agent has written for the kernel.
pub trait Tables {
    fn trust4(&self, source: Addr4) -> Trust;
    fn trust6(&self, source: Addr6) -> Trust;
    /// Whether a block of this source holds now; if so, a packet of `bytes` is counted for it.
    fn blocked4(&self, source: Addr4, bytes: u64) -> bool;
    fn blocked6(&self, source: Addr6, bytes: u64) -> bool;
}

/// A verdict's reason, and what it is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub reason: Reason,
    pub family: Family,
    pub bytes: u64,
}

#[inline(always)]
pub fn judge(packet: &impl Packet, tables: &impl Tables) -> Judgement {
    match parse(packet) {
        Frame::V4 { source, rest } => {
            let bytes = bytes(packet, rest);
            let trust = tables.trust4(source);
            let reason = reason(trust, rest, || tables.blocked4(source, bytes));
            Judgement { reason, family: Family::Ipv4, bytes }
        }
        Frame::V6 { source, rest } => {
            let bytes = bytes(packet, rest);
            let trust = tables.trust6(source);
            let reason = reason(trust, rest, || tables.blocked6(source, bytes));
            Judgement { reason, family: Family::Ipv6, bytes }
        }
        Frame::Malformed(family) => Judgement { reason: Reason::Malformed, family, bytes: packet.whole() },
        Frame::Other => Judgement { reason: Reason::Passed, family: Family::Other, bytes: packet.whole() },
    }
}

#[inline(always)]
fn reason(trust: Trust, rest: Rest, blocked: impl FnOnce() -> bool) -> Reason {
    if trust.has(Trust::ALLOWED) {
        return Reason::Allowed;
    }
    // Protected is no pass: the packet goes on to every other check.
    if !trust.has(Trust::PROTECTED) && blocked() {
        return Reason::Blocked;
    }
    if trust.has(Trust::OWN) || !rest.sound {
        return Reason::Malformed;
    }
    Reason::Passed
}

/// Only a datagram that goes on beyond the first buffer needs the dearer length.
#[inline(always)]
fn bytes(packet: &impl Packet, rest: Rest) -> u64 {
    let readable = packet.readable();
    if rest.end > readable { packet.whole() } else { readable }
}

#[cfg(test)]
mod tests;
