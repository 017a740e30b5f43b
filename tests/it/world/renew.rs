//! A reload of what is not `[filter]`: another server takes over on the same sockets, and nobody who comes meanwhile is
//! refused or let go.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr},
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use edge_tests::{
    Output,
    agent::{Edge, PASSWORD, USER},
    authority::certificate,
    client::{Client, Metrics, connect, scrape},
    net::{ATTACKER4, ATTACKER6, HOST4, HOST6, Lab, NEIGHBOUR4, NEIGHBOUR6},
    run, wait_for,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{
    GUESSED, SOON, log_in, served, shut_out, times,
    tls::session::{Greeting, Session},
};

pub(super) fn reload(edge: &Edge) -> Result<Output> {
    edge.write_config()?;
    edge.cli(&["reload"])
}

pub(super) fn applied(edge: &Edge) -> Result<Value> {
    edge.write_config()?;
    Ok(edge.json(&["reload"])?["applied"].clone())
}

/// Another certificate and key in place of those that the config names.
fn renew(edge: &Edge) -> Result<()> {
    certificate(&edge.path("cert.pem"), &edge.path("key.pem"))
}

#[test]
fn every_section_is_in_force_when_the_command_returns() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let (client, attacker) = (Client::new(&lab, &edge, NEIGHBOUR4), Client::new(&lab, &edge, ATTACKER4));
    let (former, server) = (log_in(&client)?, edge.server_pid()?);
    ensure!(attacker.login(GUESSED, "wrong")?.status() == Some(401));
    // What was failed so far counts by the new policy, and the server has nothing to do with it.
    edge.config.set("learn", "threshold", "2");
    ensure!(applied(&edge)? == json!(["learn.threshold"]) && edge.server_pid()? == server);
    let why = edge.json(&["why", &ATTACKER4.to_string()])?;
    ensure!(why["threshold"] == 2 && why["score"] == 1, "{why}");
    ensure!(attacker.login(GUESSED, "wrong")?.status() == Some(401));
    shut_out(&attacker)?;

    edge.config.text("auth", "issuer", "https://other.test").set("server", "max_handshakes", "64");
    ensure!(applied(&edge)? == json!(["server.max_handshakes", "auth.issuer"]));
    ensure!(client.bearer("/auth/me", &log_in(&client)?)?.status() == Some(200));
    ensure!(client.bearer("/auth/me", &former)?.status() == Some(401), "the former issuer is believed");
    // Production lets browsers remember that there is TLS.
    let told = |client: &Client<'_>| -> Result<bool> {
        Ok(client.get("/health")?.header("strict-transport-security").is_some())
    };
    ensure!(told(&client)?);
    edge.config.text("", "mode", "development").text("log", "format", "json");
    ensure!(applied(&edge)? == json!(["mode", "log.format"]) && !told(&client)?);
    edge.cli(&["block", "198.51.100.7"])?.good()?;
    let log = edge.log();
    let line = log.lines().rev().find(|line| line.contains("198.51.100.7")).with_context(|| log.clone())?;
    ensure!(line.starts_with('{'), "{line}");
    // The counts of servers that are gone are not lost.
    let successes = |metrics: &Metrics| metrics.sum("edge_auth_requests_total", &[("endpoint", "login")]);
    wait_for("all logins to be counted", SOON, || Ok((successes(&scrape(&lab)?) == 4.0).then_some(())))
}

#[test]
fn a_bad_file_refuses_all_of_it_and_a_server_that_dies_comes_back_as_it_was() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    let good = fs::read(edge.path("cert.pem"))?;
    let secret = fs::read(edge.path("jwt"))?;
    edge.config.set("filter", "fragments", "\"drop\"");
    fs::write(edge.path("jwt"), "short")?;
    fs::write(edge.path("cert.pem"), "no certificate")?;
    let refused = reload(&edge)?;
    ensure!(refused.code == 2, "{refused:?}");
    ensure!(refused.stderr.contains("auth.secret_file") && refused.stderr.contains("cert_file"), "{refused:?}");
    ensure!(edge.json(&["status"])?["reload"] == json!({"generation": 1, "last_result": "refused"}));
    let server = edge.server_pid()?;
    kill(Pid::from_raw(server.try_into()?), Signal::SIGKILL)?;
    wait_for("another server", SOON, || Ok(edge.server_pid().ok().filter(|pid| *pid != server)))?;
    ensure!(client.request("/health", &["--insecure"])?.status() == Some(200));
    fs::write(edge.path("cert.pem"), &good)?;
    served(&client)?;
    // A file's text counts, not only its name.
    fs::write(edge.path("jwt"), secret)?;
    reload(&edge)?.good()?;
    let token = log_in(&client)?;
    renew(&edge)?;
    ensure!(applied(&edge)? == json!(["server.tls"]));
    served(&client)?;
    ensure!(client.bearer("/auth/me", &token)?.status() == Some(200));
    fs::write(edge.path("jwt"), edge.cli(&["secret", "generate"])?.good()?)?;
    ensure!(applied(&edge)? == json!(["auth.secret_file"]));
    ensure!(client.bearer("/auth/me", &token)?.status() == Some(401));
    ensure!(applied(&edge)? == json!([]));
    Ok(())
}

/// A client that speaks TLS byte by byte.
struct Slow(Child);

impl Slow {
    fn greet(lab: &Lab) -> Result<Slow> {
        let mut command = lab.client.command("openssl");
        command.args(["s_client", "-quiet", "-connect", &format!("{HOST4}:443"), "-bind", &NEIGHBOUR4.to_string()]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        Ok(Slow(child))
    }

    fn say(&mut self, text: &str) -> Result<()> {
        Ok(self.0.stdin.as_mut().context("no input")?.write_all(text.as_bytes())?)
    }

    /// What came until the connection was closed.
    fn hear(&mut self) -> Result<String> {
        let mut heard = String::new();
        self.0.stdout.as_mut().context("no output")?.read_to_string(&mut heard)?;
        Ok(heard)
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn who_has_come_is_served_to_the_end_and_judged_as_ever() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let greeted = |count: f64| {
        wait_for("the handshakes", SOON, || {
            let success = [("result", "success")];
            Ok((scrape(&lab)?.value("edge_tls_handshakes_total", &success) == Some(count)).then_some(()))
        })
    };
    // One has said nothing yet, one a part of its head, and one all but its body.
    let body = json!({"username": USER, "password": PASSWORD}).to_string();
    let head = format!(
        "POST /auth/login HTTP/1.1\r\nHost: edge.test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let parts = [0, head.len() / 2, head.len()];
    let whole = format!("{head}{body}");
    let mut slow = Vec::new();
    for (at, part) in parts.into_iter().enumerate() {
        let mut one = Slow::greet(&lab)?;
        greeted((at + 1) as f64)?;
        one.say(&whole[..part])?;
        slow.push(one);
    }
    renew(&edge)?;
    ensure!(applied(&edge)? == json!(["server.tls"]));
    served(&Client::new(&lab, &edge, NEIGHBOUR4))?;
    for (one, part) in slow.iter_mut().zip(parts) {
        one.say(&whole[part..])?;
        let heard = one.hear()?;
        ensure!(heard.starts_with("HTTP/1.1 200") && heard.contains("access_token"), "{part}: {heard}");
    }
    // The offence of the one is as good as that of the other.
    let attacker = Client::new(&lab, &edge, ATTACKER4);
    for _ in 0..5 {
        ensure!(attacker.login(GUESSED, "wrong")?.status() == Some(401));
        renew(&edge)?;
        reload(&edge)?.good()?;
    }
    shut_out(&attacker)
}

#[test]
fn a_reload_that_is_in_force_is_answered_and_audited_though_the_agent_ends() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let audit = edge.path("audit.log");
    edge.config.set("server", "max_handshakes", "2").text("log", "audit", &audit);
    edge.run()?;
    // They have all turns, so that the server waits with the third in hand before it can say that it accepts no more.
    let greets_never = |from: IpAddr, to: IpAddr| super::connect(&lab, from, SocketAddr::new(to, 443));
    let comers = [(ATTACKER6, HOST6), (NEIGHBOUR6, HOST6), (NEIGHBOUR4, HOST4)];
    let _connections = comers.map(|(from, to)| greets_never(from, to));
    renew(&edge)?;
    let output = thread::scope(|scope| {
        let reloading = scope.spawn(|| edge.cli(&["reload"]));
        wait_for("the reload to be in force", SOON, || {
            Ok((edge.json(&["status"])?["reload"]["generation"] == 2).then_some(()))
        })?;
        kill(Pid::from_raw(edge.pid()?.try_into()?), Signal::SIGTERM)?;
        reloading.join().map_err(|_| anyhow!("a client panicked"))?
    })?;
    ensure!(edge.wait()? == 0 && output.code == 0, "{output:?}\n{}", edge.log());
    let log = fs::read_to_string(audit)?;
    ensure!(log.lines().any(|line| line.contains("\"reload\"")), "{log}");
    Ok(())
}

/// What clients met who came again and again.
#[derive(Default)]
struct Met {
    served: AtomicU64,
    connected: AtomicU64,
    greeted: AtomicU64,
    failed: std::sync::Mutex<Vec<String>>,
}

#[test]
fn nobody_is_refused_or_let_go_while_certificates_change() -> Result<()> {
    let reloads_to_do = times("EDGE_RELOADS", 20)? as u64;
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let (met, over) = (Met::default(), AtomicBool::new(false));
    let visits = |from: IpAddr, options: &[&str]| -> Result<()> {
        let client = Client::new(&lab, &edge, from);
        while !over.load(Ordering::Relaxed) {
            match client.request("/health", options)? {
                seen if seen.status() == Some(200) => drop(met.served.fetch_add(1, Ordering::Relaxed)),
                seen => met.failed.lock().map_err(|_| anyhow!("poisoned"))?.push(format!("{seen:?}")),
            }
        }
        Ok(())
    };
    // Another client than all others: of one, only so many may be in their handshakes at once.
    let knocks = || -> Result<()> {
        let to = SocketAddr::new(HOST6, 443);
        while !over.load(Ordering::Relaxed) {
            match connect(&lab, NEIGHBOUR6, to, SOON)? {
                Ok(_) => drop(met.connected.fetch_add(1, Ordering::Relaxed)),
                Err(error) => met.failed.lock().map_err(|_| anyhow!("poisoned"))?.push(error.to_string()),
            }
        }
        Ok(())
    };
    // Whole handshakes, one after the other, of both versions.
    let greets = |from: IpAddr, alpn: &[&str]| -> Result<()> {
        for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]].into_iter().cycle() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let greeting = Greeting { alpn, versions, ..Greeting::default() };
            match Session::greet(&lab, from, &greeting).and_then(|mut session| session.served()) {
                Ok(()) => drop(met.greeted.fetch_add(1, Ordering::Relaxed)),
                Err(error) => met.failed.lock().map_err(|_| anyhow!("poisoned"))?.push(format!("{error:#}")),
            }
        }
        Ok(())
    };
    let reloads = || -> Result<()> {
        for number in 0..reloads_to_do {
            let before = met.served.load(Ordering::Relaxed);
            renew(&edge)?;
            edge.cli(&["reload"])?.good().with_context(|| format!("reload {number}"))?;
            // With the new certificate, which no other would be taken for.
            served(&Client::new(&lab, &edge, NEIGHBOUR4))?;
            wait_for("others to be served", SOON, || Ok((met.served.load(Ordering::Relaxed) > before).then_some(())))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let http1 = scope.spawn(|| visits(NEIGHBOUR4, &["--insecure", "--http1.1"]));
        let http2 = scope.spawn(|| visits(ATTACKER6, &["--insecure", "--http2"]));
        let greeting = [NEIGHBOUR4, ATTACKER4].map(|from| scope.spawn(move || greets(from, &["http/1.1"])));
        let knocking = scope.spawn(knocks);
        let done = reloads();
        over.store(true, Ordering::Relaxed);
        for visitor in [http1, http2, knocking].into_iter().chain(greeting) {
            visitor.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        done
    })?;
    let failed = met.failed.lock().map_err(|_| anyhow!("poisoned"))?;
    ensure!(failed.is_empty(), "{} failed: {:?}\n{}", failed.len(), &failed[..failed.len().min(5)], edge.log());
    ensure!(
        met.served.load(Ordering::Relaxed) >= reloads_to_do && met.connected.load(Ordering::Relaxed) > reloads_to_do
    );
    println!("{reloads_to_do} reloads, {} handshakes, 0 failed", met.greeted.load(Ordering::Relaxed));
    let status = edge.json(&["status"])?;
    ensure!(status["reload"] == json!({"generation": reloads_to_do + 1, "last_result": "ok"}), "{status}");
    // Those that were replaced have ended.
    wait_for("one server to be left", SOON, || Ok((servers(&edge)? == 1).then_some(())))
}

fn servers(edge: &Edge) -> Result<usize> {
    let mut command = std::process::Command::new("pgrep");
    command.args(["--count", "--parent", &edge.pid()?.to_string()]);
    Ok(run(&mut command, b"")?.stdout.trim().parse()?)
}
