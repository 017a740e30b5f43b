//! `edge key …` beside a running server.

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    client::{Client, scrape},
    net::{ATTACKER4, Lab, NEIGHBOUR4},
    wait_for,
};
use serde_json::{Value, json};

use super::{events, is_kept, me, printed, text};
use crate::world::{SOON, has_keys, served, shut_out};

fn listed(edge: &Edge, name: &str) -> Result<Vec<Value>> {
    let all = edge.json(&["key", "list"])?;
    Ok(all.as_array().context("no array")?.iter().filter(|key| key["name"] == name).cloned().collect())
}

#[test]
fn a_key_is_good_from_its_making_to_its_revocation_and_is_kept_nowhere() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let audit = edge.path("audit.log");
    edge.config.text("log", "audit", audit);
    edge.run()?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    let api = printed(&edge, &["key", "create", "--name", "ci", "--role", "deploy", "--role", "chat", "--for", "30d"])?;
    let internal = printed(&edge, &["key", "create", "--name", "billing", "--internal"])?;
    ensure!(api.starts_with("edge_api_") && internal.starts_with("edge_int_"));
    let entry = listed(&edge, "ci")?.pop().context("it is not listed")?;
    has_keys(&entry, &["id", "name", "kind", "roles", "prefix", "created", "expires", "last_used"])?;
    ensure!(entry["kind"] == "api" && entry["roles"] == json!(["deploy", "chat"]), "{entry}");
    ensure!(api.starts_with(text(&entry, "prefix")?) && entry["last_used"] == Value::Null, "{entry}");
    ensure!(listed(&edge, "billing")?[0]["kind"] == "internal");

    let caller = json!({"username": "key:ci", "roles": ["deploy", "chat"]});
    for line in [format!("X-API-Key: {api}"), format!("Authorization: Bearer {api}")] {
        ensure!(me(&client, &[&line])? == (200, caller.clone()), "{line}");
        ensure!(me(&client, &[&line, &line])?.0 == 401, "two lines: {line}");
    }
    let verified = client.request("/auth/verify?require=deploy", &["-H", &format!("X-API-Key: {api}")])?;
    ensure!(verified.header("X-Auth-Request-User") == Some("key:ci"), "{verified:?}");
    ensure!(me(&client, &[&format!("X-Internal-API-Key: {internal}")])?.1["username"] == "key:billing");
    for line in [format!("X-API-Key: {internal}"), format!("Authorization: Bearer {internal}")] {
        ensure!(me(&client, &[&line])?.0 == 401, "{line}");
    }
    wait_for("its use to be told", SOON, || Ok(listed(&edge, "ci")?[0]["last_used"].as_str().map(|_| ())))?;

    let next = printed(&edge, &["key", "rotate", "ci", "--overlap", "1h"])?;
    let both = listed(&edge, "ci")?;
    ensure!(both.len() == 2 && both[0]["expires"] == entry["expires"] && both[1]["id"] == entry["id"], "{both:?}");
    for key in [&api, &next] {
        ensure!(me(&client, &[&format!("X-API-Key: {key}")])? == (200, caller.clone()));
    }
    let last = printed(&edge, &["key", "rotate", "ci", "--overlap", "0s"])?;
    ensure!(me(&client, &[&format!("X-API-Key: {next}")])?.0 == 401, "it was to end at once");
    ensure!(me(&client, &[&format!("X-API-Key: {last}")])?.0 == 200);
    edge.cli(&["key", "revoke", "ci"])?.good()?;
    for key in [&api, &next, &last] {
        ensure!(me(&client, &[&format!("X-API-Key: {key}")])?.0 == 401, "it was to end those it replaced too");
    }
    ensure!(listed(&edge, "ci")?.is_empty());

    for (args, code) in [
        (&["key", "create", "--name", "billing"][..], 1),
        (&["key", "revoke", "ci"], 1),
        (&["key", "rotate", "ci"], 1),
        (&["key", "create", "--name", "a:b"], 2),
        (&["key", "create", "--name", "x", "--for", "0s"], 2),
    ] {
        let output = edge.cli(args)?;
        ensure!(output.code == code && output.stdout.is_empty(), "{args:?}: {output:?}");
    }
    for (name, count) in [("key.create", 4), ("key.rotate", 3), ("key.revoke", 2)] {
        let told = events(&edge, name, count)?;
        let named = told.iter().filter(|event| event["outcome"] == "success");
        ensure!(named.clone().count() > 0, "{name}: {told:#?}");
        for event in named {
            has_keys(event, &["subject", "key_id", "actor"])?;
        }
    }
    let verify = events(&edge, "verify", 1)?;
    ensure!(verify[0]["subject"] == "key:ci" && verify[0]["key_id"] == entry["id"], "{verify:#?}");
    for key in [&api, &internal, &next, &last] {
        ensure!(!is_kept(&edge, &key[13..])?, "a key is in a file");
    }
    Ok(())
}

#[test]
fn guessed_keys_block_and_ended_ones_do_not() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let ended = printed(&edge, &["key", "create", "--name", "ci"])?;
    edge.cli(&["key", "revoke", "ci"])?.good()?;
    let attacker = Client::new(&lab, &edge, ATTACKER4);
    for _ in 0..10 {
        ensure!(me(&attacker, &[&format!("X-API-Key: {ended}")])?.0 == 401);
    }
    served(&attacker)?;
    for at in 0..5 {
        ensure!(me(&attacker, &[&format!("X-API-Key: edge_api_{at}{}", "A".repeat(42))])?.0 == 401);
    }
    shut_out(&attacker)?;
    let counted = scrape(&lab)?.value("edge_offences_total", &[("kind", "key")]);
    ensure!(counted == Some(5.0), "{counted:?}");
    Ok(())
}

#[test]
fn keys_are_made_without_an_agent_and_good_when_it_comes() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    edge.write_config()?;
    let key = edge.json(&["key", "create", "--name", "ci"])?;
    has_keys(&key, &["id", "name", "kind", "expires", "key"])?;
    edge.run()?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    ensure!(me(&client, &[&format!("X-API-Key: {}", text(&key, "key")?)])?.0 == 200);
    edge.kill()?;
    edge.cli(&["key", "revoke", "ci"])?.good()?;
    edge.run()?;
    ensure!(me(&client, &[&format!("X-API-Key: {}", text(&key, "key")?)])?.0 == 401);
    Ok(())
}
