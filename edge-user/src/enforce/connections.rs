//! How many connections an address has, for `why` and `status`: as the kernel counts them where they are capped, else
//! from its list of sockets, when somebody asks.

use std::{collections::BTreeSet, net::IpAddr};

use super::Enforcer;
use crate::{
    block::Target,
    config::Filter,
    control::protocol::{ConnectionTotals, Connections},
    datapath::{Connected, Tables},
    metrics::Lost,
    netlink::{self, TcpSocket},
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

    /// How many connections this client opened to ports that others can connect to, of all these sockets.
    fn count(&self, sockets: &[TcpSocket], client: IpAddr) -> u64 {
        let client = Target::client(client, self.ipv6_unit);
        let listening: BTreeSet<u16> = sockets.iter().filter(|one| one.listens()).map(|one| one.port).collect();
        let counts = |port| listening.contains(&port) && (self.ports.is_empty() || self.ports.contains(&port));
        let is_of = |socket: &&TcpSocket| socket.peer.is_some_and(|peer| client.covers(peer)) && counts(socket.port);
        sockets.iter().filter(is_of).count() as u64
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
        let counted = netlink::tcp_sockets().map(|sockets| self.counting.count(&sockets, address));
        counted.unwrap_or_else(|error| {
            tracing::warn!("the connections of {address} cannot be counted, 0 stands for them: {error}");
            0
        })
    }

    pub(super) fn connection_totals(&self) -> ConnectionTotals {
        let Connected { addresses, total, uncounted: _ } = self.tables.connected();
        ConnectionTotals { tracked_addresses: addresses, total, cap: self.tables.cap() }
    }

    /// All that the kernel counts; what it could not count is added to what was lost.
    pub fn connected(&mut self) -> Connected {
        let connected = self.tables.connected();
        // Tables that began anew begin at 0.
        let before = if connected.uncounted < self.uncounted { 0 } else { self.uncounted };
        self.metrics.lost(Lost::Connections, connected.uncounted - before);
        self.uncounted = connected.uncounted;
        connected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(port: u16, peer: Option<&str>) -> TcpSocket {
        TcpSocket { inode: 1, uid: 0, port, peer: peer.map(|peer| peer.parse().unwrap()) }
    }

    #[test]
    fn counted_is_what_others_opened_to_capped_ports() {
        let sockets = [
            socket(443, None),
            socket(22, None),
            socket(443, Some("203.0.113.7")),
            socket(22, Some("203.0.113.7")),
            socket(443, Some("203.0.113.8")),
            // This host opened it.
            socket(50_000, Some("203.0.113.7")),
            socket(443, Some("2001:db8:0:1::1")),
            socket(443, Some("2001:db8:0:1::2")),
            socket(443, Some("2001:db8:0:2::1")),
        ];
        let count = |ports: &[u16], ipv6_unit, client: &str| {
            Counting { ports: ports.to_vec(), ipv6_unit }.count(&sockets, client.parse().unwrap())
        };
        assert_eq!([&[][..], &[443], &[80]].map(|ports| count(ports, 64, "203.0.113.7")), [2, 1, 0]);
        assert_eq!(count(&[], 64, "::ffff:203.0.113.7"), 2);
        assert_eq!([63, 64].map(|unit| count(&[], unit, "2001:db8:0:1::9")), [2, 2]);
        assert_eq!(count(&[], 62, "2001:db8:0:1::9"), 3);
    }
}
