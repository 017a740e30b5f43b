//! The main job: a good login, five bad ones, silence; what learning counts and what it does not.

use anyhow::{Result, ensure};
use edge_tests::{
    agent::{Edge, PASSWORD, USER},
    client::Client,
    net::{ATTACKER4, ATTACKER6, ATTACKER6_SECOND, HOST4, Lab, NEIGHBOUR4, NEIGHBOUR6},
    wait_for,
};
use std::net::IpAddr;

use super::{SOON, fail_five_times, has_keys, length, log_in, only_block, packets, served, shut_out};

#[test]
fn an_attacker_is_cut_off_over_ipv4() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    story(&lab, &edge, &[ATTACKER4], NEIGHBOUR4, "10.77.0.2/32")
}

#[test]
fn an_attacker_is_cut_off_over_ipv6_with_the_whole_64() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    story(&lab, &edge, &[ATTACKER6, ATTACKER6_SECOND], NEIGHBOUR6, "2001:db8:66::/64")
}

/// The first of `attackers` fails; all of them are one client.
fn story(lab: &Lab, edge: &Edge, attackers: &[IpAddr], neighbour: IpAddr, blocked_as: &str) -> Result<()> {
    let attacker = attackers[0];
    let (client, innocent) = (Client::new(lab, edge, attacker), Client::new(lab, edge, neighbour));
    let address = attacker.to_string();

    log_in(&client)?;
    let before = edge.json(&["why", &address])?;
    ensure!(before["verdict"] == "pass" && before["reason"] == "passed" && before["block"].is_null(), "{before}");
    ensure!(edge.json(&["list"])? == serde_json::json!([]));

    fail_five_times(&client)?;
    let dropped = packets(edge, "blocked")?;
    for attacker in attackers {
        shut_out(&Client::new(lab, edge, *attacker))?;
    }
    ensure!(packets(edge, "blocked")? > dropped, "the kernel counted no drop");
    served(&innocent)?;
    log_in(&innocent)?;

    let entry = only_block(edge)?;
    ensure!(entry["address"] == blocked_as && entry["origin"] == "auth" && entry["offence"] == 1, "{entry}");
    ensure!((length(&entry)? - 900.0).abs() < 0.01, "not 15 minutes: {entry}");
    ensure!(entry["packets"].as_u64() > Some(0) && entry["bytes"].as_u64() > entry["packets"].as_u64(), "{entry}");

    let (code, during) = edge.json_any(&["why", &address])?;
    ensure!(code == 1 && during["verdict"] == "drop" && during["reason"] == "blocked", "exit code {code}: {during}");
    ensure!(during["block"]["address"] == blocked_as && during["allowed"] == false, "{during}");
    ensure!(during["dropped"]["by_reason"]["blocked"].as_u64() > Some(0), "{during}");
    ensure!(during["offences"].as_array().is_some_and(|offences| !offences.is_empty()), "{during}");

    edge.cli(&["unblock", blocked_as])?.good()?;
    served(&client)?;
    let after = edge.json(&["why", &address])?;
    ensure!(after["verdict"] == "pass" && after["block"].is_null(), "{after}");
    Ok(())
}

#[test]
fn the_next_offence_is_blocked_longer() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        config.set("learn", "block_for", "\"1s\"");
    })?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    fail_five_times(&client)?;
    wait_for("the block to end", SOON, || Ok((edge.json(&["list"])? == serde_json::json!([])).then_some(())))?;
    wait_for("the client to be served", SOON, || Ok(client.get("/health")?.status()))?;
    fail_five_times(&client)?;
    let entry = only_block(&edge)?;
    ensure!(entry["offence"] == 2 && (length(&entry)? - 4.0).abs() < 0.01, "{entry}");
    Ok(())
}

#[test]
fn bad_tokens_count_and_a_missing_credential_does_not() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    for _ in 0..6 {
        let seen = client.get("/auth/me")?;
        ensure!(seen.status() == Some(401), "{seen:?}");
        let challenge = seen.header("WWW-Authenticate").unwrap_or_default();
        ensure!(challenge.starts_with("Bearer") && !challenge.contains("error="), "{seen:?}");
    }
    for _ in 0..5 {
        let seen = client.bearer("/auth/verify", "eyJhbGciOiJub25lIn0.e30.")?;
        ensure!(seen.status() == Some(401), "{seen:?}");
        ensure!(seen.header("WWW-Authenticate").is_some_and(|challenge| challenge.contains("error=")), "{seen:?}");
    }
    shut_out(&client)
}

#[test]
fn a_good_login_takes_back_the_failures_of_its_own_name_only() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    for _ in 0..2 {
        for _ in 0..4 {
            ensure!(client.login(USER, "wrong password")?.status() == Some(401));
        }
        log_in(&client)?;
    }
    // Failures under another name stay, whatever account signs in meanwhile.
    for _ in 0..5 {
        ensure!(client.login("bob", "wrong password")?.status() == Some(401));
        let _ = client.login(USER, PASSWORD)?;
    }
    shut_out(&client)
}

#[test]
fn an_allowed_address_is_never_learned() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        config.set("filter", "allow", &format!("[\"{ATTACKER4}\"]"));
    })?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    fail_five_times(&client)?;
    fail_five_times(&client)?;
    served(&client)?;
    ensure!(edge.json(&["list"])? == serde_json::json!([]));
    let why = edge.json(&["why", &ATTACKER4.to_string()])?;
    ensure!(why["allowed"] == true && why["reason"] == "allowed", "{why}");
    // The host itself is no client of its own and can be named by nobody.
    ensure!(edge.cli(&["block", &HOST4.to_string()])?.code == 1);
    Ok(())
}

#[test]
fn the_endpoints_answer_as_agreed() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    let seen = client.login(USER, PASSWORD)?;
    let login = seen.json()?;
    has_keys(&login, &["access_token", "token_type", "expires_in", "refresh_token"])?;
    ensure!(login["token_type"] == "bearer" && login["expires_in"] == 86_400, "{login}");
    ensure!(seen.header("Cache-Control") == Some("no-store"), "{seen:?}");
    ensure!(seen.header("X-Content-Type-Options") == Some("nosniff"), "{seen:?}");
    ensure!(seen.header("Strict-Transport-Security") == Some("max-age=31536000"), "{seen:?}");

    let token = login["access_token"].as_str().unwrap_or_default();
    ensure!(client.bearer("/auth/me", token)?.json()? == serde_json::json!({"username": USER, "roles": ["chat"]}));
    let verified = client.bearer("/auth/verify", token)?;
    ensure!(verified.status() == Some(200), "{verified:?}");
    ensure!(verified.header("X-Auth-Request-User") == Some(USER), "{verified:?}");
    ensure!(verified.header("X-Auth-Request-Groups") == Some("chat"), "{verified:?}");
    ensure!(client.bearer("/auth/verify?require=admin", token)?.status() == Some(403));

    ensure!(client.get("/health")?.json()? == serde_json::json!({"status": "ok"}));
    ensure!(client.get("/nowhere")?.status() == Some(404));
    let put = client.request("/auth/login", &["-X", "PUT"])?;
    ensure!(put.status() == Some(405) && put.header("Allow").is_some(), "{put:?}");
    let long = format!("X-Long: {}", "a".repeat(70_000));
    ensure!(client.request("/health", &["--http1.1", "-H", &long])?.status() == Some(431));
    let body = format!("{{\"username\":\"{}\",\"password\":\"x\"}}", "a".repeat(70_000));
    let file = edge.path("body");
    std::fs::write(&file, body)?;
    for version in ["--http1.1", "--http2"] {
        let big = client.request("/auth/login", &[version, "--data-binary", &format!("@{}", file.display())])?;
        ensure!(big.status() == Some(413), "{version}: {big:?}");
    }
    Ok(())
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_nothing_older() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, NEIGHBOUR6);
    for version in ["1.2", "1.3"] {
        let seen = client.request("/health", &[&format!("--tlsv{version}"), "--tls-max", version])?;
        ensure!(seen.status() == Some(200), "TLS {version}: {seen:?}");
    }
    let old = client.request("/health", &["--tlsv1.1", "--tls-max", "1.1", "--ciphers", "DEFAULT:@SECLEVEL=0"])?;
    ensure!(old.status().is_none(), "TLS 1.1: {old:?}");
    Ok(())
}
