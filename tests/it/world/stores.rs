//! Stores that cannot be read: one line of the log, an alarm, 503 where users are needed, and everything else goes on.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::{Edge, PASSWORD, USER},
    client::{Client, scrape},
    disk::Disk,
    net::{ATTACKER4, ATTACKER6, Lab, NEIGHBOUR4, NEIGHBOUR6},
    wait_for,
};
use serde_json::json;

use super::{SOON, fail_five_times, lifecycle::filter_only, log_in, served, shut_out};

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
    edge.cli(&["block", "203.0.113.7"])?.good()?;
    // Moved away, it is made anew, and what was decided meanwhile is in it.
    fs::remove_file(edge.path("edge.db"))?;
    alarm(&lab, &edge, true)?;
    ensure!(edge.json(&["status"])?["store"] == json!({"ok": true, "problems": []}));
    one_alarm(&edge, &edge.path("edge.db"))?;
    after_a_reboot(&mut edge)?;
    ensure!(blocked(&edge)? == BTreeSet::from(["203.0.113.7/32".to_owned()]));
    Ok(())
}

/// Nothing is left but the stores.
fn after_a_reboot(edge: &mut Edge) -> Result<()> {
    edge.kill()?;
    edge.cli(&["unload"])?.good()?;
    edge.run()
}

fn blocked(edge: &Edge) -> Result<BTreeSet<String>> {
    let list = edge.json(&["list"])?;
    let names = list.as_array().context("no array")?.iter().filter_map(|entry| entry["address"].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// The log says once that the agent's store fails, naming it, and once that this has ended.
fn one_alarm(edge: &Edge, store: &std::path::Path) -> Result<()> {
    let log = edge.log();
    let named = |text: &str| log.lines().filter(|line| line.contains("edge.db") && line.contains(text)).count();
    ensure!(named("enforcement goes on") == 1 && named("is whole again") <= 1, "{log}");
    ensure!(log.contains(&store.display().to_string()), "{log}");
    Ok(())
}

/// An edge whose stores lie on a disk of their own.
fn on_disk(lab: &Lab) -> Result<(Edge, Disk)> {
    let mut edge = Edge::bare(lab)?;
    let disk = Disk::mount(edge.path("disk"), 3 << 20)?;
    edge.config.text("store", "path", disk.path("edge.db")).set("filter", "max_blocked", "200_000");
    edge.prepare()?;
    Ok((edge, disk))
}

/// As many addresses as the store's log has no room for.
fn many() -> Vec<u8> {
    let line = |n: u32| format!("198.{}.{}.{}\n", 18 + (n >> 16), n >> 8 & 255, n & 255);
    (0..100_000).map(line).collect::<String>().into_bytes()
}

#[test]
fn a_full_disk_holds_up_nothing_and_what_was_decided_meanwhile_is_written_when_there_is_room() -> Result<()> {
    let lab = Lab::new()?;
    let (mut edge, disk) = on_disk(&lab)?;
    edge.run()?;
    let [attacker, neighbour] = [ATTACKER4, NEIGHBOUR4].map(|address| Client::new(&lab, &edge, address));
    let [attacker6, neighbour6] = [ATTACKER6, NEIGHBOUR6].map(|address| Client::new(&lab, &edge, address));
    edge.cli(&["block", "10.77.0.3", "203.0.113.7"])?.good()?;
    disk.fill()?;

    let imported = edge.cli_with(&["import", "-", "--origin", "feed"], &many())?;
    ensure!(imported.code == 0 && imported.stderr.contains("cannot be written"), "{imported:?}");
    alarm(&lab, &edge, false)?;
    let status = edge.json(&["status"])?;
    ensure!(status["blocked"]["total"] == 100_002 && status["drift"] == 0, "{status}");
    let problem = status["store"]["problems"][0].as_str().context("no problem")?.to_owned();
    ensure!(problem.contains(&disk.path("edge.db").display().to_string()), "{problem}");
    shut_out(&neighbour)?;
    let blocked_now = edge.cli(&["block", "10.77.0.2", "--for", "2s"])?;
    ensure!(blocked_now.code == 0 && blocked_now.stderr.contains("in force, but"), "{blocked_now:?}");
    shut_out(&attacker)?;
    let lifted = edge.cli(&["unblock", "10.77.0.3"])?;
    ensure!(lifted.code == 0 && lifted.stderr.contains("in force, but"), "{lifted:?}");
    served(&neighbour)?;
    fail_five_times(&attacker6)?;
    shut_out(&attacker6)?;
    edge.cli(&["allow", "192.0.2.77"])?.good()?;
    wait_for("a block to end", SOON, || Ok(attacker.get("/health")?.status().map(drop)))?;
    served(&neighbour6)?;
    edge.cli(&["unblock", "--all", "--origin", "feed"])?.good()?;
    let decided = BTreeSet::from(["203.0.113.7/32".to_owned(), "2001:db8:66::/64".to_owned()]);
    ensure!(blocked(&edge)? == decided);

    disk.free()?;
    alarm(&lab, &edge, true)?;
    log_in(&neighbour)?;
    one_alarm(&edge, &disk.path("edge.db"))?;
    ensure!(edge.log().matches("is whole again").count() == 1, "{}", edge.log());
    after_a_reboot(&mut edge)?;
    ensure!(blocked(&edge)? == decided, "{:?}", blocked(&edge)?);
    shut_out(&attacker6)?;
    ensure!(edge.json(&["why", "192.0.2.77"])?["allowed"] == true);
    served(&attacker)
}

/// Nothing of it is on the disk, so it is the kernel that knows it: through a crash, a command without an agent, a stop.
#[test]
fn what_was_decided_on_a_full_disk_outlives_the_agent() -> Result<()> {
    let lab = Lab::new()?;
    let (mut edge, disk) = on_disk(&lab)?;
    edge.run()?;
    edge.cli(&["block", "10.77.0.3", "203.0.113.7"])?.good()?;
    disk.fill()?;
    edge.cli_with(&["import", "-", "--origin", "feed"], &many())?.good()?;
    edge.cli(&["unblock", "--all", "--origin", "feed"])?.good()?;
    edge.cli(&["block", "10.77.0.2", "--for", "1h"])?.good()?;
    edge.cli(&["unblock", "10.77.0.3"])?.good()?;
    edge.cli(&["allow", "192.0.2.77"])?.good()?;
    let mut decided = BTreeSet::from(["203.0.113.7/32".to_owned(), "10.77.0.2/32".to_owned()]);
    let [attacker, neighbour] = [ATTACKER4, NEIGHBOUR4].map(|address| Client::new(&lab, &edge, address));
    edge.kill()?;
    ensure!(blocked(&edge)? == decided, "without an agent: {:?}", blocked(&edge)?);
    edge.cli(&["block", "203.0.113.9"])?.good()?;
    decided.insert("203.0.113.9/32".to_owned());
    for ends in [Edge::kill as fn(&mut Edge) -> Result<()>, |edge: &mut Edge| edge.stop().map(drop)] {
        edge.run()?;
        ensure!(blocked(&edge)? == decided, "{:?}; {}", blocked(&edge)?, edge.log());
        ensure!(edge.json(&["status"])?["drift"] == 0 && edge.json(&["why", "192.0.2.77"])?["allowed"] == true);
        shut_out(&attacker)?;
        served(&neighbour)?;
        ends(&mut edge)?;
    }
    edge.run()?;
    disk.free()?;
    alarm(&lab, &edge, true)?;
    after_a_reboot(&mut edge)?;
    ensure!(blocked(&edge)? == decided, "{:?}", blocked(&edge)?);
    Ok(())
}

/// The store can be read, so all of it is in force; and it is written once it can be.
#[test]
fn a_start_on_a_full_or_read_only_disk_enforces_what_the_store_holds() -> Result<()> {
    let lab = Lab::new()?;
    let (mut edge, disk) = on_disk(&lab)?;
    edge.run()?;
    let [attacker, neighbour] = [ATTACKER4, NEIGHBOUR4].map(|address| Client::new(&lab, &edge, address));
    edge.cli(&["block", "10.77.0.2", "--for", "1h", "--reason", "seen"])?.good()?;
    for (round, read_only) in [(1, true), (2, false)] {
        let before = blocked(&edge)?;
        if round == 1 {
            edge.stop().map(drop)?
        } else {
            edge.kill()?
        }
        edge.cli(&["unload"])?.good()?;
        fs::write(edge.path("edge.log"), "")?;
        if read_only {
            disk.set_read_only(true)?
        } else {
            disk.fill()?
        }
        edge.run()?;
        ensure!(blocked(&edge)? == before, "{:?}: {}", blocked(&edge)?, edge.log());
        ensure!(edge.json_any(&["why", "10.77.0.2"])?.1["block"]["reason"] == "seen");
        shut_out(&attacker)?;
        served(&neighbour)?;
        let another = format!("203.0.113.{round}");
        edge.cli(&["block", &another])?.good()?;
        if read_only {
            alarm(&lab, &edge, false)?;
            one_alarm(&edge, &disk.path("edge.db"))?;
            disk.set_read_only(false)?
        } else {
            disk.free()?
        }
        alarm(&lab, &edge, true)?;
        log_in(&neighbour).with_context(|| edge.log())?;
        after_a_reboot(&mut edge)?;
        ensure!(blocked(&edge)?.len() == before.len() + 1, "{:?}", blocked(&edge)?);
        shut_out(&attacker)?;
    }
    Ok(())
}

#[test]
fn a_store_that_is_removed_or_overwritten_under_the_agent_is_made_anew_with_all_that_was_decided() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let store = edge.path("edge.db");
    edge.run()?;
    edge.cli(&["block", "10.77.0.2", "--reason", "seen"])?.good()?;
    let rubbish = "this is no database".repeat(2_000);
    let spoils: [&dyn Fn() -> Result<()>; 2] = [&|| Ok(fs::write(&store, &rubbish)?), &|| {
        ["edge.db", "edge.db-wal", "edge.db-shm"].into_iter().for_each(|name| drop(fs::remove_file(edge.path(name))));
        Ok(())
    }];
    for spoil in spoils {
        fs::write(edge.path("edge.log"), "")?;
        spoil()?;
        alarm(&lab, &edge, false)?;
        alarm(&lab, &edge, true)?;
        one_alarm(&edge, &store)?;
        ensure!(edge.log().contains("is not as edge left it"), "{}", edge.log());
    }
    ensure!(fs::read_to_string(edge.path("edge.db-aside"))? == rubbish);
    edge.cli(&["block", "203.0.113.7"])?.good()?;
    after_a_reboot(&mut edge)?;
    ensure!(blocked(&edge)?.len() == 2, "{:?}", blocked(&edge)?);
    ensure!(edge.json_any(&["why", "10.77.0.2"])?.1["block"]["reason"] == "seen");
    shut_out(&Client::new(&lab, &edge, ATTACKER4))
}

/// Waits until status and metrics say so.
fn alarm(lab: &Lab, edge: &Edge, ok: bool) -> Result<()> {
    wait_for("status and metrics to say how the stores are", 2 * SOON, || {
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

/// Whoever looks does not make an empty one of a store that is missing, which would end the alarm and punish the users.
#[test]
fn a_store_of_users_that_is_missing_is_made_by_nobody_who_only_looks() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let (auth, away) = (edge.path("edge.db-auth"), edge.path("away"));
    fs::rename(&auth, &away)?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    ensure!(client.login(USER, PASSWORD)?.status() == Some(503));
    let list = edge.cli(&["user", "list"])?;
    ensure!(list.code == 0 && list.stdout.contains("there is no store of users"), "{list:?}");
    ensure!(edge.json(&["user", "list"])? == json!([]));
    for words in [&["user", "disable", USER][..], &["user", "role", USER, "chat"], &["user", "remove", USER]] {
        let refused = edge.cli(words)?;
        ensure!(refused.code == 1 && refused.stderr.contains("there is no store of users"), "{refused:?}");
    }
    ensure!(!auth.exists() && client.login(USER, PASSWORD)?.status() == Some(503));
    fs::rename(&away, &auth)?;
    wait_for("the store", SOON, || Ok((client.login(USER, PASSWORD)?.status() == Some(200)).then_some(())))
}
