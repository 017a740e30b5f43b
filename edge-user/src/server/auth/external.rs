//! Tokens that edge did not sign: whether an issuer that is trusted did, and whom they name then.

use super::{Auth, token::Bad};
use crate::clock::Wall;

/// A caller that a trusted issuer vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// `ISSUER-NAME:SUB`.
    pub name: String,
    pub roles: Vec<String>,
    pub email: Option<String>,
    /// As the token has them.
    pub issuer: String,
    pub subject: String,
    pub audience: Vec<String>,
    /// Seconds since 1970: what was issued until the caller's tokens were revoked is not good.
    pub issued: i64,
    pub expires: i64,
}

impl Auth {
    /// Whom a token names whose signature is not edge's; no issuer but edge is trusted. That it was not revoked is the
    /// caller's to see to.
    pub(super) fn external(&self, _token: &str, _now: Wall) -> Result<External, Bad> {
        Err(Bad::Foreign)
    }
}
