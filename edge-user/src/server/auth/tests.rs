//! The endpoints without sockets: requests in, answers and offences out, with a task that plays the agent.

mod browser;
mod grants;
mod keys;
mod oidc;

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::header::{ALLOW, AUTHORIZATION, WWW_AUTHENTICATE};
use serde_json::Value;
use tokio::sync::mpsc;

use super::*;
use crate::{
    config::{AuditTo, Log, LogFormat},
    logging::Logging,
    server::{
        jws::Members,
        link::{FromServer, Offence},
        users::{Issued, KeyKind, UserStore},
    },
};

struct World {
    auth: Auth,
    offences: Arc<std::sync::Mutex<Vec<Offence>>>,
    users: UserStore,
    directory: tempfile::TempDir,
}

/// An agent that blocks at the third offence.
fn world() -> World {
    world_with(None, |_| {})
}

fn world_with(fetch: Option<&Fetch>, change: impl FnOnce(&mut ServerConfig)) -> World {
    let directory = tempfile::tempdir().unwrap();
    let mut users = UserStore::open(directory.path()).unwrap();
    users.add("alice", "correct horse", &["chat".to_owned()]).unwrap();
    let mut config = ServerConfig {
        logging: Logging::of(&Log { format: LogFormat::Text, audit: AuditTo::Journald, loudness: 0 }),
        production: true,
        listen: Vec::new(),
        redirects: false,
        certificates: Vec::new(),
        acme: None,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        max_handshakes: 8,
        ipv6_unit: 64,
        issuer: "https://a.test".to_owned(),
        audience: "api".to_owned(),
        algorithm: Algorithm::HS256,
        signing_key: "9lWjO0cQ2nVwXhT5sUeR7yBzKdMfGaLp".to_owned(),
        former_keys: Vec::new(),
        access_ttl: Duration::from_secs(3600),
        refresh_ttl: Duration::from_secs(7200),
        leeway: Duration::from_secs(30),
        hashes_in_flight: 2,
        session_idle: Duration::from_secs(1800),
        session_absolute: Duration::from_secs(43_200),
        trusted_issuers: Vec::new(),
        oidc: Vec::new(),
        auth_store: directory.path().to_owned(),
    };
    change(&mut config);
    let (out, mut sent) = mpsc::channel(8);
    let report = Arc::new(Report::new(out));
    let offences = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (agent, seen) = (report.clone(), offences.clone());
    tokio::spawn(async move {
        while let Some(message) = sent.recv().await {
            if let FromServer::Offence(offence) = message {
                let id = offence.id;
                let count = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(offence);
                    seen.len()
                };
                agent.judged(id, count >= 3);
            }
        }
    });
    let auth = Auth::new(&config, fetch, report, Arc::default()).unwrap();
    World { auth, offences, users, directory }
}

impl World {
    async fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (Answer, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        self.send(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> (Answer, Value) {
        let ends = Ends { peer: "203.0.113.7:5000".parse().unwrap(), local: "192.0.2.1:443".parse().unwrap() };
        let mut answer = self.auth.answer(ends, request).await;
        let body = answer.response.body_mut().collect().await.unwrap().to_bytes();
        // A page as its text.
        (answer, serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body))))
    }

    async fn login(&self, name: &str, password: &str) -> (Answer, Value) {
        self.ask("POST", "/auth/login", None, &json!({"username": name, "password": password}).to_string()).await
    }

    /// With these header lines and this form.
    async fn form(&self, path: &str, headers: &[(&str, &str)], form: &str) -> (Answer, Value) {
        let mut request = Request::post(path).header("content-type", "application/x-www-form-urlencoded;charset=UTF-8");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::new(Bytes::from(form.to_owned()))).unwrap()).await
    }

    /// Whom these header lines name, and the status.
    async fn me(&self, headers: &[(&str, &str)]) -> (u16, Value) {
        let mut request = Request::get("/auth/me");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (answer, body) = self.send(request.body(Full::default()).unwrap()).await;
        (answer.response.status().as_u16(), body)
    }

    fn key(&mut self, name: &str, kind: KeyKind) -> Issued {
        self.users.create_key(name, kind, &["ci".to_owned()], None, Wall::now()).unwrap()
    }

    /// The kinds of credential that were refused.
    fn kinds(&self) -> Vec<Kind> {
        self.offences.lock().unwrap().iter().map(|offence| offence.kind).collect()
    }

    fn offences(&self) -> usize {
        self.offences.lock().unwrap().len()
    }
}

fn text<'a>(body: &'a Value, key: &str) -> &'a str {
    body[key].as_str().unwrap()
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.response.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_login_and_what_follows_from_it() {
    let world = world();
    let (answer, login) = world.login("alice", "correct horse").await;
    assert_eq!(answer.response.status(), 200);
    assert_eq!((text(&login, "token_type"), login["expires_in"].as_u64()), ("bearer", Some(3600)));
    assert_eq!(header(&answer, "cache-control"), Some("no-store"));
    assert_eq!(header(&answer, "x-content-type-options"), Some("nosniff"));
    assert_eq!(header(&answer, "strict-transport-security"), Some("max-age=31536000"));
    let access = text(&login, "access_token");
    let (_, me) = world.ask("GET", "/auth/me", Some(access), "").await;
    assert_eq!(me, json!({"username": "alice", "roles": ["chat"]}));
    for (path, status) in [
        ("/auth/verify", 200),
        ("/auth/verify/any/path?x=%zz", 200),
        ("/auth/verify?require=chat", 200),
        ("/auth/verify?require=chat&require=admin", 403),
        ("/auth/verify?require=c%68at", 200),
    ] {
        let (answer, _) = world.ask("DELETE", path, Some(access), "").await;
        assert_eq!(answer.response.status(), status, "{path}");
        if status == 200 {
            assert_eq!(header(&answer, "x-auth-request-user"), Some("alice"));
            assert_eq!(header(&answer, "x-auth-request-groups"), Some("chat"));
        }
    }
    let refresh = json!({"refresh_token": login["refresh_token"]}).to_string();
    let (answer, next) = world.ask("POST", "/auth/refresh", None, &refresh).await;
    assert_eq!(answer.response.status(), 200);
    let (answer, _) = world.ask("POST", "/auth/logout", Some(text(&next, "access_token")), "").await;
    assert_eq!(answer.response.status(), 204);
    let refresh = json!({"refresh_token": next["refresh_token"]}).to_string();
    let (answer, _) = world.ask("POST", "/auth/refresh", None, &refresh).await;
    assert_eq!(answer.response.status(), 401);
    for token in [access, text(&next, "access_token")] {
        assert_eq!(world.ask("GET", "/auth/me", Some(token), "").await.0.response.status(), 401);
    }
    assert_eq!(world.offences(), 0);
}

#[tokio::test]
async fn a_change_of_the_account_ends_its_tokens_at_once() {
    let mut world = world();
    let (_, login) = world.login("alice", "correct horse").await;
    world.users.set_roles("alice", &["admin".to_owned()]).unwrap();
    let (_, me) = world.ask("GET", "/auth/me", Some(text(&login, "access_token")), "").await;
    assert_eq!(me["roles"], json!(["admin"]));
    world.users.set_password("alice", "battery staple").unwrap();
    let (answer, _) = world.ask("GET", "/auth/me", Some(text(&login, "access_token")), "").await;
    assert_eq!(answer.response.status(), 401);
    assert_eq!(world.login("alice", "battery staple").await.0.response.status(), 200);
    assert_eq!(world.offences(), 0);
}

#[tokio::test]
async fn each_refused_credential_is_one_offence_and_the_block_closes() {
    let world = world();
    let (first, one) = world.login("alice", "wrong").await;
    let (second, two) = world.login("no\nbody", "wrong").await;
    assert_eq!((first.response.status(), &one), (second.response.status(), &two));
    assert_eq!(one, json!({"error": "invalid_credentials"}));
    assert_eq!(first.response.headers(), second.response.headers());
    assert!(!first.close && !second.close);
    let (third, _) = world.ask("GET", "/auth/me", Some("a.b.c"), "").await;
    assert!(third.close);
    assert!(header(&third, "www-authenticate").unwrap().contains("error=\"invalid_token\""));
    let offences = world.offences.lock().unwrap();
    let seen: Vec<_> = offences.iter().map(|offence| (offence.kind, offence.account.as_deref())).collect();
    assert_eq!(seen, [(Kind::Login, Some("alice")), (Kind::Login, Some("no\nbody")), (Kind::Token, None)]);
}

#[tokio::test]
async fn no_credential_is_no_offence_and_two_are_refused() {
    let world = world();
    let (answer, _) = world.ask("GET", "/auth/verify", None, "").await;
    assert_eq!(answer.response.status(), 401);
    assert_eq!(answer.response.headers()[WWW_AUTHENTICATE], "Bearer realm=\"edge\"");
    assert_eq!(world.offences(), 0);
    let (_, login) = world.login("alice", "correct horse").await;
    let token = format!("Bearer {}", text(&login, "access_token"));
    let request = Request::get("/auth/me").header(AUTHORIZATION, &token).header(AUTHORIZATION, &token);
    let (answer, _) = world.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(answer.response.status(), 401);
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_by_name() {
    let world = world();
    let (answer, _) = world.ask("PUT", "/auth/login", None, "").await;
    assert_eq!(
        (answer.response.status().as_u16(), &answer.response.headers()[ALLOW]),
        (405, &"GET, HEAD, POST".parse().unwrap())
    );
    for (method, path, body, status) in [
        ("GET", "/", "", 404),
        ("GET", "/auth/other", "", 404),
        ("GET", "/auth/verifyx", "", 404),
        ("POST", "/health", "", 405),
        ("GET", "/health", "", 200),
        ("GET", "/ready", "", 200),
        ("GET", "/status", "", 200),
        ("POST", "/auth/login", "{", 400),
        ("POST", "/auth/login", "{\"username\":\"alice\"}", 400),
        ("POST", "/auth/refresh", "[]", 400),
        ("POST", "/auth/login", &format!("\"{}\"", "x".repeat(64 << 10)), 413),
    ] {
        let (answer, _) = world.ask(method, path, None, body).await;
        assert_eq!(answer.response.status(), status, "{method} {path}");
    }
    for (length, status) in [(60 << 10, 200), (64 << 10, 431)] {
        let request = Request::get("/health").header("x-long", "x".repeat(length));
        let (answer, _) = world.send(request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.response.status(), status);
    }
    assert_eq!(world.offences(), 0);
}

/// A body that is announced and does not come.
struct Never;

impl Body for Never {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn a_guess_counts_before_the_body_that_comes_with_it() {
    let world = world();
    let ends = Ends { peer: "203.0.113.7:5000".parse().unwrap(), local: "192.0.2.1:443".parse().unwrap() };
    let guess = || {
        let request = Request::post("/auth/verify").header("content-length", 9).header(AUTHORIZATION, "Bearer x.y.z");
        world.auth.answer(ends, request.body(Never).unwrap())
    };
    for number in 1..=2 {
        let counted = async {
            while world.offences() < number {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = guess() => panic!("the body is not waited for"),
            () = counted => {}
        }
    }
    let blocked = guess().await;
    assert!(blocked.close && blocked.response.status() == StatusCode::UNAUTHORIZED);
}

/// A body that comes piece by piece, and how much of it was taken.
struct Pieces {
    left: usize,
    taken: Arc<std::sync::atomic::AtomicUsize>,
}

const PIECE: usize = 1 << 10;

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return std::task::Poll::Ready(None);
        }
        self.left -= 1;
        self.taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(Bytes::from_static(&[b'x'; PIECE])))))
    }
}

#[tokio::test]
async fn what_is_refused_is_answered_once_its_body_has_come() {
    let world = world();
    let ends = Ends { peer: "203.0.113.7:5000".parse().unwrap(), local: "192.0.2.1:443".parse().unwrap() };
    let sent = async |method: &str, path: &str, expects: bool, pieces: usize| {
        let taken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let mut request = Request::builder().method(method).uri(path).header("content-length", pieces * PIECE);
        if expects {
            request = request.header("expect", "100-continue");
        }
        let body = Pieces { left: pieces, taken: taken.clone() };
        let status = world.auth.answer(ends, request.body(body).unwrap()).await.response.status().as_u16();
        (status, taken.load(std::sync::atomic::Ordering::Relaxed))
    };
    for (method, path, status) in [
        ("POST", "/auth/verify", 401),
        ("GET", "/auth/me", 401),
        ("POST", "/auth/logout", 401),
        ("POST", "/auth/introspect", 401),
        ("PUT", "/auth/login", 405),
        ("POST", "/nowhere", 404),
        ("POST", "/auth/login", 413),
    ] {
        assert_eq!(sent(method, path, false, 300).await, (status, 300), "{path}");
    }
    // Whoever asks first need not send it, and what is without end is not read to its end.
    assert_eq!(sent("POST", "/auth/verify", true, 300).await, (401, 0));
    assert_eq!(sent("POST", "/auth/verify", false, 1 << 20).await, (401, 0));
}

#[tokio::test]
async fn what_a_rotated_key_signed_is_no_guess_where_the_store_could_not_be_read_at_the_start() {
    const FORMER: &str = "another secret of thirty two bytes";
    let now = Wall::now();
    let world = world_with(None, |config| {
        let file = config.auth_store.join("users.db");
        let former = crate::server::users::Former {
            algorithm: Algorithm::HS256,
            key: FORMER.to_owned(),
            until: now.plus(Duration::from_secs(600)),
        };
        UserStore::open(&config.auth_store).unwrap().keep_former(&former, now).unwrap();
        std::fs::rename(&file, file.with_extension("away")).unwrap();
        std::fs::create_dir(&file).unwrap();
    });
    let second = now.0 / 1000;
    let claims = json!({"exp": second + 600, "iat": second + 2, "nbf": second, "iss": "https://a.test", "aud": "api",
        "sub": "alice", "jti": "one"});
    let key = SigningKey::new(Algorithm::HS256, FORMER).unwrap();
    let token = key.sign(&Members::default(), claims.to_string().as_bytes()).unwrap();
    let status = async || world.ask("GET", "/auth/me", Some(&token), "").await.0.response.status().as_u16();
    assert_eq!((status().await, world.offences()), (503, 0));
    let file = world.directory.path().join("users.db");
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(file.with_extension("away"), &file).unwrap();
    assert_eq!((status().await, world.offences()), (200, 0));
}
