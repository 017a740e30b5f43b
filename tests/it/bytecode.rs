//! What the kernel says of the object once it is loaded: names, kinds and sizes as `edge-common` has them, and how long
//! the verifier walked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use edge_common::{
    event::Sampler,
    flow::Flow,
    names,
    rate::LineRates,
    reason::Counters,
    settings::Settings,
    table::{Hits, Line4, LineHost6, LineUnit6, NetEntry, Trust},
    time::ClockSample,
};
use edge_tests::{agent::Edge, bpf::Program, net::Lab, run};
use serde_json::Value;

/// The verifier gives up at a million instructions; a program that comes near breaks on the next kernel.
const INSTRUCTION_BUDGET: u64 = 250_000;

#[test]
fn every_map_is_pinned_with_the_sizes_of_both_sides() -> Result<()> {
    const INDEX: usize = 4;
    // A prefix length, then an address as words of 8 bytes.
    const PREFIX4: usize = 4 + 8;
    const PREFIX6: usize = 4 + 16;
    let rows = [
        (names::SETTINGS, "array", INDEX, size_of::<Settings>()),
        (names::BLOCKED4, "array", INDEX, size_of::<Line4>()),
        (names::HITS4, "array", INDEX, size_of::<Hits>()),
        (names::UNITS6, "array", INDEX, size_of::<LineUnit6>()),
        (names::UNIT_HITS6, "array", INDEX, size_of::<Hits>()),
        (names::HOSTS6, "array", INDEX, size_of::<LineHost6>()),
        (names::HOST_HITS6, "array", INDEX, size_of::<Hits>()),
        (names::AREAS4, "array", INDEX, size_of::<u64>()),
        (names::AREAS6, "array", INDEX, size_of::<u64>()),
        (names::NARROW4, "array", INDEX, size_of::<u64>()),
        (names::NARROW6, "array", INDEX, size_of::<u64>()),
        (names::NETS4, "lpm_trie", PREFIX4, size_of::<NetEntry>()),
        (names::NETS6, "lpm_trie", PREFIX6, size_of::<NetEntry>()),
        (names::TRUST4, "lpm_trie", PREFIX4, size_of::<Trust>()),
        (names::TRUST6, "lpm_trie", PREFIX6, size_of::<Trust>()),
        (names::COUNTERS, "percpu_array", INDEX, size_of::<Counters>()),
        (names::CLOCK, "array", INDEX, size_of::<ClockSample>()),
        (names::PORTS, "array", INDEX, size_of::<u64>()),
        (names::FLOWS, "lru_hash", size_of::<Flow>(), size_of::<u64>()),
        (names::SYN_RATES, "array", INDEX, size_of::<LineRates>()),
        (names::PACKET_RATES, "array", INDEX, size_of::<LineRates>()),
        // A ring buffer has neither key nor value.
        (names::EVENTS, "ringbuf", 0, 0),
        (names::SAMPLED, "array", INDEX, size_of::<u64>()),
        (names::SAMPLER, "percpu_array", INDEX, size_of::<Sampler>()),
    ];
    ensure!(rows.map(|row| row.0) == names::MAPS, "this table is not that of edge-common");
    let lab = Lab::new()?;
    let _edge = Edge::start(&lab)?;
    for (name, kind, key, value) in rows {
        let map = shown("map", &pinned(&lab.pin_path(), name)?)?;
        ensure!(map["type"] == kind, "{name}: {map}");
        ensure!(map["bytes_key"] == key && map["bytes_value"] == value, "{name} is not {key} and {value}: {map}");
    }
    Ok(())
}

#[test]
fn the_program_stays_within_the_verifiers_patience() -> Result<()> {
    let lab = Lab::new()?;
    let _edge = Edge::start_with(&lab, |config| {
        config.set("filter", "exposed_ports", "[\"443/tcp\", \"esp\"]").text("filter", "fragments", "drop");
        config.set("filter.limits", "syns", "{ per_second = 50, burst = 100 }");
        config.set("filter.limits", "packets", "{ per_second = 20000, burst = 40000 }");
    })?;
    let pin = pinned(&lab.pin_path(), names::PROGRAM)?;
    let program = shown("prog", &pin)?;
    ensure!(program["type"] == "xdp" && program["name"] == names::PROGRAM, "{program}");
    ensure!(program["gpl_compatible"] == true, "{program}");
    let verified = Program::pinned(&pin)?.verified_instructions()?;
    println!("the verifier walked {verified} instructions");
    ensure!(verified < INSTRUCTION_BUDGET, "the verifier walked {verified} instructions");
    Ok(())
}

#[test]
fn native_mode_takes_jumbo_frames() -> Result<()> {
    let lab = Lab::new()?;
    lab.host.ip("link set edge-h mtu 9000")?;
    lab.client.ip("link set edge-c mtu 9000")?;
    let edge = Edge::start_with(&lab, |config| {
        config.text("filter", "attach", "native");
    })?;
    let status = edge.json(&["status"])?;
    ensure!(status["interfaces"][0]["mode"] == "native", "{status}");
    Ok(())
}

/// The kernel's word on a pinned thing.
fn shown(kind: &str, path: &Path) -> Result<Value> {
    let text = run(Command::new("bpftool").args(["-j", kind, "show", "pinned"]).arg(path), b"")?.good()?;
    Ok(serde_json::from_str(&text)?)
}

/// The only pin of this name at or below a folder.
pub fn pinned(folder: &Path, name: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    collect(folder, name, &mut found)?;
    ensure!(found.len() == 1, "not one pin {name} below {}: {found:?}", folder.display());
    Ok(found.remove(0))
}

fn collect(folder: &Path, name: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), name, found)?;
        } else if entry.file_name() == name {
            found.push(entry.path());
        }
    }
    Ok(())
}
