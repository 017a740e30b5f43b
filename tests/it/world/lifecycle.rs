//! Stop, crash, start, unload: what stays in force and what goes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use edge_common::names;
use edge_tests::{
    agent::{Config, Edge},
    bpf::Loaded,
    client::{Client, Seen},
    net::{ATTACKER4, HOST_INTERFACE, Lab, NEIGHBOUR4},
    wait_for,
};
use nix::sys::signal::Signal;

use super::{SOON, served, shut_out};

#[test]
fn a_stop_is_orderly_and_detaches_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    edge.cli(&["block", "10.77.0.2"])?.good()?;
    let program = lab.host.xdp_program(HOST_INTERFACE)?.context("nothing attached")?;
    let begin = Instant::now();
    ensure!(edge.stop()? == 0);
    ensure!(begin.elapsed() < Duration::from_secs(5));
    ensure!(lab.host.xdp_program(HOST_INTERFACE)? == Some(program));
    ensure!(edge.cli(&["status"])?.code == 3);
    shut_out(&Client::new(&lab, &edge, ATTACKER4))?;
    // Nobody listens any more, but the neighbour's packets reach the host.
    ensure!(matches!(Client::new(&lab, &edge, NEIGHBOUR4).get("/health")?, Seen::Failed(_)));
    edge.run()?;
    shut_out(&Client::new(&lab, &edge, ATTACKER4))?;
    served(&Client::new(&lab, &edge, NEIGHBOUR4))
}

#[test]
fn a_stop_during_a_start_is_orderly_too() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    edge.cli(&["block", "10.77.0.2"])?.good()?;
    edge.stop()?;
    edge.cli(&["unload"])?.good()?;
    edge.spawn()?;
    wait_for("the program to be attached", SOON, || lab.host.xdp_program(HOST_INTERFACE))?;
    // The server is being started now.
    ensure!(edge.stop()? == 0, "{}", edge.log());
    ensure!(edge.cli(&["status"])?.code == 3);
    shut_out(&Client::new(&lab, &edge, ATTACKER4))?;
    edge.run()?;
    shut_out(&Client::new(&lab, &edge, ATTACKER4))?;
    served(&Client::new(&lab, &edge, NEIGHBOUR4))
}

#[test]
fn after_a_crash_it_starts_at_once_and_keeps_every_block() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    edge.cli(&["block", "10.77.0.2", "2001:db8:66::/64", "198.51.100.0/24", "--for", "1h"])?.good()?;
    shut_out(&client)?;
    let before = edge.json(&["list"])?;
    for _ in 0..3 {
        edge.kill()?;
        ensure!(lab.host.xdp_program(HOST_INTERFACE)?.is_some(), "a crash detached");
        edge.run()?;
    }
    let after = edge.json(&["list"])?;
    let (before, after) = (before.as_array().context("list")?, after.as_array().context("list")?);
    ensure!(before.len() == 3 && after.len() == 3, "{before:?} {after:?}");
    for (old, new) in before.iter().zip(after) {
        for key in ["address", "origin", "created", "expires"] {
            ensure!(old[key] == new[key], "{old} became {new}");
        }
        ensure!(new["packets"].as_u64() >= old["packets"].as_u64(), "counts went back: {old} became {new}");
    }
    shut_out(&client)
}

#[test]
fn it_is_ready_within_two_seconds_of_a_start_and_of_a_crash() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    for start in 0..4 {
        let begin = Instant::now();
        edge.run()?;
        ensure!(begin.elapsed() < Duration::from_secs(2), "start {start} took {:?}", begin.elapsed());
        edge.cli(&["block", &format!("203.0.113.{start}"), "--for", "1h"])?.good()?;
        edge.kill()?;
    }
    Ok(())
}

#[test]
fn unload_removes_everything_with_and_without_the_agent() -> Result<()> {
    let lab = Lab::new()?;
    // All that edge attaches anywhere: to interfaces both ways, to the root of the cgroups, to sockets.
    let mut edge = Edge::start_with(&lab, |config| {
        config.set("filter", "exposed_ports", "[\"443/tcp\"]").set("filter.limits", "connections", "100_000");
    })?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    edge.cli(&["block", "10.77.0.2"])?.good()?;
    for with_agent in [true, false] {
        if !with_agent {
            edge.run()?;
            shut_out(&client)?;
            edge.kill()?;
        }
        let loaded = Loaded::below(&lab.pin_path())?;
        let [programs, maps, links] = loaded.counts();
        ensure!(programs >= 4 && maps == names::MAPS.len() && links >= 3, "{loaded:?}");
        let begin = Instant::now();
        let said = edge.cli(&["unload"])?.good()?;
        ensure!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        ensure!(
            said.contains(&format!("detached from {HOST_INTERFACE}")) && said.contains("the store keeps"),
            "{said}"
        );
        nothing_left(&lab)?;
        ensure!(client.get("/health")? != Seen::Timeout, "still shut out");
        edge.kill()?;
        // What nobody holds the kernel frees when the last CPU has left it.
        let gone = wait_for("the kernel to have nothing of it", SOON, || Ok(loaded.left()?.is_empty().then_some(())));
        gone.with_context(|| format!("{:?}", loaded.left()))?;
        let again = edge.cli(&["unload"])?.good().context("again")?;
        ensure!(again.trim() == "nothing of edge was attached or pinned", "{again}");
    }
    let log = edge.log();
    for line in ["uid 0, pid ", &format!(": unload: detached from {HOST_INTERFACE}"), "nothing is blocked any more"] {
        ensure!(log.contains(line), "no `{line}` in\n{log}");
    }
    Ok(())
}

#[test]
fn a_server_that_dies_is_started_again() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let (agent, server) = (edge.pid()?, edge.server_pid()?);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(server)?), Signal::SIGKILL)?;
    let again = wait_for("another server", SOON, || Ok(edge.server_pid().ok().filter(|pid| *pid != server)))?;
    wait_for("it to serve", SOON, || Ok(Client::new(&lab, &edge, NEIGHBOUR4).get("/health")?.status()))?;
    ensure!(again != server && edge.pid()? == agent);
    let told = || Ok(edge.log().contains("the server accepts again").then_some(()));
    wait_for("the agent to say so", SOON, told)?;
    ensure!(edge.log().contains("the server ended (signal: 9 (SIGKILL)); it is started again"), "{}", edge.log());
    Ok(())
}

#[test]
fn without_a_server_section_it_filters_and_serves_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::bare(&lab)?;
    filter_only(&mut edge.config);
    edge.run()?;
    edge.cli(&["block", "10.77.0.2"])?.good()?;
    let client = |address| {
        let lab = &lab;
        Client::new(lab, &edge, address)
    };
    std::fs::write(edge.path("cert.pem"), "")?;
    ensure!(client(ATTACKER4).request("/health", &["--insecure", "--connect-timeout", "1.5"])? == Seen::Timeout);
    ensure!(client(NEIGHBOUR4).request("/health", &["--insecure"])? != Seen::Timeout);
    Ok(())
}

#[test]
fn generic_mode_is_named() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        filter_only(config);
        config.text("filter", "attach", "generic");
    })?;
    let status = edge.json(&["status"])?;
    ensure!(status["interfaces"][0]["mode"] == "generic", "{status}");
    let id = lab.host.xdp_program(HOST_INTERFACE)?;
    ensure!(status["interfaces"][0]["program_id"].as_u64() == id && id.is_some(), "{status}, not {id:?}");
    Ok(())
}

/// That no program and no pin is left.
pub fn nothing_left(lab: &Lab) -> Result<()> {
    nothing_left_but(lab, None)
}

/// The same where somebody else's program is attached.
pub fn nothing_left_but(lab: &Lab, foreign: Option<u64>) -> Result<()> {
    let program = lab.host.xdp_program(HOST_INTERFACE)?;
    ensure!(program == foreign, "program {program:?} is still attached");
    let pins: Vec<_> =
        std::fs::read_dir(lab.pin_path()).into_iter().flatten().flatten().map(|pin| pin.path()).collect();
    ensure!(pins.is_empty(), "still pinned: {pins:?}");
    Ok(())
}

/// Leaves out what serves.
pub fn filter_only(config: &mut Config) {
    config.without("server").without("auth");
}

#[test]
fn a_config_that_names_another_socket_than_the_agent_has_says_what_to_do() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start_with(&lab, filter_only)?;
    let former = edge.path("edge.sock").display().to_string();
    let other = edge.path("other.sock");
    edge.config.text("admin", "socket", &other);
    edge.write_config()?;
    for command in ["reload", "status"] {
        let told = edge.cli(&[command])?;
        ensure!(told.code == 3 && told.stderr.contains("`admin.socket` was changed"), "{told:?}");
        ensure!(told.stderr.contains("restart it") && told.stderr.contains(&other.display().to_string()), "{told:?}");
    }
    let refused = edge.cli(&["reload", "--socket", &former])?;
    ensure!(refused.code == 1 && refused.stderr.contains("restart the agent"), "{refused:?}");
    Ok(())
}
