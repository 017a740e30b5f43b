//! Stores that cannot be read: one line of the log, an alarm, 503 where users are needed, and everything else goes on.

use std::fs;

use anyhow::{Result, ensure};
use edge_tests::{
    agent::{Edge, PASSWORD, USER},
    client::{Client, scrape},
    net::{ATTACKER4, Lab, NEIGHBOUR4},
    wait_for,
};
use serde_json::json;

use super::{SOON, lifecycle::filter_only, log_in, served, shut_out};

#[test]
fn a_store_of_users_that_cannot_be_read_is_told_at_the_start() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let users = edge.path("edge.db-auth/users.db");
    let good = fs::read(&users)?;
    fs::write(&users, "this is no database".repeat(500))?;
    edge.run()?;
    let told = || Ok(edge.log().contains(&format!("{} cannot be used", users.display())).then_some(()));
    wait_for("the log to name it", SOON, told)?;
    alarm(&lab, &edge, false)?;
    let status = edge.json(&["status"])?;
    ensure!(status["store"]["problems"][0].as_str().is_some_and(|text| text.contains("edge.db-auth")), "{status}");
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    ensure!(client.login(USER, PASSWORD)?.status() == Some(503));
    served(&client)?;
    edge.cli(&["block", &ATTACKER4.to_string()])?.good()?;
    shut_out(&Client::new(&lab, &edge, ATTACKER4))?;
    ensure!(edge.log().matches("cannot be used").count() == 1, "{}", edge.log());

    fs::write(&users, good)?;
    alarm(&lab, &edge, true)?;
    log_in(&client)?;
    ensure!(edge.log().contains("can be used again"), "{}", edge.log());
    Ok(())
}

#[test]
fn a_store_of_blocks_that_cannot_be_read_is_told_by_status() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::bare(&lab)?;
    filter_only(&mut edge.config);
    fs::write(edge.path("edge.db"), "this is no database".repeat(500))?;
    edge.run()?;
    alarm(&lab, &edge, false)?;
    let text = edge.cli(&["status"])?.good()?;
    let named = format!("the store {} cannot be read", edge.path("edge.db").display());
    ensure!(text.lines().any(|line| line.starts_with("store") && line.contains(&named)), "{text}");
    fs::remove_file(edge.path("edge.db"))?;
    edge.stop()?;
    edge.run()?;
    ensure!(edge.json(&["status"])?["store"] == json!({"ok": true, "problems": []}));
    Ok(())
}

/// Waits until status and metrics say so.
fn alarm(lab: &Lab, edge: &Edge, ok: bool) -> Result<()> {
    wait_for("status and metrics to say how the stores are", SOON, || {
        let metric = scrape(lab)?.value("edge_store_ok", &[]) == Some(f64::from(u8::from(ok)));
        Ok((metric && edge.json(&["status"])?["store"]["ok"] == ok).then_some(()))
    })
}

/// Without a store the kernel's word is taken for what is blocked, and kept again.
#[test]
fn where_the_store_is_gone_what_the_kernel_holds_stays_blocked() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    edge.cli(&["block", "203.0.113.7", "198.51.100.0/24", "2001:db8:99::7", "--for", "4h"])?.good()?;
    edge.kill()?;
    fs::remove_file(edge.path("edge.db"))?;
    edge.run()?;
    ensure!(edge.json(&["status"])?["blocked"]["total"] == 3, "{}", edge.log());
    ensure!(edge.json_any(&["why", "198.51.100.9"])?.1["verdict"] == "drop");
    edge.kill()?;
    edge.run()?;
    ensure!(edge.json(&["status"])?["blocked"]["total"] == 3, "what was taken over was not stored");
    Ok(())
}
