//! Access tokens: JWTs (RFC 7519) under edge's own key. Written with every claim, read only with every claim; the clock is
//! an argument. Says also whether a refused token was signed by edge, which is then no guess.

use std::{sync::OnceLock, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    clock::Wall,
    error::Failure,
    server::jws::{Members, Signed, SigningKey, VerifyingKey},
};

/// The last second that RFC 3339 can write. A later one is no time, and a sum with it may be none.
pub const LAST_SECOND: u64 = 253_402_300_799;

/// The signing key and what its tokens say.
pub struct Tokens {
    key: SigningKey,
    /// Known as ones of ours.
    former: Vec<Former>,
    /// What the store keeps of former keys; empty until it was read.
    rotated: OnceLock<Vec<Former>>,
    issuer: String,
    audience: String,
    ttl: Duration,
    leeway: Duration,
}

/// A key that signed before.
#[derive(Clone, Debug)]
pub struct Former {
    pub key: VerifyingKey,
    /// What it signed is good so long, and no guess afterwards either.
    pub until: Wall,
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub name: String,
    /// Seconds since 1970, as is the next.
    pub issued: i64,
    pub expires: i64,
    pub audience: Vec<String>,
    pub id: String,
    /// Good no longer than this, whatever else: the token's end, or that of the former key that signed it.
    pub until: Wall,
    /// `None`: rightly signed, but not written by edge itself.
    pub stamp: Option<Stamp>,
}

/// What edge's own tokens carry in `jti`, so that revocation goes by event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub generation: i64,
    pub family: i64,
}

/// Why a token was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// Signed with edge's key, but expired, too early, incomplete or meant for another.
    Issued,
    /// Not of edge.
    Foreign,
}

#[derive(Serialize)]
struct Written<'a> {
    exp: i64,
    iat: i64,
    nbf: i64,
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    jti: String,
}

/// Every claim is required, and times are integers.
#[derive(Deserialize)]
struct Read {
    exp: u64,
    iat: u64,
    nbf: u64,
    iss: String,
    aud: Audience,
    sub: String,
    jti: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Tokens {
    pub fn new(
        key: SigningKey,
        former: Vec<Former>,
        issuer: String,
        audience: String,
        ttl: Duration,
        leeway: Duration,
    ) -> Tokens {
        Tokens { key, former, rotated: OnceLock::new(), issuer, audience, ttl, leeway }
    }

    /// Whether what the store keeps of former keys was not read yet: what they signed is not known as such then.
    pub fn lacks_rotated(&self) -> bool {
        self.rotated.get().is_none()
    }

    /// Once: a secret is rotated by another server.
    pub fn take_rotated(&self, rotated: Vec<Former>) {
        // Another request was first, with the same.
        let _ = self.rotated.set(rotated);
    }

    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn audience(&self) -> &str {
        &self.audience
    }

    pub fn issue(&self, name: &str, stamp: Stamp, now: Wall) -> Result<String, Failure> {
        self.issue_until(name, stamp, now, now.plus(self.ttl))
    }

    /// When a token that says so is good no more in any case.
    pub fn end(&self, expires: i64) -> Wall {
        Wall(expires.saturating_mul(1000)).plus(self.leeway)
    }

    pub fn issue_until(&self, name: &str, stamp: Stamp, now: Wall, ends: Wall) -> Result<String, Failure> {
        let iat = now.0 / 1000;
        let exp = ends.0 / 1000;
        let jti = format!("{:x}.{:x}.{}", stamp.generation, stamp.family, crate::server::secret::generate()?);
        let claims = Written { exp, iat, nbf: iat, iss: &self.issuer, aud: &self.audience, sub: name, jti };
        let claims = serde_json::to_vec(&claims).map_err(|error| Failure::bug(format!("a token's claims: {error}")))?;
        self.key.sign(&Members([("typ".to_owned(), Value::from("JWT"))].into()), &claims)
    }

    pub fn verify(&self, token: &str, now: Wall) -> Result<Caller, Bad> {
        if let Ok(signed) = self.key.verifying().verify(token) {
            return self.read(self.key.verifying(), &signed, now).ok_or(Bad::Issued);
        }
        let mut bad = Bad::Foreign;
        for Former { key, until } in self.rotated.get().into_iter().flatten().chain(&self.former) {
            let Ok(signed) = key.verify(token) else { continue };
            bad = Bad::Issued;
            if now < *until
                && let Some(caller) = self.read(key, &signed, now)
            {
                return Ok(Caller { until: caller.until.min(*until), ..caller });
            }
        }
        Err(bad)
    }

    fn read(&self, key: &VerifyingKey, signed: &Signed, now: Wall) -> Option<Caller> {
        let header = &signed.header;
        (is_understood(header) && key.is_named_by(header)).then_some(())?;
        // Each claim once; only then what they are.
        let Members(claims) = serde_json::from_slice(&signed.payload).ok()?;
        let claims: Read = serde_json::from_value(Value::Object(claims.into_iter().collect())).ok()?;
        let (now, leeway) = (u64::try_from(now.0 / 1000).ok()?, self.leeway.as_secs());
        // A token of tomorrow would outlive a revocation of today, which goes by `iat`.
        let has_begun = claims.nbf.max(claims.iat) <= now.saturating_add(leeway);
        let in_time = now < claims.exp.saturating_add(leeway) && claims.exp <= LAST_SECOND && has_begun;
        let is_for_us = claims.iss == self.issuer && claims.aud.has(&self.audience);
        let stamp = Stamp::parse(&claims.jti);
        let (issued, expires) = (i64::try_from(claims.iat).ok()?, i64::try_from(claims.exp).ok()?);
        let audience = claims.aud.names();
        let until = self.end(expires);
        let caller = Caller { name: claims.sub, issued, expires, audience, id: claims.jti, until, stamp };
        (in_time && is_for_us).then_some(caller)
    }
}

/// `typ` absent, `JWT` or `at+jwt` (RFC 9068); no extension that must be understood.
pub fn is_understood(header: &Members) -> bool {
    let typ = match header.0.get("typ") {
        None => true,
        Some(Value::String(typ)) => typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("at+jwt"),
        Some(_) => false,
    };
    typ && !header.0.contains_key("crit")
}

impl Caller {
    /// What this one token is revoked by.
    pub fn digest(&self) -> Vec<u8> {
        let id = format!("{}\0{}", self.name, self.id);
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, id.as_bytes()).as_ref().to_vec()
    }
}

impl Audience {
    pub fn names(self) -> Vec<String> {
        match self {
            Audience::One(one) => vec![one],
            Audience::Several(several) => several,
        }
    }

    pub fn has(&self, audience: &str) -> bool {
        match self {
            Audience::One(one) => one == audience,
            Audience::Several(several) => several.iter().any(|one| one == audience),
        }
    }
}

impl Stamp {
    fn parse(jti: &str) -> Option<Stamp> {
        let mut parts = jti.split('.');
        let mut number = || i64::from_str_radix(parts.next()?, 16).ok();
        let (generation, family) = (number()?, number()?);
        (parts.next()?.len() == 43 && parts.next().is_none()).then_some(Stamp { generation, family })
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;

    const NOW: Wall = Wall(1_767_323_045_000);
    const SECRET: &str = "9lWjO0cQ2nVwXhT5sUeR7yBzKdMfGaLp";

    fn tokens() -> Tokens {
        tokens_of(SECRET, "https://a.test", "api")
    }

    fn tokens_of(secret: &str, issuer: &str, audience: &str) -> Tokens {
        let (ttl, leeway) = (Duration::from_secs(3600), Duration::from_secs(30));
        let key = SigningKey::new(crate::server::jws::Algorithm::HS256, secret).unwrap();
        Tokens::new(key, Vec::new(), issuer.to_owned(), audience.to_owned(), ttl, leeway)
    }

    fn claims() -> Value {
        let now = NOW.0 / 1000;
        json!({"exp": now + 60, "iat": now, "nbf": now, "iss": "https://a.test", "aud": "api", "sub": "alice", "jti": "x"})
    }

    fn signed(header: &Header, claims: &Value) -> String {
        encode(header, claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
    }

    fn with(key: &str, value: Value) -> String {
        let mut claims = claims();
        claims[key] = value;
        signed(&Header::new(Algorithm::HS256), &claims)
    }

    #[test]
    fn what_edge_issues_is_good_until_it_expires() {
        let (tokens, stamp) = (tokens(), Stamp { generation: 12, family: i64::MAX });
        let token = tokens.issue("alice", stamp, NOW).unwrap();
        let caller = tokens.verify(&token, NOW).unwrap();
        let expected = ("alice", NOW.0 / 1000, NOW.0 / 1000 + 3600, Some(stamp));
        assert_eq!((&*caller.name, caller.issued, caller.expires, caller.stamp), expected);
        let after = |seconds| NOW.plus(Duration::from_secs(seconds));
        assert_eq!(tokens.verify(&token, after(3629)), Ok(caller));
        assert_eq!(tokens.verify(&token, after(3630)), Err(Bad::Issued));
        let header = jsonwebtoken::decode_header(&token).unwrap();
        assert_eq!((header.typ.as_deref(), header.kid.is_some()), (Some("JWT"), true));
    }

    #[test]
    fn any_complete_token_of_the_secret_is_good() {
        let good = tokens().verify(&signed(&Header::new(Algorithm::HS256), &claims()), NOW).unwrap();
        assert_eq!((good.name.as_str(), good.stamp), ("alice", None));
        assert!(tokens().verify(&with("aud", json!(["other", "api"])), NOW).is_ok());
        for (typ, good) in [(None, true), (Some("at+jwt"), true), (Some("dpop+jwt"), false)] {
            let header = Header { typ: typ.map(str::to_owned), ..Header::new(Algorithm::HS256) };
            assert_eq!(tokens().verify(&signed(&header, &claims()), NOW).is_ok(), good, "{typ:?}");
        }
    }

    #[test]
    fn each_claim_is_required_and_of_its_type() {
        for key in ["exp", "iat", "nbf", "iss", "aud", "sub", "jti"] {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(key);
            let token = signed(&Header::new(Algorithm::HS256), &claims);
            assert_eq!(tokens().verify(&token, NOW), Err(Bad::Issued), "{key}");
            assert_eq!(tokens().verify(&with(key, Value::Null), NOW), Err(Bad::Issued), "{key}");
        }
        let now = NOW.0 / 1000;
        for (key, value) in [
            ("exp", json!((now + 60).to_string())),
            ("exp", json!(now as f64 + 60.5)),
            ("exp", json!(now - 31)),
            ("exp", json!(-1)),
            ("exp", json!(u64::MAX)),
            ("nbf", json!(now + 31)),
            ("iat", json!(now + 31)),
            ("iat", json!(now.to_string())),
            ("iss", json!("https://b.test")),
            ("aud", json!("other")),
            ("aud", json!([])),
            ("sub", json!(7)),
            ("jti", json!(7)),
        ] {
            assert_eq!(tokens().verify(&with(key, value.clone()), NOW), Err(Bad::Issued), "{key} {value}");
        }
    }

    #[test]
    fn what_a_former_key_signed_is_good_for_its_time_and_no_guess_afterwards() {
        let former = tokens_of("another secret of thirty two bytes", "https://a.test", "api");
        let token = former.issue("alice", Stamp { generation: 1, family: 1 }, NOW).unwrap();
        assert_eq!(tokens().verify(&token, NOW), Err(Bad::Foreign));
        let with = |until| {
            let key = former.key.verifying().clone();
            Tokens { former: vec![Former { key, until }], ..tokens() }.verify(&token, NOW)
        };
        assert_eq!(with(Wall(0)), Err(Bad::Issued));
        assert_eq!(with(NOW), Err(Bad::Issued));
        assert_eq!(with(Wall(NOW.0 + 1)).unwrap().name, "alice", "it was rotated, and verifies for a while");
    }

    #[test]
    fn what_was_not_signed_here_is_foreign() {
        let token = signed(&Header::new(Algorithm::HS256), &claims());
        let parts: Vec<_> = token.split('.').collect();
        let b64 = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let other = tokens_of("another secret of thirty two bytes", "https://a.test", "api");
        let mut more = claims();
        more["sub"] = json!("root");
        for foreign in [
            String::new(),
            "a.b.c".to_owned(),
            format!("{}.{}.", b64(json!({"alg": "none", "typ": "JWT"})), parts[1]),
            format!("{}.{}.{}", b64(json!({"alg": "none"})), parts[1], parts[2]),
            format!("{}.{}.{}", b64(json!({"alg": "RS256"})), parts[1], parts[2]),
            format!("{}.{}.{}", parts[0], b64(more), parts[2]),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{}", parts[0], parts[1]),
            encode(&Header::new(Algorithm::HS384), &claims(), &EncodingKey::from_secret(SECRET.as_bytes())).unwrap(),
            other.issue("alice", Stamp { generation: 1, family: 1 }, NOW).unwrap(),
        ] {
            assert_eq!(tokens().verify(&foreign, NOW), Err(Bad::Foreign), "{foreign}");
        }
    }

    #[test]
    fn other_issuers_keys_and_extensions_are_refused() {
        let stamp = Stamp { generation: 1, family: 1 };
        for other in [tokens_of(SECRET, "https://b.test", "api"), tokens_of(SECRET, "https://a.test", "web")] {
            assert_eq!(tokens().verify(&other.issue("alice", stamp, NOW).unwrap(), NOW), Err(Bad::Issued));
        }
        let header = Header { kid: Some("other".to_owned()), ..Header::new(Algorithm::HS256) };
        assert_eq!(tokens().verify(&signed(&header, &claims()), NOW), Err(Bad::Issued));
        let mut critical = serde_json::to_value(Header::new(Algorithm::HS256)).unwrap();
        critical["crit"] = json!(["exp"]);
        let body = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(critical.to_string()),
            URL_SAFE_NO_PAD.encode(claims().to_string())
        );
        let signature =
            jsonwebtoken::crypto::sign(body.as_bytes(), &EncodingKey::from_secret(SECRET.as_bytes()), Algorithm::HS256)
                .unwrap();
        assert!(tokens().verify(&format!("{body}.{signature}"), NOW).is_err());
    }
}
