//! The reference model of the kernel's judgement: what a packet deserves, in plain Rust, slow and obvious.
//!
//! Written from the documents (README, "How a packet is judged") and from no line of the kernel side, so that the two
//! can be compared packet by packet. It shares nothing with edge: `std::net` addresses, ordered maps, one function for
//! each step. Time is an argument; a frame is bytes and how many of them the first buffer holds.

mod chain;
mod frame;
mod ports;
mod prefixes;
mod rate;
mod transport;

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

use self::{frame::Header, transport::Segment};
pub use self::{
    frame::{Family, Frame},
    ports::{Exposed, Flow, Sent},
    prefixes::Prefixes,
    rate::{Bounds, Limit, Rates},
};

/// A word of the closed list, as the interface has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    Passed,
    Allowed,
    Blocked,
    ConnectionCap,
    SynRate,
    PacketRate,
    PortClosed,
    Malformed,
    Fragment,
}

/// All that bears on a packet besides its bytes.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub allowed: Prefixes<()>,
    /// Addresses of this host, loopback included.
    pub own: Prefixes<()>,
    pub protected: Prefixes<()>,
    /// Trusted proxies, exempt from rates.
    pub proxies: Prefixes<()>,
    pub blocked: Prefixes<Block>,
    /// `None`: every port is.
    pub exposed: Option<Exposed>,
    pub drops_fragments: bool,
    pub syns: Option<Rates>,
    pub packets: Option<Rates>,
    pub dry_run: bool,
    /// What this host sent over UDP.
    pub sent: Sent,
}

/// A blocked address or prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// `None`: until lifted.
    pub until: Option<Duration>,
    pub packets: u64,
    pub bytes: u64,
}

/// What becomes of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub reason: Reason,
    pub family: Family,
    /// The blocked entry that counts it.
    pub entry: Option<IpNet>,
    /// Whether the stack gets it; in a dry run it always does.
    pub passes: bool,
}

/// Where the steps before the rates left a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Decided(Reason),
    /// Only a rate can still drop it.
    Rated {
        source: IpAddr,
        is_syn: bool,
    },
}

/// A verdict before rates, with what it is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    pub verdict: Verdict,
    pub family: Family,
    pub entry: Option<IpNet>,
    /// How many bytes are counted.
    pub bytes: u64,
}

impl Reason {
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

    pub const fn passes(self) -> bool {
        matches!(self, Reason::Passed | Reason::Allowed)
    }
}

impl Policy {
    /// This host sends something over a flow. From an exposed port nothing has to be noted: what comes to it passes.
    pub fn send(&mut self, flow: Flow, now: Duration) {
        if !self.exposed.as_ref().is_some_and(|exposed| exposed.udp.contains(&flow.local.port())) {
            self.sent.insert(flow, now);
        }
    }

    /// Judges one packet at `now` (time since boot), and keeps what must be remembered of it.
    pub fn judge(&mut self, frame: Frame, now: Duration) -> Judgement {
        let finding = self.find(frame, now);
        let reason = match finding.verdict {
            Verdict::Decided(reason) => reason,
            Verdict::Rated { source, is_syn } => self.rate(source, is_syn, now),
        };
        self.settle(finding, reason)
    }

    /// Everything but the rates; hits are counted.
    pub fn find(&mut self, frame: Frame, now: Duration) -> Finding {
        let bytes = frame.bytes.len() as u64;
        let decided = |family, reason| Finding { verdict: Verdict::Decided(reason), family, entry: None, bytes };
        let Some((family, ip)) = frame.network() else { return decided(Family::Other, Reason::Passed) };
        let Some(header) = Header::read(family, ip) else { return decided(family, Reason::Malformed) };
        let bytes = header.counted(frame);
        let (verdict, entry) = self.by_source(&header, bytes, now);
        Finding { verdict, family, entry, bytes }
    }

    /// The judgement that a finding and the rates together make.
    pub fn settle(&self, finding: Finding, reason: Reason) -> Judgement {
        let Finding { family, entry, .. } = finding;
        Judgement { reason, family, entry, passes: reason.passes() || self.dry_run }
    }

    fn by_source(&mut self, header: &Header, bytes: u64, now: Duration) -> (Verdict, Option<IpNet>) {
        let source = header.source.to_canonical();
        if self.allowed.covers(source) {
            return (Verdict::Decided(Reason::Allowed), None);
        }
        if self.own.covers(source) {
            return (Verdict::Decided(Reason::Malformed), None);
        }
        if !self.protected.covers(source)
            && let Some(entry) = self.blocking(source, now)
        {
            self.count(entry, bytes);
            return (Verdict::Decided(Reason::Blocked), Some(entry));
        }
        (self.by_shape(header, now), None)
    }

    /// The blocked entry that holds for this address: the address itself, its /64, the longest prefix.
    fn blocking(&self, source: IpAddr, now: Duration) -> Option<IpNet> {
        let holds = |block: &Block| block.until.is_none_or(|until| now < until);
        let holding = || self.blocked.covering(source).filter(|(_, block)| holds(block)).map(|(net, _)| net);
        let single = holding().find(|net| net.prefix_len() == net.max_prefix_len());
        single.or_else(|| holding().find(is_unit)).or_else(|| holding().next())
    }

    fn count(&mut self, entry: IpNet, bytes: u64) {
        if let Some(block) = self.blocked.get_mut(entry) {
            block.packets += 1;
            block.bytes += bytes;
        }
    }

    fn by_shape(&self, header: &Header, now: Duration) -> Verdict {
        let Some(datagram) = header.datagram() else { return Verdict::Decided(Reason::Malformed) };
        if header.source.to_canonical() != header.source {
            return Verdict::Decided(Reason::Malformed);
        }
        let segment = match self.segment(header, datagram) {
            Ok(segment) => segment,
            Err(reason) => return Verdict::Decided(reason),
        };
        if let (Some(exposed), Some(segment)) = (&self.exposed, &segment)
            && !exposed.lets_in(header, segment, &self.sent, now)
        {
            return Verdict::Decided(Reason::PortClosed);
        }
        let is_syn = segment.is_some_and(|segment| segment.is_syn());
        Verdict::Rated { source: header.source, is_syn }
    }

    /// What the datagram carries; `None` where nothing wants to know, or a later fragment does not say.
    fn segment(&self, header: &Header, datagram: frame::Datagram) -> Result<Option<Segment>, Reason> {
        let is_wanted = self.exposed.is_some() || self.syns.is_some();
        let Some(upper) = chain::walk(header, datagram, self.drops_fragments, is_wanted)? else {
            return Ok(None);
        };
        if is_wanted { Segment::read(upper, datagram).map(Some).ok_or(Reason::Malformed) } else { Ok(None) }
    }

    fn rate(&mut self, source: IpAddr, is_syn: bool, now: Duration) -> Reason {
        if self.proxies.covers(source) {
            return Reason::Passed;
        }
        let refuses = |rates: &mut Option<Rates>| rates.as_mut().is_some_and(|rates| !rates.admit(source, now));
        if is_syn && refuses(&mut self.syns) {
            Reason::SynRate
        } else if refuses(&mut self.packets) {
            Reason::PacketRate
        } else {
            Reason::Passed
        }
    }
}

fn is_unit(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(six) if six.prefix_len() == 64)
}
