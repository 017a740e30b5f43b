//! Access tokens: JWTs signed with HS256. Written with every claim, read only with every claim; the clock is an
//! argument. Says also whether a refused token was signed by edge, which is then no guess.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::{clock::Wall, error::Failure};

/// The signing key and what its tokens say.
pub struct Tokens {
    signs: EncodingKey,
    verifies: DecodingKey,
    kid: String,
    issuer: String,
    audience: String,
    ttl: Duration,
    leeway: Duration,
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub name: String,
    /// Seconds since 1970.
    pub issued: i64,
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
    /// Signed with edge's secret, but expired, too early, incomplete or meant for another.
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
    #[serde(rename = "iss")]
    _iss: String,
    #[serde(rename = "aud")]
    _aud: IgnoredAny,
    sub: String,
    jti: String,
}

#[derive(Deserialize)]
struct ReadHeader {
    typ: Option<String>,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl Tokens {
    pub fn new(
        secret: &[u8],
        issuer: String,
        audience: String,
        ttl: Duration,
        leeway: Duration,
    ) -> Result<Self, Failure> {
        let signs = EncodingKey::from_secret(secret);
        let mut kid = jsonwebtoken::crypto::sign(b"edge: the name of this key", &signs, Algorithm::HS256)
            .map_err(|error| Failure::system(format!("the signing secret cannot be used: {error}")))?;
        kid.truncate(16);
        Ok(Tokens { signs, verifies: DecodingKey::from_secret(secret), kid, issuer, audience, ttl, leeway })
    }

    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    pub fn issue(&self, name: &str, stamp: Stamp, now: Wall) -> Result<String, Failure> {
        let iat = now.0 / 1000;
        let exp = now.plus(self.ttl).0 / 1000;
        let jti = format!("{:x}.{:x}.{}", stamp.generation, stamp.family, crate::server::secret::generate()?);
        let claims = Written { exp, iat, nbf: iat, iss: &self.issuer, aud: &self.audience, sub: name, jti };
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims, &self.signs).map_err(|error| Failure::bug(format!("signing a token: {error}")))
    }

    pub fn verify(&self, token: &str, now: Wall) -> Result<Caller, Bad> {
        self.read(token, now).ok_or_else(|| if self.signed(token) { Bad::Issued } else { Bad::Foreign })
    }

    fn read(&self, token: &str, now: Wall) -> Option<Caller> {
        self.header_is_good(token).then_some(())?;
        let mut validation = timeless();
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        validation.validate_aud = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        let claims = decode::<Read>(token, &self.verifies, &validation).ok()?.claims;
        let (now, leeway) = (u64::try_from(now.0 / 1000).ok()?, self.leeway.as_secs());
        let in_time = now < claims.exp.saturating_add(leeway) && claims.nbf <= now.saturating_add(leeway);
        let stamp = Stamp::parse(&claims.jti);
        in_time.then_some(Caller { name: claims.sub, issued: i64::try_from(claims.iat).ok()?, stamp })
    }

    /// `typ` absent, `JWT` or `at+jwt`; no extension that must be understood; this key, or none named.
    fn header_is_good(&self, token: &str) -> bool {
        let header = token.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let Some(Ok(header)) = header.map(|json| serde_json::from_slice::<ReadHeader>(&json)) else { return false };
        let typ = header.typ.is_none_or(|typ| typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("at+jwt"));
        typ && header.crit.is_none() && header.kid.is_none_or(|kid| kid == self.kid)
    }

    fn signed(&self, token: &str) -> bool {
        decode::<serde_json::Value>(token, &self.verifies, &timeless()).is_ok()
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

/// Checks the one algorithm and the signature. The library would read the clock for the times; they are checked here.
fn timeless() -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_required_spec_claims::<&str>(&[]);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: Wall = Wall(1_767_323_045_000);
    const SECRET: &[u8] = b"9lWjO0cQ2nVwXhT5sUeR7yBzKdMfGaLp";

    fn tokens() -> Tokens {
        tokens_of(SECRET, "https://a.test", "api")
    }

    fn tokens_of(secret: &[u8], issuer: &str, audience: &str) -> Tokens {
        let (ttl, leeway) = (Duration::from_secs(3600), Duration::from_secs(30));
        Tokens::new(secret, issuer.to_owned(), audience.to_owned(), ttl, leeway).unwrap()
    }

    fn claims() -> Value {
        let now = NOW.0 / 1000;
        json!({"exp": now + 60, "iat": now, "nbf": now, "iss": "https://a.test", "aud": "api", "sub": "alice", "jti": "x"})
    }

    fn signed(header: &Header, claims: &Value) -> String {
        encode(header, claims, &EncodingKey::from_secret(SECRET)).unwrap()
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
        let caller = Caller { name: "alice".to_owned(), issued: NOW.0 / 1000, stamp: Some(stamp) };
        assert_eq!(tokens.verify(&token, NOW), Ok(caller.clone()));
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
            ("nbf", json!(now + 31)),
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
    fn what_was_not_signed_here_is_foreign() {
        let token = signed(&Header::new(Algorithm::HS256), &claims());
        let parts: Vec<_> = token.split('.').collect();
        let b64 = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let other = tokens_of(b"another secret of thirty two bytes", "https://a.test", "api");
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
            encode(&Header::new(Algorithm::HS384), &claims(), &EncodingKey::from_secret(SECRET)).unwrap(),
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
            jsonwebtoken::crypto::sign(body.as_bytes(), &EncodingKey::from_secret(SECRET), Algorithm::HS256).unwrap();
        assert!(tokens().verify(&format!("{body}.{signature}"), NOW).is_err());
    }
}
