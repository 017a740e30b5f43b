//! How many connections an address has, for `why` and `status`: as the kernel counts them where they are capped, else
//! from its list of sockets, when somebody asks.

use std::net::IpAddr;

use super::Enforcer;
use crate::{
    block::Target,
    config::Filter,
    control::protocol::{ConnectionTotals, Connections},
    datapath::{Connected, Tables},
    metrics::Lost,
    netlink,
};

/// What of the config says which connections count, and as whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counting {
    /// Ascending; empty: all.
    ports: Vec<u16>,
    ipv6_unit: u8,
}

impl Counting {
    pub(super) fn of(filter: &Filter) -> Counting {
        Counting { ports: filter.capped_ports.clone(), ipv6_unit: filter.ipv6_unit }
    }

    /// How many of these the client opened.
    fn count(&self, found: &netlink::Connections, client: IpAddr) -> u64 {
        let client = Target::client(client, self.ipv6_unit);
        let counts = |port| self.ports.is_empty() || self.ports.contains(&port);
        found.passive().filter(|one| client.covers(one.peer.ip()) && counts(one.local.port())).count() as u64
    }
}

/// A number that only grows, in tables that may begin anew while an agent lives.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ever {
    seen: u64,
    total: u64,
}

impl Ever {
    /// The total, with what the tables say now.
    fn with(&mut self, seen: u64) -> u64 {
        self.total += if seen < self.seen { seen } else { seen - self.seen };
        self.seen = seen;
        self.total
    }
}

impl<T: Tables> Enforcer<T> {
    /// No cap holds for one who is `allowed`, or a trusted proxy.
    pub(super) fn connections(&self, address: IpAddr, allowed: bool) -> Connections {
        let address = address.to_canonical();
        let cap = self.tables.cap().filter(|_| !allowed && !self.protected.is_proxy(address));
        let current = match self.tables.connections(address) {
            Some(current) => current,
            None if self.protected.is_own(address) => 0,
            None => self.by_sockets(address),
        };
        Connections { current, cap }
    }

    fn by_sockets(&self, address: IpAddr) -> u64 {
        let counted = netlink::connections().map(|found| self.counting.count(&found, address));
        counted.unwrap_or_else(|error| {
            tracing::warn!("the connections of {address} cannot be counted, 0 stands for them: {error}");
            0
        })
    }

    pub(super) fn connection_totals(&self) -> ConnectionTotals {
        let Connected { addresses, total, .. } = self.tables.connected();
        ConnectionTotals { tracked_addresses: addresses, total, cap: self.tables.cap() }
    }

    /// All that the kernel counts; what it could not count is added to what was lost.
    pub fn connected(&mut self) -> Connected {
        let connected = self.tables.connected();
        // Tables that began anew begin at 0.
        let before = if connected.uncounted < self.uncounted { 0 } else { self.uncounted };
        self.metrics.lost(Lost::Connections, connected.uncounted - before);
        self.uncounted = connected.uncounted;
        Connected { excess: self.excess.with(connected.excess), ..connected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(local: &str, peer: &str) -> netlink::Connection {
        let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
        netlink::Connection { cookie: 1, local, peer, state: 1, interface: 0 }
    }

    #[test]
    fn counted_is_what_others_opened_to_capped_ports() {
        let (four, six) = ("192.0.2.1:443", "[2001:db8::1]:443");
        let open = vec![
            connection(four, "203.0.113.7:40000"),
            connection("192.0.2.1:22", "203.0.113.7:40000"),
            connection(four, "203.0.113.8:40000"),
            // This host opened it.
            connection("192.0.2.1:50000", "203.0.113.7:443"),
            connection(six, "[2001:db8:0:1::1]:40000"),
            connection(six, "[2001:db8:0:1::2]:40000"),
            connection(six, "[2001:db8:0:2::1]:40000"),
        ];
        let listeners = ["[::]:443", "0.0.0.0:22"].map(|listener| listener.parse().unwrap()).to_vec();
        let found = netlink::Connections { open, listeners };
        let count = |ports: &[u16], ipv6_unit, client: &str| {
            Counting { ports: ports.to_vec(), ipv6_unit }.count(&found, client.parse().unwrap())
        };
        assert_eq!([&[][..], &[443], &[80]].map(|ports| count(ports, 64, "203.0.113.7")), [2, 1, 0]);
        assert_eq!(count(&[], 64, "::ffff:203.0.113.7"), 2);
        assert_eq!([63, 64].map(|unit| count(&[], unit, "2001:db8:0:1::9")), [2, 2]);
        assert_eq!(count(&[], 62, "2001:db8:0:1::9"), 3);
    }
}
