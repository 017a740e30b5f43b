//! What the server, which strangers talk to, has in its hands: nothing.

use anyhow::{Result, ensure};
use edge_tests::{
    agent::Edge,
    client::{descriptors, process_status},
    net::Lab,
};

#[test]
fn the_server_has_no_capability_no_map_and_another_user() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let server = edge.server_pid()?;
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"] {
        ensure!(process_status(server, set)?.trim_start_matches('0').is_empty(), "{set} is not empty");
    }
    for ids in ["Uid", "Gid"] {
        let found = process_status(server, ids)?;
        ensure!(found.split_whitespace().all(|id| id != "0"), "{ids}: {found}");
    }
    ensure!(process_status(server, "Groups")?.split_whitespace().all(|group| group != "0"));
    ensure!(process_status(server, "NoNewPrivs")? == "1");
    ensure!(process_status(server, "Seccomp")? == "2", "no seccomp filter");

    let held = descriptors(server)?;
    ensure!(held.iter().any(|name| name.starts_with("socket:")), "{held:?}");
    for name in &held {
        ensure!(!name.contains("bpf"), "the server holds {name}");
        ensure!(!name.ends_with("/edge.db"), "the server holds the agent's store: {name}");
    }
    let agents = descriptors(edge.pid()?)?;
    ensure!(agents.iter().any(|name| name.contains("bpf-map")), "this test sees no map where there is one: {agents:?}");
    Ok(())
}

#[test]
fn the_server_cannot_open_the_stores_and_secrets_of_the_agent() -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    for name in ["edge.db", "jwt", "key.pem"] {
        let meta = std::fs::metadata(edge.path(name))?;
        ensure!(meta.uid() == 0 && meta.mode() & 0o077 == 0, "{name}: uid {}, mode {:o}", meta.uid(), meta.mode());
    }
    let socket = std::fs::metadata(edge.path("edge.sock"))?;
    ensure!(socket.mode() & 0o007 == 0, "everybody may use the admin socket: {:o}", socket.mode());
    Ok(())
}

#[test]
fn the_server_ends_with_its_agent() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let server = edge.server_pid()?;
    edge.kill()?;
    edge_tests::wait_for("the server to end", super::SOON, || {
        let gone = process_status(server, "State").map_or(true, |state| state.starts_with('Z'));
        Ok(gone.then_some(()))
    })
}
