//! From a request to whom it is from: which header lines carry a credential, and the one [`Identity`] that a good one
//! names, as the store has it now.

use hyper::{HeaderMap, header::AUTHORIZATION};

use super::{
    Auth,
    answer::{Denial, KeyRefused, KnownKey},
    external::External,
    token::{Bad, Caller, Stamp},
};
use crate::{
    clock::Wall,
    server::users::{Key, KeyKind},
};

const API_KEY: &str = "x-api-key";
const INTERNAL_KEY: &str = "x-internal-api-key";

/// Whom a good credential names. Names never collide: a user's is bare, any other's has a colon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    pub roles: Vec<String>,
    pub email: Option<String>,
    pub kind: Kind,
    /// The one token that named it, where it was one.
    pub token: Option<TokenId>,
}

/// By what a caller is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A user by a token; the session that it belongs to, where edge wrote it.
    User { session: Option<i64> },
    /// A program, by its key or a token issued with it.
    Key { row: i64, kind: KeyKind },
    /// A caller that a trusted issuer vouches for.
    External,
    /// Whoever signed in at a browser, by its cookie.
    Browser { session: i64 },
}

/// What a single token is revoked by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenId {
    pub digest: Vec<u8>,
    /// It is good no longer than this by itself.
    pub until: Wall,
}

/// A good token: whom it names, and what it says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    pub identity: Identity,
    pub issuer: String,
    pub subject: String,
    pub audience: Vec<String>,
    /// Seconds since 1970, as is the next.
    pub issued: i64,
    pub expires: i64,
}

/// A good token as it was found.
pub struct Found {
    pub bearer: Bearer,
    /// So long it stays good while nothing of the store changes; `None`: that cannot be told.
    pub until: Option<Wall>,
}

impl Identity {
    /// As `edge key list` has it.
    pub fn key_id(&self) -> Option<String> {
        match self.kind {
            Kind::Key { row, .. } => Some(format!("{row:016x}")),
            Kind::User { .. } | Kind::External | Kind::Browser { .. } => None,
        }
    }
}

impl Auth {
    /// Whom the credential of a request names. A key goes before a bearer, which may be meant for what lies behind.
    pub(super) fn identify(&self, headers: &HeaderMap) -> Result<Identity, Denial> {
        let unknown_key = || Denial::Key { why: KeyRefused::Unknown, key: None };
        let internal = only_line(headers, INTERNAL_KEY).map_err(|NotOne| unknown_key())?;
        let api = only_line(headers, API_KEY).map_err(|NotOne| unknown_key())?;
        let guess = || Denial::Token { guessed: true, account: None };
        let authorization = only_line(headers, AUTHORIZATION.as_str()).map_err(|NotOne| guess())?;
        match (internal, api, authorization) {
            (Some(key), _, _) => self.by_key(key, KeyKind::Internal),
            (None, Some(key), _) => self.by_key(key, KeyKind::Api),
            (None, None, Some(line)) => match bearer(line).ok_or_else(guess)? {
                key if is_key(key) => self.by_key(key, KeyKind::Api),
                token => self.by_token(token).map(|bearer| bearer.identity),
            },
            (None, None, None) => self.by_cookie(headers),
        }
    }

    fn by_key(&self, text: &str, place: KeyKind) -> Result<Identity, Denial> {
        let (key, now) = (self.key(text, place)?, Wall::now());
        self.seen.key(key.row, now);
        Ok(of_key(key, None))
    }

    /// The key of that text, if it is good and counts in this place.
    pub(super) fn key(&self, text: &str, place: KeyKind) -> Result<Key, Denial> {
        let unknown = || Denial::Key { why: KeyRefused::Unknown, key: None };
        let key = self.store.read(|store| store.find_key(text))?.ok_or_else(unknown)?;
        let why = match key.is_good(Wall::now()) {
            false => KeyRefused::Ended,
            true if key.kind != place => KeyRefused::Misplaced,
            true => return Ok(key),
        };
        Err(Denial::Key { why, key: Some(KnownKey { id: key.id(), caller: key.caller() }) })
    }

    /// Whom a bearer token names.
    pub(super) fn by_token(&self, token: &str) -> Result<Bearer, Denial> {
        let now = Wall::now();
        let bearer = self.store.known(token, now, || self.look_up(token, now))?;
        if let Kind::User { session: Some(session) } = bearer.identity.kind {
            self.seen.session(session, now);
        }
        Ok(bearer)
    }

    fn look_up(&self, token: &str, now: Wall) -> Result<Found, Denial> {
        let mut verified = self.tokens.verify(token, now);
        if verified.is_err() && self.tokens.lacks_rotated() {
            self.read_rotated()?;
            verified = self.tokens.verify(token, now);
        }
        let caller = match verified {
            Ok(caller) => caller,
            Err(Bad::Issued) => return Err(Denial::Token { guessed: false, account: None }),
            Err(Bad::Foreign) => return self.by_external_token(token, now).map(Found::for_once),
        };
        match caller.name.strip_prefix("key:") {
            // A key ends by itself too.
            Some(key) => {
                let identity = self.key_of_token(key, &caller, now)?;
                Ok(Found::for_once(self.bearer(identity, caller)))
            }
            None => {
                let (identity, until) = (self.user_of_token(&caller)?, Some(caller.until));
                Ok(Found { bearer: self.bearer(identity, caller), until })
            }
        }
    }

    fn bearer(&self, identity: Identity, caller: Caller) -> Bearer {
        Bearer {
            identity,
            issuer: self.tokens.issuer().to_owned(),
            subject: caller.name,
            audience: caller.audience,
            issued: caller.issued,
            expires: caller.expires,
        }
    }

    fn user_of_token(&self, caller: &Caller) -> Result<Identity, Denial> {
        let revoked = || ended(&caller.name);
        let account = self.store.read(|store| store.lookup(&caller.name))?.ok_or_else(revoked)?;
        let good = !account.disabled
            && match caller.stamp {
                Some(Stamp { generation, family }) => {
                    generation == account.generation && self.store.read(|store| store.session_lives(family))?
                }
                None => caller.issued >= account.not_before,
            };
        if !good {
            return Err(revoked());
        }
        let kind = Kind::User { session: caller.stamp.map(|stamp| stamp.family) };
        let token = Some(self.unrevoked(id_of(caller), &caller.name)?);
        Ok(Identity { name: account.name, roles: account.roles, email: None, kind, token })
    }

    /// The token, if it was not revoked by itself.
    fn unrevoked(&self, id: TokenId, name: &str) -> Result<TokenId, Denial> {
        if self.store.read(|store| store.is_token_revoked(&id.digest))? { Err(ended(name)) } else { Ok(id) }
    }

    /// A token issued with a key ends with it.
    fn key_of_token(&self, name: &str, caller: &Caller, now: Wall) -> Result<Identity, Denial> {
        let revoked = || ended(&caller.name);
        let key = self.store.read(|store| match caller.stamp {
            Some(Stamp { family, .. }) => store.key_by_row(family),
            None => store.key_named(name),
        })?;
        let key = key.filter(|key| key.name == name && key.is_good(now)).ok_or_else(revoked)?;
        let good = match caller.stamp {
            Some(Stamp { generation, .. }) => generation == key.generation,
            None => caller.issued >= key.not_before && key.kind == KeyKind::Api,
        };
        if good { Ok(of_key(key, Some(self.unrevoked(id_of(caller), &caller.name)?))) } else { Err(revoked()) }
    }

    /// A token that edge did not sign: good if it was issued after all revocations of its name.
    fn by_external_token(&self, token: &str, now: Wall) -> Result<Bearer, Denial> {
        let External { name, roles, email, issuer, subject, audience, issued, expires } = self.external(token, now)?;
        if issued < self.store.read(|store| store.external_not_before(&name))? {
            return Err(ended(&name));
        }
        let id = TokenId { digest: signed_digest(token), until: self.tokens.end(expires) };
        let id = self.unrevoked(id, &name)?;
        let identity = Identity { name, roles, email, kind: Kind::External, token: Some(id) };
        Ok(Bearer { identity, issuer, subject, audience, issued, expires })
    }
}

impl Found {
    fn for_once(bearer: Bearer) -> Found {
        Found { bearer, until: None }
    }
}

fn id_of(caller: &Caller) -> TokenId {
    TokenId { digest: caller.digest(), until: caller.until }
}

/// There are several lines, or it is no text.
struct NotOne;

fn only_line<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, NotOne> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) => line.to_str().map(Some).map_err(|_| NotOne),
        (Some(_), Some(_)) => Err(NotOne),
    }
}

/// The bearer token of a request that has one.
pub(super) fn bearer_of(headers: &HeaderMap) -> Option<&str> {
    only_line(headers, AUTHORIZATION.as_str()).ok().flatten().and_then(bearer)
}

/// The credential of an `Authorization` line (RFC 6750).
fn bearer(line: &str) -> Option<&str> {
    let (scheme, token) = line.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether it has the form of a key, whatever it opens.
pub(super) fn is_key(text: &str) -> bool {
    KeyKind::ALL.iter().any(|kind| text.starts_with(kind.prefix()))
}

fn of_key(key: Key, token: Option<TokenId>) -> Identity {
    let kind = Kind::Key { row: key.row, kind: key.kind };
    Identity { name: key.caller(), roles: key.roles, email: None, kind, token }
}

fn ended(name: &str) -> Denial {
    Denial::Token { guessed: false, account: Some(name.to_owned()) }
}

/// Of what was signed: the signature of some algorithms can be written in several ways.
fn signed_digest(token: &str) -> Vec<u8> {
    let signed = token.rsplit_once('.').map_or(token, |(signed, _)| signed);
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, signed.as_bytes()).as_ref().to_vec()
}
