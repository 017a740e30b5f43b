//! One provider: what it publishes about itself (OpenID Connect Discovery 1.0), and what it says about who comes back.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use hyper::{
    Request, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{OidcProvider, pending::Begun};
use crate::{
    clock::Wall,
    fetch::{Fetch, Limits},
    server::{
        auth::{answer::Denial, page::encoded},
        issuers::{
            claims::{self, Claims, Expected},
            jwks,
            source::Source,
        },
        jws::Members,
    },
};

const LIMITS: Limits = Limits { bytes: 256 << 10, time: Duration::from_secs(10) };
/// How long what it publishes about itself is believed.
const KEPT: Duration = Duration::from_secs(3600);
/// For how long what is older serves without a question, where the last one failed.
const FAILED: Duration = Duration::from_secs(30);

pub struct Provider {
    pub config: OidcProvider,
    fetch: Fetch,
    leeway: Duration,
    folder: PathBuf,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    metadata: Option<(Instant, Arc<Metadata>)>,
    /// When it was asked in vain.
    failed: Option<Instant>,
}

pub struct Metadata {
    pub authorization_endpoint: String,
    token_endpoint: String,
    userinfo_endpoint: Option<String>,
    /// The secret goes into the form, for it does not take it otherwise.
    secret_in_form: bool,
    keys: Arc<Source>,
}

#[derive(Deserialize)]
struct Published {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    access_token: String,
}

impl Provider {
    pub fn new(config: OidcProvider, fetch: Fetch, leeway: Duration, folder: PathBuf) -> Provider {
        Provider { config, fetch, leeway, folder, known: Mutex::default() }
    }

    /// What it publishes about itself; what was known goes on through an outage. One asks for all that wait, so that a
    /// provider that does not answer holds nobody for longer than one question lasts.
    pub async fn metadata(&self) -> Result<Arc<Metadata>, Denial> {
        let came = Instant::now();
        let mut known = self.known.lock().await;
        let metadata = known.metadata.clone();
        let fails = |at: Instant| at >= came || metadata.is_some() && at.elapsed() < FAILED;
        let is_fresh = metadata.as_ref().is_some_and(|(at, _)| at.elapsed() < KEPT);
        if !is_fresh && !known.failed.is_some_and(fails) {
            match self.discover(metadata.as_ref().map(|(_, metadata)| metadata.keys.clone())).await {
                Ok(found) => known.metadata = Some((Instant::now(), Arc::new(found))),
                Err(_) => known.failed = Some(Instant::now()),
            }
        }
        known.metadata.as_ref().map(|(_, metadata)| metadata.clone()).ok_or(Denial::Provider)
    }

    async fn discover(&self, keys: Option<Arc<Source>>) -> Result<Metadata, Denial> {
        let url = format!("{}/.well-known/openid-configuration", self.config.issuer.trim_end_matches('/'));
        let answer = self.ask(Request::get(&url).header(ACCEPT, "application/json"), Bytes::new()).await?;
        let published: Published = self.read(&answer)?;
        if published.issuer != self.config.issuer {
            return Err(self.failed(&format!("it calls itself {:?}", published.issuer)));
        }
        let methods = published.token_endpoint_auth_methods_supported.unwrap_or_default();
        let takes = |method: &str| methods.iter().any(|one| one == method);
        let keys = keys.filter(|keys| keys.url() == published.jwks_uri);
        let keys = keys.unwrap_or_else(|| Source::start(&published.jwks_uri, self.fetch.clone(), &self.folder));
        Ok(Metadata {
            authorization_endpoint: published.authorization_endpoint,
            token_endpoint: published.token_endpoint,
            userinfo_endpoint: published.userinfo_endpoint,
            secret_in_form: takes("client_secret_post") && !takes("client_secret_basic"),
            keys,
        })
    }

    /// Who came back with this code: `sub` and the e-mail address.
    pub async fn signed_in(
        &self,
        code: &str,
        callback: &str,
        begun: &Begun,
        now: Wall,
    ) -> Result<(String, String), Denial> {
        let metadata = self.metadata().await?;
        let tokens = self.exchange(&metadata, code, callback, &begun.verifier).await?;
        let claims = self.verified(&metadata, &tokens, &begun.nonce, now).await?;
        let email = match claims.all.text("email") {
            Some(_) => email(&claims.all),
            None => email(&self.userinfo(&metadata, &tokens.access_token, &claims.sub).await?),
        };
        let refused = || Denial::NotAllowed { account: format!("{}:{}", self.config.name, claims.sub) };
        Ok((claims.sub.clone(), email.ok_or_else(refused)?))
    }

    async fn exchange(
        &self,
        metadata: &Metadata,
        code: &str,
        callback: &str,
        verifier: &str,
    ) -> Result<Tokens, Denial> {
        let OidcProvider { client_id, client_secret, .. } = &self.config;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", callback),
            ("client_id", client_id),
            ("code_verifier", verifier),
        ];
        let mut request = Request::post(&metadata.token_endpoint)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json");
        if metadata.secret_in_form {
            form.push(("client_secret", client_secret));
        } else {
            // Each is encoded before they are joined (RFC 6749, section 2.3.1).
            let pair = format!("{}:{}", encoded(client_id), encoded(client_secret));
            request = request.header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)));
        }
        let form: Vec<_> = form.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let answer = self.fetched(request, form.join("&").into()).await?;
        match answer.status() {
            StatusCode::OK => self.read(&answer),
            // The code is not good, or not for us.
            StatusCode::BAD_REQUEST => Err(Denial::Callback),
            status => Err(self.failed(&format!("its token endpoint answered {}", status.as_u16()))),
        }
    }

    /// The claims of an ID token that is for this sign-in (OpenID Connect Core 1.0, section 3.1.3.7).
    async fn verified(&self, metadata: &Metadata, tokens: &Tokens, nonce: &str, now: Wall) -> Result<Claims, Denial> {
        let token = &tokens.id_token;
        match metadata.keys.keys() {
            None => metadata.keys.again().await.map_err(|why| self.failed(&why))?,
            Some(keys) if keys.lacks_key_of(token) => metadata.keys.look_for_unknown().await,
            Some(_) => {}
        }
        let keys = metadata.keys.keys().ok_or(Denial::Provider)?;
        let signed = keys.verify(token).map_err(|_| Denial::Callback)?;
        let client = std::slice::from_ref(&self.config.client_id);
        let expected = Expected { issuer: &self.config.issuer, audience: client, leeway: self.leeway };
        let claims = claims::read(&signed, expected, now).ok_or(Denial::Callback)?;
        let azp = claims.all.0.get("azp");
        let is_ours = match azp {
            None => claims.audience.len() == 1,
            Some(azp) => azp.as_str() == Some(&self.config.client_id),
        };
        let said = claims.all.text("nonce").unwrap_or_default();
        let is_meant = verify_slices_are_equal(said.as_bytes(), nonce.as_bytes()).is_ok();
        let algorithm = jwks::header(token).and_then(|header| header.text("alg").map(str::to_owned));
        let fits = match claims.all.0.get("at_hash") {
            None => true,
            Some(hash) => hash.as_str() == Some(&half_hash(algorithm.as_deref(), &tokens.access_token)),
        };
        if is_ours && is_meant && fits { Ok(claims) } else { Err(Denial::Callback) }
    }

    async fn userinfo(&self, metadata: &Metadata, access_token: &str, sub: &str) -> Result<Members, Denial> {
        let Some(url) = &metadata.userinfo_endpoint else { return Ok(Members::default()) };
        let request = Request::get(url)
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, format!("Bearer {access_token}"));
        let answer = self.ask(request, Bytes::new()).await?;
        let told: Members = self.read(&answer)?;
        // Of somebody else it says nothing here (section 5.3.2).
        if told.text("sub") == Some(sub) { Ok(told) } else { Err(Denial::Callback) }
    }

    /// An answer that is 200.
    async fn ask(&self, request: hyper::http::request::Builder, body: Bytes) -> Result<Response<Bytes>, Denial> {
        let answer = self.fetched(request, body).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            status => Err(self.failed(&format!("it answered {}", status.as_u16()))),
        }
    }

    async fn fetched(&self, request: hyper::http::request::Builder, body: Bytes) -> Result<Response<Bytes>, Denial> {
        let request = request.body(body).map_err(|error| self.failed(&error.to_string()))?;
        self.fetch.request_within(request, LIMITS).await.map_err(|error| self.failed(&error.0))
    }

    fn read<T: serde::de::DeserializeOwned>(&self, answer: &Response<Bytes>) -> Result<T, Denial> {
        serde_json::from_slice(answer.body()).map_err(|_| self.failed("its answer is not understood"))
    }

    fn failed(&self, why: &str) -> Denial {
        tracing::error!("the OpenID provider {}: {why}", self.config.name);
        Denial::Provider
    }
}

/// One that the provider has looked at, or says nothing about.
fn email(claims: &Members) -> Option<String> {
    claims::email(claims)
}

/// The left half of the hash that belongs to the algorithm, as `at_hash` has it.
fn half_hash(algorithm: Option<&str>, token: &str) -> String {
    let hash = if algorithm == Some("EdDSA") { &digest::SHA512 } else { &digest::SHA256 };
    let digest = digest::digest(hash, token.as_bytes());
    URL_SAFE_NO_PAD.encode(&digest.as_ref()[..digest.as_ref().len() / 2])
}
