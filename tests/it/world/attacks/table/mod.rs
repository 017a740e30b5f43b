//! The attacks, each with what differs from it in the one point that matters and is good. Names say what is attacked;
//! RFC 8725 and RFC 7515 to 7519 say why.

mod content;
mod keys;
mod text;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::forge::Forge;

/// One request, and one that is good.
pub struct Attack {
    pub name: String,
    pub bad: Request,
    pub good: Request,
}

/// Fields of the head, and the target.
#[derive(Clone, Debug)]
pub struct Request {
    pub target: String,
    pub fields: Vec<String>,
}

impl Request {
    pub fn bearer(token: &str) -> Request {
        Request::with(&[format!("Authorization: Bearer {token}")])
    }

    fn with(fields: &[String]) -> Request {
        Request { target: "/auth/verify".to_owned(), fields: fields.to_vec() }
    }
}

pub struct Table<'a> {
    forge: &'a Forge,
    /// Seconds since 1970.
    now: i64,
    /// How edge names its key.
    kid: String,
    pub attacks: Vec<Attack>,
}

impl<'a> Table<'a> {
    pub fn of(forge: &'a Forge, now: i64, kid: String) -> Result<Table<'a>> {
        let mut table = Table { forge, now, kid, attacks: Vec::new() };
        table.no_algorithm()?;
        table.other_algorithms()?;
        table.published_keys_as_secrets()?;
        table.keys_in_the_header()?;
        table.names_of_keys()?;
        table.signatures()?;
        table.letters()?;
        table.shapes()?;
        table.headers()?;
        table.types_of_claims()?;
        table.values_of_claims()?;
        table.payloads()?;
        table.requests()?;
        if forge.algorithm == "HS256" {
            table.guessed_secrets()?;
        }
        Ok(table)
    }

    fn header(&self) -> String {
        json!({"alg": self.forge.algorithm, "typ": "JWT"}).to_string()
    }

    fn header_with(&self, name: &str, value: Value) -> String {
        let mut header = json!({"alg": self.forge.algorithm, "typ": "JWT"});
        header[name] = value;
        header.to_string()
    }

    pub fn claims(&self) -> Map<String, Value> {
        let (now, then) = (self.now, self.now + 600);
        let claims = json!({
            "iss": "https://edge.test", "aud": "test", "sub": "alice", "iat": now, "nbf": now, "exp": then, "jti": "one"
        });
        claims.as_object().cloned().unwrap_or_default()
    }

    fn payload(&self) -> String {
        Value::Object(self.claims()).to_string()
    }

    fn payload_with(&self, name: &str, value: Value) -> String {
        let mut claims = self.claims();
        claims.insert(name.to_owned(), value);
        Value::Object(claims).to_string()
    }

    pub fn good(&self) -> Result<String> {
        self.forge.token(&self.header(), self.payload())
    }

    fn add(&mut self, name: impl Into<String>, bad: String, good: String) {
        self.attacks.push(Attack { name: name.into(), bad: Request::bearer(&bad), good: Request::bearer(&good) });
    }

    /// Against a good token.
    fn text(&mut self, name: impl Into<String>, bad: String) -> Result<()> {
        let good = self.good()?;
        self.add(name, bad, good);
        Ok(())
    }

    /// Both rightly signed, and different in their headers.
    fn of_header(&mut self, name: impl Into<String>, bad: &str, good: &str) -> Result<()> {
        let (bad, good) = (self.forge.token(bad, self.payload())?, self.forge.token(good, self.payload())?);
        self.add(name, bad, good);
        Ok(())
    }

    /// Both rightly signed, and different in what they say.
    fn of_payload(&mut self, name: impl Into<String>, bad: impl AsRef<[u8]>, good: impl AsRef<[u8]>) -> Result<()> {
        let (bad, good) = (self.forge.token(&self.header(), bad)?, self.forge.token(&self.header(), good)?);
        self.add(name, bad, good);
        Ok(())
    }
}
