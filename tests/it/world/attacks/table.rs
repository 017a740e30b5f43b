//! The attacks, each with what differs from it in the one point that matters and is good. Names say what is attacked;
//! RFC 8725 and RFC 7515 to 7519 say why.

use anyhow::{Context, Result};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use serde_json::{Map, Value, json};

use super::forge::{Forge, message};

/// The last second of the year 9999, the last that RFC 3339 can write.
const LAST_SECOND: i64 = 253_402_300_799;

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

    /// RFC 8725, section 2.1.
    fn no_algorithm(&mut self) -> Result<()> {
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
    fn other_algorithms(&mut self) -> Result<()> {
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
    fn published_keys_as_secrets(&mut self) -> Result<()> {
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
    fn keys_in_the_header(&mut self) -> Result<()> {
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
    fn names_of_keys(&mut self) -> Result<()> {
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

    /// Of the two signatures that a curve has for the same bytes (s, and the order less s) both are good by FIPS 186-5, and
    /// nothing hangs on the text of a token: revocation goes by its `jti`.
    fn signatures(&mut self) -> Result<()> {
        let good = self.good()?;
        let (message, signature) = good.rsplit_once('.').context("no signature")?;
        let bytes = URL_SAFE_NO_PAD.decode(signature)?;
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = bytes.clone();
            change(&mut bytes);
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(bytes))
        };
        let half = bytes.len() / 2;
        let all: [(&str, String); 16] = [
            ("no signature", format!("{message}.")),
            ("the signature left out with its dot", message.to_owned()),
            ("a signature of one byte", changed(&|bytes| bytes.truncate(1))),
            ("a signature cut by a byte", changed(&|bytes| bytes.truncate(2 * half - 1))),
            ("a signature cut in half", changed(&|bytes| bytes.truncate(half))),
            ("a byte more", changed(&|bytes| bytes.push(0))),
            ("a byte before", changed(&|bytes| bytes.insert(0, 0))),
            ("the signature twice", changed(&|bytes| bytes.extend_from_within(..))),
            ("its halves exchanged", changed(&|bytes| bytes.rotate_left(half))),
            ("nothing but zeroes (CVE-2022-21449)", changed(&|bytes| bytes.fill(0))),
            ("nothing but ones", changed(&|bytes| bytes.fill(255))),
            (
                "zero and one",
                changed(&|bytes| {
                    bytes.fill(0);
                    bytes.iter_mut().last().into_iter().for_each(|last| *last = 1);
                }),
            ),
            ("the first bit", changed(&|bytes| bytes[0] ^= 0x80)),
            ("the last bit", changed(&|bytes| bytes.iter_mut().last().into_iter().for_each(|last| *last ^= 1))),
            ("a signature as DER has it", changed(&|bytes| *bytes = as_der(bytes))),
            ("the group's order added", changed(&|bytes| add_order(bytes))),
        ];
        for (name, bad) in all {
            self.text(format!("signature: {name}"), bad)?;
        }
        let other = self.forge.token(&self.header(), self.payload_with("jti", json!("two")))?;
        let taken = other.rsplit_once('.').context("no signature")?.1;
        self.text("signature: another token's", format!("{message}.{taken}"))?;
        self.text("signature: its text twice", format!("{good}{signature}"))
    }

    /// RFC 7515, section 2, and RFC 4648: base64url without padding, and each text in one way.
    fn letters(&mut self) -> Result<()> {
        let good =
            self.forge.token(&self.header_with("x", json!(">>>???")), self.payload_with("x", json!(">>>???~~")))?;
        let parts: Vec<&str> = good.split('.').collect();
        let &[header, _, signature] = parts.as_slice() else { anyhow::bail!("no three parts") };
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part);
        let mut all = Vec::new();
        for (at, name) in ["header", "payload", "signature"].into_iter().enumerate() {
            let with = |part: String| {
                let mut parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
                parts[at] = part;
                parts.join(".")
            };
            let part = parts[at];
            all.push((format!("{name} with padding"), with(format!("{part}="))));
            all.push((format!("{name} with more padding"), with(format!("{part}=="))));
            all.push((format!("{name} with a dot of its own"), with(format!("{}.{}", &part[..4], &part[4..]))));
            all.push((format!("{name} with a blank"), with(format!("{} {}", &part[..4], &part[4..]))));
            all.push((format!("{name} with a tab"), with(format!("{}\t{}", &part[..4], &part[4..]))));
            all.push((format!("{name} with %2B"), with(format!("{}%2B{}", &part[..4], &part[5..]))));
            let padded = (URL_SAFE.encode(bytes(part)?), STANDARD.encode(bytes(part)?));
            let standard = STANDARD_NO_PAD.encode(bytes(part)?);
            let others =
                [("padded as it should be", padded.0), ("the standard alphabet", padded.1), ("+ and /", standard)];
            for (how, other) in others.into_iter().filter(|(_, other)| other != part) {
                all.push((format!("{name} in {how}"), with(other)));
            }
            if let Some(other) = with_bits_that_say_nothing(part) {
                all.push((format!("{name} with bits that say nothing"), with(other)));
            }
        }
        all.push(("payload outside base64url".to_owned(), format!("{header}.{}.{signature}", self.payload())));
        for (name, bad) in all {
            self.add(format!("letters: {name}"), bad, good.clone());
        }
        Ok(())
    }

    /// What is no compact JWS (RFC 7515, section 7.1).
    fn shapes(&mut self) -> Result<()> {
        let good = self.good()?;
        let parts: Vec<&str> = good.split('.').collect();
        let &[header, payload, signature] = parts.as_slice() else { anyhow::bail!("no three parts") };
        let general = json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]});
        let flattened = json!({"payload": payload, "protected": header, "signature": signature});
        let unprotected = json!({"payload": payload, "header": {"alg": "none"}, "signature": ""});
        let encrypted =
            |header: Value| format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), "AAAA.AAAA.AAAA.AAAA");
        for (name, bad) in [
            ("a word", "token".to_owned()),
            ("dots", "..".to_owned()),
            ("many dots", ".".repeat(4_000)),
            ("a dot before", format!(".{good}")),
            ("a dot behind", format!("{good}.")),
            ("a dot between", format!("{header}..{payload}.{signature}")),
            ("the header alone", header.to_owned()),
            ("the signature before the payload", format!("{header}.{signature}.{payload}")),
            ("without a payload", format!("{header}..{signature}")),
            ("without a header", format!(".{payload}.{signature}")),
            ("a payload that is detached", format!("{header}..{signature}")),
            ("the general JSON serialisation", general.to_string()),
            ("the flattened JSON serialisation", flattened.to_string()),
            ("JSON with an unprotected header", unprotected.to_string()),
            ("a JWE with a direct key", encrypted(json!({"alg": "dir", "enc": "A256GCM"}))),
            ("a JWE for the public key", encrypted(json!({"alg": "RSA-OAEP", "enc": "A256GCM"}))),
            ("a JWE in RSA1_5", encrypted(json!({"alg": "RSA1_5", "enc": "A128CBC-HS256"}))),
            ("a JWE on a curve", encrypted(json!({"alg": "ECDH-ES", "enc": "A256GCM", "epk": {"kty": "EC"}}))),
            (
                "a JWE that asks for much work",
                encrypted(json!({"alg": "PBES2-HS512+A256KW", "enc": "A256GCM", "p2c": 2_147_483_647, "p2s": "AAAA"})),
            ),
            ("two tokens", format!("{good}, {good}")),
            ("a token in quotes", format!("\"{good}\"")),
            ("a token as text of bytes", format!("b'{good}'")),
        ] {
            self.text(format!("shape: {name}"), bad)?;
        }
        Ok(())
    }

    /// RFC 7515, section 4.1.11; RFC 7797; RFC 8725, sections 3.11 and 3.12.
    fn headers(&mut self) -> Result<()> {
        let own = self.header();
        for typ in [
            "dpop+jwt",
            "secevent+jwt",
            "logout+jwt",
            "JOSE",
            "JWE",
            "ID",
            "",
            "JWT ",
            "application/xml",
            "refresh+jwt",
        ] {
            let good = self.header_with("typ", json!("at+jwt"));
            self.of_header(format!("typ {typ:?}"), &self.header_with("typ", json!(typ)), &good)?;
        }
        for typ in [json!(null), json!(7), json!(["JWT"]), json!({"typ": "JWT"}), json!(true)] {
            self.of_header(format!("typ {typ}"), &self.header_with("typ", typ.clone()), &own)?;
        }
        for crit in [
            json!(["exp"]),
            json!(["b64"]),
            json!([]),
            json!(null),
            json!("exp"),
            json!({}),
            json!(["alg"]),
            json!(["kid", "kid"]),
        ] {
            let good = self.header_with("unknown", json!(true));
            self.of_header(format!("crit {crit}"), &self.header_with("crit", crit.clone()), &good)?;
        }
        let unencoded = self.header_with("b64", json!(false));
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(&unencoded), self.payload());
        let signature = URL_SAFE_NO_PAD.encode(self.forge.signature(self.forge.algorithm, message.as_bytes())?);
        self.text("a payload that is not encoded", format!("{message}.{signature}"))?;
        let nested = self.forge.token(&self.header_with("cty", json!("JWT")), self.good()?)?;
        self.text("a token in a token", nested)?;
        let algorithm = self.forge.algorithm;
        for (name, bad) in [
            ("twice an algorithm", format!("{{\"alg\":\"none\",\"alg\":\"{algorithm}\"}}")),
            ("twice the same algorithm", format!("{{\"alg\":\"{algorithm}\",\"alg\":\"{algorithm}\"}}")),
            ("an escaped second algorithm", format!("{{\"alg\":\"{algorithm}\",\"\\u0061lg\":\"none\"}}")),
            ("a second typ", format!("{{\"alg\":\"{algorithm}\",\"typ\":\"JWT\",\"typ\":\"JWT\"}}")),
            ("something behind it", format!("{own}x")),
            ("a second header", format!("{own}{own}")),
            ("a byte order mark", format!("\u{feff}{own}")),
            ("a comment", format!("{{/**/{}", &own[1..])),
            ("quotes of another kind", own.replace('"', "'")),
            ("a comma too many", own.replace('}', ",}")),
            ("an array", format!("[{own}]")),
            ("a text", json!(own).to_string()),
            ("nothing", String::new()),
            ("null", "null".to_owned()),
            ("deep nesting", own.replace('}', &format!(",\"x\":{}{}}}", "[".repeat(9_000), "]".repeat(9_000)))),
        ] {
            self.of_header(format!("header: {name}"), &bad, &own)?;
        }
        Ok(())
    }

    /// Each claim is there and of its type (RFC 7519, section 4.1): times are JSON integers.
    fn types_of_claims(&mut self) -> Result<()> {
        let good = self.payload();
        for name in ["exp", "iat", "nbf", "iss", "aud", "sub", "jti"] {
            let mut claims = self.claims();
            let own = claims.remove(name).unwrap_or_default();
            self.of_payload(format!("no {name}"), Value::Object(claims.clone()).to_string(), &good)?;
            claims.insert(name.to_uppercase(), own.clone());
            self.of_payload(format!("{name} in capitals"), Value::Object(claims).to_string(), &good)?;
            let mut others = vec![json!(null), json!(true), json!({}), json!({"x": own})];
            if own.is_number() {
                let number = own.as_i64().unwrap_or_default();
                others.extend([
                    json!(number.to_string()),
                    json!(number as f64 + 0.5),
                    json!(number as f64),
                    json!([number]),
                ]);
                others.extend([json!(-number), json!(u64::MAX), json!(1e300)]);
            } else {
                others.extend([json!(7), json!([]), json!([7]), json!([[own]])]);
            }
            for value in others {
                let good =
                    if name == "aud" { self.payload_with("aud", json!(["other", "test"])) } else { good.clone() };
                self.of_payload(format!("{name} as {value}"), self.payload_with(name, value), good)?;
            }
            let twice = good.replacen('{', &format!("{{\"{name}\":{own},"), 1);
            self.of_payload(format!("{name} twice"), twice, &good)?;
            let escaped = format!("\\u{:04x}{}", name.as_bytes()[0], &name[1..]);
            let twice = good.replacen('{', &format!("{{\"{escaped}\":{own},"), 1);
            self.of_payload(format!("{name} twice, once escaped"), twice, &good)?;
        }
        Ok(())
    }

    fn values_of_claims(&mut self) -> Result<()> {
        let (now, hour) = (self.now, 3_600);
        for (name, value, good) in [
            ("exp", json!(now - hour), json!(now + hour)),
            ("exp", json!(0), json!(now + hour)),
            ("exp", json!(LAST_SECOND + 1), json!(LAST_SECOND)),
            ("exp", json!(i64::MAX), json!(LAST_SECOND)),
            ("nbf", json!(now + hour), json!(now - hour)),
            ("nbf", json!(LAST_SECOND), json!(0)),
            ("iat", json!(now + hour), json!(now)),
            ("iat", json!(0), json!(now)),
            ("iss", json!("https://edge.test/"), json!("https://edge.test")),
            ("iss", json!("http://edge.test"), json!("https://edge.test")),
            ("iss", json!("HTTPS://EDGE.TEST"), json!("https://edge.test")),
            ("iss", json!("https://edge.test.attacker.test"), json!("https://edge.test")),
            ("iss", json!("https://edge.test\u{0}"), json!("https://edge.test")),
            ("iss", json!(["https://edge.test"]), json!("https://edge.test")),
            ("iss", json!(""), json!("https://edge.test")),
            ("aud", json!("tes"), json!("test")),
            ("aud", json!("test2"), json!("test")),
            ("aud", json!("TEST"), json!("test")),
            ("aud", json!("other test"), json!(["other", "test"])),
            ("aud", json!(["other"]), json!(["test"])),
            ("aud", json!([]), json!(["test"])),
            ("aud", json!(["test", 7]), json!(["test", "7"])),
            ("aud", json!(""), json!("test")),
            ("aud", json!("*"), json!("test")),
            ("sub", json!("nobody-at-all"), json!("alice")),
            ("sub", json!("Alice"), json!("alice")),
            ("sub", json!("alice "), json!("alice")),
            ("sub", json!("alice\u{0}"), json!("alice")),
            ("sub", json!("аlice"), json!("alice")),
            ("sub", json!(""), json!("alice")),
            ("sub", json!("key:alice"), json!("alice")),
            ("sub", json!("' OR 1=1 --"), json!("alice")),
            ("sub", json!("%"), json!("alice")),
        ] {
            self.of_payload(format!("{name} {value}"), self.payload_with(name, value), self.payload_with(name, good))?;
        }
        Ok(())
    }

    fn payloads(&mut self) -> Result<()> {
        let good = self.payload();
        let wide: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let nested = |depth: usize| good.replace('}', &format!(",\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth)));
        for (name, bad) in [
            ("nothing", Vec::new()),
            ("null", b"null".to_vec()),
            ("an array", format!("[{good}]").into_bytes()),
            ("a text", json!(good).to_string().into_bytes()),
            ("UTF-16", wide),
            ("bytes that are no text", [b"{\"x\":\"\xff\xfe\",", &good.as_bytes()[1..]].concat()),
            ("half a surrogate", good.replacen('{', "{\"x\":\"\\ud800\",", 1).into_bytes()),
            ("a byte order mark", format!("\u{feff}{good}").into_bytes()),
            ("something behind it", format!("{good}{{}}").into_bytes()),
            ("a zero byte behind it", format!("{good}\0").into_bytes()),
            ("a comma too many", good.replace('}', ",}").into_bytes()),
            ("no end", good.replace('}', "").into_bytes()),
            ("a comment", good.replacen('{', "{/**/", 1).into_bytes()),
            ("a number that is none", good.replacen('{', "{\"x\":NaN,", 1).into_bytes()),
            ("a number too large", good.replacen('{', "{\"x\":1e999,", 1).into_bytes()),
            ("deep nesting", nested(9_000).into_bytes()),
        ] {
            self.of_payload(format!("payload: {name}"), bad, nested(20))?;
        }
        Ok(())
    }

    /// Header or cookie only, and one line of it (RFC 6750 knows more ways).
    fn requests(&mut self) -> Result<()> {
        let good = self.good()?;
        let bearer = format!("Authorization: Bearer {good}");
        let other = self.forge.another()?.token(&self.header(), self.payload())?;
        let query = |name: &str| Request { target: format!("/auth/verify?{name}={good}"), fields: Vec::new() };
        let all = [
            ("in the query", query("access_token")),
            ("in the query as token", query("token")),
            ("in a field of another name", Request::with(&[format!("X-Access-Token: {good}")])),
            ("in the field of a proxy", Request::with(&[format!("Proxy-Authorization: Bearer {good}")])),
            ("as an API key", Request::with(&[format!("X-API-Key: {good}")])),
            ("as an internal key", Request::with(&[format!("X-Internal-API-Key: {good}")])),
            ("by another scheme", Request::with(&[format!("Authorization: Basic {good}")])),
            ("by DPoP", Request::with(&[format!("Authorization: DPoP {good}")])),
            ("without a scheme", Request::with(&[format!("Authorization: {good}")])),
            ("with a scheme twice", Request::with(&[format!("Authorization: Bearer Bearer {good}")])),
            ("with an equals sign", Request::with(&[format!("Authorization: Bearer={good}")])),
            ("as a parameter", Request::with(&[format!("Authorization: Bearer token=\"{good}\"")])),
            ("twice the same", Request::with(&[bearer.clone(), bearer.clone()])),
            ("a good one before another", Request::with(&[bearer.clone(), format!("Authorization: Bearer {other}")])),
            ("a good one behind another", Request::with(&[format!("Authorization: Bearer {other}"), bearer.clone()])),
            ("a good one behind an empty line", Request::with(&["Authorization: ".to_owned(), bearer.clone()])),
            ("two in a line", Request::with(&[format!("Authorization: Bearer {other}, Bearer {good}")])),
            ("in a cookie of another name", Request::with(&[format!("Cookie: access_token={good}")])),
        ];
        for (name, bad) in all {
            let good = Request::with(&[bearer.replace("Bearer", "bearer")]);
            self.attacks.push(Attack { name: format!("request: {name}"), bad, good });
        }
        Ok(())
    }

    fn guessed_secrets(&mut self) -> Result<()> {
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

/// `SEQUENCE { INTEGER r, INTEGER s }`, as other formats write a signature of a curve.
fn as_der(signature: &[u8]) -> Vec<u8> {
    let number = |half: &[u8]| {
        let mut number: Vec<u8> = half.iter().copied().skip_while(|byte| *byte == 0).collect();
        if number.first().is_none_or(|byte| byte & 0x80 != 0) {
            number.insert(0, 0);
        }
        [&[2, number.len() as u8], number.as_slice()].concat()
    };
    let (r, s) = signature.split_at(signature.len() / 2);
    let both = [number(r), number(s)].concat();
    [&[0x30, both.len() as u8], both.as_slice()].concat()
}

/// To the second half, as little-endian number, the order of Ed25519's group: the malleability of RFC 8032, section 8.4.
/// Of other algorithms it spoils the signature.
fn add_order(signature: &mut [u8]) {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let half = signature.len() / 2;
    let mut carry = 0;
    for (byte, order) in signature[half..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
}

/// The last letter of a text whose length leaves some of its bits without a meaning, with another of these bits.
fn with_bits_that_say_nothing(part: &str) -> Option<String> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = part.bytes().last()?;
    let at = LETTERS.iter().position(|letter| *letter == last)?;
    (part.len() % 4 != 0).then(|| format!("{}{}", &part[..part.len() - 1], char::from(LETTERS[at | 1])))
}
