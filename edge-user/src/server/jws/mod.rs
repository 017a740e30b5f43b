//! Compact JSON Web Signatures (RFC 7515) under one algorithm a key (RFC 8725, section 3.1): a header says which key it was
//! signed with, and never how it is to be read. What is not the signed bytes, to the letter, is refused.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    DecodingKey, EncodingKey,
    crypto::{sign, verify},
    jwk::{Jwk, ThumbprintHash},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::Value;

use crate::error::Failure;

/// The least size of an RSA key, in bytes (RFC 7518, section 3.3).
const MIN_RSA_BYTES: usize = 256;

/// What a key signs with. The names are those of RFC 7518 and 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    HS256,
    RS256,
    PS256,
    ES256,
    EdDSA,
}

/// A key that signs and verifies.
pub struct SigningKey {
    signs: EncodingKey,
    verifies: VerifyingKey,
    /// What others verify with; `None`: nobody but edge can.
    public: Option<Jwk>,
}

/// A key that verifies, for its one algorithm.
#[derive(Clone, Debug)]
pub struct VerifyingKey {
    algorithm: Algorithm,
    key: DecodingKey,
    /// A header that names another key is refused.
    kid: Option<String>,
}

/// What was signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Signed {
    pub header: Members,
    pub payload: Vec<u8>,
}

/// Not signed with this key, or no signature at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSigned;

/// The members of a JSON object, each once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members(pub BTreeMap<String, Value>);

impl Algorithm {
    pub const ALL: [Algorithm; 5] =
        [Algorithm::HS256, Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];

    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::HS256 => "HS256",
            Algorithm::RS256 => "RS256",
            Algorithm::PS256 => "PS256",
            Algorithm::ES256 => "ES256",
            Algorithm::EdDSA => "EdDSA",
        }
    }

    pub const fn is_symmetric(self) -> bool {
        matches!(self, Algorithm::HS256)
    }

    /// What a key file of this algorithm has.
    pub const fn key(self) -> &'static str {
        match self {
            Algorithm::HS256 => "a secret",
            Algorithm::RS256 | Algorithm::PS256 => "an RSA key of at least 2048 bits",
            Algorithm::ES256 => "a key on the curve P-256",
            Algorithm::EdDSA => "an Ed25519 key",
        }
    }

    const fn of_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::HS256 => jsonwebtoken::Algorithm::HS256,
            Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::PS256 => jsonwebtoken::Algorithm::PS256,
            Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

impl SigningKey {
    /// From a secret, or a private key in PEM (PKCS 8); the error says what is wrong with it.
    pub fn new(algorithm: Algorithm, key: &str) -> Result<SigningKey, String> {
        if algorithm.is_symmetric() { SigningKey::secret(key.as_bytes()) } else { SigningKey::private(algorithm, key) }
    }

    fn secret(secret: &[u8]) -> Result<SigningKey, String> {
        let signs = EncodingKey::from_secret(secret);
        let mut kid = sign(b"edge: the name of this key", &signs, jsonwebtoken::Algorithm::HS256)
            .map_err(|error| format!("the signing secret cannot be used: {error}"))?;
        kid.truncate(16);
        let verifies =
            VerifyingKey { algorithm: Algorithm::HS256, key: DecodingKey::from_secret(secret), kid: Some(kid) };
        Ok(SigningKey { signs, verifies, public: None })
    }

    fn private(algorithm: Algorithm, pem: &str) -> Result<SigningKey, String> {
        let wrong = || {
            let (name, key) = (algorithm.name(), algorithm.key());
            let known = |kind: &str| pem.contains(&format!("-----BEGIN {kind}PRIVATE KEY-----"));
            if ["EC ", "RSA ", "ENCRYPTED "].into_iter().any(known) {
                let why = "is a private key in another form than PKCS 8 without a password; `openssl pkcs8 -topk8 -nocrypt \
                           -in KEY -out NEW` writes it so";
                return why.to_owned();
            }
            format!("is no private key for {name} in PEM (PKCS 8); make {key} with `openssl genpkey`")
        };
        let signs = match algorithm {
            Algorithm::HS256 => None,
            Algorithm::RS256 | Algorithm::PS256 => EncodingKey::from_rsa_pem(pem.as_bytes()).ok(),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()).ok(),
            Algorithm::EdDSA => edwards(pem),
        };
        let signs = signs.ok_or_else(wrong)?;
        let mut public = Jwk::from_encoding_key(&signs, algorithm.of_library()).map_err(|_| wrong())?;
        let kid = public.thumbprint(ThumbprintHash::SHA256).map_err(|_| wrong())?;
        public.common.key_id = Some(kid);
        public.common.public_key_use = Some(jsonwebtoken::jwk::PublicKeyUse::Signature);
        let verifies = VerifyingKey::of_jwk(algorithm, &public).map_err(|_| wrong())?;
        let key = SigningKey { signs, verifies, public: Some(public) };
        // What the library takes as a key and cannot sign with is told now, not at the first login.
        let probe = key.sign(&Members::default(), b"{}").map_err(|_| wrong())?;
        key.verifies.verify(&probe).map_err(|NotSigned| wrong())?;
        Ok(key)
    }

    pub fn verifying(&self) -> &VerifyingKey {
        &self.verifies
    }

    pub fn algorithm(&self) -> Algorithm {
        self.verifies.algorithm
    }

    pub fn public(&self) -> Option<&Jwk> {
        self.public.as_ref()
    }

    /// With these header members beside `alg` and `kid`.
    pub fn sign(&self, header: &Members, payload: &[u8]) -> Result<String, Failure> {
        let mut header = header.0.clone();
        header.insert("alg".to_owned(), self.algorithm().name().into());
        header.extend(self.verifies.kid.as_ref().map(|kid| ("kid".to_owned(), kid.as_str().into())));
        let header = serde_json::to_vec(&header).map_err(|error| Failure::bug(format!("a token's header: {error}")))?;
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = sign(message.as_bytes(), &self.signs, self.algorithm().of_library())
            .map_err(|error| Failure::bug(format!("signing a token: {error}")))?;
        Ok(format!("{message}.{signature}"))
    }
}

/// PKCS 8 of version 1, which the library takes, from either version (RFC 5958).
fn edwards(pem: &str) -> Option<EncodingKey> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).ok()?;
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).ok()?;
    Some(EncodingKey::from_ed_der(pair.to_pkcs8v1().ok()?.as_ref()))
}

impl VerifyingKey {
    /// From a JSON Web Key of an issuer (RFC 7517) that is for this algorithm.
    pub fn of_jwk(algorithm: Algorithm, jwk: &Jwk) -> Result<VerifyingKey, String> {
        let key = DecodingKey::from_jwk(jwk).map_err(|error| error.to_string())?;
        let fits = match (algorithm, key.kind()) {
            (Algorithm::RS256 | Algorithm::PS256, jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. }) => {
                n.iter().skip_while(|byte| **byte == 0).count() >= MIN_RSA_BYTES
            }
            _ => key.family() == algorithm.of_library().family(),
        };
        if !fits {
            return Err(format!("is not {}", algorithm.key()));
        }
        Ok(VerifyingKey { algorithm, key, kid: jwk.common.key_id.clone() })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Whether a header names this key, or none.
    pub fn is_named_by(&self, header: &Members) -> bool {
        match (header.0.get("kid"), &self.kid) {
            (None, _) => true,
            (Some(Value::String(kid)), Some(own)) => kid == own,
            (Some(kid), None) => kid.is_string(),
            (Some(_), Some(_)) => false,
        }
    }

    /// The bytes that were signed, and their header. What they say is the caller's to judge.
    pub fn verify(&self, token: &str) -> Result<Signed, NotSigned> {
        let (message, signature) = token.rsplit_once('.').ok_or(NotSigned)?;
        let (header, payload) = message.split_once('.').ok_or(NotSigned)?;
        let header = Members::of_part(header).ok_or(NotSigned)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| NotSigned)?;
        if signature.is_empty() || header.text("alg") != Some(self.algorithm.name()) {
            return Err(NotSigned);
        }
        match verify(signature, message.as_bytes(), &self.key, self.algorithm.of_library()) {
            Ok(true) => Ok(Signed { header, payload }),
            Ok(false) | Err(_) => Err(NotSigned),
        }
    }
}

impl Members {
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// Of an encoded part of a token.
    fn of_part(part: &str) -> Option<Members> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
    }
}

/// A member that stands there twice means something else to each reader, and makes the object one that is refused.
impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a member stands there twice"));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
