//! A server that does not end but hangs: it is killed and another takes its place, and it does not outlive its agent.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use edge_tests::{
    agent::Edge,
    client::Client,
    net::{Lab, NEIGHBOUR4},
    wait_for,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{SOON, served};

/// It says something every second, and some of them may be lost on a machine that is busy.
const NOTICED: Duration = Duration::from_secs(30);

fn stop(server: u32) -> Result<()> {
    Ok(kill(Pid::from_raw(server.try_into()?), Signal::SIGSTOP)?)
}

fn is_gone(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ")
}

#[test]
fn a_server_that_hangs_is_killed_and_replaced() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    let server = edge.server_pid()?;
    stop(server)?;
    wait_for("another server", NOTICED, || Ok(edge.server_pid().ok().filter(|pid| *pid != server)))?;
    served(&client)?;
    ensure!(is_gone(server), "the former server is still there");
    ensure!(edge.log().contains("has said nothing for"), "{}", edge.log());
    Ok(())
}

#[test]
fn a_server_that_hangs_does_not_outlive_its_agent() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let server = edge.server_pid()?;
    stop(server)?;
    edge.kill()?;
    wait_for("its end", SOON, || Ok(is_gone(server).then_some(())))?;
    // Its port is free.
    edge.run()?;
    served(&Client::new(&lab, &edge, NEIGHBOUR4))
}
