//! `edge import` and `edge export`: lists of addresses in force as a whole, with and without the agent.

use std::{
    fs,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use edge_tests::{
    Output,
    agent::Edge,
    client::{Client, scrape},
    net::{ATTACKER4, ATTACKER6, Lab, NEIGHBOUR4, NEIGHBOUR6},
    talk::Talk,
    wait_for,
};
use serde_json::{Value, json};

use super::{SOON, served, shut_out};

/// So many addresses of 198.18.0.0/15, a line each, and others.
fn list(edge: &Edge, count: u32, others: &[&str]) -> Result<String> {
    let addresses = (0..count).map(|n| Ipv4Addr::from_bits(0xc612_0000 + n).to_string());
    let lines: Vec<String> = addresses.chain(others.iter().map(|other| (*other).to_owned())).collect();
    let path = edge.path("list.txt");
    fs::write(&path, lines.join("\n"))?;
    Ok(path.display().to_string())
}

fn blocked(edge: &Edge) -> Result<Value> {
    let status = edge.json(&["status"])?;
    ensure!(status["drift"] == 0 && status["enforced"]["total"] == status["blocked"]["total"], "{status}");
    Ok(status["blocked"].clone())
}

#[test]
fn a_list_is_in_force_whole_and_stays_so_through_a_crash() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let mut open = Talk::open(&lab, "http/1.1")?;
    open.say(b"GET /health HTTP/1.1\r\nHost: edge\r\n\r\n")?;
    ensure!(open.line()?.contains("200"));
    let others = ["10.77.0.2", "2001:db8:66::2", "203.0.113.0/24 # scanners", "10.77.0.1", "127.0.0.1"];
    let list = list(&edge, 5_000, &others)?;
    let imported = edge.cli(&["import", &list, "--for", "1h", "--origin", "feed", "--reason", "a list"])?;
    ensure!(imported.code == 0 && imported.stderr.contains("10.77.0.1/32 is protected"), "{imported:?}");
    while !open.line()?.is_empty() {}
    let (client, neighbour) = (Client::new(&lab, &edge, ATTACKER4), Client::new(&lab, &edge, NEIGHBOUR4));
    shut_out(&client)?;
    shut_out(&Client::new(&lab, &edge, ATTACKER6))?;
    served(&neighbour)?;
    served(&Client::new(&lab, &edge, NEIGHBOUR6))?;
    let totals = json!({"total": 5_003, "ipv4": 5_001, "ipv6": 1, "prefixes": 1});
    ensure!(blocked(&edge)? == totals, "{}", blocked(&edge)?);

    edge.cli(&["unblock", "10.77.0.2", "198.18.0.7"])?.good()?;
    served(&client)?;
    let before = edge.json(&["list"])?;
    edge.kill()?;
    edge.run()?;
    ensure!(edge.json(&["list"])? == before, "the list is another one after a crash");
    ensure!(blocked(&edge)?["total"] == 5_001);
    served(&client)?;
    shut_out(&Client::new(&lab, &edge, ATTACKER6))?;
    let (_, why) = edge.json_any(&["why", "198.18.1.1"])?;
    ensure!(why["verdict"] == "drop" && why["block"]["reason"] == "a list", "{why}");
    edge.cli(&["unblock", "--all", "--origin", "feed"])?.good()?;
    ensure!(blocked(&edge)?["total"] == 0);
    Ok(())
}

#[test]
fn what_is_exported_is_read_back_to_the_same_state_with_and_without_the_agent() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    edge.cli(&["import", &list(&edge, 400, &["2001:db8:66::/64"])?, "--for", "2h"])?.good()?;
    edge.cli(&["block", "10.77.0.2", "198.18.0.3", "--origin", "log", "--reason", "a \"b\"\nc"])?.good()?;
    let listed = without_counts(edge.json(&["list"])?);
    let lines = edge.cli(&["export"])?.good()?;
    let array = edge.cli(&["export", "-o", "json"])?.good()?;
    ensure!(serde_json::from_str::<Vec<Value>>(&array)?.len() == 403);
    let plain = edge.cli(&["export", "--format", "plain", "--origin", "log"])?.good()?;
    ensure!(plain == "10.77.0.2/32\n198.18.0.3/32\n", "{plain}");
    for with_agent in [true, false] {
        if !with_agent {
            edge.kill()?;
            ensure!(edge.cli(&["export"])?.good()? == lines, "without the agent it is another list");
        }
        for text in [&lines, &array] {
            edge.cli(&["unblock", "--all"])?.good()?;
            ensure!(edge.json(&["list"])? == json!([]));
            edge.cli_with(&["import", "-"], text.as_bytes())?.good()?;
            ensure!(without_counts(edge.json(&["list"])?) == listed, "not the same state");
        }
    }
    shut_out(&Client::new(&lab, &edge, ATTACKER4))?;
    edge.run()?;
    ensure!(without_counts(edge.json(&["list"])?) == listed, "not the same state after a start");
    shut_out(&Client::new(&lab, &edge, ATTACKER4))?;
    shut_out(&Client::new(&lab, &edge, ATTACKER6))
}

fn without_counts(mut list: Value) -> Value {
    for entry in list.as_array_mut().into_iter().flatten() {
        entry["packets"] = json!(0);
        entry["bytes"] = json!(0);
    }
    list
}

#[test]
fn a_list_with_a_wrong_line_or_too_many_changes_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        config.set("filter", "max_blocked", "500").set("filter", "max_prefixes", "2");
    })?;
    edge.cli(&["block", "203.0.113.7"])?.good()?;
    let before = edge.json(&["list"])?;
    let unchanged = |output: Output, code: i32, said: &[&str]| -> Result<()> {
        ensure!(output.code == code, "{output:?}");
        for words in said {
            ensure!(output.stderr.contains(words), "no `{words}` in {output:?}");
        }
        ensure!(edge.json(&["list"])? == before && blocked(&edge)?["total"] == 1, "something changed");
        Ok(())
    };
    let wrong = list(&edge, 10, &["nonsense", "203.0.113.8", "10.0.0.300"])?;
    let places = [format!("{wrong}:11: `nonsense`"), format!("{wrong}:13: `10.0.0.300`")];
    unchanged(edge.cli(&["import", &wrong])?, 2, &[&places[0], &places[1], "2 lines"])?;
    let (code, document) = edge.json_any(&["import", &wrong])?;
    ensure!(code == 2 && document["problems"][1]["line"] == 13 && document["problems_total"] == 2, "{document}");
    let full = ["1 addresses are blocked, 500 more are asked for, 500 fit", "filter.max_blocked"];
    unchanged(edge.cli(&["import", &list(&edge, 500, &["198.51.100.0/24"])?])?, 1, &full)?;
    let nets = list(&edge, 10, &["198.51.100.0/24", "198.51.101.0/24", "198.51.102.0/24"])?;
    unchanged(edge.cli(&["import", &nets])?, 1, &["0 prefixes are blocked, 3 more are asked for, 2 fit"])?;
    unchanged(edge.cli(&["import", &list(&edge, 10, &["10.0.0.0/7"])?])?, 1, &["10.0.0.0/7", "--force"])?;
    unchanged(edge.cli(&["import", "/no/such/file"])?, 2, &["/no/such/file"])?;
    // Every byte there is, thirty times, so that thirty lines are wrong.
    let garbage: Vec<u8> = (0..30).flat_map(|_| 0..=u8::MAX).collect();
    fs::write(edge.path("list.txt"), garbage)?;
    let output = edge.cli(&["import", &edge.path("list.txt").display().to_string()])?;
    ensure!(output.stderr.lines().count() == 22, "20 lines, how many more, and a sentence: {output:?}");
    unchanged(output, 2, &["… and "])?;
    edge.cli(&["import", &list(&edge, 499, &["198.51.100.0/24"])?])?.good()?;
    ensure!(blocked(&edge)?["total"] == 501);
    Ok(())
}

/// Prefixes that lie in one another end each at its own time, and the kernel's trie knows the latest for each.
#[test]
fn nested_prefixes_of_a_list_keep_their_own_ends() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let inner: Vec<String> = (0..200).map(|n| format!("10.77.{}.0/25", n % 256)).collect();
    fs::write(edge.path("list.txt"), inner.join("\n") + "\n10.64.0.0/10\n2001:db8:66::/48\n2001:db8:66::/64\n")?;
    edge.cli(&["import", &edge.path("list.txt").display().to_string(), "--for", "1h"])?.good()?;
    edge.cli(&["block", "10.0.0.0/8"])?.good()?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    shut_out(&client)?;
    edge.cli(&["unblock", "10.0.0.0/8", "10.64.0.0/10"])?.good()?;
    shut_out(&client)?;
    edge.cli(&["unblock", "10.77.0.0/25", "2001:db8:66::/64"])?.good()?;
    served(&client)?;
    shut_out(&Client::new(&lab, &edge, ATTACKER6))?;
    ensure!(blocked(&edge)?["prefixes"] == 200);
    edge.cli(&["unblock", "--all"])?.good()?;
    served(&Client::new(&lab, &edge, ATTACKER6))?;
    ensure!(blocked(&edge)?["total"] == 0);
    Ok(())
}

/// The caller's file is read by the caller: what the agent's user may not read is imported all the same.
#[test]
fn a_hundred_thousand_come_by_a_pipe_and_go_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        config.set("filter", "max_blocked", "131_072");
    })?;
    let path = list(&edge, 100_000, &["10.77.0.2"])?;
    let begun = Instant::now();
    edge.cli_with(&["import", "-", "--for", "1h"], &fs::read(&path)?)?.good()?;
    ensure!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    shut_out(&Client::new(&lab, &edge, ATTACKER4))?;
    served(&Client::new(&lab, &edge, NEIGHBOUR4))?;
    ensure!(blocked(&edge)?["ipv4"] == 100_001);
    let lifted = edge.json(&["unblock", "--all"])?;
    ensure!(lifted["changed"].as_array().map(Vec::len) == Some(1_000) && lifted["more"] == 99_001, "{lifted}");
    ensure!(blocked(&edge)?["total"] == 0);
    served(&Client::new(&lab, &edge, ATTACKER4))
}

/// At moments as good as random; what it was doing then is in force whole after the next start, or not at all.
#[test]
fn an_agent_that_is_killed_in_the_middle_of_a_list_has_all_of_it_or_nothing() -> Result<()> {
    const COUNT: u64 = 50_000;
    let lab = Lab::new()?;
    let mut edge = Edge::start_with(&lab, |config| {
        config.set("filter", "max_blocked", "100_000");
    })?;
    edge.cli(&["block", "203.0.113.7"])?.good()?;
    let others = ["10.77.0.2", "2001:db8:66::2", "198.51.100.0/24"];
    let path = list(&edge, COUNT as u32 - others.len() as u32, &others)?;
    for milliseconds in [5, 20, 40, 60, 80, 120, 200] {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(edge.pid()?)?);
        let output = thread::scope(|scope| {
            let import = scope.spawn(|| edge.cli(&["import", &path]));
            thread::sleep(Duration::from_millis(milliseconds));
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
            import.join().map_err(|_| anyhow::anyhow!("the import panicked"))?
        })?;
        ensure!(output.code == 0 || output.code == 3, "{output:?}");
        edge.kill()?;
        edge.run()?;
        let total = blocked(&edge)?["total"].as_u64();
        let whole = total == Some(COUNT + 1);
        ensure!(whole || (total == Some(1) && output.code != 0), "{total:?} after {output:?}");
        if whole {
            shut_out(&Client::new(&lab, &edge, ATTACKER4))?;
        }
        edge.cli(&["unblock", "--all", "--origin", "manual"])?.good()?;
        edge.cli(&["block", "203.0.113.7"])?.good()?;
    }
    Ok(())
}

/// Their tables begin small and take memory as they fill.
#[test]
fn ipv6_addresses_may_be_as_many_as_the_config_says() -> Result<()> {
    const MOST: u32 = 30_000;
    let lab = Lab::new()?;
    let mut edge = Edge::start_with(&lab, |config| {
        config.set("filter", "max_blocked", &MOST.to_string());
    })?;
    let (attacker, neighbour) = (Client::new(&lab, &edge, ATTACKER6), Client::new(&lab, &edge, NEIGHBOUR6));
    edge.cli(&["block", &ATTACKER6.to_string()])?.good()?;
    shut_out(&attacker)?;
    let hits = |edge: &Edge| -> Result<u64> {
        let listed = edge.json(&["list", "--limit", "1"])?;
        listed[0]["packets"].as_u64().context("no count")
    };
    let before = hits(&edge)?;
    ensure!(before > 0);

    let addresses: Vec<String> = (1..MOST).map(|n| format!("2001:db9::{:x}:{:x}", n >> 8, n & 255)).collect();
    fs::write(edge.path("list.txt"), addresses.join("\n"))?;
    edge.cli(&["import", &edge.path("list.txt").display().to_string(), "--for", "1h"])?.good()?;
    let full = |edge: &Edge| -> Result<()> {
        ensure!(blocked(edge)?["ipv6"] == MOST);
        // These addresses are no random ones: for some of the tables' seeds too many share lines, and others are taken.
        wait_for("tables with room for all", SOON, || {
            let metrics = scrape(&lab)?;
            let of = |name: &str, map: &str| metrics.value(name, &[("map", map)]).unwrap_or_default();
            let (entries, capacity) = (of("edge_map_entries", "HOSTS6"), of("edge_map_capacity", "HOSTS6"));
            ensure!(entries + of("edge_map_entries", "NETS6") == f64::from(MOST));
            let roomy = entries > 0.95 * f64::from(MOST) && capacity >= 2.0 * f64::from(MOST);
            Ok(roomy.then_some(()))
        })?;
        ensure!(hits(edge)? >= before, "what was counted is lost");
        // The attacker may have forgotten by now where the host is on the link.
        let seen = attacker.request("/health", &["--connect-timeout", "1.5"])?;
        ensure!(seen.status().is_none(), "the attacker is served: {seen:?}");
        served(&neighbour)
    };
    full(&edge)?;
    let refused = edge.cli(&["block", "2001:db9:1::1"])?;
    ensure!(refused.code == 1 && refused.stderr.contains("30000 addresses are blocked, 1 more"), "{refused:?}");
    edge.kill()?;
    edge.run()?;
    full(&edge)?;
    edge.cli(&["unblock", "--all"])?.good()?;
    ensure!(blocked(&edge)?["total"] == 0);
    served(&attacker)
}

#[test]
fn a_list_with_marks_and_line_ends_of_other_systems_is_read() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let text = "\u{feff}198.18.0.1\r\n198.18.0.1 # again\r\n\r\n; a comment\r\n198.18.1.0/24\r\n198.18.0.1";
    let output = edge.cli_with(&["import", "-", "-o", "json"], text.as_bytes())?.good()?;
    let document: Value = serde_json::from_str(&output)?;
    ensure!((&document["addresses"], &document["prefixes"]) == (&json!(1), &json!(1)), "{document}");
    ensure!(blocked(&edge)?["total"] == 2);
    Ok(())
}
