//! `cargo xtask demo`: the main job, on this machine, from real observations. Every line that begins with a number was
//! seen, not assumed: the first thing that is not as it should be ends the demo with exit code 1.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use edge_tests::{
    agent::{Edge, PASSWORD, USER},
    client::{Client, Seen, connect, scrape},
    net::{ATTACKER4, HOST4, Lab, NEIGHBOUR4},
    wait_for,
};
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    live,
    probe::{Cut, fail_until_cut},
    run::Profile,
    setup,
};

const THRESHOLD: usize = 5;
/// Long enough for what is to be seen while it lasts, short enough to wait for its end.
const BLOCK_FOR: Duration = Duration::from_secs(12);
const PLAIN_PORT: u16 = 8080;
/// Much longer than a connection takes between two namespaces of one machine.
const CONNECTS_WITHIN: Duration = Duration::from_millis(200);

pub fn demo() -> Result<()> {
    live::enter(Profile::Dev, setup::for_live)?;
    let lab = Lab::new()?;
    println!(
        "A guarded host {HOST4} and two clients, {ATTACKER4} and {NEIGHBOUR4}, in network namespaces of their own."
    );
    let mut edge = Edge::start_with(&lab, |config| {
        config.set("learn", "threshold", &THRESHOLD.to_string());
        config.text("learn", "block_for", format!("{}s", BLOCK_FOR.as_secs()));
    })?;
    says_who_filters(&edge)?;
    good_login(&lab, &edge)?;
    let before = blocked_packets(&lab)?;
    let cut = failed_logins(&lab, &edge)?;
    let end = block(&edge)?;
    times_out(&lab, &edge)?;
    counted(&lab, before)?;
    neighbour(&lab, &edge)?;
    time_to_drop(&cut);
    ends_by_itself(&lab, &mut edge, &cut, end)?;
    println!("\nAll of it was seen. To look at it on a host of yours: `edge status`, `edge list`, `edge why ADDR`,");
    println!("`bpftool net show`, and the pinned maps below /sys/fs/bpf/edge.");
    Ok(())
}

fn says_who_filters(edge: &Edge) -> Result<()> {
    let status = edge.json(&["status"])?;
    let interface = status["interfaces"].get(0).context("`edge status` names no interface")?;
    let id = interface["program_id"].as_u64().filter(|id| *id > 0).context("`edge status` names no program")?;
    println!("1. edge filters {} in {} mode, program id {id}.", named(interface, "name")?, named(interface, "mode")?);
    Ok(())
}

fn good_login(lab: &Lab, edge: &Edge) -> Result<()> {
    let client = Client::new(lab, edge, ATTACKER4);
    let login = client.login(USER, PASSWORD)?;
    println!("2. {ATTACKER4} logs in with the right password: {}", shown(&login));
    ensure!(login.status() == Some(200), "the login should have been answered with 200");
    let document = login.json()?;
    let token = document["access_token"].as_str().context("the answer has no access_token")?;
    let me = client.bearer("/auth/me", token)?;
    println!("   and asks who it is: {}", shown(&me));
    ensure!(me.status() == Some(200), "the token should have been good");
    Ok(())
}

fn failed_logins(lab: &Lab, edge: &Edge) -> Result<Cut> {
    let cut = fail_until_cut(lab, edge, ATTACKER4, THRESHOLD, Duration::from_secs(10), || Ok(()))?;
    println!(
        "3. {ATTACKER4} guesses passwords: {}",
        cut.statuses.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
    );
    ensure!(cut.statuses.iter().all(|&status| status == 401), "each guess should have been answered with 401");
    Ok(cut)
}

/// When the block ends, as edge says it.
fn block(edge: &Edge) -> Result<Timestamp> {
    let list = edge.json(&["list"])?;
    let prefix = format!("{ATTACKER4}/32");
    let entries = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let entry = entries.iter().find(|entry| entry["address"] == prefix.as_str());
    let entry = entry.with_context(|| format!("`edge list` does not name {prefix} but {list}"))?;
    let (origin, reason, expires) = (named(entry, "origin")?, named(entry, "reason")?, named(entry, "expires")?);
    println!("4. edge blocks {prefix} ({origin}: {reason}), until {expires}.");
    ensure!(origin == "auth", "the block should be the auth endpoints'");
    let end: Timestamp = expires.parse().with_context(|| format!("`expires` is no time: {expires}"))?;
    let left = end.duration_since(Timestamp::now()).as_secs_f64();
    ensure!(
        (0.0..=BLOCK_FOR.as_secs_f64()).contains(&left),
        "the block should last {BLOCK_FOR:?}, it ends in {left} s"
    );
    let (code, why) = edge.json_any(&["why", &ATTACKER4.to_string()])?;
    ensure!(code == 1 && why["verdict"] == "drop", "`edge why` should say that its packets drop, and says {why}");
    println!("   edge why {ATTACKER4}: verdict {}, reason {}.", named(&why, "verdict")?, named(&why, "reason")?);
    Ok(end)
}

fn times_out(lab: &Lab, edge: &Edge) -> Result<()> {
    let seen = Client::new(lab, edge, ATTACKER4).get("/health")?;
    println!("5. {ATTACKER4} connects again: {}", shown(&seen));
    ensure!(seen == Seen::Timeout, "the connection should have timed out");
    Ok(())
}

fn counted(lab: &Lab, before: f64) -> Result<()> {
    let after = blocked_packets(lab)?;
    println!("6. The kernel's count of packets dropped as blocked: {before} before, {after} after.");
    ensure!(after > before, "the count should have grown");
    Ok(())
}

fn neighbour(lab: &Lab, edge: &Edge) -> Result<()> {
    let seen = Client::new(lab, edge, NEIGHBOUR4).login(USER, PASSWORD)?;
    println!("7. The innocent neighbour {NEIGHBOUR4} logs in: {}", shown(&seen));
    ensure!(seen.status() == Some(200), "the neighbour should have been served");
    Ok(())
}

fn time_to_drop(cut: &Cut) {
    let latency = cut.latency() * 1e3;
    println!(
        "8. From the last 401 at the client's interface to the first packet that the host never saw: {latency:.3} ms."
    );
    if latency < 0.0 {
        println!("   Below zero: the kernel dropped before the 401, which was already on its way, was there.");
    }
}

fn ends_by_itself(lab: &Lab, edge: &mut Edge, cut: &Cut, end: Timestamp) -> Result<()> {
    let code = edge.stop()?;
    println!("9. The agent is stopped (exit code {code}); program and maps stay pinned in the kernel.");
    ensure!(code == 0, "a stopped agent should end with 0");
    // The server went with its agent: something else must answer.
    let listener = lab.host.within(|| Ok(TcpListener::bind(SocketAddr::new(HOST4, PLAIN_PORT))?))?;
    ensure!(connects(lab, NEIGHBOUR4)?, "the neighbour should connect without the agent");
    ensure!(!connects(lab, ATTACKER4)?, "the block should hold without the agent");
    println!("   {ATTACKER4} still cannot connect, {:.1} s into the block.", cut.dropped.elapsed().as_secs_f64());
    wait_for("the block to end by itself", BLOCK_FOR + Duration::from_secs(5), || {
        Ok(connects(lab, ATTACKER4)?.then_some(()))
    })?;
    drop(listener);
    let late = Timestamp::now().duration_since(end).as_secs_f64();
    println!("   {ATTACKER4} connects again, {late:.1} s after {end:.3}, when the block was to end.");
    ensure!(late > -0.001, "the block ended early");
    ensure!(late < 1.0 + CONNECTS_WITHIN.as_secs_f64(), "the block ended late");
    Ok(())
}

/// Whether a TCP connection from one of the clients' addresses comes about.
fn connects(lab: &Lab, from: IpAddr) -> Result<bool> {
    Ok(connect(lab, from, SocketAddr::new(HOST4, PLAIN_PORT), CONNECTS_WITHIN)?.is_ok())
}

fn blocked_packets(lab: &Lab) -> Result<f64> {
    Ok(scrape(lab)?.sum("edge_packets_total", &[("reason", "blocked")]))
}

fn shown(seen: &Seen) -> String {
    match seen {
        Seen::Answer { status, .. } => format!("HTTP {status}"),
        Seen::Timeout => "no answer, timed out".to_owned(),
        Seen::Failed(words) => format!("failed: {words}"),
    }
}

/// What edge must say here, in words.
fn named<'a>(document: &'a Value, key: &str) -> Result<&'a str> {
    let text = document[key].as_str().filter(|text| !text.is_empty());
    text.with_context(|| format!("edge should name `{key}`, and says {document}"))
}
