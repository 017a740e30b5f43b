//! `edge reload` and SIGHUP: all of a new `[filter]` or nothing of it, and no gap between the two.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    Output,
    agent::Edge,
    bpf::Program,
    client::{Client, Wire, scrape},
    net::{ATTACKER4, ATTACKER6, HOST_INTERFACE, HOST6, Lab, NEIGHBOUR4, NEIGHBOUR6},
    wait_for,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{FOREIGN, SOON, lifecycle::filter_only, packets, served, shut_out};

fn reload(edge: &Edge) -> Result<Output> {
    edge.write_config()?;
    edge.cli(&["reload"])
}

fn state(edge: &Edge) -> Result<Value> {
    Ok(edge.json(&["status"])?["reload"].clone())
}

#[test]
fn what_changed_is_in_force_when_the_command_returns() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let (client, neighbour) = (Client::new(&lab, &edge, ATTACKER4), Client::new(&lab, &edge, NEIGHBOUR4));
    edge.cli(&["block", "198.51.100.7", "--for", "1h"])?.good()?;
    let before = edge.json(&["list"])?;
    edge.config.set("filter", "block", &format!("[\"{ATTACKER4}\"]")).set("filter", "fragments", "\"drop\"");
    edge.write_config()?;
    let done = edge.json(&["reload"])?;
    ensure!(done["applied"] == json!(["filter.fragments", "filter.block"]), "{done}");
    ensure!(done["last_result"] == "ok" && done["generation"] == 2, "{done}");
    shut_out(&client)?;
    served(&neighbour)?;
    let first = named(&edge)?;
    ensure!(first["address"] == "10.77.0.2/32" && first["packets"].as_u64() > Some(0), "{first}");

    // Another list: what stays is as old as it was, its count goes on, and what is gone is served.
    edge.config.set("filter", "block", &format!("[\"{ATTACKER4}\", \"{ATTACKER6}\"]"));
    edge.config.set("filter", "max_blocked", "500").set("filter", "max_prefixes", "2_000");
    reload(&edge)?.good()?;
    let still = edge.json(&["list", "--origin", "config"])?;
    let still = still.as_array().and_then(|all| all.iter().find(|one| one["address"] == "10.77.0.2/32"));
    let still = still.context("no longer listed")?;
    ensure!(still["created"] == first["created"] && still["packets"].as_u64() >= first["packets"].as_u64(), "{still}");
    shut_out(&Client::new(&lab, &edge, ATTACKER6))?;
    edge.config.set("filter", "block", "[]").set("filter", "allow", "[\"198.51.100.0/24\"]");
    reload(&edge)?.good()?;
    served(&client)?;
    ensure!(edge.cli(&["block", "198.51.100.8"])?.code == 1, "what is allowed was blocked");
    ensure!(edge.json(&["list"])? == before, "another's block changed");

    let status = edge.json(&["status"])?;
    ensure!(status["reload"] == json!({"generation": 4, "last_result": "ok"}) && status["drift"] == 0, "{status}");
    let again = edge.cli(&["reload"])?;
    ensure!(again.code == 0 && again.stdout.contains("nothing"), "{again:?}");
    ensure!(state(&edge)?["generation"] == 5);
    // And all of it through a stop.
    edge.stop()?;
    edge.run()?;
    ensure!(edge.json(&["list"])? == before);
    Ok(())
}

/// The block that the config names.
fn named(edge: &Edge) -> Result<Value> {
    let listed = edge.json(&["list", "--origin", "config"])?;
    listed.get(0).cloned().with_context(|| listed.to_string())
}

#[test]
fn a_dry_run_begins_and_ends_by_a_reload() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    edge.cli(&["block", &ATTACKER4.to_string()])?.good()?;
    shut_out(&client)?;
    let why = |code: i32, verdict: &str, dry: bool| -> Result<()> {
        let (found, why) = edge.json_any(&["why", &ATTACKER4.to_string()])?;
        ensure!(found == code && why["verdict"] == verdict && why["reason"] == "blocked", "{found}: {why}");
        ensure!(why["dry_run"] == dry, "{why}");
        Ok(())
    };
    why(1, "drop", false)?;
    ensure!(edge.json(&["status"])?["dry_run"] == false);
    ensure!(scrape(&lab)?.value("edge_dry_run", &[]) == Some(0.0));

    edge.config.set("filter", "dry_run", "true");
    reload(&edge)?.good()?;
    let dropped = edge.json(&["status"])?["packets"]["dropped"].clone();
    served(&client)?;
    let (code, verdict) = edge.json_any(&["why", &ATTACKER4.to_string()])?;
    ensure!(code == 0 && verdict["verdict"] == "pass" && verdict["dry_run"] == true, "{verdict}");
    ensure!(edge.cli(&["why", &ATTACKER4.to_string()])?.stdout.contains("dry run"));
    let status = edge.json(&["status"])?;
    ensure!(status["dry_run"] == true && status["packets"]["dropped"] == dropped, "{status}");
    ensure!(edge.cli(&["status"])?.stdout.contains("nothing is dropped"));
    ensure!(scrape(&lab)?.value("edge_dry_run", &[]) == Some(1.0));

    edge.config.set("filter", "dry_run", "false");
    reload(&edge)?.good()?;
    shut_out(&client)?;
    ensure!(edge.json(&["status"])?["dry_run"] == false);
    Ok(())
}

#[test]
fn what_is_not_good_changes_nothing_and_every_reason_is_told() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    edge.cli(&["block", "198.51.100.7", "198.51.100.0/24"])?.good()?;
    let (good, program) = (edge.config.clone(), lab.host.xdp_program(HOST_INTERFACE)?);
    fs::write(edge.path("weak"), "short")?;
    let weak = format!("{:?}", edge.path("weak"));
    type Changes<'a> = &'a [(&'a str, &'a str, &'a str)];
    let rows: [(i32, Changes<'_>, &[&str]); 8] = [
        (
            2,
            &[("filter", "max_blocked", "0"), ("learn", "window", "\"soon\"")],
            &["edge.toml:", "max_blocked", "window"],
        ),
        (2, &[("filter", "blok", "[]"), ("filter", "block", "7")], &["filter.blok", "filter.block"]),
        (2, &[("auth", "secret_file", &weak)], &["auth.secret_file"]),
        (
            1,
            &[("filter", "pin_path", "\"/sys/fs/bpf/x\""), ("admin", "group", "\"x\"")],
            &["edge.toml:", "pin_path", "group"],
        ),
        (1, &[("store", "path", "\"/x.db\"")], &["store.path"]),
        (2, &[("store", "path", "\"/x.db\""), ("filter", "allow", "7")], &["store.path", "filter.allow"]),
        (1, &[("filter", "interfaces", "[\"edge-h\", \"none\"]")], &["none", "nothing was changed"]),
        (
            1,
            &[("filter", "max_prefixes", "1"), ("filter", "block", "[\"192.0.2.0/24\"]")],
            &["max_prefixes", "nothing was"],
        ),
    ];
    for (code, changes, words) in rows {
        edge.config = good.clone();
        for (section, key, value) in changes {
            edge.config.set(section, key, value);
        }
        let output = reload(&edge)?;
        ensure!(output.code == code, "{changes:?}: {output:?}");
        for word in words {
            ensure!(output.stderr.contains(word), "{changes:?}: no `{word}` in {}", output.stderr);
        }
        let (again, document) = edge.json_any(&["reload"])?;
        ensure!(again == code && document["error"]["message"].is_string(), "{document}");
        ensure!(state(&edge)? == json!({"generation": 1, "last_result": "refused"}), "{changes:?}");
        ensure!(lab.host.xdp_program(HOST_INTERFACE)? == program, "{changes:?}: another program is in force");
    }
    ensure!(edge.json(&["list"])?.as_array().map(Vec::len) == Some(2));
    // What was refused leaves nothing behind, and the next one is as any other.
    edge.config = good;
    edge.config.set("filter", "fragments", "\"drop\"");
    reload(&edge)?.good()?;
    ensure!(state(&edge)? == json!({"generation": 2, "last_result": "ok"}));
    let generations = fs::read_dir(lab.pin_path())?.flatten().filter(|pin| pin.path().is_dir()).count();
    ensure!(generations == 1 && edge.json(&["status"])?["drift"] == 0, "{generations} generations are pinned");
    Ok(())
}

#[test]
fn metrics_tell_whether_and_when() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let told = || -> Result<(f64, f64)> {
        let metrics = scrape(&lab)?;
        let successful = metrics.value("edge_config_last_reload_successful", &[]).context("no family")?;
        let since = metrics.value("edge_config_last_reload_success_timestamp_seconds", &[]).context("no family")?;
        Ok((successful, since))
    };
    let (successful, started) = told()?;
    let now = jiff::Timestamp::now().as_millisecond() as f64 / 1000.0;
    ensure!(successful == 1.0 && (0.0..60.0).contains(&(now - started)), "{started}, and now it is {now}");
    edge.config.set("filter", "max_blocked", "0");
    ensure!(reload(&edge)?.code == 2 && told()? == (0.0, started));
    edge.config.set("filter", "max_blocked", "500");
    reload(&edge)?.good()?;
    let (successful, since) = told()?;
    ensure!(successful == 1.0 && since > started, "{since}");
    Ok(())
}

#[test]
fn what_it_costs_is_said() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start_with(&lab, |config| {
        config.set("filter.limits", "syns", "{ per_second = 1, burst = 2 }");
    })?;
    let opened = |edge: &Edge| -> Result<bool> {
        let seen = Client::new(&lab, edge, ATTACKER4).request("/health", &["--connect-timeout", "0.3"])?;
        Ok(seen.status() == Some(200))
    };
    let exhausted = |edge: &Edge| wait_for("the limit", SOON, || Ok((!opened(edge)?).then_some(())));
    // Nothing that is limited changes: who has used up its rate has no more of it.
    edge.config.set("filter", "fragments", "\"drop\"");
    exhausted(&edge)?;
    let kept = reload(&edge)?;
    let costs = |said: &str| said.contains("begins anew") || said.contains("forgotten");
    ensure!(kept.code == 0 && !costs(&kept.stderr), "{kept:?}");
    let refused = packets(&edge, "syn_rate")?;
    exhausted(&edge)?;
    ensure!(packets(&edge, "syn_rate")? > refused);
    edge.config.set("filter", "max_tracked", "1_000").set("filter", "ipv6_unit", "56");
    let lost = reload(&edge)?;
    ensure!(lost.code == 0 && lost.stderr.contains("filter.max_tracked and filter.ipv6_unit"), "{lost:?}");
    ensure!(lost.stderr.contains("begins anew") && lost.stderr.contains("forgotten"), "{lost:?}");
    ensure!(opened(&edge)?, "the state was kept");
    Ok(())
}

#[test]
fn the_server_bounds_clients_by_the_new_unit() -> Result<()> {
    let lab = Lab::new()?;
    // A client may have a quarter of the handshakes.
    let mut edge = Edge::start_with(&lab, |config| {
        config.set("server", "max_handshakes", "4");
    })?;
    let neighbour = Client::new(&lab, &edge, NEIGHBOUR6);
    let greets_never = || super::connect(&lab, ATTACKER6, SocketAddr::new(HOST6, 443));
    let first = greets_never()?;
    served(&neighbour)?;
    drop(first);
    edge.config.set("filter", "ipv6_unit", "56");
    reload(&edge)?;
    let _held = greets_never()?;
    wait_for("the neighbour to be refused", SOON, || {
        Ok((neighbour.request("/health", &["--max-time", "2"])?.status() != Some(200)).then_some(()))
    })
}

#[test]
fn a_hangup_is_a_reload_and_the_log_has_its_result() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    edge.config.set("filter", "block", &format!("[\"{ATTACKER4}\"]"));
    edge.write_config()?;
    // The whole group: the server is not ended by it either.
    edge.signal_group(Signal::SIGHUP)?;
    wait_for("the reload", SOON, || Ok((state(&edge)?["generation"] == 2).then_some(())))?;
    shut_out(&Client::new(&lab, &edge, ATTACKER4))?;
    ensure!(edge.log().contains("SIGHUP: reload: ok: filter.block"), "{}", edge.log());
    edge.config.set("filter", "block", "7").set("learn", "window", "0");
    edge.write_config()?;
    edge.signal_group(Signal::SIGHUP)?;
    wait_for("the refusal", SOON, || Ok((state(&edge)?["last_result"] == "refused").then_some(())))?;
    let log = edge.log();
    ensure!(log.contains("filter.block: ") && log.contains("learn.window: "), "{log}");
    shut_out(&Client::new(&lab, &edge, ATTACKER4))?;
    served(&Client::new(&lab, &edge, NEIGHBOUR4))?;
    ensure!(edge.stop()? == 0);
    Ok(())
}

#[test]
fn interfaces_come_and_go_and_one_that_is_taken_undoes_all() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start_with(&lab, filter_only)?;
    edge.cli(&["block", &ATTACKER4.to_string()])?.good()?;
    lab.host.ip("link add edge-x type veth peer name edge-y")?;
    let both = format!("[\"{HOST_INTERFACE}\", \"edge-x\"]");
    edge.config.set("filter", "interfaces", &both);
    reload(&edge)?.good()?;
    filtered(&lab, &edge, &[HOST_INTERFACE, "edge-x"])?;
    edge.config.set("filter", "interfaces", &format!("[\"{HOST_INTERFACE}\"]"));
    edge.write_config()?;
    edge.cli(&["reload"])?.good()?;
    filtered(&lab, &edge, &[HOST_INTERFACE])?;

    let pin = Path::new("/sys/fs/bpf").join(format!("{}-foreign", lab.name));
    Program::passing(FOREIGN)?.pin(&pin)?;
    let attached = lab.host.ip(&format!("link set dev edge-x xdpgeneric pinned {}", pin.display()));
    fs::remove_file(&pin)?;
    attached?;
    let program = lab.host.xdp_program(HOST_INTERFACE)?;
    edge.config.set("filter", "interfaces", &both).set("filter", "fragments", "\"drop\"");
    let refused = reload(&edge)?;
    ensure!(refused.code == 1 && refused.stderr.contains("edge-x") && refused.stderr.contains(FOREIGN), "{refused:?}");
    ensure!(lab.host.xdp_program(HOST_INTERFACE)? == program, "another program is in force");
    // What is in force is still what the commands write.
    let status = edge.json(&["status"])?;
    ensure!(status["drift"] == 0 && status["interfaces"].as_array().map(Vec::len) == Some(1), "{status}");
    let before = packets(&edge, "blocked")?;
    Wire::new(&lab).and_then(|wire| wire.send(&wire.datagram(ATTACKER4, 0, &[0; 22])?))?;
    wait_for("the drop to be counted", SOON, || Ok((packets(&edge, "blocked")? > before).then_some(())))?;
    edge.cli(&["unblock", &ATTACKER4.to_string()])?.good()?;
    let passed = packets(&edge, "passed")?;
    Wire::new(&lab).and_then(|wire| wire.send(&wire.datagram(ATTACKER4, 0, &[0; 22])?))?;
    wait_for("the datagram to pass", SOON, || Ok((packets(&edge, "passed")? > passed).then_some(())))
}

#[test]
fn another_mode_is_taken_or_all_is_as_it_was() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start_with(&lab, filter_only)?;
    edge.cli(&["block", &ATTACKER4.to_string()])?.good()?;
    let modes = |edge: &Edge| -> Result<Vec<String>> {
        let status = edge.json(&["status"])?;
        let mode = |one: &Value| one["mode"].as_str().map(str::to_owned);
        Ok(status["interfaces"].as_array().context("no list")?.iter().filter_map(mode).collect())
    };
    let is_dropped = |edge: &Edge| -> Result<()> {
        let (wire, before) = (Wire::new(&lab)?, packets(edge, "blocked")?);
        wire.send(&wire.datagram(ATTACKER4, 0, &[0; 22])?)?;
        wait_for("the drop to be counted", SOON, || Ok((packets(edge, "blocked")? > before).then_some(())))
    };
    ensure!(modes(&edge)? == ["native"]);
    for mode in ["generic", "native"] {
        edge.config.text("filter", "attach", mode);
        let output = reload(&edge)?;
        ensure!(output.code == 0 && output.stderr.contains("filter.attach"), "{output:?}");
        ensure!(modes(&edge)? == [mode]);
        is_dropped(&edge)?;
    }
    // One that has no native mode, and stands behind the other.
    lab.host.ip("link add edge-x type bridge")?;
    edge.config
        .set("filter", "interfaces", &format!("[\"{HOST_INTERFACE}\", \"edge-x\"]"))
        .text("filter", "attach", "auto");
    reload(&edge)?.good()?;
    ensure!(modes(&edge)? == ["native", "generic"]);
    edge.config.text("filter", "attach", "generic");
    reload(&edge)?.good()?;
    let program = lab.host.xdp_program(HOST_INTERFACE)?;
    edge.config.text("filter", "attach", "native");
    let refused = reload(&edge)?;
    ensure!(refused.code == 1 && refused.stderr.contains("edge-x"), "{refused:?}");
    ensure!(modes(&edge)? == ["generic", "generic"] && lab.host.xdp_program(HOST_INTERFACE)? == program);
    is_dropped(&edge)?;
    // And by a start.
    edge.stop()?;
    edge.config.set("filter", "interfaces", &format!("[\"{HOST_INTERFACE}\"]"));
    edge.run()?;
    ensure!(modes(&edge)? == ["native"]);
    is_dropped(&edge)
}

/// That these interfaces have a program, and that the agent says so.
fn filtered(lab: &Lab, edge: &Edge, names: &[&str]) -> Result<()> {
    let status = edge.json(&["status"])?;
    let found: Vec<_> = status["interfaces"].as_array().context("no list")?.iter().map(|one| &one["name"]).collect();
    ensure!(found == names, "{status}");
    for name in [HOST_INTERFACE, "edge-x"] {
        ensure!(lab.host.xdp_program(name)?.is_some() == names.contains(&name), "{name}, and {names:?} were asked for");
    }
    Ok(())
}
