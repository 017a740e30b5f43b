//! Issuers that are trusted beside edge itself: whose tokens are good, for whom, and with which roles. Their keys come from
//! a file, which the agent read, or from an address ([`source`]); what they sign is read by [`claims`].

pub mod claims;
pub mod jwks;
mod roca;
pub mod source;

use std::{path::Path, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use self::{
    claims::{Claims, Expected},
    jwks::KeySet,
    source::Source,
};
use crate::{clock::Wall, error::Failure, fetch::Fetch};

/// One that is trusted, as the agent tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedIssuer {
    pub name: String,
    pub issuer: String,
    /// One of them is who its tokens are for.
    pub audience: Vec<String>,
    pub keys: Keys,
    pub roles: Vec<String>,
    pub role_claim: Option<String>,
}

/// Where its keys come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keys {
    /// An address.
    Url(String),
    /// What a file holds.
    Set(String),
}

/// Whom a token of a trusted issuer names.
#[derive(Clone, Debug, PartialEq)]
pub struct Vouched {
    /// `ISSUER-NAME:SUB`.
    pub name: String,
    pub roles: Vec<String>,
    pub email: Option<String>,
    pub claims: Claims,
}

/// Why a token names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// An issuer signed it, but it is expired, too early, incomplete or for another.
    Issued,
    /// No trusted issuer signed it.
    Foreign,
    /// The keys of its issuer were never to be had.
    Unknown,
}

pub struct Issuers {
    list: Vec<Issuer>,
    leeway: Duration,
}

struct Issuer {
    trusted: TrustedIssuer,
    held: Held,
}

enum Held {
    Fixed(Arc<KeySet>),
    Fetched(Arc<Source>),
}

impl Held {
    fn keys(&self) -> Option<Arc<KeySet>> {
        match self {
            Held::Fixed(keys) => Some(keys.clone()),
            Held::Fetched(source) => source.keys(),
        }
    }
}

impl Issuers {
    /// Begins to fetch what has to be fetched. `folder`: where the last good answers are kept.
    pub fn start(
        trusted: &[TrustedIssuer],
        fetch: Option<&Fetch>,
        leeway: Duration,
        folder: &Path,
    ) -> Result<Issuers, Failure> {
        let mut list: Vec<Issuer> = Vec::new();
        for one in trusted {
            let same = list.iter().find_map(|issuer| match (&issuer.held, &one.keys) {
                (Held::Fetched(source), Keys::Url(url)) if source.url() == url => Some(source.clone()),
                _ => None,
            });
            let held = match (&one.keys, same) {
                (_, Some(source)) => Held::Fetched(source),
                (Keys::Url(url), None) => {
                    let fetch = fetch.ok_or_else(|| Failure::bug("the server has no fetcher for its issuers' keys"))?;
                    Held::Fetched(Source::start(url, fetch.clone(), folder))
                }
                (Keys::Set(text), None) => {
                    let keys = KeySet::public(text.as_bytes()).map_err(|why| {
                        Failure::refused(format!("the keys of the trusted issuer {}: {why}", one.name))
                    })?;
                    Held::Fixed(Arc::new(keys))
                }
            };
            list.push(Issuer { trusted: one.clone(), held });
        }
        Ok(Issuers { list, leeway })
    }

    /// Has the keys be there that a token needs, as far as they can be had.
    pub async fn prepare(&self, token: &str) {
        for issuer in self.of(token) {
            let Held::Fetched(source) = &issuer.held else { continue };
            if source.keys().is_some_and(|keys| keys.lacks_key_of(token)) {
                source.look_for_unknown().await;
            }
        }
    }

    /// Whom a token names. Its issuer, which is not believed yet, says whose keys to try.
    pub fn identify(&self, token: &str, now: Wall) -> Result<Vouched, Doubt> {
        let mut doubt = Doubt::Foreign;
        for issuer in self.of(token) {
            match issuer.judge(token, self.leeway, now) {
                Ok(vouched) => return Ok(vouched),
                Err(found) if doubt != Doubt::Issued => doubt = found,
                Err(_) => {}
            }
        }
        Err(doubt)
    }

    /// Fetches all anew; what went wrong, a sentence each.
    pub async fn fetch_again(&self) -> Vec<String> {
        let mut asked: Vec<(&str, tokio::task::JoinHandle<Result<(), String>>)> = Vec::new();
        for issuer in &self.list {
            if let Held::Fetched(source) = &issuer.held
                && !asked.iter().any(|(url, _)| *url == source.url())
            {
                let source_of = source.clone();
                asked.push((source.url(), tokio::spawn(async move { source_of.again().await })));
            }
        }
        let mut failures = Vec::new();
        for (_, result) in asked {
            failures.extend(result.await.ok().and_then(Result::err));
        }
        failures
    }

    fn of(&self, token: &str) -> impl Iterator<Item = &Issuer> {
        let issuer = jwks::claims(token).and_then(|claims| claims.text("iss").map(str::to_owned));
        let is_of = move |one: &&Issuer| issuer.as_ref().is_some_and(|iss| claims::is_issuer(&one.trusted.issuer, iss));
        self.list.iter().filter(is_of)
    }
}

impl Issuer {
    fn judge(&self, token: &str, leeway: Duration, now: Wall) -> Result<Vouched, Doubt> {
        let keys = self.held.keys().ok_or(Doubt::Unknown)?;
        let signed = keys.verify(token).map_err(|_| Doubt::Foreign)?;
        let TrustedIssuer { name, issuer, audience, roles, role_claim, .. } = &self.trusted;
        let claims = claims::read(&signed, Expected { issuer, audience, leeway }, now).ok_or(Doubt::Issued)?;
        Ok(Vouched {
            name: format!("{name}:{}", claims.sub),
            roles: claims::roles(roles, role_claim.as_deref(), &claims.all),
            email: claims::email(&claims.all),
            claims,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::jws::{Algorithm, Members, SigningKey};

    const NOW: Wall = Wall(1_767_323_045_000);

    fn signing() -> SigningKey {
        let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        SigningKey::new(Algorithm::ES256, &pem).unwrap()
    }

    fn trusted(name: &str, audience: &str, keys: Keys) -> TrustedIssuer {
        TrustedIssuer {
            name: name.to_owned(),
            issuer: "https://i.test".to_owned(),
            audience: vec![audience.to_owned()],
            keys,
            roles: vec!["chat".to_owned()],
            role_claim: Some("groups".to_owned()),
        }
    }

    fn token(key: &SigningKey, aud: &str, exp: i64) -> String {
        let now = NOW.0 / 1000;
        let claims = json!({"exp": now + exp, "iat": now, "iss": "https://i.test", "aud": aud, "sub": "42",
            "groups": ["a"], "email": "a@b.test"});
        key.sign(&Members::default(), claims.to_string().as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn a_token_is_good_with_the_issuer_that_it_is_for_and_what_was_signed_is_no_guess() {
        let (key, other) = (signing(), signing());
        let set = || Keys::Set(json!({"keys": [key.public()]}).to_string());
        let all = [trusted("one", "app", set()), trusted("two", "web", set())];
        let folder = tempfile::tempdir().unwrap();
        let issuers = Issuers::start(&all, None, Duration::from_secs(30), folder.path()).unwrap();
        let found = issuers.identify(&token(&key, "web", 60), NOW).unwrap();
        assert_eq!((found.name.as_str(), found.email.as_deref()), ("two:42", Some("a@b.test")));
        assert_eq!(found.roles, ["chat", "a"]);
        for (token, doubt) in [
            (token(&key, "other", 60), Doubt::Issued),
            (token(&key, "app", -60), Doubt::Issued),
            (token(&other, "app", 60), Doubt::Foreign),
            ("a.b.c".to_owned(), Doubt::Foreign),
            (String::new(), Doubt::Foreign),
        ] {
            issuers.prepare(&token).await;
            assert_eq!(issuers.identify(&token, NOW), Err(doubt));
        }
    }

    #[tokio::test]
    async fn without_keys_nothing_is_judged_and_the_last_good_ones_outlive_the_server() {
        let key = signing();
        let folder = tempfile::tempdir().unwrap();
        let (_agent, server) = tokio::net::UnixStream::pair().unwrap();
        let fetch = Fetch::start(server);
        let url = Keys::Url("https://i.test/jwks".to_owned());
        let start = || {
            Issuers::start(&[trusted("one", "app", url.clone())], Some(&fetch), Duration::ZERO, folder.path()).unwrap()
        };
        let issuers = start();
        assert_eq!(issuers.identify(&token(&key, "app", 60), NOW), Err(Doubt::Unknown));
        let Held::Fetched(source) = &issuers.list[0].held else { panic!() };
        let text = json!({"keys": [key.public()]}).to_string();
        source.keep(text.as_bytes(), KeySet::public(text.as_bytes()).unwrap());
        for issuers in [issuers, start()] {
            assert!(issuers.identify(&token(&key, "app", 60), NOW).is_ok());
        }
    }
}
