//! Signing in at an OpenID provider (OpenID Connect Core 1.0, section 3.1; PKCE by RFC 7636): where the browser is sent,
//! and what it has to bring back. The ID token is read by the code that reads those of trusted issuers.

mod pending;
mod provider;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hyper::{HeaderMap, Request};
use serde::{Deserialize, Serialize};

use self::pending::{Begun, Pending};
pub use self::provider::Provider;
use super::{
    Auth, Good,
    answer::Denial,
    browser::{SESSION, cookies, leading_to, set_cookie},
    page::{encoded, same_site},
    query::{Form, parameter},
};
use crate::{
    clock::Wall,
    fetch::Fetch,
    server::{
        report::Ends,
        secret,
        users::{SessionKind, SignIn, Who},
    },
};

/// Binds what was begun to the browser that began.
const BROWSER: &str = "__Host-edge-begun";

/// A provider, as the agent tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OidcProvider {
    /// What the names of its callers begin with.
    pub name: String,
    pub issuer: String,
    pub client_id: String,
    pub client_secret: String,
    pub allowed_emails: Vec<String>,
    pub allowed_domains: Vec<String>,
    pub roles: Vec<String>,
}

/// All providers, and what was begun at them.
pub struct Oidc {
    providers: Vec<Provider>,
    pending: Pending,
    /// What the addresses of callbacks begin with.
    base: String,
}

impl Oidc {
    pub fn new(
        configured: &[OidcProvider],
        fetch: Option<&Fetch>,
        issuer: &str,
        leeway: std::time::Duration,
        folder: &std::path::Path,
    ) -> Oidc {
        let fetch = fetch.into_iter().flat_map(|fetch| std::iter::repeat(fetch.clone()));
        let made = configured.iter().zip(fetch);
        let providers = made.map(|(one, fetch)| Provider::new(one.clone(), fetch, leeway, folder.to_owned())).collect();
        Oidc { providers, pending: Pending::default(), base: issuer.trim_end_matches('/').to_owned() }
    }

    pub fn names(&self) -> Vec<String> {
        self.providers.iter().map(|provider| provider.config.name.clone()).collect()
    }

    /// What whoever signed in there may do; `None`: it is not configured any more.
    pub fn roles(&self, caller: &str) -> Option<Vec<String>> {
        let (name, _) = caller.split_once(':')?;
        self.named(name).map(|provider| provider.config.roles.clone())
    }

    fn named(&self, name: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| provider.config.name == name)
    }

    fn callback(&self, name: &str) -> String {
        format!("{}/auth/oidc/{name}/callback", self.base)
    }
}

/// The provider's name in a path `/auth/oidc/NAME/…`.
fn name_in(path: &str) -> Option<&str> {
    path.strip_prefix("/auth/oidc/")?.split('/').next()
}

impl Auth {
    /// Sends the browser to the provider.
    pub(super) async fn oidc_login<B>(&self, request: &Request<B>) -> Result<Good, Denial> {
        let provider = name_in(request.uri().path()).and_then(|name| self.oidc.named(name)).ok_or(Denial::NotFound)?;
        let next = request.uri().query().and_then(|query| parameter(query, "next"));
        let page = self.page(same_site(next.as_deref()), String::new());
        let metadata = provider.metadata().await.map_err(|denial| page.clone().denied(denial))?;
        let unavailable = |_| Denial::Unavailable;
        let browser = match browser(request.headers()) {
            Some(browser) => browser.to_owned(),
            None => secret::generate().map_err(unavailable)?,
        };
        let [state, nonce, verifier] = [secret::generate(), secret::generate(), secret::generate()];
        let (state, nonce, verifier) =
            (state.map_err(unavailable)?, nonce.map_err(unavailable)?, verifier.map_err(unavailable)?);
        let name = provider.config.name.clone();
        let parameters = [
            ("response_type", "code"),
            ("client_id", &provider.config.client_id),
            ("redirect_uri", &self.oidc.callback(&name)),
            ("scope", "openid email"),
            ("state", &state),
            ("nonce", &nonce),
            ("code_challenge", &challenge(&verifier)),
            ("code_challenge_method", "S256"),
        ];
        let query: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let joint = if metadata.authorization_endpoint.contains('?') { '&' } else { '?' };
        let to = format!("{}{joint}{}", metadata.authorization_endpoint, query.join("&"));
        let begun =
            Begun { provider: name, browser: browser.clone(), nonce, verifier, next: page.next, at: Wall::now() };
        self.oidc.pending.insert(state, begun);
        let cookie = set_cookie(BROWSER, &browser, Some(pending::SECONDS));
        Ok(Good::of(leading_to(&to, &[&cookie])?, None))
    }

    /// What the browser brings back. None of its refusals is an offence.
    pub(super) async fn oidc_callback<B>(&self, ends: Ends, request: &Request<B>) -> Result<Good, Denial> {
        let provider = name_in(request.uri().path()).and_then(|name| self.oidc.named(name)).ok_or(Denial::NotFound)?;
        let refused = || self.page(same_site(None), String::new()).denied(Denial::Callback);
        let form = request.uri().query().and_then(|query| Form::parse(query.as_bytes())).ok_or_else(refused)?;
        let begun = form.value("state").and_then(|state| self.oidc.pending.take(state, Wall::now()));
        let begun = begun.ok_or_else(refused)?;
        let is_same =
            browser(request.headers()) == Some(begun.browser.as_str()) && begun.provider == provider.config.name;
        let issuer_is_same = form.value("iss").is_none_or(|iss| iss == provider.config.issuer);
        let page = self.page(begun.next.clone(), String::new());
        let code = form.value("code").filter(|_| is_same && issuer_is_same && form.value("error").is_none());
        let code = code.ok_or_else(|| page.clone().denied(Denial::Callback))?;
        let callback = self.oidc.callback(&provider.config.name);
        let signed_in = provider.signed_in(code, &callback, &begun, Wall::now()).await;
        let (sub, email) = signed_in.map_err(|denial| page.clone().denied(denial))?;
        let name = format!("{}:{sub}", provider.config.name);
        if !is_allowed(&provider.config, &email) {
            return Err(page.denied(Denial::NotAllowed { account: name }));
        }
        let (idle, absolute) = self.browser_session;
        let sign_in = SignIn { kind: SessionKind::Oidc, peer: ends.peer.ip(), now: Wall::now(), ttl: idle };
        let who = name.clone();
        let cookie = self
            .store
            .write(move |store| store.begin_browser(Who::External { name: &who, email: &email }, sign_in, absolute))
            .await?
            .ok_or(Denial::Unavailable)?;
        self.report.signed_in(ends, &name).await;
        let cookies = [set_cookie(SESSION, &cookie, None), set_cookie(BROWSER, "", Some(0))];
        let response = leading_to(&begun.next, &[&cookies[0], &cookies[1]])?;
        Ok(Good { is_sign_in: true, ..Good::of(response, name) })
    }
}

/// What this browser was given when it began something, if it is one that edge could have given.
fn browser(headers: &HeaderMap) -> Option<&str> {
    let mut values = cookies(headers, BROWSER);
    let value = values.next().filter(|value| value.len() == 43)?;
    values.next().is_none().then_some(value)
}

fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes()))
}

/// Without case; a domain stands for none below it. Who allows nobody by name or domain allows nobody.
fn is_allowed(provider: &OidcProvider, email: &str) -> bool {
    let same = |one: &str, other: &str| one.to_lowercase() == other.to_lowercase();
    let domain = email.rsplit_once('@').map(|(_, domain)| domain);
    provider.allowed_emails.iter().any(|allowed| same(allowed, email))
        || domain.is_some_and(|domain| provider.allowed_domains.iter().any(|allowed| same(allowed, domain)))
}
