//! The closed list of reasons for a verdict. It indexes the kernel's counters, names the metric label and is what
//! `edge why` prints. Whether a reason passes or drops stands in the action table of `edge-ebpf/src/main.rs`.

/// Why a packet passed or was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Reason {
    /// Nothing spoke against it.
    Passed = 0,
    /// Its source is on the allow list.
    Allowed = 1,
    /// Its source address, or a prefix that covers it, is blocked.
    Blocked = 2,
    /// Its source has as many connections as it may have.
    ConnectionCap = 3,
    /// Its source opens connections faster than it may.
    SynRate = 4,
    /// Its source sends packets faster than it may.
    PacketRate = 5,
    /// Its destination port is not exposed.
    PortClosed = 6,
    /// It cannot be judged: a header is cut short or contradicts itself, or its source cannot come from a wire.
    Malformed = 7,
    /// A fragment, where the configuration drops fragments.
    Fragment = 8,
}

impl Reason {
    pub const ALL: [Reason; 9] = [
        Reason::Passed,
        Reason::Allowed,
        Reason::Blocked,
        Reason::ConnectionCap,
        Reason::SynRate,
        Reason::PacketRate,
        Reason::PortClosed,
        Reason::Malformed,
        Reason::Fragment,
    ];

    /// The name in metrics, JSON and text.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Passed => "passed",
            Reason::Allowed => "allowed",
            Reason::Blocked => "blocked",
            Reason::ConnectionCap => "connection_cap",
            Reason::SynRate => "syn_rate",
            Reason::PacketRate => "packet_rate",
            Reason::PortClosed => "port_closed",
            Reason::Malformed => "malformed",
            Reason::Fragment => "fragment",
        }
    }

    /// Whether a packet judged so goes on to the network stack.
    pub const fn passes(self) -> bool {
        matches!(self, Reason::Passed | Reason::Allowed)
    }
}

/// What kind of packet a count belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Family {
    Ipv4 = 0,
    Ipv6 = 1,
    /// ARP and everything else that is not IP, and frames too short to say.
    Other = 2,
}

impl Family {
    pub const ALL: [Family; 3] = [Family::Ipv4, Family::Ipv6, Family::Other];

    pub const fn name(self) -> &'static str {
        match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
            Family::Other => "other",
        }
    }
}

/// Packets and bytes (of whole frames, headers included).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tally {
    pub packets: u64,
    pub bytes: u64,
}

/// Whether verdicts are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Run {
    Real = 0,
    /// Everything passes; the reason is the one that would have held.
    Dry = 1,
}

impl Run {
    pub const ALL: [Run; 2] = [Run::Real, Run::Dry];

    /// Whether a packet judged so goes on to the network stack.
    pub const fn passes(self, reason: Reason) -> bool {
        matches!(self, Run::Dry) || reason.passes()
    }
}

/// One CPU's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    by: [[[Tally; Family::ALL.len()]; Reason::ALL.len()]; Run::ALL.len()],
}

impl Counters {
    pub fn tally(&self, run: Run, reason: Reason, family: Family) -> Tally {
        self.by[run as usize][reason as usize][family as usize]
    }

    pub fn tally_mut(&mut self, run: Run, reason: Reason, family: Family) -> &mut Tally {
        &mut self.by[run as usize][reason as usize][family as usize]
    }

    /// Each tally with what it is of.
    pub fn all(&self) -> impl Iterator<Item = (Run, Reason, Family, Tally)> {
        let families = |run, reason| Family::ALL.into_iter().map(move |family| (run, reason, family));
        let reasons = move |run| Reason::ALL.into_iter().flat_map(move |reason| families(run, reason));
        let indices = Run::ALL.into_iter().flat_map(reasons);
        indices.map(|(run, reason, family)| (run, reason, family, self.tally(run, reason, family)))
    }
}

const _: () = assert!(size_of::<Counters>() == 16 * 3 * 9 * 2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_reason_at_its_own_index() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        for (index, family) in Family::ALL.iter().enumerate() {
            assert_eq!(*family as usize, index);
        }
    }
}
