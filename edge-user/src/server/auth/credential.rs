//! From a request to whom it is from: which header lines carry a credential, and the one [`Identity`] that a good one
//! names, as the store has it now.

use hyper::{HeaderMap, header::AUTHORIZATION};

use super::{
    Auth,
    answer::Denial,
    external::External,
    token::{Bad, Stamp},
};
use crate::clock::Wall;

/// Whom a good credential names. Names never collide: a user's is bare, any other's has a colon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    pub roles: Vec<String>,
    pub email: Option<String>,
    pub kind: Kind,
}

/// By what a caller is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A user by a token; the session that it belongs to, where edge wrote it.
    User { session: Option<i64> },
    /// A caller that a trusted issuer vouches for.
    External,
}

impl Auth {
    /// Whom the credential of a request names.
    pub(super) fn identify(&self, headers: &HeaderMap) -> Result<Identity, Denial> {
        self.bearer_of(bearer(headers)?.ok_or(Denial::NoCredential)?)
    }

    fn bearer_of(&self, token: &str) -> Result<Identity, Denial> {
        let now = Wall::now();
        let caller = match self.tokens.verify(token, now) {
            Ok(caller) => caller,
            Err(Bad::Issued) => return Err(Denial::Token { guessed: false, account: None }),
            Err(Bad::Foreign) => return self.external(token, now).map(Identity::from).map_err(Denial::from),
        };
        let revoked = || Denial::Token { guessed: false, account: Some(caller.name.clone()) };
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
        let session = caller.stamp.map(|stamp| stamp.family);
        Ok(Identity { name: account.name, roles: account.roles, email: None, kind: Kind::User { session } })
    }
}

impl From<External> for Identity {
    fn from(caller: External) -> Identity {
        let External { name, roles, email, issued: _ } = caller;
        Identity { name, roles, email, kind: Kind::External }
    }
}

impl From<Bad> for Denial {
    fn from(bad: Bad) -> Denial {
        Denial::Token { guessed: bad == Bad::Foreign, account: None }
    }
}

/// The bearer token of a request; `None` without a credential.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Denial> {
    let bad = || Denial::Token { guessed: true, account: None };
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(bad());
    }
    let (scheme, token) = line.to_str().ok().and_then(|line| line.split_once(' ')).ok_or_else(bad)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(token.trim())) } else { Err(bad()) }
}
