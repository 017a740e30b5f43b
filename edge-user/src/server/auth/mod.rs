//! The endpoints: who may sign in, whom a token names, and what a refusal costs. Every refused credential is reported
//! and the answer waits for the agent's word, so that a block is in force before the client can try again. Knows HTTP
//! requests and answers, nothing of sockets.

mod answer;
mod audited;
mod hashing;
mod store;
pub mod token;
mod wellknown;

use std::{net::IpAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Body,
    header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue},
};
use serde::Deserialize;
use serde_json::json;

use self::{
    answer::{Denial, json_answer},
    hashing::{Busy, Hashing},
    store::Store,
    token::{Bad, Stamp, Tokens},
};
use super::{
    counters::Counters,
    jws::SigningKey,
    link::{Kind, ServerConfig},
    report::{Ends, Report},
    users::{Account, Refreshed, Session, password_matches},
};
use crate::{audit::attempt::is_request_id, block::Target, clock::Wall, error::Failure};

/// The longest body under `/auth/`, in bytes.
const MAX_BODY: usize = 64 << 10;
/// Of a longer body so much is read before it is refused, in bytes.
const MAX_THROWN_AWAY: usize = 4 << 20;
/// The longest request head, in bytes.
pub(super) const MAX_HEAD: usize = 64 << 10;

/// All that answers requests.
pub struct Auth {
    production: bool,
    tokens: Tokens,
    store: Arc<Store>,
    hashing: Hashing,
    ipv6_unit: u8,
    report: Arc<Report>,
    counters: Arc<Counters>,
    refresh_ttl: std::time::Duration,
    body_within: std::time::Duration,
    started: Instant,
}

/// An answer, and whether the connection ends with it.
pub struct Answer {
    pub response: Response<Full<Bytes>>,
    pub close: bool,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Login,
    Refresh,
    Logout,
    Me,
    Verify,
    Health,
    Ready,
    Status,
    Jwks,
    Metadata,
}

/// How a request under `/auth/` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// 401 for a credential that is not good.
    Refused,
    /// 401 without a credential.
    Missing,
    /// 403.
    Forbidden,
    /// A request that cannot be understood or is too large.
    Invalid,
    /// 503.
    Unavailable,
}

/// An answer that is no refusal, and whom it concerns.
struct Good {
    response: Response<Full<Bytes>>,
    subject: Option<String>,
}

impl Good {
    fn of(response: Response<Full<Bytes>>, subject: impl Into<Option<String>>) -> Good {
        Good { response, subject: subject.into() }
    }
}

/// Whom a good credential names.
struct Identified {
    account: Account,
    stamp: Option<Stamp>,
}

#[derive(Deserialize)]
struct Login {
    username: String,
    password: String,
}

#[derive(Deserialize)]
struct Refresh {
    refresh_token: String,
}

impl Endpoint {
    pub const ALL: [Endpoint; 10] = [
        Endpoint::Login,
        Endpoint::Refresh,
        Endpoint::Logout,
        Endpoint::Me,
        Endpoint::Verify,
        Endpoint::Health,
        Endpoint::Ready,
        Endpoint::Status,
        Endpoint::Jwks,
        Endpoint::Metadata,
    ];

    fn of(path: &str) -> Option<Endpoint> {
        match path {
            "/auth/login" => Some(Endpoint::Login),
            "/auth/refresh" => Some(Endpoint::Refresh),
            "/auth/logout" => Some(Endpoint::Logout),
            "/auth/me" => Some(Endpoint::Me),
            "/auth/verify" => Some(Endpoint::Verify),
            "/health" => Some(Endpoint::Health),
            "/ready" => Some(Endpoint::Ready),
            "/status" => Some(Endpoint::Status),
            wellknown::JWKS => Some(Endpoint::Jwks),
            wellknown::METADATA => Some(Endpoint::Metadata),
            _ => path.starts_with("/auth/verify/").then_some(Endpoint::Verify),
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Endpoint::Login => "login",
            Endpoint::Refresh => "refresh",
            Endpoint::Logout => "logout",
            Endpoint::Me => "me",
            Endpoint::Verify => "verify",
            Endpoint::Health => "health",
            Endpoint::Ready => "ready",
            Endpoint::Status => "status",
            Endpoint::Jwks => "jwks",
            Endpoint::Metadata => "metadata",
        }
    }

    pub const fn under_auth(self) -> bool {
        !matches!(self, Endpoint::Health | Endpoint::Ready | Endpoint::Status | Endpoint::Jwks | Endpoint::Metadata)
    }

    /// The methods it takes, as `Allow` names them; `None`: all.
    const fn allow(self) -> Option<&'static str> {
        match self {
            Endpoint::Login | Endpoint::Refresh | Endpoint::Logout => Some("POST"),
            Endpoint::Me
            | Endpoint::Health
            | Endpoint::Ready
            | Endpoint::Status
            | Endpoint::Jwks
            | Endpoint::Metadata => Some("GET, HEAD"),
            Endpoint::Verify => None,
        }
    }

    fn takes(self, method: &Method) -> Result<(), Denial> {
        match self.allow() {
            Some(allow) if !allow.split(", ").any(|allowed| allowed == method.as_str()) => Err(Denial::Method(allow)),
            Some(_) | None => Ok(()),
        }
    }
}

impl Outcome {
    pub const ALL: [Outcome; 6] = [
        Outcome::Success,
        Outcome::Refused,
        Outcome::Missing,
        Outcome::Forbidden,
        Outcome::Invalid,
        Outcome::Unavailable,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Refused => "refused",
            Outcome::Missing => "missing",
            Outcome::Forbidden => "forbidden",
            Outcome::Invalid => "invalid",
            Outcome::Unavailable => "unavailable",
        }
    }
}

impl Auth {
    pub fn new(config: &ServerConfig, report: Arc<Report>, counters: Arc<Counters>) -> Result<Auth, Failure> {
        let (issuer, audience) = (config.issuer.clone(), config.audience.clone());
        let key = SigningKey::new(config.algorithm, &config.signing_key)
            .map_err(|why| Failure::refused(format!("the signing key {why}")))?;
        // Each was good when it signed.
        let former = config.former_keys.iter().filter_map(|(algorithm, key)| SigningKey::new(*algorithm, key).ok());
        let former = former.map(|key| key.verifying().clone()).collect();
        Ok(Auth {
            production: config.production,
            tokens: Tokens::new(key, former, issuer, audience, config.access_ttl, config.leeway),
            store: Arc::new(Store::new(config.auth_store.clone())),
            hashing: Hashing::new(config.hashes_in_flight),
            ipv6_unit: config.ipv6_unit,
            report,
            counters,
            refresh_ttl: config.refresh_ttl,
            body_within: config.header_timeout,
            started: Instant::now(),
        })
    }

    /// The client that stands behind an address.
    pub fn client(&self, address: IpAddr) -> Target {
        Target::client(address, self.ipv6_unit)
    }

    /// Looks whether the store of users can be used: at the start, and while it could not, so that its end is noticed
    /// without a request. Whether it cannot.
    pub async fn store_has_failed(&self) -> bool {
        if self.store.has_failed() {
            self.store.probe().await;
        }
        self.store.has_failed()
    }

    pub async fn probe_store(&self) {
        self.store.probe().await;
    }

    /// Answers one request; never fails, never panics.
    pub async fn answer<B>(&self, ends: Ends, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Send,
    {
        let endpoint = Endpoint::of(request.uri().path());
        let under_auth = request.uri().path() == "/auth" || request.uri().path().starts_with("/auth/");
        let request_id = request_id(request.headers());
        let result = match endpoint {
            _ if head_too_large(&request) => Err(Denial::HeadTooLarge),
            Some(endpoint) => self.endpoint(endpoint, ends, request).await,
            None => Err(Denial::NotFound),
        };
        let outcome = result.as_ref().map_or_else(Denial::outcome, |_| Outcome::Success);
        if let Some(endpoint) = endpoint {
            self.counters.auth(endpoint, outcome);
            if let Some(attempt) = audited::attempt(endpoint, ends.peer, &result, request_id) {
                self.report.attempt(attempt);
            }
        }
        let mut answer = match result {
            Ok(good) => Answer { response: good.response, close: false },
            Err(denial) => {
                Answer { close: self.is_blocked(&denial, ends).await, response: denial.response(under_auth) }
            }
        };
        answer::finish(&mut answer.response, under_auth, self.production);
        answer
    }

    async fn endpoint<B>(&self, endpoint: Endpoint, ends: Ends, request: Request<B>) -> Result<Good, Denial>
    where
        B: Body<Data = Bytes> + Send,
    {
        endpoint.takes(request.method())?;
        match endpoint {
            Endpoint::Login => self.login(ends, request).await,
            Endpoint::Refresh => self.refresh(request).await,
            Endpoint::Logout => self.logout(request.headers()).await,
            Endpoint::Me => self.me(request.headers()),
            Endpoint::Verify => self.verify(request.headers(), request.uri().query()),
            Endpoint::Health => Ok(Good::of(json_answer(StatusCode::OK, &json!({"status": "ok"})), None)),
            Endpoint::Ready => self.ready().map(|response| Good::of(response, None)),
            Endpoint::Status => Ok(Good::of(self.status(), None)),
            Endpoint::Jwks => Ok(Good::of(wellknown::jwks(&self.tokens), None)),
            Endpoint::Metadata => wellknown::metadata(&self.tokens).map(|response| Good::of(response, None)),
        }
    }

    /// Reports what has to be reported; whether the client is blocked now.
    async fn is_blocked(&self, denial: &Denial, ends: Ends) -> bool {
        match denial {
            Denial::Login { account } => self.report.offence(Kind::Login, ends, Some(account)).await,
            Denial::Token { guessed: true, account } => {
                self.report.offence(Kind::Token, ends, account.as_deref()).await
            }
            _ => false,
        }
    }

    async fn login<B>(&self, ends: Ends, request: Request<B>) -> Result<Good, Denial>
    where
        B: Body<Data = Bytes> + Send,
    {
        let Login { username, password } = self.body(request).await?;
        let permit = self.hashing.turn(self.client(ends.peer.ip())).await.map_err(|Busy| Denial::Busy)?;
        let account = self.store.read(|store| store.lookup(&username))?;
        let hashed = tokio::task::spawn_blocking(move || {
            let matches = password_matches(account.as_ref(), &password);
            drop((permit, zeroize::Zeroizing::new(password)));
            account.filter(|_| matches)
        });
        let refused = || Denial::Login { account: username.clone() };
        let account = hashed.await.map_err(|_| Denial::Unavailable)?.ok_or_else(refused)?;
        let (now, ttl) = (Wall::now(), self.refresh_ttl);
        let begun = self.store.write(move |store| store.begin_session(&account, now, ttl)).await?;
        let session = begun.ok_or_else(refused)?;
        self.report.signed_in(ends, &session.user).await;
        self.tokens_for(session, now)
    }

    async fn refresh<B>(&self, request: Request<B>) -> Result<Good, Denial>
    where
        B: Body<Data = Bytes> + Send,
    {
        let Refresh { refresh_token } = self.body(request).await?;
        let (now, ttl) = (Wall::now(), self.refresh_ttl);
        match self.store.write(move |store| store.refresh(&refresh_token, now, ttl)).await? {
            Refreshed::Good(session) => self.tokens_for(session, now),
            Refreshed::Spent => Err(Denial::Token { guessed: false, account: None }),
            Refreshed::Unknown => Err(Denial::Token { guessed: true, account: None }),
        }
    }

    async fn logout(&self, headers: &HeaderMap) -> Result<Good, Denial> {
        let caller = self.identify(headers)?;
        if let Some(Stamp { family, .. }) = caller.stamp {
            self.store.write(move |store| store.end_session(family)).await?;
        }
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(Good::of(response, caller.account.name))
    }

    fn me(&self, headers: &HeaderMap) -> Result<Good, Denial> {
        let Identified { account, .. } = self.identify(headers)?;
        let response = json_answer(StatusCode::OK, &json!({"username": account.name, "roles": account.roles}));
        Ok(Good::of(response, account.name))
    }

    fn verify(&self, headers: &HeaderMap, query: Option<&str>) -> Result<Good, Denial> {
        let Identified { account, .. } = self.identify(headers)?;
        if !required_roles(query.unwrap_or_default()).all(|role| account.roles.contains(&role)) {
            return Err(Denial::Forbidden { account: account.name });
        }
        let mut response = json_answer(StatusCode::OK, &json!({"username": account.name, "roles": account.roles}));
        for (name, value) in
            [("x-auth-request-user", &account.name), ("x-auth-request-groups", &account.roles.join(","))]
        {
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| Denial::Unavailable)?;
            response.headers_mut().insert(name, value);
        }
        Ok(Good::of(response, account.name))
    }

    fn ready(&self) -> Result<Response<Full<Bytes>>, Denial> {
        self.store.read(|store| store.lookup(""))?;
        Ok(json_answer(StatusCode::OK, &json!({"status": "ok"})))
    }

    fn status(&self) -> Response<Full<Bytes>> {
        let uptime = self.started.elapsed().as_millis() as f64 / 1000.0;
        let status = json!({"version": env!("CARGO_PKG_VERSION"), "uptime_seconds": uptime, "upstreams": []});
        json_answer(StatusCode::OK, &status)
    }

    /// Whom the credential names, as the store has it now.
    fn identify(&self, headers: &HeaderMap) -> Result<Identified, Denial> {
        let guess = || Denial::Token { guessed: true, account: None };
        let token = bearer(headers)?.ok_or(Denial::NoCredential)?;
        let caller = self.tokens.verify(token, Wall::now()).map_err(|bad| match bad {
            Bad::Issued => Denial::Token { guessed: false, account: None },
            Bad::Foreign => guess(),
        })?;
        let revoked = || Denial::Token { guessed: false, account: Some(caller.name.clone()) };
        let account = self.store.read(|store| store.lookup(&caller.name))?.ok_or_else(revoked)?;
        let good = !account.disabled
            && match caller.stamp {
                Some(Stamp { generation, family }) => {
                    generation == account.generation && self.store.read(|store| store.session_lives(family))?
                }
                None => caller.issued >= account.not_before,
            };
        if good { Ok(Identified { account, stamp: caller.stamp }) } else { Err(revoked()) }
    }

    fn tokens_for(&self, session: Session, now: Wall) -> Result<Good, Denial> {
        let stamp = Stamp { generation: session.generation, family: session.family };
        let access_token = self.tokens.issue(&session.user, stamp, now).map_err(|failure| {
            tracing::error!("{failure}");
            Denial::Unavailable
        })?;
        let body = json!({
            "access_token": access_token,
            "token_type": "bearer",
            "expires_in": self.tokens.ttl().as_secs(),
            "refresh_token": session.refresh_token,
        });
        Ok(Good::of(json_answer(StatusCode::OK, &body), session.user))
    }

    async fn body<T, B>(&self, request: Request<B>) -> Result<T, Denial>
    where
        T: serde::de::DeserializeOwned,
        B: Body<Data = Bytes> + Send,
    {
        let read = tokio::time::timeout(self.body_within, read_body(request)).await;
        let body = read.map_err(|_| Denial::TooSlow)??;
        serde_json::from_slice(&body).map_err(|_| Denial::Malformed)
    }
}

/// The body, if it is short enough. What is too long is read on and thrown away, up to a limit: over HTTP/2 many clients
/// do not see an answer that comes before they have sent all.
async fn read_body<B>(request: Request<B>) -> Result<Vec<u8>, Denial>
where
    B: Body<Data = Bytes> + Send,
{
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > MAX_THROWN_AWAY) {
        return Err(Denial::TooLarge);
    }
    let mut parts = std::pin::pin!(request.into_body());
    let (mut body, mut came) = (Vec::new(), 0);
    while let Some(frame) = parts.frame().await {
        let Ok(data) = frame.map_err(|_| Denial::Malformed)?.into_data() else { continue };
        came += data.len();
        if came > MAX_THROWN_AWAY {
            break;
        }
        if came <= MAX_BODY {
            body.extend_from_slice(&data);
        }
    }
    if came > MAX_BODY { Err(Denial::TooLarge) } else { Ok(body) }
}

/// What the client, or a proxy before this server, calls the request.
fn request_id(headers: &HeaderMap) -> Option<String> {
    headers.get("x-request-id")?.to_str().ok().filter(|id| is_request_id(id)).map(str::to_owned)
}

/// Whether the request line and the header fields are longer than a head may be.
fn head_too_large<B>(request: &Request<B>) -> bool {
    let line =
        request.uri().path_and_query().map_or(0, |target| target.as_str().len()) + request.method().as_str().len();
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    line + fields.sum::<usize>() > MAX_HEAD
}

/// The bearer token of a request; `None` without a credential.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Denial> {
    let bad = || Denial::Token { guessed: true, account: None };
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(bad());
    }
    let (scheme, token) = line.to_str().ok().and_then(|line| line.split_once(' ')).ok_or_else(bad)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(token.trim())) } else { Err(bad()) }
}

/// Every `require` of a query, a list with commas as several.
fn required_roles(query: &str) -> impl Iterator<Item = String> {
    let values = query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(key, _)| decoded(key) == "require");
    let roles: Vec<_> =
        values.flat_map(|(_, value)| decoded(value).split(',').map(str::to_owned).collect::<Vec<_>>()).collect();
    roles.into_iter().filter(|role| !role.is_empty())
}

/// `application/x-www-form-urlencoded`; what is no escape stays as it is.
fn decoded(text: &str) -> String {
    let text = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
    while let Some(&byte) = text.get(at) {
        let digit = |index: usize| text.get(index).and_then(|byte| char::from(*byte).to_digit(16));
        let escape = (byte == b'%').then(|| Some((digit(at + 1)? * 16 + digit(at + 2)?) as u8)).flatten();
        out.push(match escape {
            Some(byte) => byte,
            None if byte == b'+' => b' ',
            None => byte,
        });
        at += if escape.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests;
