//! Signs whatever it is given, by code that edge has nothing of: as an attacker would who has the key, or part of it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair,
    },
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

pub struct Forge {
    pub algorithm: &'static str,
    key: Key,
}

enum Key {
    Secret(Vec<u8>),
    Rsa(RsaKeyPair),
    Curve(EcdsaKeyPair),
    Edwards(Ed25519KeyPair),
}

impl Forge {
    /// For HMAC.
    pub fn secret(secret: &[u8]) -> Forge {
        Forge { algorithm: "HS256", key: Key::Secret(secret.to_vec()) }
    }

    /// From a private key in PEM (PKCS 8).
    pub fn private(algorithm: &'static str, file: &Path) -> Result<Forge> {
        let der = PrivatePkcs8KeyDer::from_pem_file(file).context("no PKCS 8")?;
        let der = der.secret_pkcs8_der();
        let key = match algorithm {
            "RS256" | "PS256" => Key::Rsa(RsaKeyPair::from_pkcs8(der)?),
            "ES256" => Key::Curve(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der)?),
            "EdDSA" => Key::Edwards(Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)?),
            other => bail!("no key is made for {other}"),
        };
        Ok(Forge { algorithm, key })
    }

    /// The attacker's own key of the same kind.
    pub fn another(&self) -> Result<Forge> {
        let key = match &self.key {
            Key::Secret(_) => Key::Secret(b"a secret that the attacker chose by himself".to_vec()),
            Key::Rsa(_) => Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048)?),
            Key::Curve(_) => Key::Curve(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?),
            Key::Edwards(_) => Key::Edwards(Ed25519KeyPair::generate()?),
        };
        Ok(Forge { algorithm: self.algorithm, key })
    }

    /// A compact token of these texts.
    pub fn token(&self, header: &str, payload: impl AsRef<[u8]>) -> Result<String> {
        self.token_by(self.algorithm, header, payload)
    }

    /// The same, signed as another algorithm does with the same key.
    pub fn token_by(&self, algorithm: &str, header: &str, payload: impl AsRef<[u8]>) -> Result<String> {
        let message = message(header, payload);
        let signature = self.signature(algorithm, message.as_bytes())?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    pub fn signature(&self, algorithm: &str, message: &[u8]) -> Result<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Secret(secret) => {
                let hash = match algorithm {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                Ok(hmac::sign(&hmac::Key::new(hash, secret), message).as_ref().to_vec())
            }
            Key::Rsa(pair) => {
                let how: &'static dyn RsaEncoding = match algorithm {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(how, &random, message, &mut signature)?;
                Ok(signature)
            }
            Key::Curve(pair) => Ok(pair.sign(&random, message)?.as_ref().to_vec()),
            Key::Edwards(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }

    /// What of the key is published, in each form in which a careless library could take it for a secret.
    pub fn published(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let (info, raw) = match &self.key {
            Key::Secret(_) => return Ok(Vec::new()),
            Key::Rsa(pair) => (der(pair.public_key())?, pair.public_key().as_ref().to_vec()),
            Key::Curve(pair) => (der(pair.public_key())?, pair.public_key().as_ref().to_vec()),
            Key::Edwards(pair) => (der(pair.public_key())?, pair.public_key().as_ref().to_vec()),
        };
        let body = STANDARD.encode(&info);
        let lines: Vec<&str> = (0..body.len()).step_by(64).map(|at| &body[at..body.len().min(at + 64)]).collect();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
        Ok(vec![
            ("PEM", pem.clone().into_bytes()),
            ("PEM without its last line break", pem.trim_end().as_bytes().to_vec()),
            ("DER", info),
            ("its bytes", raw.clone()),
            ("its bytes in base64url", URL_SAFE_NO_PAD.encode(raw).into_bytes()),
        ])
    }
}

/// What is signed.
pub fn message(header: &str, payload: impl AsRef<[u8]>) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
}

fn der(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Result<Vec<u8>> {
    Ok(key.as_der()?.as_ref().to_vec())
}
