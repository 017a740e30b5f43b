//! `bench auth`: what a check of a token costs, in the program and over TLS beside HAProxy's `jwt_verify`; full handshakes
//! beside nginx; and what a flood of logins does to others.

mod peers;
mod wrk;

use std::{process::Command, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use edge_tests::{
    agent::{Edge, PASSWORD, USER},
    client::Client,
    net::{HOST4, Lab, NEIGHBOUR4},
};
use serde_json::{Value, json};

use self::{
    peers::Peer,
    wrk::{Figures, Load},
};
use super::{Outcome, quantile};
use crate::shell::{output, root};

const ROUNDS: usize = 5;
/// Of each in a round.
const SECONDS: u64 = 4;
const CONNECTIONS: usize = 32;
/// Microseconds of a check with HS256.
const CHECK_GOAL: f64 = 10.0;
/// The least of what the peer does.
const RATE_GOAL: f64 = 1.0;
/// The most of the idle time.
const FLOOD_GOAL: f64 = 2.0;

pub fn measure() -> Result<Outcome> {
    let checks = checks()?;
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        // The flood is to go on.
        config.set("learn", "threshold", "1000000");
    })?;
    let token = log_in(&Client::new(&lab, &edge, NEIGHBOUR4))?;
    let verify = beside_haproxy(&lab, &edge, &token)?;
    let handshakes = beside_nginx(&lab, &edge)?;
    let flood = under_flood(&lab, &token)?;
    Ok(outcome(&checks, &verify, &handshakes, flood))
}

/// Nanoseconds of each algorithm, of the code alone.
fn checks() -> Result<Vec<(String, f64)>> {
    let mut command = Command::new("cargo");
    command.args(["bench", "--quiet", "--package", "edge-user", "--bench", "tokens"]).current_dir(root());
    let line = |line: &str| {
        let (name, time) = line.split_once(' ')?;
        Some((name.to_owned(), time.parse().ok()?))
    };
    let checks: Vec<_> = output(&mut command)?.lines().filter_map(line).collect();
    ensure!(checks.len() == 5, "`cargo bench` says {checks:?}");
    Ok(checks)
}

/// Requests a second: edge, the peer.
type Rounds = [Vec<f64>; 2];

fn beside_haproxy(lab: &Lab, edge: &Edge, token: &str) -> Result<Rounds> {
    let haproxy = Peer::haproxy(lab, edge)?;
    let fields = vec![("Authorization", format!("Bearer {token}"))];
    let load = Load { connections: CONNECTIONS, seconds: SECONDS, fields, ..Load::default() };
    alternate(lab, &load, &format!("https://{HOST4}/auth/verify"), &haproxy.url)
}

/// Every request over a connection of its own, without resumption.
fn beside_nginx(lab: &Lab, edge: &Edge) -> Result<Rounds> {
    let nginx = Peer::nginx(lab, edge)?;
    let fields = vec![("Connection", "close".to_owned())];
    let load = Load { connections: CONNECTIONS, seconds: SECONDS, fields, ..Load::default() };
    alternate(lab, &load, &format!("https://{HOST4}/health"), &nginx.url)
}

fn alternate(lab: &Lab, load: &Load, edge: &str, peer: &str) -> Result<Rounds> {
    let mut rates: Rounds = Default::default();
    for round in 0..ROUNDS {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let figures = load.run(lab, [edge, peer][which])?;
            ensure!(figures.others == 0, "{} answers of {} were not good", figures.others, [edge, peer][which]);
            rates[which].push(figures.per_second);
        }
    }
    Ok(rates)
}

/// p99 in milliseconds of clients that ask now and then: alone, and beside a flood of wrong logins.
fn under_flood(lab: &Lab, token: &str) -> Result<[f64; 2]> {
    let fields = vec![("Authorization", format!("Bearer {token}"))];
    let pause = Some(Duration::from_millis(20));
    let asks = Load { connections: 8, seconds: 2 * SECONDS, fields, pause, ..Load::default() };
    let wrong = json!({"username": USER, "password": format!("{PASSWORD} not")}).to_string();
    let flood = Load { connections: 64, seconds: 3 * SECONDS, body: Some(wrong), pause, ..Load::default() };
    let (verify, login) = (format!("https://{HOST4}/auth/verify"), format!("https://{HOST4}/auth/login"));
    let good = |figures: Figures| {
        ensure!(figures.others == 0, "{} answers were not good", figures.others);
        Ok(figures.p99)
    };
    let mut times: Rounds = Default::default();
    for _ in 0..ROUNDS {
        times[0].push(good(asks.run(lab, &verify)?)?);
        let flooded = thread::scope(|scope| {
            let flood = scope.spawn(|| flood.run(lab, &login));
            thread::sleep(Duration::from_secs(1));
            let asked = asks.run(lab, &verify);
            let flood = flood.join().ok().context("the flood panicked")??;
            ensure!(flood.others > 0, "no login was refused");
            asked
        });
        times[1].push(good(flooded?)?);
    }
    Ok(times.map(|times| quantile(&times, 0.5)))
}

fn log_in(client: &Client<'_>) -> Result<String> {
    let seen = client.login(USER, PASSWORD)?;
    Ok(seen.json()?["access_token"].as_str().with_context(|| format!("{seen:?}"))?.to_owned())
}

fn outcome(checks: &[(String, f64)], verify: &Rounds, handshakes: &Rounds, flood: [f64; 2]) -> Outcome {
    let mut lines = vec!["auth: a check of an access token, in the program, us".to_owned()];
    for (name, nanoseconds) in checks {
        let goal = if name == "HS256" { format!("   goal {CHECK_GOAL}") } else { String::new() };
        lines.push(format!("  {name:8}{:>8.2}{goal}", nanoseconds / 1e3));
    }
    let mut rows = Vec::new();
    for (what, peer, rates) in [
        ("requests to /auth/verify a second, over connections that are kept", "HAProxy", verify),
        ("full TLS handshakes a second, each with a request", "nginx", handshakes),
    ] {
        let [own, other] = [0, 1].map(|which: usize| quantile(&rates[which], 0.5));
        let ratio = own / other;
        lines.push(format!("{what}, median of {ROUNDS} rounds of {SECONDS} s, {CONNECTIONS} connections"));
        lines.push(format!("  edge {own:.0}   {peer} {other:.0}   ratio {ratio:.2}   goal {RATE_GOAL}"));
        rows.push(
            json!({ "what": what, "edge": own, "peer": peer, "peer_rate": other, "ratio": ratio, "goal": RATE_GOAL }),
        );
    }
    let [idle, flooded] = flood;
    lines.push(
        "p99 of /auth/verify for clients that ask 8 times in 20 ms, ms, alone and beside a flood of logins".to_owned(),
    );
    lines.push(format!("  alone {idle:.2}   flooded {flooded:.2}   ratio {:.2}   goal {FLOOD_GOAL}", flooded / idle));
    let checks: Vec<Value> = checks.iter().map(|(name, ns)| json!({ "algorithm": name, "us": ns / 1e3 })).collect();
    let flood = json!({ "idle_ms": idle, "flooded_ms": flooded, "ratio": flooded / idle, "goal": FLOOD_GOAL });
    Outcome { text: lines.join("\n"), json: json!({ "checks": checks, "rates": rows, "flood": flood }) }
}
