//! The endpoints: who may sign in, whom a token names, and what a refusal costs. Every refused credential is reported
//! and the answer waits for the agent's word, so that a block is in force before the client can try again. Knows HTTP
//! requests and answers, nothing of sockets.

mod answer;
mod audited;
mod body;
mod browser;
mod client;
mod credential;
mod endpoint;
mod external;
mod grant;
mod hashing;
mod introspect;
mod login;
mod oidc;
mod page;
mod query;
mod seen;
mod store;
pub mod token;
mod verify;
mod wellknown;

use std::{
    net::IpAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, body::Body};
use serde_json::json;

use self::{
    answer::{Denial, KeyRefused, json_answer},
    body::GOES_ON_WITHIN,
    browser::Asked,
    credential::Identity,
    hashing::Hashing,
    oidc::Oidc,
    seen::Seen,
    store::Store,
    token::Tokens,
};
pub use self::{
    endpoint::{Endpoint, Outcome},
    oidc::OidcProvider,
};
use super::{
    counters::Counters,
    issuers::Issuers,
    jws::{Algorithm, SigningKey},
    link::{Kind, ServerConfig},
    report::{Ends, Report},
};
use crate::{audit::attempt::is_request_id, block::Target, clock::Wall, error::Failure, fetch::Fetch};

/// The longest request head, in bytes.
pub(super) const MAX_HEAD: usize = 64 << 10;

/// All that answers requests.
pub struct Auth {
    production: bool,
    tokens: Tokens,
    issuers: Issuers,
    oidc: Oidc,
    store: Arc<Store>,
    hashing: Hashing,
    ipv6_unit: u8,
    report: Arc<Report>,
    counters: Arc<Counters>,
    seen: Seen,
    refresh_ttl: Duration,
    /// How long the session of a browser may be idle, and how long it may last.
    browser_session: (Duration, Duration),
    body_within: Duration,
    started: Instant,
}

/// An answer, and whether the connection ends with it.
pub struct Answer {
    pub response: Response<Full<Bytes>>,
    pub close: bool,
}

/// An answer that is no refusal, and whom it concerns.
struct Good {
    response: Response<Full<Bytes>>,
    subject: Option<String>,
    key_id: Option<String>,
    is_sign_in: bool,
}

impl Good {
    fn of(response: Response<Full<Bytes>>, subject: impl Into<Option<String>>) -> Good {
        Good { response, subject: subject.into(), key_id: None, is_sign_in: false }
    }

    fn by(response: Response<Full<Bytes>>, identity: &Identity) -> Good {
        Good { key_id: identity.key_id(), ..Good::of(response, identity.name.clone()) }
    }
}

impl Auth {
    pub fn new(
        config: &ServerConfig,
        fetch: Option<&Fetch>,
        report: Arc<Report>,
        counters: Arc<Counters>,
    ) -> Result<Auth, Failure> {
        let (issuer, audience) = (config.issuer.clone(), config.audience.clone());
        let key = SigningKey::new(config.algorithm, &config.signing_key)
            .map_err(|why| Failure::refused(format!("the signing key {why}")))?;
        // What is known of them alone is that they were ours.
        let known = config.former_keys.iter().map(|(algorithm, key)| (*algorithm, key.clone(), Wall(0)));
        let auth = Auth {
            production: config.production,
            tokens: Tokens::new(key, verifying(known), issuer, audience, config.access_ttl, config.leeway),
            issuers: Issuers::start(&config.trusted_issuers, fetch, config.leeway, &config.auth_store)?,
            oidc: Oidc::new(&config.oidc, fetch, &config.issuer, config.leeway, &config.auth_store),
            store: Arc::new(Store::new(config.auth_store.clone())),
            hashing: Hashing::new(config.hashes_in_flight),
            ipv6_unit: config.ipv6_unit,
            report,
            counters,
            seen: Seen::default(),
            refresh_ttl: config.refresh_ttl,
            browser_session: (config.session_idle, config.session_absolute),
            body_within: config.header_timeout,
            started: Instant::now(),
        };
        // A store that cannot be read is asked again by whoever needs it.
        let _ = auth.read_rotated();
        Ok(auth)
    }

    /// The keys that were rotated verify for a while; the store has them.
    fn read_rotated(&self) -> Result<(), Denial> {
        if self.tokens.lacks_rotated() {
            let rotated = self.store.read(|store| store.former())?;
            let rotated = rotated.into_iter().map(|former| (former.algorithm, former.key, former.until));
            self.tokens.take_rotated(verifying(rotated));
        }
        Ok(())
    }

    /// The client that stands behind an address.
    pub fn client(&self, address: IpAddr) -> Target {
        Target::client(address, self.ipv6_unit)
    }

    /// Whether the store of users could not be used when it was asked last.
    pub fn store_has_failed(&self) -> bool {
        self.store.has_failed()
    }

    /// Writes when sessions and keys were used last.
    pub async fn write_seen(&self) {
        if let Some(uses) = self.seen.take() {
            self.store.try_write(move |store| uses.write(store)).await;
        }
    }

    /// Looks whether the store of users can be used, so that the end of a failure is noticed without a request.
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
        let comes_anyway = body::comes_anyway(request.headers());
        let (head, body) = request.into_parts();
        let mut body = pin!(body);
        let request = Request::from_parts(head, body.as_mut());
        let result = match endpoint {
            _ if head_too_large(&request) => Err(Denial::HeadTooLarge),
            Some(endpoint) => {
                self.prepare(request.headers()).await;
                self.endpoint(endpoint, ends, request).await
            }
            None => Err(Denial::NotFound),
        };
        let outcome = result.as_ref().map_or_else(Denial::outcome, |_| Outcome::Success);
        if let Some(endpoint) = endpoint {
            self.counters.auth(endpoint, outcome);
            if let Some(attempt) = audited::attempt(endpoint, ends.peer, &result, request_id) {
                self.report.attempt(attempt);
            }
        }
        // A guess counts before anything is waited for, however many are under way.
        let close = match &result {
            Ok(_) => false,
            Err(denial) => self.is_blocked(denial, ends).await,
        };
        if comes_anyway && !matches!(result.as_ref().map_err(Denial::cause), Err(Denial::TooLarge | Denial::TooSlow)) {
            // Nothing more comes from who is blocked.
            self.throw_away(body, if close { Duration::ZERO } else { GOES_ON_WITHIN }).await;
        }
        let response = match result {
            Ok(good) => good.response,
            Err(denial) => denial.response(under_auth),
        };
        let mut answer = Answer { response, close };
        answer::finish(&mut answer.response, under_auth, self.production);
        answer
    }

    async fn endpoint<B>(&self, endpoint: Endpoint, ends: Ends, request: Request<B>) -> Result<Good, Denial>
    where
        B: Body<Data = Bytes> + Send,
    {
        endpoint.takes(request.method())?;
        match endpoint {
            Endpoint::Login if request.method() != Method::POST => Ok(self.sign_in_page(request.uri().query())),
            Endpoint::Login if browser::is_form(&request) => self.browser_login(ends, request).await,
            Endpoint::Login => self.login(ends, request).await,
            Endpoint::OidcLogin => self.oidc_login(&request).await,
            Endpoint::OidcCallback => self.oidc_callback(ends, &request).await,
            Endpoint::Refresh => self.refresh(request).await,
            Endpoint::Logout => self.logout(&Asked::of(&request)).await,
            Endpoint::Me => self.me(&Asked::of(&request)),
            Endpoint::Verify => self.verify(&Asked::of(&request), request.uri().query()),
            Endpoint::Token => self.token(ends, request).await,
            Endpoint::Introspect => self.introspect(request).await,
            Endpoint::Revoke => self.revoke(request).await,
            Endpoint::Health => Ok(Good::of(json_answer(StatusCode::OK, &json!({"status": "ok"})), None)),
            Endpoint::Ready => self.ready().map(|response| Good::of(response, None)),
            Endpoint::Status => Ok(Good::of(self.status(), None)),
            Endpoint::Jwks => Ok(Good::of(wellknown::jwks(&self.tokens), None)),
            Endpoint::Metadata => wellknown::metadata(&self.tokens).map(|response| Good::of(response, None)),
        }
    }

    /// Reports what has to be reported; whether the client is blocked now.
    async fn is_blocked(&self, denial: &Denial, ends: Ends) -> bool {
        match denial.cause() {
            Denial::Login { account } => self.report.offence(Kind::Login, ends, Some(account)).await,
            Denial::Token { guessed: true, account } => {
                self.report.offence(Kind::Token, ends, account.as_deref()).await
            }
            Denial::Key { why: KeyRefused::Unknown, .. } => self.report.offence(Kind::Key, ends, None).await,
            _ => false,
        }
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
}

/// Keys that signed before, each good when it signed.
fn verifying(former: impl Iterator<Item = (Algorithm, String, Wall)>) -> Vec<token::Former> {
    let verifying = |(algorithm, key, until): (_, String, _)| {
        let key = SigningKey::new(algorithm, &key).ok()?;
        Some(token::Former { key: key.verifying().clone(), until })
    };
    former.filter_map(verifying).collect()
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

#[cfg(test)]
mod tests;
