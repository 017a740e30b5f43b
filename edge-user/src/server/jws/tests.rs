//! Every algorithm against itself and against each other, and against the vectors of Project Wycheproof.

use std::{collections::BTreeSet, sync::LazyLock};

use jsonwebtoken::jwk::AlgorithmParameters;
use serde_json::json;

use super::*;

const SECRET: &str = "9lWjO0cQ2nVwXhT5sUeR7yBzKdMfGaLp";

/// RSA of 2048 bits, P-256 and Ed25519, of this run.
static KEYS: LazyLock<[String; 3]> = LazyLock::new(|| {
    [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519]
        .map(|algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem())
});

fn key(algorithm: Algorithm) -> SigningKey {
    let [rsa, ec, ed] = &*KEYS;
    let key = match algorithm {
        Algorithm::HS256 => SECRET,
        Algorithm::RS256 | Algorithm::PS256 => rsa,
        Algorithm::ES256 => ec,
        Algorithm::EdDSA => ed,
    };
    SigningKey::new(algorithm, key).unwrap()
}

fn token(algorithm: Algorithm) -> String {
    key(algorithm).sign(&Members([("typ".to_owned(), json!("JWT"))].into()), b"{\"sub\":\"alice\"}").unwrap()
}

#[test]
fn each_algorithm_verifies_its_own_and_no_other() {
    for signs in Algorithm::ALL {
        let token = token(signs);
        for verifies in Algorithm::ALL {
            let verified = key(verifies).verifying().verify(&token);
            assert_eq!(verified.is_ok(), signs == verifies, "{signs:?} by {verifies:?}");
            if let Ok(signed) = verified {
                assert_eq!(signed.payload, b"{\"sub\":\"alice\"}");
                assert!(key(verifies).verifying().is_named_by(&signed.header));
            }
        }
    }
}

#[test]
fn what_others_verify_with_is_public_and_names_its_key() {
    assert!(key(Algorithm::HS256).public().is_none());
    for algorithm in Algorithm::ALL.into_iter().filter(|algorithm| !algorithm.is_symmetric()) {
        let key = key(algorithm);
        let text = serde_json::to_string(key.public().unwrap()).unwrap();
        let members: Value = serde_json::from_str(&text).unwrap();
        assert!(["d", "p", "q", "k"].iter().all(|secret| members.get(secret).is_none()), "{text}");
        assert_eq!((&members["alg"], &members["use"]), (&json!(algorithm.name()), &json!("sig")));
        let theirs = VerifyingKey::of_jwk(algorithm, &serde_json::from_str(&text).unwrap()).unwrap();
        let signed = theirs.verify(&token(algorithm)).unwrap();
        assert_eq!(signed.header.0["kid"], members["kid"]);
    }
}

#[test]
fn a_key_that_is_none_is_told_with_what_would_be_right() {
    let [rsa, ec, ed] = &*KEYS;
    let wrong = [
        (Algorithm::RS256, ec.as_str()),
        (Algorithm::RS256, ed),
        (Algorithm::ES256, rsa),
        (Algorithm::EdDSA, ec),
        (Algorithm::EdDSA, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        (Algorithm::PS256, SECRET),
        (Algorithm::ES256, ""),
    ];
    for kind in ["EC", "RSA", "ENCRYPTED"] {
        let key = format!("-----BEGIN {kind} PRIVATE KEY-----\nAAAA\n-----END {kind} PRIVATE KEY-----\n");
        let Err(why) = SigningKey::new(Algorithm::ES256, &key) else { panic!("took {key}") };
        assert!(why.contains("openssl pkcs8 -topk8"), "{why}");
    }
    for (algorithm, key) in wrong {
        let Err(why) = SigningKey::new(algorithm, key) else { panic!("{algorithm:?} took {key}") };
        assert!(why.contains(algorithm.name()) && why.contains("openssl genpkey"), "{why}");
    }
}

#[test]
fn a_header_is_read_to_the_letter() {
    let key = key(Algorithm::HS256);
    let signed = |header: &str| {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode("{}"));
        let secret = EncodingKey::from_secret(SECRET.as_bytes());
        format!("{message}.{}", sign(message.as_bytes(), &secret, jsonwebtoken::Algorithm::HS256).unwrap())
    };
    assert!(key.verifying().verify(&signed("{\"alg\":\"HS256\"}")).is_ok());
    for header in [
        "",
        "null",
        "[]",
        "\"HS256\"",
        "{}",
        "{\"alg\":null}",
        "{\"alg\":[\"HS256\"]}",
        "{\"alg\":\"hs256\"}",
        "{\"alg\":\"HS256 \"}",
        "{\"alg\":\"none\",\"alg\":\"HS256\"}",
        "{\"alg\":\"HS256\",\"alg\":\"HS256\"}",
        "{\"alg\":\"HS256\",\"kid\":\"a\",\"kid\":\"a\"}",
        "{\"alg\":\"HS256\"}{}",
        "{\"alg\":\"HS256\"",
        "{alg:\"HS256\"}",
    ] {
        assert_eq!(key.verifying().verify(&signed(header)), Err(NotSigned), "{header}");
    }
}

/// The bytes that were signed, and nothing that differs from them in one letter.
#[test]
fn no_letter_can_be_changed_added_or_left_out() {
    for algorithm in Algorithm::ALL {
        let (key, token) = (key(algorithm), token(algorithm));
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            let mut less = token.clone();
            less.remove(at);
            let mut more = token.clone();
            more.insert(at, '=');
            for other in [changed, less, more] {
                assert_eq!(key.verifying().verify(&other), Err(NotSigned), "{algorithm:?} at {at}");
            }
        }
    }
}

/// Where the vectors say otherwise than RFC 7515, and why edge holds to the RFC.
const OTHERWISE: [(u64, &str); 6] = [
    (346, "PS384 under a key that is for PS256"),
    (350, "PS384 under a key that is for PS256"),
    (367, "the same text as 357, which is valid"),
    (370, "the same text as 357, which is valid"),
    (372, "a letter that is not base64url in the header"),
    (373, "a letter that is not base64url in the payload"),
];

#[test]
fn vectors_of_wycheproof() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../../tests/vectors/json_web_signature_test.json")).unwrap();
    let (mut tried, mut unserved) = (0, BTreeSet::new());
    for group in vectors["testGroups"].as_array().unwrap() {
        let jwk = if group["public"].is_null() { &group["private"] } else { &group["public"] };
        let key = verifying(jwk);
        for test in group["tests"].as_array().unwrap() {
            tried += 1;
            let (id, token) = (test["tcId"].as_u64().unwrap(), test["jws"].as_str().unwrap_or_default());
            let accepted =
                key.as_ref().is_ok_and(|key| key.verify(token).is_ok_and(|signed| key.is_named_by(&signed.header)));
            let valid = test["result"] == "valid";
            match &key {
                Err(name) if valid => drop(unserved.insert(name.clone())),
                _ if OTHERWISE.iter().any(|(known, _)| *known == id) => assert_ne!(accepted, valid, "{test}"),
                _ => assert_eq!(accepted, valid, "{test}"),
            }
        }
    }
    assert_eq!(tried, 401);
    let unserved: Vec<&str> = unserved.iter().map(String::as_str).collect();
    assert_eq!(unserved, ["ES521", "PS384", "PS512", "RS384", "RS512"]);
}

/// As an issuer's key is taken: what it says of its use is binding. The error names its algorithm.
fn verifying(jwk: &Value) -> Result<VerifyingKey, String> {
    let name = jwk["alg"].as_str().unwrap_or_default().to_owned();
    let algorithm = Algorithm::ALL.into_iter().find(|known| known.name() == name).ok_or(name.clone())?;
    let key: Jwk = serde_json::from_value(jwk.clone()).map_err(|_| name.clone())?;
    assert!(!matches!(key.algorithm, AlgorithmParameters::Other(_)));
    VerifyingKey::of_jwk(algorithm, &key)
}
