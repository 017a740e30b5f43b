//! Exposed ports: what may come in from outside, and what counts as an answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use super::{
    frame::{Family, Header},
    transport::{ICMP, ICMPV6, IGMP, Segment},
};

/// For so long after something was sent does an answer to it pass.
const ANSWERED_WITHIN: Duration = Duration::from_secs(180);

/// What the key `exposed_ports` lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exposed {
    pub tcp: BTreeSet<u16>,
    pub udp: BTreeSet<u16>,
    pub protocols: BTreeSet<u8>,
}

/// The two ends of a UDP exchange, as this host sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// When this host last sent something over each UDP flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent(BTreeMap<Flow, Duration>);

impl Exposed {
    /// From the config's words: `443/tcp`, `53/udp`, `esp`, `proto/89`. `None`: a word is none of these.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Option<Exposed> {
        let mut exposed = Exposed::default();
        for word in words {
            let named =
                |name: &str| [("esp", 50), ("ah", 51), ("gre", 47)].iter().find(|known| known.0 == name).copied();
            match word.split_once('/') {
                Some(("proto", number)) => drop(exposed.protocols.insert(number.parse().ok()?)),
                Some((port, "tcp")) => drop(exposed.tcp.insert(port.parse().ok()?)),
                Some((port, "udp")) => drop(exposed.udp.insert(port.parse().ok()?)),
                Some(_) => return None,
                None => drop(exposed.protocols.insert(named(word)?.1)),
            }
        }
        Some(exposed)
    }

    pub fn lets_in(&self, header: &Header, segment: &Segment, sent: &Sent, now: Duration) -> bool {
        match *segment {
            Segment::Tcp { to, .. } => !segment.is_syn() || self.tcp.contains(&to),
            Segment::Udp { from, to } => {
                self.udp.contains(&to) || is_dhcp(header.family, from, to) || sent.answers(header, from, to, now)
            }
            Segment::Other { protocol: ICMP | ICMPV6 | IGMP } => true,
            Segment::Other { protocol } => self.protocols.contains(&protocol),
        }
    }
}

/// A server's word to a DHCP client.
fn is_dhcp(family: Family, from: u16, to: u16) -> bool {
    match family {
        Family::Ipv4 => (from, to) == (67, 68),
        _ => (from, to) == (547, 546),
    }
}

impl Sent {
    pub fn insert(&mut self, flow: Flow, now: Duration) {
        self.0.insert(flow, now);
    }

    pub fn flows(&self) -> impl Iterator<Item = Flow> {
        self.0.keys().copied()
    }

    fn answers(&self, header: &Header, from: u16, to: u16, now: Duration) -> bool {
        let remote = SocketAddr::new(header.source, from);
        let local = SocketAddr::new(header.destination, to);
        self.0.get(&Flow { local, remote }).is_some_and(|at| now.saturating_sub(*at) <= ANSWERED_WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_config_are_read() {
        let exposed = Exposed::parse(["22/tcp", "443/udp", "esp", "gre", "ah", "proto/89"]).unwrap();
        assert_eq!(exposed.tcp, BTreeSet::from([22]));
        assert_eq!(exposed.udp, BTreeSet::from([443]));
        assert_eq!(exposed.protocols, BTreeSet::from([47, 50, 51, 89]));
        for wrong in ["22", "22/sctp", "tcp/22", "proto/256", "70000/tcp", ""] {
            assert_eq!(Exposed::parse([wrong]), None, "{wrong}");
        }
    }
}
