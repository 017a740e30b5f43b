//! Which key and which algorithm: what the token says of them, and what the attacker has of them.

use anyhow::Result;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::json;

use super::{
    super::forge::{Forge, message},
    Table,
};

impl Table<'_> {
    /// RFC 8725, section 2.1.
    pub(super) fn no_algorithm(&mut self) -> Result<()> {
        for name in ["none", "None", "NONE", "nOnE", "none ", "\0none", "null", ""] {
            let message = message(&self.header_with("alg", json!(name)), self.payload());
            self.text(format!("algorithm {name:?} without a signature"), format!("{message}."))?;
            let signature = self.forge.signature(self.forge.algorithm, message.as_bytes())?;
            let signature = URL_SAFE_NO_PAD.encode(signature);
            self.text(format!("algorithm {name:?} and signed"), format!("{message}.{signature}"))?;
        }
        let other_names = [
            json!(null),
            json!(0),
            json!([self.forge.algorithm]),
            json!({"alg": self.forge.algorithm}),
            json!(self.forge.algorithm.to_lowercase() + " "),
            json!(format!(" {}", self.forge.algorithm)),
            json!(format!("{}\u{0}", self.forge.algorithm)),
        ];
        for value in other_names {
            let (bad, good) = (self.header_with("alg", value.clone()), self.header());
            self.of_header(format!("algorithm {value}"), &bad, &good)?;
        }
        let (bad, good) = (json!({"typ": "JWT"}).to_string(), json!({"alg": self.forge.algorithm}).to_string());
        self.of_header("no algorithm in the header", &bad, &good)
    }

    /// One key, one algorithm (RFC 8725, section 3.1).
    pub(super) fn other_algorithms(&mut self) -> Result<()> {
        let all = [
            "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES256K",
            "ES384", "ES512", "EdDSA", "Ed25519",
        ];
        for other in all.into_iter().filter(|other| *other != self.forge.algorithm) {
            let header = self.header_with("alg", json!(other));
            let signed = self.forge.token_by(other, &header, self.payload())?;
            self.text(format!("the key as one for {other}"), signed)?;
            let disguised = self.forge.token_by(other, &self.header(), self.payload())?;
            if matches!((&self.forge.algorithm[..1], &other[..1]), ("H", "H") | ("R" | "P", "R" | "P")) {
                self.text(format!("signed as {other} does, under the right name"), disguised)?;
            }
        }
        Ok(())
    }

    /// RFC 8725, section 2.1: HMAC with what everybody has.
    pub(super) fn published_keys_as_secrets(&mut self) -> Result<()> {
        for (form, public) in self.forge.published()? {
            for algorithm in ["HS256", "HS384", "HS512"] {
                let header = self.header_with("alg", json!(algorithm));
                let bad = Forge::secret(&public).token_by(algorithm, &header, self.payload())?;
                self.text(format!("{algorithm} with the public key, {form}"), bad)?;
            }
            let bad = Forge::secret(&public).token(&self.header(), self.payload())?;
            self.text(format!("HMAC with the public key, {form}, under the key's algorithm"), bad)?;
        }
        Ok(())
    }

    /// RFC 8725, section 3.10, and CVE-2018-0114: a key that came with the token.
    pub(super) fn keys_in_the_header(&mut self) -> Result<()> {
        let attacker = self.forge.another()?;
        self.text("another's key", attacker.token(&self.header(), self.payload())?)?;
        let public = attacker.published()?;
        let bytes = public.last().map_or_else(|| b"chosen".to_vec(), |(_, bytes)| bytes.clone());
        let jwk = json!({"kty": "oct", "alg": self.forge.algorithm, "k": URL_SAFE_NO_PAD.encode(&bytes)});
        for (name, value) in [
            ("jwk", jwk),
            ("jku", json!("https://attacker.test/jwks.json")),
            ("jku", json!("https://edge.test@attacker.test/.well-known/jwks.json")),
            ("jku", json!("file:///etc/passwd")),
            ("x5u", json!("https://attacker.test/chain.pem")),
            ("x5c", json!([STANDARD.encode(&bytes)])),
            ("x5t", json!("AAAA")),
            ("x5t#S256", json!("AAAA")),
            ("epk", json!({"kty": "EC", "crv": "P-256"})),
        ] {
            let header = self.header_with(name, value);
            let (bad, good) = (attacker.token(&header, self.payload())?, self.forge.token(&header, self.payload())?);
            self.add(format!("another's key, named by {name}"), bad, good);
        }
        Ok(())
    }

    /// RFC 8725, section 3.10: a name that is a path, a query, a command.
    pub(super) fn names_of_keys(&mut self) -> Result<()> {
        let empty = Forge::secret(b"");
        for kid in [
            "/dev/null",
            "../../../../../../dev/null",
            "file:///dev/null",
            "x' UNION SELECT 'key' --",
            "' OR '1'='1",
            "key|/bin/true",
            "$(true)",
            "https://attacker.test/key",
            "0",
            "",
            "../jwt",
            "%00",
            "\u{0}",
        ] {
            let (bad, good) = (self.header_with("kid", json!(kid)), self.header_with("kid", json!(self.kid)));
            self.of_header(format!("the right key under the name {kid:?}"), &bad, &good)?;
            let header = json!({"alg": "HS256", "typ": "JWT", "kid": kid}).to_string();
            let bad = empty.token(&header, self.payload())?;
            let good = self.forge.token(&good, self.payload())?;
            self.add(format!("an empty key under the name {kid:?}"), bad, good);
        }
        for kid in [json!(null), json!(7), json!([self.kid]), json!({}), json!(self.kid.to_uppercase() + "x")] {
            let (bad, good) = (self.header_with("kid", kid.clone()), self.header_with("kid", json!(self.kid)));
            self.of_header(format!("the key's name as {kid}"), &bad, &good)?;
        }
        Ok(())
    }

    pub(super) fn guessed_secrets(&mut self) -> Result<()> {
        let guesses = [
            "",
            "\0",
            "secret",
            "password",
            "jwt",
            "key",
            "changeme",
            "your-256-bit-secret",
            "edge",
            "null",
            "undefined",
            "a-string-secret-at-least-256-bits-long",
        ];
        for guess in guesses {
            let bad = Forge::secret(guess.as_bytes()).token(&self.header(), self.payload())?;
            self.text(format!("the secret {guess:?}"), bad)?;
        }
        Ok(())
    }
}
