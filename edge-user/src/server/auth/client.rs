//! Which program asks for a token (RFC 6749, section 2.3.1): the id of a key and the key itself, by Basic or in the form.

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderValue},
};
use zeroize::Zeroizing;

use super::{
    Auth,
    answer::{Denial, KeyRefused, KnownKey},
    query::{Form, decoded},
};
use crate::server::users::{Key, KeyKind};

/// What a client says it is.
struct Claimed {
    id: String,
    secret: Zeroizing<String>,
    by_basic: bool,
}

impl Auth {
    /// The key that a client has shown; `None`: it has shown none.
    pub(super) fn client_key(&self, headers: &HeaderMap, form: &Form) -> Result<Option<Key>, Denial> {
        let Some(Claimed { id, secret, by_basic }) = claimed(headers, form)? else { return Ok(None) };
        let refused = |cause: Denial| match cause {
            Denial::Unavailable => cause,
            cause => Denial::Client { cause: Box::new(cause), by_basic },
        };
        let key = self.key(&secret, KeyKind::Api).map_err(refused)?;
        // The id of one that this one took the place of is good too: after a rotation only the secret is new.
        let named = self.store.read(|store| store.key_by_id(&id))?;
        if named.is_some_and(|named| named.name == key.name && named.kind == key.kind) {
            return Ok(Some(key));
        }
        let known = KnownKey { id: key.id(), caller: key.caller() };
        Err(refused(Denial::Key { why: KeyRefused::Misplaced, key: Some(known) }))
    }
}

fn claimed(headers: &HeaderMap, form: &Form) -> Result<Option<Claimed>, Denial> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let unknown =
        || Denial::Client { cause: Box::new(Denial::Key { why: KeyRefused::Unknown, key: None }), by_basic: true };
    let basic = match (lines.next().and_then(credentials), lines.next()) {
        (_, Some(_)) => return Err(unknown()),
        (Some(encoded), None) => Some(basic(encoded).ok_or_else(unknown)?),
        (None, None) => None,
    };
    let basic = basic.filter(|claimed| !claimed.id.is_empty() || !claimed.secret.is_empty());
    match (basic, form.value("client_secret")) {
        (Some(_), Some(_)) => Err(Denial::Malformed),
        (Some(basic), None) => Ok(Some(basic)),
        (None, None) => Ok(None),
        (None, Some(secret)) => {
            let id = form.value("client_id").ok_or(Denial::Malformed)?.to_owned();
            Ok(Some(Claimed { id, secret: Zeroizing::new(secret.to_owned()), by_basic: false }))
        }
    }
}

/// What follows `Basic`; another scheme says nothing here.
fn credentials(line: &HeaderValue) -> Option<&str> {
    let (scheme, rest) = line.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("basic").then(|| rest.trim())
}

fn basic(encoded: &str) -> Option<Claimed> {
    let text = Zeroizing::new(String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?);
    let (id, secret) = text.split_once(':')?;
    Some(Claimed { id: decoded(id), secret: Zeroizing::new(decoded(secret)), by_basic: true })
}
