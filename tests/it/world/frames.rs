//! Frames written byte by byte: tags, forged sources, and counts that equal what was sent.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use edge_common::names;
use edge_tests::{
    agent::Edge,
    client::{Client, Wire, scrape},
    net::{ATTACKER4, HOST4, HOST6, Lab},
    wait_for,
};

use super::{SOON, fail_five_times, log_in, only_block, packets, shut_out};

/// Addresses of nobody, so that no frame but the forged ones carries them.
const FORGED4: &str = "10.77.0.99";
const FORGED4_NEXT: &str = "10.77.0.98";
const FORGED6: &str = "2001:db8:99::7";

#[test]
fn tags_hide_no_blocked_address() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let wire = Wire::new(&lab)?;
    edge.cli(&["block", FORGED4, FORGED6])?.good()?;
    for address in [FORGED4, FORGED6] {
        for tags in 0..=2 {
            let before = packets(&edge, "blocked")?;
            send(&wire, address, tags, 3)?;
            counted(&edge, "blocked", before + 3).with_context(|| format!("{address} behind {tags} tags"))?;
        }
    }
    let entries = edge.json(&["list"])?;
    for entry in entries.as_array().context("list")? {
        ensure!(entry["packets"] == 9, "{entry}");
    }
    Ok(())
}

#[test]
fn the_neighbouring_address_passes_in_every_tagging() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let wire = Wire::new(&lab)?;
    edge.cli(&["block", FORGED4])?.good()?;
    for tags in 0..=2 {
        let before = scrape(&lab)?.sum("edge_packets_total", &[("verdict", "pass"), ("family", "ipv4")]);
        send(&wire, FORGED4_NEXT, tags, 5)?;
        wait_for("five more frames to pass", SOON, || {
            let now = scrape(&lab)?.sum("edge_packets_total", &[("verdict", "pass"), ("family", "ipv4")]);
            Ok((now == before + 5.0).then_some(()))
        })?;
    }
    ensure!(packets(&edge, "blocked")? == 0);
    Ok(())
}

#[test]
fn a_source_of_this_host_or_loopback_is_malformed() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let wire = Wire::new(&lab)?;
    let (own4, own6) = (HOST4.to_string(), HOST6.to_string());
    let before = packets(&edge, "malformed")?;
    for (nth, source) in (1..).zip([own4.as_str(), "127.0.0.1", own6.as_str(), "::1"]) {
        send(&wire, source, 0, 1)?;
        counted(&edge, "malformed", before + nth).with_context(|| source.to_owned())?;
    }
    Ok(())
}

#[test]
fn metrics_equal_what_was_sent() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let wire = Wire::new(&lab)?;
    edge.cli(&["block", FORGED4, FORGED6])?.good()?;
    let start = scrape(&lab)?;
    let mut sent = Vec::new();
    for (address, family, frames) in [(FORGED4, "ipv4", 100), (FORGED6, "ipv6", 70)] {
        let labels = [("verdict", "drop"), ("reason", "blocked"), ("family", family)];
        ensure!(start.value("edge_packets_total", &labels) == Some(0.0), "not at 0 before: {family}");
        sent.push((labels, frames as f64, send(&wire, address, 0, frames)? as f64));
    }
    for (labels, frames, bytes) in sent {
        let metrics = wait_for("the frames to be counted", SOON, || {
            let metrics = scrape(&lab)?;
            Ok((metrics.value("edge_packets_total", &labels) >= Some(frames)).then_some(metrics))
        })?;
        ensure!(metrics.value("edge_packets_total", &labels) == Some(frames), "{labels:?}");
        ensure!(metrics.value("edge_bytes_total", &labels) == Some(bytes), "{labels:?}");
    }
    let status = edge.json(&["status"])?;
    ensure!(status["packets"]["by_reason"]["blocked"] == 170 && status["packets"]["dropped"] == 170, "{status}");
    Ok(())
}

#[test]
fn metrics_tell_the_logins_and_the_block() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    log_in(&client)?;
    fail_five_times(&client)?;
    shut_out(&client)?;
    let login = |outcome| [("endpoint", "login"), ("outcome", outcome)];
    let metrics = wait_for("the server's counters", SOON, || {
        let metrics = scrape(&lab)?;
        let all = metrics.value("edge_auth_requests_total", &login("refused")) == Some(5.0)
            && metrics.value("edge_auth_requests_total", &login("success")) == Some(1.0);
        Ok(all.then_some(metrics))
    })?;
    ensure!(metrics.value("edge_offences_total", &[("kind", "login")]) == Some(5.0));
    ensure!(metrics.value("edge_blocks_added_total", &[("origin", "auth")]) == Some(1.0));
    ensure!(metrics.value("edge_blocks_active", &[("origin", "auth"), ("family", "ipv4")]) == Some(1.0));
    ensure!(metrics.sum("edge_xdp_attached", &[("interface", "edge-h")]) == 1.0);
    ensure!(metrics.value("edge_block_latency_seconds_count", &[]) == Some(1.0));
    ensure!(metrics.value("edge_drift_entries", &[]) == Some(0.0));
    ensure!(metrics.value("edge_store_ok", &[]) == Some(1.0));
    ensure!(!metrics.text.contains(&ATTACKER4.to_string()), "an address in a label");
    edge.cli(&["unblock", "--all"])?.good()?;
    ensure!(scrape(&lab)?.sum("edge_blocks_removed_total", &[]) == 1.0);
    ensure!(edge.json(&["list"])? == serde_json::json!([]));
    Ok(())
}

#[test]
fn every_family_is_there_from_the_first_scrape() -> Result<()> {
    let lab = Lab::new()?;
    let _edge = Edge::start(&lab)?;
    let metrics = scrape(&lab)?;
    for family in [
        "edge_build_info",
        "edge_xdp_attached",
        "edge_packets_total",
        "edge_bytes_total",
        "edge_blocks_active",
        "edge_blocks_added_total",
        "edge_blocks_removed_total",
        "edge_drift_entries",
        "edge_drift_repaired_total",
        "edge_events_lost_total",
        "edge_map_entries",
        "edge_map_capacity",
        "edge_auth_requests_total",
        "edge_offences_total",
        "edge_tls_handshakes_total",
        "edge_block_latency_seconds",
        "edge_store_ok",
        "process_resident_memory_bytes",
    ] {
        ensure!(metrics.has_family(family), "no family {family}");
    }
    Ok(())
}

#[test]
fn every_table_tells_how_full_it_is() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    edge.cli(&["block", "203.0.113.7", "198.51.100.0/24", "2001:db8:99::7", "2001:db8:98::/64", "2001:db8::/33"])?
        .good()?;
    edge.cli(&["allow", "192.0.2.7", "2001:db8:97::7"])?.good()?;
    let metrics = scrape(&lab)?;
    for (map, entries) in
        [(names::BLOCKED4, 1.0), (names::NETS4, 1.0), (names::HOSTS6, 1.0), (names::UNITS6, 1.0), (names::NETS6, 1.0)]
    {
        ensure!(metrics.value("edge_map_entries", &[("map", map)]) == Some(entries), "{map} in {}", metrics.text);
    }
    // Prefixes, and addresses that find no room in their table.
    for map in [names::NETS4, names::NETS6] {
        ensure!(metrics.value("edge_map_capacity", &[("map", map)]) == Some(11_000.0), "{map} in {}", metrics.text);
    }
    for map in [names::TRUST4, names::TRUST6] {
        ensure!(metrics.value("edge_map_entries", &[("map", map)]) > Some(1.0), "{map} in {}", metrics.text);
        ensure!(metrics.value("edge_map_capacity", &[("map", map)]) == Some(65_536.0), "{map} in {}", metrics.text);
    }
    Ok(())
}

#[test]
fn a_blocked_flood_is_counted_at_its_block() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let wire = Wire::new(&lab)?;
    edge.cli(&["block", "10.77.0.96/30"])?.good()?;
    let bytes = send(&wire, FORGED4, 0, 1_000)?;
    counted(&edge, "blocked", 1_000)?;
    let entry = only_block(&edge)?;
    ensure!(entry["packets"] == 1_000 && entry["bytes"] == bytes, "{entry}, sent {bytes} bytes");
    Ok(())
}

/// Sends so many datagrams with this source; gives their bytes.
fn send(wire: &Wire, from: &str, tags: usize, frames: usize) -> Result<usize> {
    let frame = wire.datagram(from.parse::<IpAddr>()?, tags, b"edge")?;
    for _ in 0..frames {
        wire.send(&frame)?;
    }
    Ok(frame.len() * frames)
}

/// Waits until a reason's count is reached, and holds it to being no more than that.
fn counted(edge: &Edge, reason: &str, expected: u64) -> Result<()> {
    let found = wait_for(&format!("{expected} packets to be {reason}"), SOON, || {
        let found = packets(edge, reason)?;
        Ok((found >= expected).then_some(found))
    })?;
    ensure!(found == expected, "{found} packets are {reason}, {expected} were sent");
    Ok(())
}
