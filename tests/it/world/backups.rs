//! `edge backup` and `edge restore`: with and without the agent, on another machine, and out of stores that cannot be
//! read; and what is refused changes nothing.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::{Edge, PASSWORD, USER},
    client::Client,
    net::{ATTACKER4, ATTACKER6, Lab, NEIGHBOUR4, NEIGHBOUR6},
    run, wait_for,
};
use serde_json::{Value, json};

use super::{SOON, has_keys, log_in, served, shut_out};

const OTHER_PASSWORD: &str = "another horse battery staple";

/// What `list` says but for what the kernel counts.
fn listed(edge: &Edge) -> Result<Value> {
    let mut list = edge.json(&["list"])?;
    for entry in list.as_array_mut().context("no array")? {
        entry.as_object_mut().context("no object")?.retain(|key, _| key != "packets" && key != "bytes");
    }
    Ok(list)
}

fn backup(edge: &Edge) -> Result<String> {
    let file = edge.path("a.backup").display().to_string();
    edge.cli(&["backup", &file])?.good()?;
    Ok(file)
}

fn in_force_as_decided(edge: &Edge) -> Result<()> {
    let status = edge.json(&["status"])?;
    ensure!(status["drift"] == 0 && status["enforced"]["total"] == status["blocked"]["total"], "{status}");
    ensure!(status["store"] == json!({"ok": true, "problems": []}), "{status}");
    Ok(())
}

/// Access and refresh token of a login.
fn tokens(client: &Client<'_>) -> Result<(String, String)> {
    let seen = client.login(USER, PASSWORD)?;
    ensure!(seen.status() == Some(200), "{seen:?}");
    let tokens = seen.json()?;
    let text = |key: &str| Ok::<_, anyhow::Error>(tokens[key].as_str().context("no token")?.to_owned());
    Ok((text("access_token")?, text("refresh_token")?))
}

/// That neither is good any more.
fn ended(client: &Client<'_>, (access, refresh): &(String, String)) -> Result<()> {
    ensure!(client.bearer("/auth/me", access)?.status() == Some(401), "a token of before is good");
    let body = json!({ "refresh_token": refresh }).to_string();
    let json = ["--header", "Content-Type: application/json", "--data", &body];
    ensure!(client.request("/auth/refresh", &json)?.status() == Some(401), "a session of before goes on");
    Ok(())
}

fn events(edge: &Edge, name: &str) -> Result<Vec<Value>> {
    let all = edge.json(&["audit"])?;
    Ok(all.as_array().context("no array")?.iter().filter(|event| event["event"] == name).cloned().collect())
}

#[test]
fn a_backup_brings_back_users_blocks_and_the_allow_list_and_ends_every_session() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let log = edge.path("audit.log");
    edge.config.text("log", "audit", log);
    edge.run()?;
    let [attacker, attacker6] = [ATTACKER4, ATTACKER6].map(|address| Client::new(&lab, &edge, address));
    let [neighbour, neighbour6] = [NEIGHBOUR4, NEIGHBOUR6].map(|address| Client::new(&lab, &edge, address));
    edge.cli(&["block", "10.77.0.2", "198.51.100.0/24", "--for", "1h", "--reason", "seen"])?.good()?;
    edge.cli(&["block", "2001:db8:66::/64", "--origin", "log"])?.good()?;
    edge.cli(&["allow", "192.0.2.77"])?.good()?;
    let before = listed(&edge)?;
    let file = backup(&edge)?;
    ensure!(fs::metadata(&file)?.permissions().mode() & 0o7777 == 0o600);

    edge.cli(&["unblock", "--all"])?.good()?;
    edge.cli(&["block", "10.77.0.3", "203.0.113.7"])?.good()?;
    edge.cli(&["unblock", "10.77.0.3"])?.good()?;
    edge.cli(&["disallow", "192.0.2.77"])?.good()?;
    let session = tokens(&neighbour)?;
    edge.add_user("mallory", OTHER_PASSWORD, &[])?;
    let of_mallory = neighbour6.login("mallory", OTHER_PASSWORD)?.json()?;
    served(&attacker)?;

    let restored = edge.json(&["restore", &file])?;
    has_keys(&restored, &["file", "made", "users", "imported", "allowed", "offences", "left_out"])?;
    ensure!((&restored["users"], &restored["imported"]) == (&json!(1), &json!(3)), "{restored}");
    ensure!(listed(&edge)? == before, "{} is not {before}", listed(&edge)?);
    in_force_as_decided(&edge)?;
    shut_out(&attacker)?;
    shut_out(&attacker6)?;
    ended(&neighbour, &session)?;
    let token = of_mallory["access_token"].as_str().context("no token")?;
    ensure!(neighbour6.bearer("/auth/me", token)?.status() == Some(401));
    ensure!(neighbour6.login("mallory", OTHER_PASSWORD)?.status() == Some(401), "a user of after the backup is there");
    let new = log_in(&neighbour)?;
    ensure!(neighbour.bearer("/auth/me", &new)?.status() == Some(200));
    ensure!(edge.json(&["why", "192.0.2.77"])?["allowed"] == true);
    ensure!(edge.json_any(&["why", "203.0.113.7"])?.0 == 0, "what came after the backup is blocked");
    for (name, count) in [("backup", 1), ("restore", 1)] {
        let told = events(&edge, name)?;
        ensure!(told.len() == count && told[0]["outcome"] == "success" && told[0]["subject"] == *file, "{told:?}");
        has_keys(&told[0], &["actor"])?;
    }

    edge.kill()?;
    edge.run()?;
    ensure!(listed(&edge)? == before, "the list is another one after a crash");
    shut_out(&attacker)?;
    served(&neighbour)
}

#[test]
fn without_an_agent_both_work_on_pins_and_store_and_where_there_are_none() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    edge.cli(&["block", "10.77.0.2", "--for", "1h"])?.good()?;
    let before = listed(&edge)?;
    edge.stop()?;
    let file = backup(&edge)?;
    edge.cli(&["unblock", "10.77.0.2"])?.good()?;
    edge.cli(&["user", "remove", USER])?.good()?;
    // What goes to standard output is the same.
    let piped = edge.path("piped");
    let to = format!("exec \"$@\" > {}", piped.display());
    let told = edge.cli_under(&["sh", "-c", &to, "sh"], &["backup", "-"], b"")?;
    ensure!(told.code == 0 && told.stderr.contains("users"), "{told:?}");
    ensure!(edge.json(&["restore", &piped.display().to_string()])?["users"] == 0);
    ensure!(edge.json(&["restore", &file])?["imported"] == 1);
    let attacker = Client::new(&lab, &edge, ATTACKER4);
    shut_out(&attacker)?;
    edge.run()?;
    ensure!(listed(&edge)? == before);
    in_force_as_decided(&edge)?;
    shut_out(&attacker)?;
    log_in(&Client::new(&lab, &edge, NEIGHBOUR4))?;

    // Another machine, or this one after a reboot, before its first start.
    edge.stop()?;
    edge.cli(&["unload"])?.good()?;
    let same = backup(&edge)?;
    for gone in ["edge.db", "edge.db-wal", "edge.db-shm", "edge.db-lock"] {
        let _ = fs::remove_file(edge.path(gone));
    }
    fs::remove_dir_all(edge.path("edge.db-auth"))?;
    for file in [file, same] {
        ensure!(edge.json(&["restore", &file])?["imported"] == 1);
    }
    ensure!(!lab.pin_path().exists(), "a restore pins nothing");
    edge.run()?;
    ensure!(listed(&edge)? == before);
    shut_out(&attacker)?;
    log_in(&Client::new(&lab, &edge, NEIGHBOUR4)).map(drop)
}

#[test]
fn what_is_no_whole_backup_is_refused_and_changes_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let log = edge.path("audit.log");
    edge.config.text("log", "audit", log);
    edge.run()?;
    edge.cli(&["block", "10.77.0.2"])?.good()?;
    let file = backup(&edge)?;
    edge.cli(&["block", "203.0.113.7"])?.good()?;
    let before = listed(&edge)?;
    let neighbour = Client::new(&lab, &edge, NEIGHBOUR4);
    let token = log_in(&neighbour)?;
    let whole = fs::read(&file)?;
    let mut altered = whole.clone();
    *altered.last_mut().context("empty")? ^= 1;
    let mut newer = whole.clone();
    newer[12] = 9;
    let bad = edge.path("bad");
    let cases: [(&[u8], &str); 5] = [
        (b"10.77.0.2\n", "is no backup of edge"),
        (b"", "is no backup of edge"),
        (&whole[..whole.len() / 2], "cut short or was altered"),
        (&altered, "cut short or was altered"),
        (&newer, "made by a newer edge"),
    ];
    for (bytes, why) in cases {
        fs::write(&bad, bytes)?;
        let refused = edge.cli(&["restore", &bad.display().to_string()])?;
        ensure!(refused.code == 1 && refused.stderr.contains(why), "{refused:?}");
    }
    ensure!(edge.cli(&["restore", "/nowhere/at/all"])?.code == 2);
    ensure!(listed(&edge)? == before);
    ensure!(neighbour.bearer("/auth/me", &token)?.status() == Some(200), "a refused restore ended a session");
    ensure!(events(&edge, "restore")?.iter().filter(|event| event["outcome"] == "failure").count() == 6);

    // What the agent refuses leaves the users alone too.
    edge.stop()?;
    edge.config.set("filter", "max_blocked", "1_000");
    edge.run()?;
    let many: String = (0..900).map(|n| format!("198.18.{}.{}\n", n / 250, n % 250)).collect();
    edge.cli_with(&["import", "-"], many.as_bytes())?.good()?;
    let large = backup(&edge)?;
    edge.cli(&["unblock", "--all"])?.good()?;
    edge.stop()?;
    edge.config.set("filter", "max_blocked", "100");
    edge.run()?;
    let token = log_in(&neighbour)?;
    let refused = edge.cli(&["restore", &large])?;
    ensure!(refused.code == 1 && refused.stderr.contains("max_blocked"), "{refused:?}");
    ensure!(neighbour.bearer("/auth/me", &token)?.status() == Some(200), "a refused restore ended a session");
    ensure!(listed(&edge)? == json!([]));

    // Nor is a file replaced by half of one.
    let pipe = edge.path("pipe");
    run(Command::new("mkfifo").arg(&pipe), b"")?.good()?;
    ensure!(edge.cli(&["backup", &pipe.display().to_string()])?.code == 1);
    ensure!(fs::metadata(&pipe)?.permissions().mode() & 0o170_000 == 0o010_000, "a pipe was replaced");
    Ok(())
}

/// The way out of stores that cannot be read: both at once, under the running agent and without it.
#[test]
fn a_backup_is_restored_over_stores_that_cannot_be_read() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    edge.cli(&["block", "10.77.0.2"])?.good()?;
    edge.cli(&["allow", "192.0.2.77"])?.good()?;
    let file = backup(&edge)?;
    let [attacker, neighbour] = [ATTACKER4, NEIGHBOUR4].map(|address| Client::new(&lab, &edge, address));
    let session = tokens(&neighbour)?;
    for running in [true, false] {
        edge.kill()?;
        edge.cli(&["unload"])?.good()?;
        for store in ["edge.db", "edge.db-auth/users.db"] {
            fs::write(edge.path(store), "this is no database".repeat(1_000))?;
            // It may hold all of it.
            let _ = fs::remove_file(edge.path(&format!("{store}-wal")));
        }
        if running {
            edge.run()?;
            ensure!(neighbour.login(USER, PASSWORD)?.status() == Some(503));
        }
        let restored = edge.cli(&["restore", &file])?;
        ensure!(restored.code == 0, "{restored:?}");
        ensure!(restored.stderr.contains("edge.db-aside") && restored.stderr.contains("was damaged"), "{restored:?}");
        if !running {
            edge.run()?;
        }
        wait_for("the stores to be good", SOON, || Ok((edge.json(&["status"])?["store"]["ok"] == true).then_some(())))?;
        in_force_as_decided(&edge)?;
        shut_out(&attacker)?;
        log_in(&neighbour)?;
        ended(&neighbour, &session)?;
        ensure!(edge.json(&["why", "192.0.2.77"])?["allowed"] == true);
        edge.cli(&["block", "203.0.113.7"])?.good()?;
        edge.kill()?;
        edge.run()?;
        ensure!(edge.json(&["status"])?["blocked"]["total"] == 2, "what came after the restore was not kept");
    }
    Ok(())
}
