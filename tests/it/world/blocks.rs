//! Blocks by hand: what is named is blocked, exactly that, for exactly that long, with and without the agent.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    client::{Client, Seen, connect, scrape},
    net::{ATTACKER4, ATTACKER6, ATTACKER6_SECOND, HOST4, HOST6, Lab, NEIGHBOUR4, NEIGHBOUR6},
    wait_for,
};
use serde_json::{Value, json};

use super::{SOON, has_keys, length, only_block, served, shut_out, time};

#[test]
fn a_manual_block_holds_until_it_is_lifted() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let (client, neighbour) = (Client::new(&lab, &edge, ATTACKER4), Client::new(&lab, &edge, NEIGHBOUR4));
    served(&client)?;
    edge.cli(&["block", "10.77.0.2", "--reason", "seen in the log"])?.good()?;
    shut_out(&client)?;
    served(&neighbour)?;
    let entry = only_block(&edge)?;
    ensure!(entry["address"] == "10.77.0.2/32" && entry["origin"] == "manual", "{entry}");
    ensure!(entry["reason"] == "seen in the log" && entry["expires"].is_null(), "{entry}");
    let log = edge.log();
    let told = |line: &str| line.contains("uid 0") && line.contains("block 10.77.0.2/32") && line.contains(" INFO ");
    ensure!(log.lines().filter(|line| told(line)).count() == 1, "who blocked what is not logged once: {log}");

    edge.cli(&["block", "10.77.0.2", "--for", "4h"])?.good().context("again")?;
    ensure!((length(&only_block(&edge)?)? - 14_400.0).abs() < 0.01);
    edge.cli(&["unblock", "10.77.0.2"])?.good()?;
    served(&client)?;
    edge.cli(&["unblock", "10.77.0.2"])?.good().context("again")?;
    ensure!(edge.json(&["list"])? == json!([]));
    Ok(())
}

#[test]
fn an_ipv6_address_by_hand_is_that_address_alone() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    edge.cli(&["block", &ATTACKER6.to_string()])?.good()?;
    shut_out(&Client::new(&lab, &edge, ATTACKER6))?;
    served(&Client::new(&lab, &edge, ATTACKER6_SECOND))?;
    ensure!(only_block(&edge)?["address"] == "2001:db8:66::2/128");
    // The same as an IPv4-mapped address is an IPv4 address.
    edge.cli(&["block", "::ffff:10.77.0.2"])?.good()?;
    shut_out(&Client::new(&lab, &edge, ATTACKER4))
}

#[test]
fn a_prefix_ends_where_it_says() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    edge.cli_with(&["block", "-"], b"10.77.0.2/32\n2001:db8:66::/64\n198.51.100.0/24\n")?.good()?;
    shut_out(&Client::new(&lab, &edge, ATTACKER4))?;
    shut_out(&Client::new(&lab, &edge, ATTACKER6_SECOND))?;
    served(&Client::new(&lab, &edge, NEIGHBOUR4))?;
    served(&Client::new(&lab, &edge, NEIGHBOUR6))?;
    let blocked = edge.json(&["status"])?["blocked"].clone();
    ensure!(blocked["total"] == 3, "{blocked}");
    edge.cli(&["unblock", "--all"])?.good()?;
    served(&Client::new(&lab, &edge, ATTACKER4))?;
    ensure!(edge.json(&["status"])?["blocked"]["total"] == 0);
    Ok(())
}

#[test]
fn what_is_allowed_inside_a_blocked_prefix_is_served() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let (client, neighbour) = (Client::new(&lab, &edge, ATTACKER4), Client::new(&lab, &edge, NEIGHBOUR4));
    edge.cli(&["allow", "10.77.0.3"])?.good()?;
    edge.cli(&["block", "10.77.0.0/24"])?.good()?;
    shut_out(&client)?;
    served(&neighbour)?;
    ensure!(edge.cli(&["block", "10.77.0.3"])?.code == 1, "an allowed address was blocked");
    let (code, why) = edge.json_any(&["why", "10.77.0.2"])?;
    ensure!(code == 1 && why["block"]["address"] == "10.77.0.0/24", "{why}");

    edge.cli(&["disallow", "10.77.0.3"])?.good()?;
    shut_out(&neighbour)?;
    edge.cli(&["allow", "10.77.0.2"])?.good()?;
    served(&client)
}

#[test]
fn the_widest_prefixes_need_force_and_protected_addresses_stay_served() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    for wide in ["10.0.0.0/7", "2001:db8::/31", "0.0.0.0/0"] {
        let output = edge.cli(&["block", wide])?;
        ensure!(output.code == 1 && output.stderr.contains("--force"), "{wide}: {output:?}");
    }
    ensure!(edge.json(&["list"])? == json!([]));
    edge.cli(&["block", "0.0.0.0/0", "--force"])?.good()?;
    shut_out(&Client::new(&lab, &edge, ATTACKER4))?;
    served(&Client::new(&lab, &edge, ATTACKER6))
}

#[test]
fn a_block_ends_by_itself_with_the_agent_dead() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    edge.cli(&["block", "10.77.0.2", "--for", "3s"])?.good()?;
    let expires = time(&only_block(&edge)?["expires"])?;
    edge.kill()?;
    let (begun, ended) = first_through(&lab)?;
    // Whole milliseconds are what `expires` can say.
    let (early, late) = (expires.duration_since(ended).as_secs_f64(), begun.duration_since(expires).as_secs_f64());
    ensure!(early <= 0.001, "the block ended {early} s before its expiry");
    ensure!(late <= 1.0, "the block ended {late} s after its expiry");
    ensure!(edge.json(&["list"])? == json!([]), "what is expired is not listed");
    Ok(())
}

/// Connects from the blocked address until something comes back (with the agent the listener is gone, so the host itself
/// refuses): when the attempt that came through began, and when it ended.
fn first_through(lab: &Lab) -> Result<(jiff::Timestamp, jiff::Timestamp)> {
    let to = SocketAddr::new(HOST4, 443);
    wait_for("the block to end", Duration::from_secs(10), || {
        let begun = jiff::Timestamp::now();
        let failed = connect(lab, ATTACKER4, to, Duration::from_millis(50))?.err();
        let through = failed.is_none_or(|error| error.kind() == ErrorKind::ConnectionRefused);
        Ok(through.then(|| (begun, jiff::Timestamp::now())))
    })
}

#[test]
fn a_block_made_while_the_agent_is_dead_is_taken_over() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    edge.cli(&["block", "198.51.100.7", "--for", "1h"])?.good()?;
    edge.kill()?;
    edge.cli(&["block", "10.77.0.2", "--for", "2h", "--reason", "by night"])?.good()?;
    edge.cli(&["unblock", "198.51.100.7"])?.good()?;
    let offline = only_block(&edge)?;
    let (code, why) = edge.json_any(&["why", "10.77.0.2"])?;
    ensure!(code == 1 && why["verdict"] == "drop" && why["block"]["reason"] == "by night", "{why}");
    shut_out(&Client::new(&lab, &edge, ATTACKER4))?;

    edge.run()?;
    let taken_over = only_block(&edge)?;
    for key in ["address", "origin", "reason", "created", "expires", "offence"] {
        ensure!(offline[key] == taken_over[key], "{offline} became {taken_over}");
    }
    shut_out(&Client::new(&lab, &edge, ATTACKER4))?;
    served(&Client::new(&lab, &edge, NEIGHBOUR4))?;
    let status = edge.json(&["status"])?;
    ensure!(status["drift"] == 0 && status["blocked"]["total"] == 1, "{status}");
    Ok(())
}

#[test]
fn why_tells_before_during_and_after() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let keys = ["address", "verdict", "reason", "allowed", "block", "connections", "rates", "dropped", "offences"];
    let before = edge.json(&["why", "203.0.113.7"])?;
    has_keys(&before, &keys)?;
    ensure!(before["verdict"] == "pass" && before["connections"]["cap"].is_null(), "{before}");

    edge.cli(&["block", "203.0.113.0/24", "--for", "1h", "--reason", "scanner"])?.good()?;
    let during = edge.cli(&["why", "203.0.113.7"])?;
    ensure!(during.code == 1, "{during:?}");
    for word in ["203.0.113.0/24", "manual", "scanner", "blocked"] {
        ensure!(during.stdout.contains(word), "no `{word}` in {}", during.stdout);
    }
    ensure!(edge.cli(&["why", "203.0.114.7"])?.code == 0, "the neighbouring prefix");

    edge.cli(&["unblock", "203.0.113.0/24"])?.good()?;
    let after = edge.json(&["why", "203.0.113.7"])?;
    has_keys(&after, &keys)?;
    ensure!(after["verdict"] == "pass" && after["block"].is_null(), "{after}");
    Ok(())
}

#[test]
fn without_a_cap_why_counts_the_connections_that_are_open() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let counted = |address: &str| -> Result<Value> { Ok(edge.json(&["why", address])?["connections"].clone()) };
    ensure!(counted("10.77.0.2")? == json!({ "current": 0, "cap": null }), "before");
    let two = [(); 2].map(|()| super::connect(&lab, ATTACKER4, SocketAddr::new(HOST4, 443)));
    let one = super::connect(&lab, ATTACKER6, SocketAddr::new(HOST6, 443))?;
    ensure!(two.iter().all(Result::is_ok), "{two:?}");
    let expected =
        [("10.77.0.2", 2), ("::ffff:10.77.0.2", 2), ("10.77.0.3", 0), ("2001:db8:66::9", 1), ("2001:db8:66:1::2", 0)];
    for (address, current) in expected {
        ensure!(counted(address)? == json!({ "current": current, "cap": null }), "{address}: {}", counted(address)?);
    }
    drop((two, one));
    let none =
        || Ok((counted("10.77.0.2")?["current"] == 0 && counted("2001:db8:66::9")?["current"] == 0).then_some(()));
    wait_for("the end of the connections", SOON, none)
}

#[test]
fn without_the_agent_why_has_connections_and_cap_from_the_pins() -> Result<()> {
    let lab = Lab::new()?;
    // Connections of this address in other tests' namespaces are counted too, and must not reach it.
    let mut edge = Edge::start_with(&lab, |config| {
        config.set("filter.limits", "connections", "1_000_000");
    })?;
    let listener = lab.host.within(|| Ok(TcpListener::bind((HOST4, 0))?))?;
    let open = super::connect(&lab, ATTACKER4, listener.local_addr()?)?;
    for agent in ["with", "without"] {
        let why = edge.json(&["why", "10.77.0.2"])?;
        let connections = &why["connections"];
        let is_told = connections["current"].as_u64() >= Some(1) && connections["cap"] == 1_000_000;
        ensure!(is_told, "{agent} the agent: {why}");
        if agent == "with" {
            let status = edge.json(&["status"])?;
            let totals = &status["connections"];
            ensure!(totals["total"].as_u64() >= Some(1) && totals["tracked_addresses"].as_u64() >= Some(1), "{status}");
            let tracked = scrape(&lab)?.value("edge_connections_tracked", &[]);
            ensure!(tracked >= Some(1.0), "{tracked:?}");
            edge.kill()?;
        }
    }
    drop(open);
    Ok(())
}

#[test]
fn what_the_config_names_is_blocked_through_restarts_and_lifts_with_the_config() -> Result<()> {
    let lab = Lab::new()?;
    // The host's own address is named too: it is left out, and nothing else is.
    let mut edge = Edge::start_with(&lab, |config| {
        config.set("filter", "block", &format!("[\"{ATTACKER4}\", \"{}\"]", HOST4));
    })?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    shut_out(&client)?;
    let before = only_block(&edge)?;
    ensure!(before["origin"] == "config" && before["packets"].as_u64() > Some(0), "{before}");
    edge.stop()?;
    ensure!(only_block(&edge)?["origin"] == "config", "the block is not listed without the agent");
    edge.run()?;
    ensure!(only_block(&edge)?["packets"].as_u64() >= before["packets"].as_u64(), "the count began anew");
    shut_out(&client)?;
    edge.stop()?;
    edge.config.set("filter", "block", "[]");
    edge.run()?;
    served(&client)
}

#[test]
fn without_the_agent_an_outer_prefix_that_is_lifted_leaves_the_inner_its_own_end() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    edge.cli(&["block", "10.0.0.0/8"])?.good()?;
    edge.cli(&["block", "10.77.0.0/30", "--for", "3s"])?.good()?;
    edge.kill()?;
    edge.cli(&["unblock", "10.0.0.0/8"])?.good()?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    shut_out(&client)?;
    wait_for("the inner block to end", SOON, || {
        Ok((client.request("/health", &["--connect-timeout", "0.5"])? != Seen::Timeout).then_some(()))
    })
}
