//! JSON Web Key sets of other issuers (RFC 7517), read strictly: what could mean two things, or is no public key for an
//! algorithm that is served, verifies nothing. Pure.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;

use super::roca;
use crate::server::jws::{Algorithm, Members, NotSigned, Signed, VerifyingKey};

/// The least and the most bits of an RSA key (RFC 7518, section 3.3; the library's bound).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// RFC 7518, section 3.2.
const MIN_SECRET_BYTES: usize = 32;
const MOST_KEYS: usize = 100;

/// The keys of one issuer, each for one algorithm.
#[derive(Clone, Debug)]
pub struct KeySet {
    keys: Vec<Key>,
}

#[derive(Clone, Debug)]
struct Key {
    kid: Option<String>,
    verifies: VerifyingKey,
}

/// What kind of keys belong in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Public,
    #[cfg(test)]
    Secret,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Members>,
}

impl KeySet {
    /// A published set. Keys that edge has no use for are passed over; an error is one sentence.
    pub fn public(text: &[u8]) -> Result<KeySet, String> {
        KeySet::read(text, Kind::Public)
    }

    fn read(text: &[u8], kind: Kind) -> Result<KeySet, String> {
        let Set { keys } = serde_json::from_slice(text).map_err(|error| format!("is no JSON Web Key set: {error}"))?;
        if keys.len() > MOST_KEYS {
            return Err(format!("has {} keys, over {MOST_KEYS}", keys.len()));
        }
        refuse_ambiguous(&keys, kind)?;
        let mut reasons = Vec::new();
        let mut good = Vec::new();
        for members in &keys {
            match key(members) {
                Ok(key) => good.push(key),
                Err(reason) => reasons.push(format!("{} {reason}", named(members))),
            }
        }
        if good.is_empty() {
            reasons.truncate(3);
            let why = if reasons.is_empty() { "it is empty".to_owned() } else { reasons.join("; ") };
            return Err(format!("has no key that verifies tokens: {why}"));
        }
        Ok(KeySet { keys: good })
    }

    /// What was signed, by the key that the token names; by any of its algorithm where it names none.
    pub fn verify(&self, token: &str) -> Result<Signed, NotSigned> {
        let header = header(token).ok_or(NotSigned)?;
        let signed = self.meant(&header).find_map(|key| key.verifies.verify(token).ok());
        signed.ok_or(NotSigned)
    }

    /// Whether a token names a key that is not here.
    pub fn lacks_key_of(&self, token: &str) -> bool {
        let Some(header) = header(token) else { return false };
        let served = header.text("alg").is_some_and(|alg| algorithm(alg).is_some_and(|alg| !alg.is_symmetric()));
        served && header.text("kid").is_some() && self.meant(&header).next().is_none()
    }

    fn meant<'a>(&'a self, header: &'a Members) -> impl Iterator<Item = &'a Key> {
        let is_meant = |key: &&Key| match header.0.get("kid") {
            None => true,
            Some(kid) => kid.as_str().is_some_and(|kid| key.kid.as_deref() == Some(kid)),
        };
        let of_algorithm = |key: &&Key| header.text("alg") == Some(key.verifies.algorithm().name());
        self.keys.iter().filter(is_meant).filter(of_algorithm)
    }
}

/// The unverified header of a token: which key to look for, and nothing else.
pub fn header(token: &str) -> Option<Members> {
    part(token.split('.').next()?)
}

/// The unverified claims of a token: whom to ask, and nothing else.
pub fn claims(token: &str) -> Option<Members> {
    part(token.split('.').nth(1)?)
}

fn part(part: &str) -> Option<Members> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// Secrets have no business in what is published, and of two keys with one name nobody knows which is meant.
fn refuse_ambiguous(keys: &[Members], kind: Kind) -> Result<(), String> {
    let secrets = keys.iter().filter(|key| key.text("kty") == Some("oct")).count();
    let belong = match kind {
        Kind::Public => secrets == 0,
        #[cfg(test)]
        Kind::Secret => secrets == keys.len() || secrets == 0,
    };
    if !belong {
        return Err("has a symmetric key in it, which would be everybody's".to_owned());
    }
    let mut kids: Vec<&str> = keys.iter().filter_map(|key| key.text("kid")).collect();
    kids.sort_unstable();
    match kids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("names two keys `{}`", pair[0].escape_debug())),
        None => Ok(()),
    }
}

fn named(members: &Members) -> String {
    members.text("kid").map_or_else(|| "a key without kid".to_owned(), |kid| format!("`{}`", kid.escape_debug()))
}

fn key(members: &Members) -> Result<Key, &'static str> {
    for (name, _) in members.0.iter().filter(|(_, value)| !value.is_string()) {
        if ["kty", "alg", "use", "kid", "crv", "n", "e", "x", "y", "k"].contains(&name.as_str()) {
            return Err("has a member that is no string");
        }
    }
    is_for_signatures(members)?;
    let algorithm = match members.text("alg") {
        Some(name) => Some(algorithm(name).ok_or("is for an algorithm that is not served")?),
        None => None,
    };
    let algorithm = match members.text("kty").ok_or("has no kty")? {
        "RSA" => rsa(members, algorithm)?,
        "EC" => p256(members, algorithm)?,
        "OKP" => ed25519(members, algorithm)?,
        "oct" => secret(members, algorithm)?,
        _ => return Err("is of a kind that is not served"),
    };
    if members.text("kty") != Some("oct") && members.0.contains_key("d") {
        return Err("is a private key, which everybody has by now");
    }
    let value = Value::Object(members.0.clone().into_iter().collect());
    let jwk = serde_json::from_value(value).map_err(|_| "cannot be read")?;
    let verifies = VerifyingKey::of_jwk(algorithm, &jwk).map_err(|_| "cannot be used")?;
    Ok(Key { kid: members.text("kid").map(str::to_owned), verifies })
}

fn algorithm(name: &str) -> Option<Algorithm> {
    Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
}

/// RFC 7517, sections 4.2 and 4.3.
fn is_for_signatures(members: &Members) -> Result<(), &'static str> {
    if members.text("use").is_some_and(|purpose| purpose != "sig") {
        return Err("is not for signatures");
    }
    let Some(operations) = members.0.get("key_ops") else { return Ok(()) };
    let operations = operations.as_array().ok_or("has key_ops that are no list")?;
    let twice = |(at, one): (usize, &Value)| operations[..at].contains(one);
    if operations.iter().enumerate().any(twice) || !operations.iter().any(|one| one == "verify") {
        return Err("is not for verifying");
    }
    Ok(())
}

fn bytes(members: &Members, name: &str) -> Result<Vec<u8>, &'static str> {
    let text = members.text(name).ok_or("lacks a member")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "has a member that is no base64url")
}

/// Without a word about the algorithm, RS256: PKCS 1 is what an RSA key that does not say so has always been for.
fn rsa(members: &Members, algorithm: Option<Algorithm>) -> Result<Algorithm, &'static str> {
    let algorithm = algorithm.unwrap_or(Algorithm::RS256);
    if !matches!(algorithm, Algorithm::RS256 | Algorithm::PS256) {
        return Err("is of another kind than its algorithm");
    }
    let (n, e) = (bytes(members, "n")?, bytes(members, "e")?);
    let n = significant(&n);
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) || n.last().is_none_or(|last| last % 2 == 0) {
        return Err("is no RSA key of 2048 to 8192 bits");
    }
    let e = significant(&e);
    if e.last().is_none_or(|last| last % 2 == 0) || e == [1] || e.len() > 4 {
        return Err("has an exponent with which everybody could sign");
    }
    if roca::is_weak(n) {
        return Err("was made by hardware whose keys can be broken (CVE-2017-15361)");
    }
    Ok(algorithm)
}

fn significant(number: &[u8]) -> &[u8] {
    let zeroes = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeroes..]
}

fn p256(members: &Members, algorithm: Option<Algorithm>) -> Result<Algorithm, &'static str> {
    if algorithm.is_some_and(|algorithm| algorithm != Algorithm::ES256) || members.text("crv") != Some("P-256") {
        return Err("is of another curve than its algorithm");
    }
    let (x, y) = (bytes(members, "x")?, bytes(members, "y")?);
    if (x.len(), y.len()) != (32, 32) {
        return Err("is no point of P-256");
    }
    let point = [&[4], x.as_slice(), &y].concat();
    ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(|_| "is no point of P-256")?;
    Ok(Algorithm::ES256)
}

fn ed25519(members: &Members, algorithm: Option<Algorithm>) -> Result<Algorithm, &'static str> {
    if algorithm.is_some_and(|algorithm| algorithm != Algorithm::EdDSA) || members.text("crv") != Some("Ed25519") {
        return Err("is of another curve than its algorithm");
    }
    if bytes(members, "x")?.len() != 32 {
        return Err("is no Ed25519 key");
    }
    Ok(Algorithm::EdDSA)
}

fn secret(members: &Members, algorithm: Option<Algorithm>) -> Result<Algorithm, &'static str> {
    if algorithm != Some(Algorithm::HS256) {
        return Err("is of another kind than its algorithm");
    }
    if bytes(members, "k")?.len() < MIN_SECRET_BYTES {
        return Err("is too short");
    }
    Ok(Algorithm::HS256)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::jws::SigningKey;

    fn vectors(name: &str) -> Value {
        let path = format!("{}/../tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn the_published_vectors_of_keys_have_no_deviation() {
        let (mut seen, mut not_served) = (0, Vec::new());
        for group in vectors("json_web_key_test.json")["testGroups"].as_array().unwrap() {
            let set = group.get("public").unwrap_or(&group["private"]);
            let keys = KeySet::read(set.to_string().as_bytes(), Kind::Secret);
            for test in group["tests"].as_array().unwrap() {
                seen += 1;
                let (id, jws) = (test["tcId"].as_u64().unwrap(), test["jws"].as_str().unwrap());
                let accepted = keys.as_ref().is_ok_and(|keys| keys.verify(jws).is_ok());
                match header(jws).unwrap().text("alg").unwrap() {
                    alg @ ("HS384" | "HS512") => {
                        assert!(!accepted);
                        not_served.push((id, alg.to_owned()));
                    }
                    _ => assert_eq!(accepted, test["result"] == "valid", "{id}: {keys:?}"),
                }
                let published = KeySet::public(set.to_string().as_bytes());
                let is_public = set["keys"].as_array().unwrap().iter().all(|key| key["kty"] != "oct");
                assert_eq!(published.is_ok(), is_public && keys.is_ok(), "{id}");
            }
        }
        let not_served: Vec<_> = not_served.iter().map(|(id, alg)| (*id, alg.as_str())).collect();
        let expected = [(11, "HS384"), (12, "HS512"), (14, "HS384"), (15, "HS512"), (17, "HS384"), (18, "HS512")];
        assert_eq!((seen, not_served.as_slice()), (26, &expected[..]));
    }

    #[test]
    fn the_published_vectors_of_encryption_are_all_refused() {
        let mut seen = 0;
        for group in vectors("json_web_encryption_test.json")["testGroups"].as_array().unwrap() {
            let own = [&group["public"], &group["private"]];
            let sets = own.map(|key| json!({"keys": if key.is_null() { json!([]) } else { json!([key]) }}));
            for test in group["tests"].as_array().unwrap() {
                seen += 1;
                let token = test["jwe"].as_str().map_or_else(|| test["jwe"].to_string(), str::to_owned);
                let own = SigningKey::new(Algorithm::HS256, "9lWjO0cQ2nVwXhT5sUeR7yBzKdMfGaLp").unwrap();
                assert!(own.verifying().verify(&token).is_err(), "{test}");
                for set in &sets {
                    let keys = KeySet::read(set.to_string().as_bytes(), Kind::Secret);
                    assert!(keys.is_err() || keys.is_ok_and(|keys| keys.verify(&token).is_err()), "{test}");
                }
            }
        }
        assert_eq!(seen, 139);
    }

    fn ed(seed: &str) -> (SigningKey, Value) {
        let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
        let key = SigningKey::new(Algorithm::EdDSA, &pem).unwrap();
        let mut public = serde_json::to_value(key.public().unwrap()).unwrap();
        if !seed.is_empty() {
            public["kid"] = json!(seed);
        }
        (key, public)
    }

    fn read(keys: Value) -> Result<KeySet, String> {
        KeySet::public(json!({"keys": keys, "more": 1}).to_string().as_bytes())
    }

    #[test]
    fn a_key_that_is_not_understood_hides_no_other() {
        let (key, public) = ed("");
        let token = key.sign(&Members::default(), b"{}").unwrap();
        let rest = json!([{"kty": "X"}, {"kty": "EC", "crv": "P-521"}, {"kty": "RSA", "use": "enc"}, {}, public]);
        let set = read(rest).unwrap();
        assert_eq!(set.verify(&token).unwrap().payload, b"{}");
        assert!(!set.lacks_key_of(&token));
        let (other, _) = ed("");
        let unknown = other.sign(&Members::default(), b"{}").unwrap();
        assert!(set.verify(&unknown).is_err() && set.lacks_key_of(&unknown) && !set.lacks_key_of("a.b.c"));
    }

    #[test]
    fn what_a_key_says_of_itself_binds() {
        let (key, public) = ed("");
        let token = key.sign(&Members::default(), b"{}").unwrap();
        let with = |name: &str, value: Value| {
            let mut public = public.clone();
            public[name] = value;
            read(json!([public])).is_ok_and(|set| set.verify(&token).is_ok())
        };
        assert!(with("key_ops", json!(["verify"])) && with("use", json!("sig")));
        for (name, value) in [
            ("use", json!("enc")),
            ("use", json!(["sig"])),
            ("key_ops", json!(["sign"])),
            ("key_ops", json!(["verify", "verify"])),
            ("key_ops", json!("verify")),
            ("alg", json!("ES256")),
            ("alg", json!("HS256")),
            ("alg", json!("none")),
            ("crv", json!("X25519")),
            ("kty", json!("EC")),
            ("kid", json!("another")),
            ("kid", json!(7)),
            ("d", json!("AAAA")),
            ("x", json!("AAAA")),
        ] {
            assert!(!with(name, value.clone()), "{name} {value}");
        }
    }

    #[test]
    fn a_set_that_means_two_things_is_refused_whole() {
        let ((_, one), (_, other)) = (ed("a"), ed("a"));
        assert!(read(json!([one, other])).unwrap_err().contains("two keys"));
        let secret = json!({"kty": "oct", "alg": "HS256", "k": "A".repeat(43)});
        assert!(read(json!([one, secret])).unwrap_err().contains("symmetric"));
        assert!(read(json!([])).unwrap_err().contains("empty"));
        assert!(KeySet::public(br#"{"keys":[],"keys":[]}"#).is_err());
        assert!(KeySet::public(b"<html>").unwrap_err().contains("no JSON Web Key set"));
        assert!(KeySet::public(format!(r#"{{"keys":[{{"kid":"a","kid":"b"}},{one}]}}"#).as_bytes()).is_err());
    }

    #[test]
    fn an_rsa_key_is_neither_small_nor_open_to_everybody() {
        let n = URL_SAFE_NO_PAD.encode([[0xff; 255].as_slice(), &[0xff]].concat());
        let key =
            |n: &str, e: &str| key(&Members(serde_json::from_value(json!({"kty": "RSA", "n": n, "e": e})).unwrap()));
        assert!(key(&n, "AQAB").is_ok());
        for e in ["AQ", "Ag", "AA", "", "AQAAAAE"] {
            assert!(key(&n, e).unwrap_err().contains("exponent"), "{e}");
        }
        let even = URL_SAFE_NO_PAD.encode([[0xff; 255].as_slice(), &[0xfe]].concat());
        let small = URL_SAFE_NO_PAD.encode([0xff; 255]);
        let huge = URL_SAFE_NO_PAD.encode([0xff; 1025]);
        for n in [&even, &small, &huge, ""] {
            assert!(key(n, "AQAB").unwrap_err().contains("2048"));
        }
    }
}
