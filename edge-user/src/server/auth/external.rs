//! Tokens that edge did not sign: whether an issuer that is trusted did, and whom they name then.

use hyper::HeaderMap;

use super::{Auth, answer::Denial, credential::bearer_of};
use crate::{
    clock::Wall,
    server::issuers::{Doubt, Vouched},
};

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
    /// Fetches the keys of all trusted issuers anew; what went wrong, a sentence each.
    pub async fn fetch_again(&self) -> Vec<String> {
        self.issuers.fetch_again().await
    }

    /// Has the keys be there by which the credential of a request is judged, as far as they can be had.
    pub(super) async fn prepare(&self, headers: &HeaderMap) {
        if let Some(token) = bearer_of(headers) {
            self.issuers.prepare(token).await;
        }
    }

    /// Whom a token names whose signature is not edge's. That it was not revoked is the caller's to see to.
    pub(super) fn external(&self, token: &str, now: Wall) -> Result<External, Denial> {
        let Vouched { name, roles, email, claims } =
            self.issuers.identify(token, now).map_err(|doubt| match doubt {
                Doubt::Issued => Denial::Token { guessed: false, account: None },
                Doubt::Foreign => Denial::Token { guessed: true, account: None },
                // Neither good nor a guess.
                Doubt::Unknown => Denial::Unavailable,
            })?;
        let (issuer, subject, audience) = (claims.issuer, claims.sub, claims.audience);
        Ok(External { name, roles, email, issuer, subject, audience, issued: claims.issued, expires: claims.expires })
    }
}
