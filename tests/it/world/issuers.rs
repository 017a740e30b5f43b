//! Tokens of issuers that are trusted: their keys behind an address that answers, fails, changes and comes back.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::{Config, Edge},
    client::Client,
    net::{ATTACKER4, Lab, NEIGHBOUR4},
    wait_for,
};
use edge_user::server::jws::{Algorithm, Members, SigningKey};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{SOON, log_in, served, shut_out};

const ISSUER: &str = "https://issuer.test";

/// A provider on the guarded host's own loopback: what it says, and how often it was asked.
#[derive(Clone)]
struct Provider(Arc<Mutex<Said>>);

struct Said {
    status: u16,
    keys: Vec<Value>,
    asked: usize,
}

impl Provider {
    fn start(lab: &Lab) -> Result<Provider> {
        let listener = lab.host.within(|| Ok(TcpListener::bind("127.0.0.1:8090")?))?;
        let provider = Provider(Arc::new(Mutex::new(Said { status: 500, keys: Vec::new(), asked: 0 })));
        let answers = provider.clone();
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(answers.answer(stream))));
        Ok(provider)
    }

    fn answer(&self, mut stream: TcpStream) -> Result<()> {
        let head = BufReader::new(stream.try_clone()?).lines().map_while(Result::ok);
        head.take_while(|line| !line.is_empty()).for_each(drop);
        let mut said = self.said();
        said.asked += 1;
        let body = json!({"keys": said.keys}).to_string();
        let (status, length) = (said.status, body.len());
        write!(stream, "HTTP/1.1 {status} X\r\nCache-Control: max-age=3600\r\nContent-Length: {length}\r\n\r\n{body}")?;
        Ok(())
    }

    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn says(&self, status: u16, keys: &[&SigningKey]) {
        let mut said = self.said();
        said.status = status;
        said.keys = keys.iter().map(|key| json!(key.public())).collect();
    }
}

fn key() -> Result<SigningKey> {
    let made = edge_tests::run(
        std::process::Command::new("openssl").args([
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ]),
        b"",
    )?;
    SigningKey::new(Algorithm::ES256, &made.good()?).map_err(anyhow::Error::msg)
}

fn token(key: &SigningKey, change: impl FnOnce(&mut Value)) -> Result<String> {
    let now = jiff::Timestamp::now().as_second();
    let mut claims = json!({"exp": now + 600, "iat": now, "iss": ISSUER, "aud": "app", "sub": "42",
        "email": "ann@example.org", "email_verified": true, "groups": ["staff", "no,role"]});
    change(&mut claims);
    key.sign(&Members::default(), claims.to_string().as_bytes()).context("signing")
}

fn trust(config: &mut Config, keys: &str) {
    let issuer = format!(
        "[{{ name = \"corp\", issuer = \"{ISSUER}\", audience = [\"app\"], {keys}, roles = [\"chat\"], role_claim = \"groups\" }}]"
    );
    config.set("auth", "trusted_issuer", &issuer);
}

const URL: &str = "jwks_url = \"http://127.0.0.1:8090/jwks\"";

fn is_good(client: &Client<'_>, token: &str) -> Result<()> {
    let seen = client.bearer("/auth/verify?require=staff", token)?;
    ensure!(seen.status() == Some(200), "{seen:?}");
    let header = |name: &str| seen.header(name).map(str::to_owned);
    ensure!(header("x-auth-request-user").as_deref() == Some("corp:42"), "{seen:?}");
    ensure!(header("x-auth-request-email").as_deref() == Some("ann@example.org"), "{seen:?}");
    ensure!(header("x-auth-request-groups").as_deref() == Some("chat,staff"), "{seen:?}");
    Ok(())
}

#[test]
fn keys_come_when_they_can_change_when_they_must_and_stay_through_an_outage() -> Result<()> {
    let lab = Lab::new()?;
    let provider = Provider::start(&lab)?;
    let mut edge = Edge::start_with(&lab, |config| trust(config, URL))?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    let (first, second) = (key()?, key()?);
    for _ in 0..10 {
        // Nobody can tell yet, so that it is no guess.
        ensure!(client.bearer("/auth/me", &token(&first, |_| {})?)?.status() == Some(503));
    }
    provider.says(200, &[&first]);
    let good = token(&first, |_| {})?;
    let has_come = || Ok((client.bearer("/auth/me", &good)?.status() == Some(200)).then_some(()));
    wait_for("the keys", SOON, has_come)?;
    is_good(&client, &good)?;

    // A fetcher that dies comes back, and a key that is not known is looked for at once.
    let fetcher = edge.fetcher_pid()?;
    kill(Pid::from_raw(fetcher.try_into()?), Signal::SIGKILL)?;
    wait_for("another fetcher", SOON, || Ok(edge.fetcher_pid().ok().filter(|pid| *pid != fetcher)))?;
    provider.says(200, &[&first, &second]);
    is_good(&client, &token(&second, |_| {})?)?;
    let asked = provider.said().asked;
    let stranger = key()?;
    let attacker = Client::new(&lab, &edge, ATTACKER4);
    for _ in 0..4 {
        ensure!(attacker.bearer("/auth/me", &token(&stranger, |_| {})?)?.status() == Some(401));
    }
    ensure!(provider.said().asked == asked, "strangers have the keys be fetched");

    provider.says(500, &[]);
    is_good(&client, &good)?;
    // The rest applies, and what failed is named.
    edge.config.set("auth", "leeway", "\"31s\"");
    edge.write_config()?;
    let (code, partly) = edge.json_any(&["reload"])?;
    ensure!(code == 1 && partly["last_result"] == "partial" && partly["applied"] == json!(["auth.leeway"]), "{partly}");
    ensure!(partly.to_string().contains("it answered 500"), "{partly}");
    ensure!(edge.json(&["status"])?["reload"]["last_result"] == "partial");
    is_good(&client, &good)?;
    let begin = Instant::now();
    ensure!(edge.stop()? == 0);
    edge.run()?;
    ensure!(begin.elapsed() < SOON, "the start waits for the keys");
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    is_good(&client, &good)?;
    log_in(&client)?;
    Ok(())
}

#[test]
fn what_an_issuer_signed_is_no_guess_and_what_it_did_not_is_one() -> Result<()> {
    let lab = Lab::new()?;
    let (issuers, strangers) = (key()?, key()?);
    let mut edge = Edge::new(&lab)?;
    fs::write(edge.path("keys.json"), json!({"keys": [issuers.public()]}).to_string())?;
    let file = format!("jwks_file = {:?}", edge.path("keys.json"));
    trust(&mut edge.config, &file);
    edge.run()?;
    ensure!(edge.fetcher_pid().is_err(), "nobody has to be asked");
    let client = Client::new(&lab, &edge, ATTACKER4);
    is_good(&client, &token(&issuers, |_| {})?)?;
    for (name, value) in [
        ("exp", json!(1)),
        ("aud", json!("another")),
        ("sub", json!("a\nb")),
        ("sub", Value::Null),
        ("iat", json!("now")),
        ("nbf", json!(99_999_999_999_u64)),
    ] {
        let refused = client.bearer("/auth/verify", &token(&issuers, |claims| claims[name] = value.clone())?)?;
        ensure!(refused.status() == Some(401), "{name} {value}: {refused:?}");
    }
    served(&client)?;
    // A refusal of a role is told as one.
    ensure!(client.bearer("/auth/verify?require=admin", &token(&issuers, |_| {})?)?.status() == Some(403));
    for _ in 0..5 {
        ensure!(client.bearer("/auth/me", &token(&strangers, |_| {})?)?.status() == Some(401));
    }
    shut_out(&client)?;

    // A file that is none refuses the reload whole.
    fs::write(edge.path("keys.json"), json!({"keys": [{"kty": "oct", "k": "AAAA"}]}).to_string())?;
    edge.config.set("learn", "threshold", "7");
    edge.write_config()?;
    let refused = edge.cli(&["reload"])?;
    ensure!(refused.code == 2 && refused.stderr.contains("symmetric"), "{refused:?}");
    ensure!(edge.cli(&["check"])?.stderr.contains("auth.trusted_issuer.jwks_file"), "check");
    Ok(())
}

#[test]
fn where_keys_come_from_is_never_blocked() -> Result<()> {
    let lab = Lab::new()?;
    let url = format!("jwks_url = \"https://{ATTACKER4}/jwks\"");
    let mut edge = Edge::start_with(&lab, |config| trust(config, &url))?;
    let block = |edge: &Edge| edge.cli(&["block", &ATTACKER4.to_string()]);
    let is_protected = |edge: &Edge| {
        let refused = block(edge)?;
        ensure!(refused.code == 1 && refused.stderr.contains("it is an identity provider"), "{refused:?}");
        Ok(())
    };
    is_protected(&edge)?;
    edge.kill()?;
    is_protected(&edge).context("without an agent")?;
    edge.run()?;
    trust(&mut edge.config, "jwks_url = \"https://[2001:db8:77::7]/jwks\"");
    edge.write_config()?;
    // Nobody is there, so the keys do not come; the rest applies.
    edge.cli(&["reload"])?;
    block(&edge)?.good()?;
    shut_out(&Client::new(&lab, &edge, ATTACKER4))
}
