//! Where no store was made yet: who only reads makes none, nor does a start that is refused.

use std::{fs, net::TcpListener};

use anyhow::{Result, ensure};
use edge_tests::{
    agent::Edge,
    net::{HOST_INTERFACE, Lab},
};

use super::{FOREIGN, attach_foreign, lifecycle::filter_only};

/// One whose store is in a directory that nobody has made.
fn storeless(lab: &Lab) -> Result<Edge> {
    let mut edge = Edge::bare(lab)?;
    filter_only(&mut edge.config);
    let store = edge.path("not/made/edge.db");
    edge.config.text("store", "path", store);
    edge.write_config()?;
    Ok(edge)
}

fn is_unmade(edge: &Edge) -> Result<()> {
    ensure!(!edge.path("not").exists(), "something is left in {}", edge.path("not").display());
    Ok(())
}

#[test]
fn a_command_that_reads_makes_no_store() -> Result<()> {
    let lab = Lab::new()?;
    let edge = storeless(&lab)?;
    let backup = edge.path("backup").display().to_string();
    for (command, code) in [
        (&["key", "list"][..], 0),
        (&["user", "list"], 0),
        (&["session", "list"], 0),
        (&["session", "end", "0000000000000001"], 1),
        (&["token", "revoke-all"], 1),
        (&["list"], 3),
        (&["why", "203.0.113.7"], 3),
        (&["backup", &backup], 0),
    ] {
        let output = edge.cli(command)?;
        ensure!(output.code == code && output.stderr.lines().count() <= 1, "{command:?}: {output:?}");
        is_unmade(&edge)?;
        let names_itself = output.stderr.contains(&format!("`edge run --config {}`", edge.path("edge.toml").display()));
        ensure!(code != 3 || output.stderr.contains("nothing is filtered or blocked") && names_itself, "{output:?}");
    }
    for lists in ["key", "user", "session"] {
        ensure!(edge.json(&[lists, "list"])? == serde_json::json!([]), "{lists}");
    }
    Ok(())
}

#[test]
fn a_start_that_is_refused_leaves_no_store() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = storeless(&lab)?;
    let in_vain = |edge: &mut Edge, named: &str| {
        let output = edge.run_in_vain()?;
        ensure!(output.code != 0 && output.stderr.contains(named), "{output:?}");
        is_unmade(edge)
    };
    attach_foreign(&lab, HOST_INTERFACE, "xdpgeneric")?;
    in_vain(&mut edge, FOREIGN)?;
    lab.host.ip(&format!("link set dev {HOST_INTERFACE} xdpgeneric off"))?;
    let taken: TcpListener = lab.host.within(|| Ok(TcpListener::bind("127.0.0.1:9464")?))?;
    in_vain(&mut edge, "metrics.listen")?;
    drop(taken);
    // Found out once everything else is in its place.
    fs::create_dir(edge.path("edge.sock"))?;
    in_vain(&mut edge, "edge.sock")?;
    edge.config.set("filter", "nonsense", "1");
    in_vain(&mut edge, "nonsense")
}
