//! Connections and their cap, as `why`, `status` and the metrics tell of them.

use super::*;
use crate::{control::protocol::ConnectionTotals, datapath::Connected};

fn capped(directory: &TempDir) -> Enforcer<Fake> {
    let mut enforcer = started(directory, "allow = [\"198.51.100.0/24\"]");
    enforcer.tables.cap = Some(5);
    let peers = ["203.0.113.7", "198.51.100.9", "203.0.113.80"];
    enforcer.tables.connections = peers.into_iter().map(|peer| (peer.parse().unwrap(), 7)).collect();
    enforcer
}

fn told(enforcer: &Enforcer<Fake>, address: &str) -> (u64, Option<u64>) {
    let connections = enforcer.why(address.parse().unwrap(), START).unwrap().connections;
    (connections.current, connections.cap)
}

#[test]
fn a_cap_stands_where_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = capped(&directory);
    let trusted_proxies = vec![target("203.0.113.80/28")];
    enforcer.follow(Surroundings { trusted_proxies, ..enforcer.surroundings().clone() }, START).unwrap();
    let expected = [
        ("203.0.113.7", (7, Some(5))),
        ("::ffff:203.0.113.7", (7, Some(5))),
        ("203.0.113.9", (0, Some(5))),
        ("203.0.113.80", (7, None)),
        ("203.0.113.96", (0, Some(5))),
        ("198.51.100.9", (7, None)),
    ];
    for (address, connections) in expected {
        assert_eq!(told(&enforcer, address), connections, "{address}");
    }
    enforcer.tables.cap = None;
    assert_eq!(told(&enforcer, "203.0.113.9"), (0, None));
    assert_eq!(told(&enforcer, "127.0.0.1"), (0, None), "what this host opened to itself");
}

#[test]
fn what_could_not_be_counted_is_lost_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = capped(&directory);
    let totals = |enforcer: &Enforcer<Fake>| enforcer.status(START).unwrap().connections;
    assert_eq!(totals(&enforcer), ConnectionTotals { tracked_addresses: 0, total: 0, cap: Some(5) });
    let mut lost = |uncounted| {
        enforcer.tables.connected = Connected { addresses: 2, total: 9, uncounted, ..Connected::default() };
        assert_eq!(enforcer.connected().total, 9);
        lost_connections(&enforcer.metrics)
    };
    assert_eq!([3, 3, 4].map(&mut lost), [3.0, 3.0, 4.0]);
    assert_eq!(lost(1), 5.0, "tables that began anew");
    assert_eq!(totals(&enforcer), ConnectionTotals { tracked_addresses: 2, total: 9, cap: Some(5) });
}

#[test]
fn what_was_over_the_cap_never_falls_and_begins_with_what_the_tables_say() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = capped(&directory);
    // As found by a start, then one more; a reload without a cap, and one with it again.
    let told = [7, 8, 8, 0, 0, 2, 3].map(|excess| {
        enforcer.tables.connected = Connected { excess, ..Connected::default() };
        enforcer.connected().excess
    });
    assert_eq!(told, [7, 8, 8, 8, 8, 10, 11]);
}

fn lost_connections(metrics: &Own) -> f64 {
    let text = crate::metrics::render(&crate::metrics::Snapshot::default(), metrics);
    let line = text.lines().find_map(|line| line.strip_prefix("edge_events_lost_total{source=\"connections\"} "));
    line.unwrap().parse().unwrap()
}
