//! The letters of a token, its parts, and where in a request it stands.

use anyhow::{Context, Result, bail};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use super::{Attack, Request, Table};

impl Table<'_> {
    /// Of the two signatures that a curve has for the same bytes (s, and the order less s) both are good by FIPS 186-5, and
    /// nothing hangs on the text of a token: revocation goes by its `jti`.
    pub(super) fn signatures(&mut self) -> Result<()> {
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
    pub(super) fn letters(&mut self) -> Result<()> {
        let good =
            self.forge.token(&self.header_with("x", json!(">>>???")), self.payload_with("x", json!(">>>???~~")))?;
        let parts: Vec<&str> = good.split('.').collect();
        let &[header, _, signature] = parts.as_slice() else { bail!("no three parts") };
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
    pub(super) fn shapes(&mut self) -> Result<()> {
        let good = self.good()?;
        let parts: Vec<&str> = good.split('.').collect();
        let &[header, payload, signature] = parts.as_slice() else { bail!("no three parts") };
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

    /// Header or cookie only, and one line of it (RFC 6750 knows more ways).
    pub(super) fn requests(&mut self) -> Result<()> {
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
    (!part.len().is_multiple_of(4)).then(|| format!("{}{}", &part[..part.len() - 1], char::from(LETTERS[at | 1])))
}
