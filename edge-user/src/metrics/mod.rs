//! What `/metrics` shows: the counters of the agent's own life ([`Own`]) and a picture of everything else, taken by the
//! agent at each scrape ([`Snapshot`]). Every family is there from the first scrape, at 0 where its labels can be
//! listed. No address, user or path is ever a label.

mod http;
mod own;

use std::collections::BTreeMap;

use edge_common::reason::{Counters, Family, Reason, Run};
use prometheus::{
    GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
    process_collector::ProcessCollector,
};

pub use http::serve;
pub use own::{Drift, Lost, Own, Removed};

use crate::{
    block::Origin,
    clock::Wall,
    datapath::Connected,
    server::{counters, link},
};

/// The state at one moment, read from where it lives.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The kernel's counters, summed over the CPUs.
    pub counters: Counters,
    /// Each interface's name, its mode (`native`, `generic`), and whether the program is attached.
    pub interfaces: Vec<(String, String, bool)>,
    /// Blocks by origin and family (`ipv4`, `ipv6`).
    pub blocks_active: Vec<(Origin, &'static str, u64)>,
    /// Each map's name, entries and capacity.
    pub map_entries: Vec<(&'static str, u64, u64)>,
    /// Entries that are decided but not enforced, and the reverse.
    pub drift: u64,
    pub connected: Connected,
    /// What the server said last; of it only the series that edge knows are shown.
    pub server: link::Metrics,
    /// The first name of each certificate that is served, and when it ends.
    pub certificates: Vec<(String, Wall)>,
    pub store_ok: bool,
    /// Whether the last attempt to write the audit log succeeded.
    pub audit_ok: bool,
    pub dry_run: bool,
}

/// The text that a scraper reads (Prometheus text format 0.0.4).
pub fn render(snapshot: &Snapshot, own: &Own) -> String {
    text(snapshot, own).unwrap_or_else(|error| {
        // Only names that clash could do that; a test renders them all.
        tracing::error!(%error, "the metrics cannot be written");
        String::new()
    })
}

fn text(snapshot: &Snapshot, own: &Own) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    own.register(&registry)?;
    let add = |collector: Box<dyn Collector>| registry.register(collector);
    packets(&snapshot.counters).and_then(|(packets, bytes)| {
        add(Box::new(packets))?;
        add(Box::new(bytes))
    })?;
    add(Box::new(build_info()?))?;
    add(Box::new(attached(&snapshot.interfaces)?))?;
    add(Box::new(active(&snapshot.blocks_active)?))?;
    add(Box::new(gauge(
        "edge_connections_tracked",
        "Connections that others opened and that are counted now; 0 where none are capped.",
        snapshot.connected.total,
    )?))?;
    add(Box::new(cap_reached(&snapshot.counters, snapshot.connected.excess)?))?;
    let (entries, capacity) = maps(&snapshot.map_entries)?;
    add(Box::new(entries))?;
    add(Box::new(capacity))?;
    add(Box::new(gauge("edge_drift_entries", "Blocks decided but not enforced, and the reverse.", snapshot.drift)?))?;
    add(Box::new(gauge(
        "edge_store_ok",
        "Whether the stores, of blocks and of users, can be used.",
        snapshot.store_ok.into(),
    )?))?;
    add(Box::new(gauge("edge_audit_ok", "Whether the audit log can be written.", snapshot.audit_ok.into())?))?;
    add(Box::new(gauge("edge_dry_run", "Whether nothing is dropped, only counted.", snapshot.dry_run.into())?))?;
    add(Box::new(auth_requests(&snapshot.server)?))?;
    add(Box::new(tls_handshakes(&snapshot.server)?))?;
    add(Box::new(certificates(&snapshot.certificates)?))?;
    add(Box::new(ProcessCollector::for_self()))?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

fn build_info() -> Result<IntGaugeVec, prometheus::Error> {
    let info = gauges("edge_build_info", "The version of edge; always 1.", &["version"])?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    Ok(info)
}

fn packets(counters: &Counters) -> Result<(IntCounterVec, IntCounterVec), prometheus::Error> {
    let labels = ["verdict", "reason", "family"];
    let packets = Opts::new(
        "edge_packets_total",
        "Packets that the kernel judged, by verdict, reason and family; in a dry run every verdict is pass.",
    );
    let bytes = Opts::new("edge_bytes_total", "Bytes of those packets, of whole frames.");
    let (packets, bytes) = (IntCounterVec::new(packets, &labels)?, IntCounterVec::new(bytes, &labels)?);
    for (run, reason, family, tally) in counters.all() {
        let values = [if run.passes(reason) { "pass" } else { "drop" }, reason.name(), family.name()];
        packets.with_label_values(&values).inc_by(tally.packets);
        bytes.with_label_values(&values).inc_by(tally.bytes);
    }
    Ok((packets, bytes))
}

fn attached(interfaces: &[(String, String, bool)]) -> Result<IntGaugeVec, prometheus::Error> {
    let help = "Whether the program is attached to the interface.";
    let attached = gauges("edge_xdp_attached", help, &["interface", "mode"])?;
    for (interface, mode, is_attached) in interfaces {
        attached.with_label_values(&[interface, mode]).set((*is_attached).into());
    }
    Ok(attached)
}

fn active(blocks: &[(Origin, &'static str, u64)]) -> Result<IntGaugeVec, prometheus::Error> {
    let help = "Blocks in force, by who asked for them and by family.";
    let active = gauges("edge_blocks_active", help, &["origin", "family"])?;
    for origin in Origin::ALL {
        for family in [Family::Ipv4, Family::Ipv6] {
            active.with_label_values(&[origin.name(), family.name()]);
        }
    }
    for (origin, family, count) in blocks {
        active.with_label_values(&[origin.name(), family]).set(whole(*count));
    }
    Ok(active)
}

/// A client that tries again is refused again, and counted again.
fn cap_reached(counters: &Counters, excess: u64) -> Result<IntCounter, prometheus::Error> {
    let help = "Handshake packets that were dropped for the cap of connections, and connections that were established over it.";
    let reached = IntCounter::new("edge_connections_cap_reached_total", help)?;
    let is_capped = |run: Run, reason| reason == Reason::ConnectionCap && !run.passes(reason);
    let refused = counters.all().filter(|(run, reason, ..)| is_capped(*run, *reason)).map(|(.., tally)| tally.packets);
    reached.inc_by(refused.sum::<u64>() + excess);
    Ok(reached)
}

fn maps(maps: &[(&'static str, u64, u64)]) -> Result<(IntGaugeVec, IntGaugeVec), prometheus::Error> {
    let entries = gauges("edge_map_entries", "Entries in the kernel's map.", &["map"])?;
    let capacity = gauges("edge_map_capacity", "How many entries the kernel's map can hold.", &["map"])?;
    for (map, held, limit) in maps {
        entries.with_label_values(&[map]).set(whole(*held));
        capacity.with_label_values(&[map]).set(whole(*limit));
    }
    Ok((entries, capacity))
}

fn auth_requests(server: &link::Metrics) -> Result<IntCounterVec, prometheus::Error> {
    let help = "Requests to the auth endpoints, by endpoint and outcome.";
    let requests = IntCounterVec::new(Opts::new("edge_auth_requests_total", help), &["endpoint", "outcome"])?;
    let said: BTreeMap<_, _> =
        server.auth_requests.iter().map(|(endpoint, outcome, n)| ((endpoint, outcome), *n)).collect();
    for (endpoint, outcome, none) in &counters::none().auth_requests {
        let count = said.get(&(endpoint, outcome)).unwrap_or(none);
        requests.with_label_values(&[endpoint, outcome]).inc_by(*count);
    }
    Ok(requests)
}

fn tls_handshakes(server: &link::Metrics) -> Result<IntCounterVec, prometheus::Error> {
    let help = "TLS handshakes, by how they ended.";
    let handshakes = IntCounterVec::new(Opts::new("edge_tls_handshakes_total", help), &["result"])?;
    let said: BTreeMap<_, _> = server.tls_handshakes.iter().map(|(result, count)| (result, *count)).collect();
    for (result, none) in &counters::none().tls_handshakes {
        handshakes.with_label_values(&[result]).inc_by(*said.get(result).unwrap_or(none));
    }
    Ok(handshakes)
}

/// Of two with the same first name, that which ends first.
fn certificates(certificates: &[(String, Wall)]) -> Result<GaugeVec, prometheus::Error> {
    let help = "When the certificate ends, by its first name.";
    let opts = Opts::new("edge_tls_certificate_not_after_timestamp_seconds", help);
    let ends = GaugeVec::new(opts, &["certificate"])?;
    let mut latest_first: Vec<_> = certificates.iter().collect();
    latest_first.sort_by_key(|(_, end)| std::cmp::Reverse(end.0));
    for (name, end) in latest_first {
        ends.with_label_values(&[name]).set(end.0 as f64 / 1000.0);
    }
    Ok(ends)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}

fn gauge(name: &str, help: &str, value: u64) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(name, help)?;
    gauge.set(whole(value));
    Ok(gauge)
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use edge_common::reason::Tally;

    use super::*;
    use crate::server::link::Kind;

    fn snapshot() -> Snapshot {
        Snapshot {
            interfaces: vec![("eth0".to_owned(), "native".to_owned(), true)],
            map_entries: vec![("BLOCKED4", 0, 1000)],
            store_ok: true,
            audit_ok: true,
            ..Snapshot::default()
        }
    }

    /// Series and value of each line that is no comment; every line must be one of the two.
    fn series(text: &str) -> BTreeMap<String, f64> {
        let mut found = BTreeMap::new();
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                assert!(comment.starts_with("HELP ") || comment.starts_with("TYPE "), "{line}");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
            assert_eq!(series.contains('{'), series.ends_with('}'), "{line}");
            assert!(found.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{line} stands there twice");
        }
        found
    }

    #[test]
    fn every_family_is_there_at_zero() {
        let text = render(&snapshot(), &Own::new().unwrap());
        let found = series(&text);
        let families = [
            "edge_build_info",
            "edge_xdp_attached",
            "edge_packets_total",
            "edge_bytes_total",
            "edge_blocks_active",
            "edge_blocks_added_total",
            "edge_blocks_removed_total",
            "edge_drift_entries",
            "edge_drift_repaired_total",
            "edge_connections_tracked",
            "edge_connections_cap_reached_total",
            "edge_map_entries",
            "edge_map_capacity",
            "edge_auth_requests_total",
            "edge_offences_total",
            "edge_tls_handshakes_total",
            "edge_block_latency_seconds_count",
            "edge_events_lost_total",
            "edge_dry_run",
            "edge_config_last_reload_successful",
            "edge_config_last_reload_success_timestamp_seconds",
            "edge_store_ok",
            "edge_audit_ok",
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
        ];
        let not_zero = ["edge_build_info", "edge_xdp_attached", "edge_map_capacity", "edge_store_ok", "edge_audit_ok"];
        for family in families {
            let mut of_family = found.iter().filter(|(series, _)| series.split('{').next() == Some(family)).peekable();
            assert!(of_family.peek().is_some(), "{family} is missing in\n{text}");
            if family.starts_with("edge_") && !not_zero.contains(&family) {
                assert!(of_family.all(|(_, value)| *value == 0.0), "{family}");
            }
        }
        for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            assert_eq!(name.ends_with(" counter"), name.contains("_total "), "{name}");
        }
    }

    #[test]
    fn what_was_counted_is_shown() {
        let own = Own::new().unwrap();
        own.blocks_added(Origin::Auth, 1);
        own.blocks_removed(Removed::Expired, 3);
        own.offence(Kind::Login);
        own.block_latency(Duration::from_micros(80));
        let mut counters = Counters::default();
        *counters.tally_mut(Run::Real, Reason::Blocked, Family::Ipv6) = Tally { packets: 7, bytes: 700 };
        counters.tally_mut(Run::Dry, Reason::Blocked, Family::Ipv6).packets = 8;
        counters.tally_mut(Run::Real, Reason::Passed, Family::Ipv4).packets = 4;
        counters.tally_mut(Run::Dry, Reason::Passed, Family::Ipv4).packets = 5;
        counters.tally_mut(Run::Real, Reason::ConnectionCap, Family::Ipv4).packets = 3;
        counters.tally_mut(Run::Dry, Reason::ConnectionCap, Family::Ipv4).packets = 40;
        own.lost(Lost::Connections, 8);
        let connected = Connected { addresses: 2, total: 9, uncounted: 8, excess: 2 };
        let blocks_active = vec![(Origin::Auth, "ipv4", 5)];
        let certificates = [("edge.test", 1500), ("*.test", 3000), ("edge.test", 2000)];
        let certificates = certificates.map(|(name, end)| (name.to_owned(), Wall(end))).into();
        let shown = Snapshot { counters, blocks_active, connected, drift: 6, certificates, ..snapshot() };
        let found = series(&render(&shown, &own));
        let expected = [
            ("edge_blocks_added_total{origin=\"auth\"}", 1.0),
            ("edge_blocks_added_total{origin=\"manual\"}", 0.0),
            ("edge_blocks_removed_total{cause=\"expired\"}", 3.0),
            ("edge_drift_repaired_total{kind=\"detached\"}", 0.0),
            ("edge_offences_total{kind=\"login\"}", 1.0),
            ("edge_events_lost_total{source=\"server\"}", 0.0),
            ("edge_block_latency_seconds_bucket{le=\"0.0001\"}", 1.0),
            ("edge_block_latency_seconds_bucket{le=\"0.00005\"}", 0.0),
            ("edge_packets_total{family=\"ipv6\",reason=\"blocked\",verdict=\"drop\"}", 7.0),
            ("edge_packets_total{family=\"ipv6\",reason=\"blocked\",verdict=\"pass\"}", 8.0),
            ("edge_bytes_total{family=\"ipv6\",reason=\"blocked\",verdict=\"drop\"}", 700.0),
            ("edge_packets_total{family=\"ipv4\",reason=\"passed\",verdict=\"pass\"}", 9.0),
            ("edge_blocks_active{family=\"ipv4\",origin=\"auth\"}", 5.0),
            ("edge_xdp_attached{interface=\"eth0\",mode=\"native\"}", 1.0),
            ("edge_map_capacity{map=\"BLOCKED4\"}", 1000.0),
            ("edge_drift_entries", 6.0),
            ("edge_drift_repaired_total{kind=\"connection\"}", 0.0),
            ("edge_connections_tracked", 9.0),
            ("edge_connections_cap_reached_total", 5.0),
            ("edge_events_lost_total{source=\"connections\"}", 8.0),
            ("edge_tls_certificate_not_after_timestamp_seconds{certificate=\"edge.test\"}", 1.5),
            ("edge_tls_certificate_not_after_timestamp_seconds{certificate=\"*.test\"}", 3.0),
        ];
        for (series, value) in expected {
            assert_eq!(found.get(series), Some(&value), "{series}");
        }
    }

    #[test]
    fn the_server_can_add_no_series() {
        let name = |text: &str| text.to_owned();
        let auth_requests = vec![
            (name("refresh"), name("refused"), 5),
            (name("login"), name("elsewhere"), 1),
            (name("203.0.113.7"), name("refused"), 1),
            (name("login"), name("x\"} 1\nedge_store_ok 0"), 1),
        ];
        let server = link::Metrics {
            auth_requests,
            tls_handshakes: vec![(name("success"), 8), (name("other"), 9)],
            store_failed: false,
            acme: None,
        };
        let own = Own::new().unwrap();
        let before = series(&render(&snapshot(), &own));
        let found = series(&render(&Snapshot { server, ..snapshot() }, &own));
        assert!(before.keys().filter(|one| !one.starts_with("process_")).all(|one| found.contains_key(one)));
        assert_eq!(before.len(), found.len());
        assert_eq!(found["edge_auth_requests_total{endpoint=\"refresh\",outcome=\"refused\"}"], 5.0);
        assert_eq!(found["edge_auth_requests_total{endpoint=\"logout\",outcome=\"missing\"}"], 0.0);
        assert_eq!(found["edge_tls_handshakes_total{result=\"success\"}"], 8.0);
        assert_eq!(found["edge_store_ok"], 1.0);
    }
}
