//! Somebody else writes the kernel's tables while the agent runs: within seconds it is undone, counted and said.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use edge_common::{names, table::NetEntry, time::Until};
use edge_tests::{
    agent::Edge,
    bpf,
    client::{Client, scrape},
    net::{ATTACKER4, ATTACKER6, Lab, NEIGHBOUR4},
    run, wait_for,
};
use serde_json::Value;

use super::{SOON, served, shut_out};

/// Between 4 and 5 s, on a machine that does other things too.
const UNDONE: Duration = Duration::from_secs(20);

/// An agent that blocks the attacker, by its address or by a prefix, and allows and exposes something.
fn start(lab: &Lab, blocked: &str) -> Result<Edge> {
    let edge = Edge::start_with(lab, |config| {
        config.set("filter", "exposed_ports", "[\"443/tcp\"]").set("filter", "allow", "[\"203.0.113.9\"]");
    })?;
    edge.cli(&["block", blocked, "198.51.100.0/24", "2001:db8:77::/64"])?.good()?;
    Ok(edge)
}

/// Changes something, and waits until it is as before and one of this kind is counted.
fn is_undone(kind: &str, blocked: &str, change: impl FnOnce(&Lab) -> Result<usize>) -> Result<()> {
    let lab = Lab::new()?;
    let edge = start(&lab, blocked)?;
    let attacker = if blocked.contains(':') { ATTACKER6 } else { ATTACKER4 };
    let (attacker, neighbour) = (Client::new(&lab, &edge, attacker), Client::new(&lab, &edge, NEIGHBOUR4));
    shut_out(&attacker)?;
    ensure!(change(&lab)? > 0, "there was nothing to change");
    let repaired = || scrape(&lab)?.value("edge_drift_repaired_total", &[("kind", kind)]).context("no such kind");
    wait_for("the repair", UNDONE, || Ok((repaired()? > 0.0).then_some(())))?;
    shut_out(&attacker)?;
    served(&neighbour)?;
    let status = edge.json(&["status"])?;
    ensure!(status["drift"] == 0 && status["enforced"]["total"] == 3, "{status}");
    ensure!(edge.log().contains("changed from outside"), "{}", edge.log());
    // And is not undone again and again.
    let once = repaired()?;
    let list = edge.json(&["list"])?;
    ensure!(list.as_array().is_some_and(|list| list.len() == 3), "{list}");
    wait_for("two more comparisons", UNDONE, || {
        Ok((edge.json(&["status"])?["uptime_seconds"].as_f64() > Some(14.0)).then_some(()))
    })?;
    ensure!(repaired()? == once);
    Ok(())
}

#[test]
fn a_block_that_was_taken_out() -> Result<()> {
    is_undone("block", "10.77.0.2", |lab| wipe(lab, names::BLOCKED4))
}

#[test]
fn a_prefix_that_was_taken_out() -> Result<()> {
    is_undone("block", "2001:db8:66::/65", |lab| wipe(lab, names::NETS6))
}

#[test]
fn a_prefix_that_was_put_in() -> Result<()> {
    is_undone("block", "10.77.0.2/32", |lab| {
        let entry = NetEntry::new(Until::NEVER, Until::NEVER, Default::default());
        let key = hex(&[32, 0, 0, 0, 198, 51, 100, 7, 0, 0, 0, 0]);
        let value = hex(&[&entry.ends.to_ne_bytes()[..], &[0; 16]].concat());
        changed(&lab.generation()?.join(names::NETS4), "update", &key, Some(&value)).map(|()| 1)
    })
}

#[test]
fn an_allow_list_that_was_taken_out() -> Result<()> {
    is_undone("prefix", "10.77.0.2", |lab| wipe(lab, names::TRUST4))
}

#[test]
fn the_flags_by_which_prefixes_are_found() -> Result<()> {
    is_undone("prefix", "2001:db8:66::/65", |lab| wipe(lab, names::AREAS6))
}

#[test]
fn the_narrow_bits_by_which_prefixes_are_found() -> Result<()> {
    is_undone("prefix", "2001:db8:66::/65", |lab| wipe(lab, names::NARROW6))
}

#[test]
fn settings() -> Result<()> {
    is_undone("settings", "10.77.0.2", |lab| wipe(lab, names::SETTINGS))
}

#[test]
fn ports() -> Result<()> {
    is_undone("settings", "10.77.0.2", |lab| wipe(lab, names::PORTS))
}

#[test]
fn a_count_of_connections_that_was_detached_goes_on() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        config.set("filter.limits", "connections", "100000");
    })?;
    let pin = super::super::bytecode::pinned(&lab.pin_path(), "edge_count_link")?;
    bpf::detach_link(&pin)?;
    let repaired = || scrape(&lab)?.value("edge_drift_repaired_total", &[("kind", "detached")]).context("no such kind");
    wait_for("the repair", SOON, || Ok((repaired()? > 0.0).then_some(())))?;
    served(&Client::new(&lab, &edge, NEIGHBOUR4))
}

/// Takes everything out of a map: entries of a trie, values of an array. How many there were.
pub fn wipe(lab: &Lab, name: &str) -> Result<usize> {
    let pin = lab.generation()?.join(name);
    let dump = run(Command::new("bpftool").args(["-j", "map", "dump", "pinned"]).arg(&pin), b"")?.good()?;
    let entries: Vec<Value> = serde_json::from_str(&dump)?;
    let is_trie = name.starts_with("NETS") || name.starts_with("TRUST");
    let mut wiped = 0;
    for entry in &entries {
        let bytes = |part: &str| -> Result<Vec<String>> {
            let bytes = entry[part].as_array().with_context(|| format!("no {part} in {entry}"))?;
            Ok(bytes.iter().filter_map(Value::as_str).map(|byte| byte.trim_start_matches("0x").to_owned()).collect())
        };
        let (key, value) = (bytes("key")?, bytes("value")?);
        let done = if is_trie {
            changed(&pin, "delete", &key, None)
        } else if value.iter().any(|byte| byte != "00") {
            changed(&pin, "update", &key, Some(&vec!["00".to_owned(); value.len()][..]))
        } else {
            continue;
        };
        match done {
            Ok(()) => wiped += 1,
            // It was noticed already, and there are other tables now.
            Err(_) if !pin.exists() => break,
            // It ended meanwhile, and the agent took it out.
            Err(error) if is_trie && error.to_string().contains("delete failed: No such file") => {}
            Err(error) => return Err(error),
        }
    }
    Ok(wiped)
}

fn changed(pin: &Path, what: &str, key: &[String], value: Option<&[String]>) -> Result<()> {
    let mut command = Command::new("bpftool");
    command.args(["map", what, "pinned"]).arg(pin).args(["key", "hex"]).args(key);
    if let Some(value) = value {
        command.args(["value", "hex"]).args(value);
    }
    run(&mut command, b"")?.good().map(drop)
}

fn hex(bytes: &[u8]) -> Vec<String> {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
