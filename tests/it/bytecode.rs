//! What the kernel says of the object once it is loaded: names, kinds and sizes as `edge-common` has them, and how long
//! the verifier walked.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use edge_common::{
    connection::{Counted, LineHeld},
    event::Sampler,
    flow::Flow,
    names,
    opening::LineOpening,
    rate::LineRates,
    reason::Counters,
    settings::Settings,
    table::{Hits, Line4, LineHost6, LineUnit6, NetEntry, Trust},
    time::ClockSample,
};
use edge_tests::{
    agent::Edge,
    bpf::pins,
    net::Lab,
    run,
    verifier::{self, Figures},
};
use serde_json::Value;

#[test]
fn every_map_is_pinned_with_the_sizes_of_both_sides() -> Result<()> {
    const INDEX: usize = 4;
    // A prefix length, then an address as words of 8 bytes.
    const PREFIX4: usize = 4 + 8;
    const PREFIX6: usize = 4 + 16;
    let rows = [
        (names::SETTINGS, "array", INDEX, size_of::<Settings>()),
        (names::BLOCKED4, "array", INDEX, size_of::<Line4>()),
        (names::UNITS6, "array", INDEX, size_of::<LineUnit6>()),
        (names::HOSTS6, "array", INDEX, size_of::<LineHost6>()),
        (names::SPILLED, "hash", size_of::<u64>(), size_of::<Hits>()),
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
        (names::PORTS_CAPPED, "array", INDEX, size_of::<u64>()),
        (names::CONNECTED, "array", INDEX, size_of::<LineHeld>()),
        (names::OPEN, "hash", size_of::<u64>(), size_of::<Counted>()),
        (names::SILENCED, "sockhash", size_of::<u64>(), size_of::<u32>()),
        (names::OPENING, "array", INDEX, size_of::<LineOpening>()),
        (names::EXCESS, "ringbuf", 0, 0),
        (names::TALLY, "array", INDEX, size_of::<u64>()),
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
    let _edge = verifier::start_with_everything(&lab)?;
    let pin = pinned(&lab.pin_path(), names::PROGRAM)?;
    let program = shown("prog", &pin)?;
    ensure!(program["type"] == "xdp" && program["name"] == names::PROGRAM, "{program}");
    ensure!(program["gpl_compatible"] == true, "{program}");
    let figures = Figures::of(&lab.pin_path())?;
    println!("{figures}");
    ensure!(figures.programs.iter().any(|program| program.name == names::PROGRAM), "{figures}");
    ensure!(figures.programs.iter().all(|program| program.instructions > 0 && program.stack_bytes > 0), "{figures}");
    figures.within_patience()
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
    let mut found = pins(folder)?;
    found.retain(|path| path.file_name().is_some_and(|last| last == name));
    ensure!(found.len() == 1, "not one pin {name} below {}: {found:?}", folder.display());
    Ok(found.remove(0))
}
