//! Killed, replaced and interrupted under a flood: what was decided stays enforced, and who is honest stays served. Few
//! rounds by default; variables ask for campaigns (`cargo xtask test soak`).

mod kills;
mod points;

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, Result, ensure};
use edge_tests::agent::Edge;
use serde_json::Value;

/// What `edge list` says of each block, without what counts on.
type Listed = BTreeMap<(String, String), [Value; 3]>;

fn listed(edge: &Edge) -> Result<Listed> {
    let list = edge.json(&["list"])?;
    let text = |entry: &Value, key: &str| Ok::<_, anyhow::Error>(entry[key].as_str().context("no text")?.to_owned());
    let one = |entry: &Value| {
        let said = ["created", "expires", "reason"].map(|key| entry[key].clone());
        Ok(((text(entry, "address")?, text(entry, "origin")?), said))
    };
    list.as_array().context("no list")?.iter().map(one).collect()
}

/// What is decided is what the kernel holds.
fn in_step(edge: &Edge) -> Result<()> {
    let status = edge.json(&["status"])?;
    ensure!(status["drift"] == 0, "{status}");
    let total = |of: &str| status[of]["total"].as_u64().with_context(|| format!("no {of} in {status}"));
    // What has ended is in the tables for at most a second more.
    ensure!(total("enforced")? >= total("blocked")?, "{status}");
    Ok(())
}

/// An address as `edge list` names it.
fn name(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}
