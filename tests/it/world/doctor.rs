//! `edge doctor`: what it says of interfaces, and that it agrees with what `edge run` would do.

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    net::{HOST_INTERFACE, Lab},
};
use serde_json::{Value, json};

use super::{FOREIGN, attach_foreign, lifecycle::filter_only};

#[test]
fn what_edge_filters_is_known_as_its_own_agent_running_or_not() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start_with(&lab, filter_only)?;
    let program = lab.host.xdp_program(HOST_INTERFACE)?;
    for _ in 0..2 {
        let (code, found) = looked(&edge)?;
        ensure!(code == 0 && found["result"] == "ok", "exit code {code}: {found}");
        let attached = &found["interface"]["attached"];
        ensure!(attached["edge"] == true && attached["id"].as_u64() == program, "{found}");
        edge.kill()?;
    }
    Ok(())
}

#[test]
fn xdp_modes_and_a_foreign_program_are_named() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::bare(&lab)?;
    filter_only(&mut edge.config);
    edge.write_config()?;
    let (code, found) = looked(&edge)?;
    ensure!(code == 0 && found["interface"]["attached"].is_null(), "exit code {code}: {found}");
    // A veth has native mode; kernels before 6.3 do not say.
    ensure!([json!(true), Value::Null].contains(&found["interface"]["native"]), "{found}");

    let owner = attach_foreign(&lab, HOST_INTERFACE, "xdpgeneric")?;
    let (code, found) = looked(&edge)?;
    let expected = json!({"id": owner, "name": FOREIGN, "mode": "generic", "edge": false});
    ensure!(code == 1 && found["interface"]["attached"] == expected, "exit code {code}: {found}");
    ensure!(found["message"].as_str().is_some_and(|message| message.contains(FOREIGN)), "{found}");
    Ok(())
}

#[test]
fn whom_the_server_would_become_is_named_where_there_is_one() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let about_users = |edge: &Edge| -> Result<Vec<Value>> {
        let (_, document) = edge.json_any(&["doctor"])?;
        let checks = document["checks"].as_array().context("no checks")?;
        Ok(checks.iter().filter(|one| one["check"] == "user").cloned().collect())
    };
    let found = about_users(&edge)?;
    let own = std::fs::read_to_string("/etc/passwd")?.lines().any(|line| line.starts_with("edge-server:"));
    let expected = if own { ("ok", "edge-server") } else { ("hint", "useradd") };
    let told = found.first().context("nothing on users")?;
    ensure!(told["result"] == expected.0, "{told}");
    ensure!(told["message"].as_str().is_some_and(|message| message.contains(expected.1)), "{told}");
    filter_only(&mut edge.config);
    edge.write_config()?;
    ensure!(about_users(&edge)?.is_empty());
    Ok(())
}

#[test]
fn auto_without_a_default_route_is_a_hint_as_it_hinders_no_start() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::bare(&lab)?;
    filter_only(&mut edge.config);
    edge.config.set("filter", "interfaces", "[\"auto\"]");
    edge.run()?;
    let (code, found) = looked(&edge)?;
    ensure!(code == 0 && found["result"] == "hint", "exit code {code}: {found}");
    edge.kill()?;
    lab.host.ip(&format!("route add default via 10.77.0.2 dev {HOST_INTERFACE}"))?;
    let (code, found) = looked(&edge)?;
    ensure!(code == 0 && found["interface"]["name"] == HOST_INTERFACE, "exit code {code}: {found}");
    Ok(())
}

#[test]
fn that_open_connections_can_be_closed_is_tried_out() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::bare(&lab)?;
    filter_only(&mut edge.config);
    edge.write_config()?;
    let (_, document) = edge.json_any(&["doctor"])?;
    let checks = document["checks"].as_array().context("no checks")?;
    let told = checks.iter().find(|one| one["check"] == "sock_destroy").context("nothing on closing")?;
    ensure!(told["result"] == "ok", "{told}");
    Ok(())
}

/// Exit code, and what is said of the one interface.
fn looked(edge: &Edge) -> Result<(i32, Value)> {
    let (code, document) = edge.json_any(&["doctor"])?;
    let checks = document["checks"].as_array().context("no checks")?;
    let mut found = checks.iter().filter(|one| one["check"] == "interface");
    let one = found.next().context("nothing on interfaces")?;
    ensure!(found.next().is_none(), "more than one finding: {document}");
    Ok((code, one.clone()))
}
