//! Logins that are refused: that they tell nothing apart, and that many at once take neither the memory nor the server.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use edge_tests::{
    agent::{Edge, PASSWORD, USER},
    client::{Client, connect, process_status},
    net::{ATTACKER4, HOST4, HOST6, Lab, NEIGHBOUR4, NEIGHBOUR6},
};
use fastrand::Rng;
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use serde_json::json;

use super::{times, trusting::anybody};

const PATIENCE: Duration = Duration::from_secs(60);
/// From so many logins of a class on their times say something.
const TELLING: usize = 500;
/// Above it two samples are told apart, as those who look for leaks in time hold it.
const MOST_T: f64 = 4.5;
/// As dudect does: of the longest part nothing is to be learned but what else the machine did.
const KEPT: f64 = 0.9;
/// What a hash takes, in KiB.
const HASH_KIB: u64 = 19_456;
/// Room for what an answer and its report take, of all together, in KiB.
const SLACK_KIB: u64 = 16 << 10;
const AT_ONCE: usize = 1_000;
const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: edge.test\r\n\r\n";

/// The answers to an unknown name, a wrong password and a user who is disabled; `EDGE_LOGINS` of each.
#[test]
fn refusals_are_the_same_and_take_as_long() -> Result<()> {
    let lab = Lab::new()?;
    let edge = unlearning(&lab)?;
    edge.add_user("dormant", PASSWORD, &["chat"])?;
    edge.cli(&["user", "disable", "dormant"])?.good()?;
    let mut talk = Talk::open(&lab, NEIGHBOUR4, &Arc::new(anybody(rustls::ALL_VERSIONS)?))?;
    let (mut random, count) = (Rng::new(), times("EDGE_LOGINS", 20)?);
    let (mut took, mut answers) = ([const { Vec::new() }; 3], Vec::new());
    for _ in 0..count {
        let unknown: String = (0..USER.len()).map(|_| random.lowercase()).collect();
        let wrong = PASSWORD.replace("correct", "corrupt");
        let mut classes = [(0, unknown.as_str(), PASSWORD), (1, USER, wrong.as_str()), (2, "dormant", PASSWORD)];
        random.shuffle(&mut classes);
        for (class, name, password) in classes {
            let begin = Instant::now();
            let answer = talk.log_in(name, password)?;
            took[class].push(begin.elapsed().as_secs_f64() * 1e3);
            answers.push(answer);
        }
    }
    answers.dedup();
    ensure!(answers.len() == 1 && answers[0].starts_with("HTTP/1.1 401"), "different answers: {answers:#?}");
    let pairs = [("unknown", "wrong", 0, 1), ("unknown", "disabled", 0, 2), ("wrong", "disabled", 1, 2)];
    for (one, other, a, b) in pairs {
        let t = welch(&took[a], &took[b], bound(&took));
        println!("{count} logins of each: {one} and {other}: t {t:.2}");
        ensure!(count < TELLING || t.abs() < MOST_T, "{one} and {other} are told apart by their times: t {t:.2}");
    }
    Ok(())
}

#[test]
fn a_thousand_at_once_take_no_more_memory_than_the_hashes_in_flight() -> Result<()> {
    const HASHES: u64 = 2;
    let lab = Lab::new()?;
    let edge = unlearning_with(&lab, HASHES)?;
    let tls = Arc::new(anybody(rustls::ALL_VERSIONS)?);
    let served = |at: usize| {
        let mut talk = Talk::open(&lab, [ATTACKER4, NEIGHBOUR4, NEIGHBOUR6][at % 3], &tls)?;
        talk.ask(HEALTH)?;
        Ok(talk)
    };
    let mut talks = (0..AT_ONCE).map(served).collect::<Result<Vec<_>>>()?;
    let server = edge.server_pid()?;
    fs::write(format!("/proc/{server}/clear_refs"), "5").context("resetting the peak")?;
    let before = peak(server)?;
    let mut health = Talk::open(&lab, NEIGHBOUR4, &tls)?;
    let mut waits = Vec::new();
    let answers = thread::scope(|scope| {
        let parts: Vec<_> = talks.chunks_mut(AT_ONCE / 8).map(|part| scope.spawn(move || flood(part))).collect();
        while parts.iter().any(|part| !part.is_finished()) {
            let begin = Instant::now();
            health.ask(HEALTH)?;
            waits.push(begin.elapsed());
        }
        let answers = parts.into_iter().map(|part| part.join().unwrap_or_else(|_| bail!("a client panicked")));
        answers.collect::<Result<Vec<_>>>().map(|answers| answers.concat())
    })?;
    waits.sort_unstable();
    let p99 = waits.get(waits.len() * 99 / 100).copied().unwrap_or_default();
    let more = peak(server)?.saturating_sub(before);
    let refused = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 401")).count();
    println!("{refused} of {AT_ONCE} were hashed; {more} KiB more; {} health checks, p99 {p99:?}", waits.len());
    for answer in answers.iter().filter(|answer| !answer.starts_with("HTTP/1.1 401")) {
        let later = answer.lines().any(|line| line.to_ascii_lowercase().starts_with("retry-after: "));
        ensure!(answer.starts_with("HTTP/1.1 503") && later, "{answer}");
    }
    ensure!(refused > 0 && answers.len() == AT_ONCE, "{refused} of {}", answers.len());
    ensure!(more <= HASHES * HASH_KIB + SLACK_KIB, "{more} KiB more for {HASHES} hashes in flight");
    Ok(())
}

/// Each says all it has to say; only then are the answers read.
fn flood(talks: &mut [Talk]) -> Result<Vec<String>> {
    talks.iter_mut().try_for_each(|talk| talk.say(&login(USER, "wrong password")))?;
    talks.iter_mut().map(Talk::answer).collect()
}

/// No guess blocks the client: each answer is to be seen.
fn unlearning(lab: &Lab) -> Result<Edge> {
    unlearning_with(lab, 4)
}

fn unlearning_with(lab: &Lab, hashes: u64) -> Result<Edge> {
    Edge::start_with(lab, |config| {
        config.set("learn", "threshold", "1000000").set("auth", "hashes_in_flight", &hashes.to_string());
    })
}

/// The most that was resident, in KiB.
fn peak(process: u32) -> Result<u64> {
    Ok(process_status(process, "VmHWM")?.trim_end_matches(" kB").parse()?)
}

/// A connection that is kept.
struct Talk(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Talk {
    fn open(lab: &Lab, from: IpAddr, tls: &Arc<ClientConfig>) -> Result<Talk> {
        let host = if from.is_ipv4() { HOST4 } else { HOST6 };
        let stream = connect(lab, from, SocketAddr::new(host, 443), PATIENCE)??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let connection = ClientConnection::new(tls.clone(), ServerName::try_from("edge.test")?)?;
        Ok(Talk(BufReader::new(StreamOwned::new(connection, stream))))
    }

    fn log_in(&mut self, name: &str, password: &str) -> Result<String> {
        self.ask(&login(name, password))
    }

    fn ask(&mut self, request: &str) -> Result<String> {
        self.say(request)?;
        self.answer()
    }

    fn say(&mut self, request: &str) -> Result<()> {
        Ok(self.0.get_mut().write_all(request.as_bytes())?)
    }

    /// But for its date.
    fn answer(&mut self) -> Result<String> {
        let (mut answer, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "the server closed after {answer:?}");
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if !lower.starts_with("date:") {
                answer.push_str(&line);
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(answer + &String::from_utf8(body)?)
    }
}

fn login(name: &str, password: &str) -> String {
    let body = json!({"username": name, "password": password}).to_string();
    format!(
        "POST /auth/login HTTP/1.1\r\nHost: edge.test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Of all times together the one that the longest part begins with.
fn bound(took: &[Vec<f64>; 3]) -> f64 {
    let mut all: Vec<f64> = took.iter().flatten().copied().collect();
    all.sort_by(f64::total_cmp);
    all.get((all.len() as f64 * KEPT) as usize).copied().unwrap_or(f64::MAX)
}

/// Welch's t of those that are not over the bound.
fn welch(one: &[f64], other: &[f64], bound: f64) -> f64 {
    let of = |times: &[f64]| {
        let kept: Vec<f64> = times.iter().copied().filter(|time| *time <= bound).collect();
        let count = kept.len() as f64;
        let mean = kept.iter().sum::<f64>() / count;
        let variance = kept.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    };
    let ((a, va), (b, vb)) = (of(one), of(other));
    (a - b) / (va + vb).sqrt()
}

#[test]
fn a_refusal_is_seen_by_who_sends_a_body_with_what_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    let body = edge.path("body");
    fs::write(&body, vec![b'x'; 1 << 20])?;
    let body = format!("@{}", body.display());
    for version in ["--http1.1", "--http2"] {
        for (path, status) in [
            ("/auth/verify", 401),
            ("/auth/introspect", 401),
            ("/auth/me", 405),
            ("/nowhere", 404),
            ("/auth/login", 413),
        ] {
            for expects in ["Expect:", "X-None: 1"] {
                let seen = client.request(path, &[version, "--header", expects, "--data-binary", &body])?;
                ensure!(seen.status() == Some(status), "{version} {path} {expects}: {seen:?}");
            }
        }
    }
    Ok(())
}
