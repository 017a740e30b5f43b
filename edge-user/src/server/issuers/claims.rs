//! What a token of another issuer says, once its signature is good: whether it is for us and in time, whom it names, and
//! which roles. Pure; the clock is an argument.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    clock::Wall,
    server::{
        auth::token::{Audience, LAST_SECOND, is_understood},
        jws::{Members, Signed},
    },
};

/// Google writes its own name both ways (its guide to OpenID Connect says so).
const GOOGLE: [&str; 2] = ["https://accounts.google.com", "accounts.google.com"];

/// Whom a token has to be from and for.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub issuer: &'a str,
    /// One of them.
    pub audience: &'a [String],
    pub leeway: Duration,
}

/// A token that is good.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    pub issuer: String,
    pub sub: String,
    pub audience: Vec<String>,
    /// Seconds since 1970.
    pub issued: i64,
    pub expires: i64,
    /// All of them.
    pub all: Members,
}

/// Those that are required; times are integers.
#[derive(Deserialize)]
struct Read {
    exp: u64,
    iat: u64,
    nbf: Option<u64>,
    iss: String,
    aud: Audience,
    sub: String,
}

/// `None`: not good, whoever signed it.
pub fn read(signed: &Signed, expected: Expected<'_>, now: Wall) -> Option<Claims> {
    is_understood(&signed.header).then_some(())?;
    let all: Members = serde_json::from_slice(&signed.payload).ok()?;
    // What is there and null is not absent.
    all.0.get("nbf").is_none_or(Value::is_u64).then_some(())?;
    let claims: Read = serde_json::from_value(Value::Object(all.0.clone().into_iter().collect())).ok()?;
    let (now, leeway) = (u64::try_from(now.0 / 1000).ok()?, expected.leeway.as_secs());
    let has_begun = claims.nbf.unwrap_or_default().max(claims.iat) <= now.saturating_add(leeway);
    let in_time = now < claims.exp.saturating_add(leeway) && claims.exp <= LAST_SECOND && has_begun;
    let for_us = expected.audience.iter().any(|audience| claims.aud.has(audience));
    let good = in_time && for_us && is_issuer(expected.issuer, &claims.iss) && is_name(&claims.sub);
    let (issued, expires) = (i64::try_from(claims.iat).ok()?, i64::try_from(claims.exp).ok()?);
    good.then_some(Claims { issuer: claims.iss, sub: claims.sub, audience: claims.aud.names(), issued, expires, all })
}

pub fn is_issuer(expected: &str, found: &str) -> bool {
    expected == found || GOOGLE.contains(&expected) && GOOGLE.contains(&found)
}

/// What may stand behind an issuer's name, and in a header.
fn is_name(sub: &str) -> bool {
    !sub.is_empty() && sub.len() <= 1024 && !sub.chars().any(char::is_control)
}

/// The address, where it is one and the issuer does not say that it never looked.
pub fn email(claims: &Members) -> Option<String> {
    let email = claims.text("email")?;
    let plain =
        email.contains('@') && email.len() <= 320 && !email.chars().any(|c| c.is_control() || c.is_whitespace());
    (plain && !is_unverified(claims)).then(|| email.to_owned())
}

/// Some write it as a string.
pub fn is_unverified(claims: &Members) -> bool {
    match claims.0.get("email_verified") {
        None => false,
        Some(Value::Bool(verified)) => !verified,
        Some(Value::String(verified)) => verified != "true",
        Some(_) => true,
    }
}

/// Those of the config, and those of the token that can be the name of one.
pub fn roles(configured: &[String], role_claim: Option<&str>, claims: &Members) -> Vec<String> {
    let told = match role_claim.and_then(|name| claims.0.get(name)) {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) if several.iter().all(Value::is_string) => {
            several.iter().filter_map(Value::as_str).collect()
        }
        _ => Vec::new(),
    };
    let mut roles = configured.to_vec();
    for role in told {
        let is_name = !role.is_empty() && !role.chars().any(|c| c == ',' || c.is_whitespace() || c.is_control());
        if is_name && !roles.iter().any(|known| known == role) {
            roles.push(role.to_owned());
        }
    }
    roles
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Wall = Wall(1_767_323_045_000);

    fn good() -> Value {
        let now = NOW.0 / 1000;
        json!({"exp": now + 60, "iat": now, "iss": "https://i.test", "aud": ["x", "app"], "sub": "42"})
    }

    fn read_of(header: Value, claims: &Value, issuer: &str) -> Option<Claims> {
        let header = Members(serde_json::from_value(header).unwrap());
        let audience = ["app".to_owned(), "web".to_owned()];
        let expected = Expected { issuer, audience: &audience, leeway: Duration::from_secs(30) };
        read(&Signed { header, payload: claims.to_string().into_bytes() }, expected, NOW)
    }

    fn with(name: &str, value: Value) -> Option<Claims> {
        let mut claims = good();
        claims[name] = value;
        read_of(json!({}), &claims, "https://i.test")
    }

    #[test]
    fn a_token_is_from_whom_and_for_whom_it_has_to_be_and_in_time() {
        let now = NOW.0 / 1000;
        let claims = read_of(json!({"typ": "at+jwt"}), &good(), "https://i.test").unwrap();
        assert_eq!((claims.sub.as_str(), claims.issued, claims.expires), ("42", now, now + 60));
        for name in ["exp", "iat", "iss", "aud", "sub"] {
            let mut claims = good();
            claims.as_object_mut().unwrap().remove(name);
            assert_eq!(read_of(json!({}), &claims, "https://i.test"), None, "{name}");
            assert_eq!(with(name, Value::Null), None, "{name}");
        }
        for (name, value, is_good) in [
            ("exp", json!(now - 29), true),
            ("exp", json!(now - 30), false),
            ("exp", json!((now + 60).to_string()), false),
            ("exp", json!(LAST_SECOND + 1), false),
            ("iat", json!(now + 30), true),
            ("iat", json!(now + 31), false),
            ("nbf", json!(now + 31), false),
            ("nbf", json!(now), true),
            ("nbf", Value::Null, false),
            ("aud", json!("web"), true),
            ("aud", json!("other"), false),
            ("aud", json!([]), false),
            ("iss", json!("https://i.test/"), false),
            ("sub", json!(42), false),
            ("sub", json!(""), false),
            ("sub", json!("a\nb"), false),
            ("sub", json!("a\u{85}b"), false),
        ] {
            assert_eq!(with(name, value.clone()).is_some(), is_good, "{name} {value}");
        }
        for header in [json!({"typ": "logout+jwt"}), json!({"crit": ["exp"]}), json!({"typ": 7})] {
            assert_eq!(read_of(header, &good(), "https://i.test"), None);
        }
    }

    #[test]
    fn the_shapes_of_google_and_firebase_are_understood() {
        for iss in GOOGLE {
            let mut claims = good();
            claims["iss"] = json!(iss);
            assert!(read_of(json!({"typ": "JWT"}), &claims, GOOGLE[0]).is_some());
            assert!(read_of(json!({"typ": "JWT"}), &claims, "https://i.test").is_none());
        }
        let mut firebase = good();
        firebase["iss"] = json!("https://securetoken.google.com/app");
        firebase["firebase"] = json!({"sign_in_provider": "google.com", "identities": {}});
        firebase["email"] = json!("a@b.test");
        firebase["email_verified"] = json!(true);
        let claims = read_of(json!({"typ": "JWT"}), &firebase, "https://securetoken.google.com/app").unwrap();
        assert_eq!(email(&claims.all).as_deref(), Some("a@b.test"));
    }

    #[test]
    fn an_address_that_nobody_looked_at_is_none() {
        let of = |email_verified: Value| {
            let mut claims = json!({"email": "a@b.test"});
            if !email_verified.is_null() {
                claims["email_verified"] = email_verified;
            }
            email(&Members(serde_json::from_value(claims).unwrap()))
        };
        assert!(of(Value::Null).is_some() && of(json!(true)).is_some() && of(json!("true")).is_some());
        assert!(of(json!(false)).is_none() && of(json!("false")).is_none() && of(json!(0)).is_none());
        for no in [json!("a"), json!("a@b\r\nx"), json!(7)] {
            assert_eq!(email(&Members([("email".to_owned(), no)].into())), None);
        }
    }

    #[test]
    fn roles_of_the_token_are_added_and_what_is_no_name_is_dropped() {
        let configured = ["chat".to_owned()];
        let of = |value: Value| roles(&configured, Some("groups"), &Members([("groups".to_owned(), value)].into()));
        assert_eq!(of(json!(["a", "chat", "b c", "d,e", "f\u{7}", "", "ä"])), ["chat", "a", "ä"]);
        assert_eq!(of(json!("a")), ["chat", "a"]);
        for none in [json!(7), json!({"a": 1}), json!(["a", 7]), Value::Null] {
            assert_eq!(of(none), ["chat"]);
        }
        assert_eq!(roles(&configured, None, &Members([("groups".to_owned(), json!("a"))].into())), ["chat"]);
    }
}
