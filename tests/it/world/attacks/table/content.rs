//! What a rightly signed token says, in its header and in its claims.

use anyhow::Result;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::Table;

/// The last second of the year 9999, the last that RFC 3339 can write.
const LAST_SECOND: i64 = 253_402_300_799;

impl Table<'_> {
    /// RFC 7515, section 4.1.11; RFC 7797; RFC 8725, sections 3.11 and 3.12.
    pub(super) fn headers(&mut self) -> Result<()> {
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
    pub(super) fn types_of_claims(&mut self) -> Result<()> {
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

    pub(super) fn values_of_claims(&mut self) -> Result<()> {
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

    pub(super) fn payloads(&mut self) -> Result<()> {
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
}
