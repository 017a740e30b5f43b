//! Which requests the audit log is told of, and what: those that named somebody or tried to, however that ended. A
//! request without a credential, and one that cannot be understood, is no attempt.

use std::net::SocketAddr;

use super::{
    Endpoint, Good,
    answer::{Denial, KeyRefused},
};
use crate::audit::attempt::{self, Attempt, Refused};

pub(super) fn attempt(
    endpoint: Endpoint,
    peer: SocketAddr,
    result: &Result<Good, Denial>,
    request_id: Option<String>,
) -> Option<Attempt> {
    let endpoint = if is_sign_in(result) { attempt::Endpoint::Login } else { audited(endpoint)? };
    let (refused, subject, key_id) = match result {
        Ok(good) => (None, good.subject.clone(), good.key_id.clone()),
        Err(denial) => {
            let (refused, subject) = refused(denial.cause())?;
            (Some(refused), subject, key_of(denial.cause()))
        }
    };
    Some(Attempt { endpoint, peer: peer.ip(), subject, key_id, refused, request_id })
}

/// Whatever endpoint it goes by.
fn is_sign_in(result: &Result<Good, Denial>) -> bool {
    match result {
        Ok(good) => good.is_sign_in,
        Err(denial) => matches!(denial.cause(), Denial::Login { .. }),
    }
}

fn key_of(denial: &Denial) -> Option<String> {
    match denial {
        Denial::Key { key, .. } => key.as_ref().map(|key| key.id.clone()),
        Denial::Forbidden { key_id, .. } => key_id.clone(),
        _ => None,
    }
}

fn audited(endpoint: Endpoint) -> Option<attempt::Endpoint> {
    match endpoint {
        Endpoint::Login | Endpoint::OidcCallback => Some(attempt::Endpoint::Login),
        Endpoint::Refresh => Some(attempt::Endpoint::Refresh),
        Endpoint::Logout => Some(attempt::Endpoint::Logout),
        Endpoint::Me => Some(attempt::Endpoint::Me),
        Endpoint::Verify => Some(attempt::Endpoint::Verify),
        Endpoint::Token => Some(attempt::Endpoint::Token),
        Endpoint::Introspect => Some(attempt::Endpoint::Introspect),
        Endpoint::Revoke => Some(attempt::Endpoint::Revoke),
        Endpoint::OidcLogin
        | Endpoint::Health
        | Endpoint::Ready
        | Endpoint::Status
        | Endpoint::Jwks
        | Endpoint::Metadata => None,
    }
}

fn refused(denial: &Denial) -> Option<(Refused, Option<String>)> {
    match denial {
        Denial::Login { account } => Some((Refused::InvalidCredentials, Some(account.clone()))),
        Denial::Token { guessed: true, account } => Some((Refused::InvalidToken, account.clone())),
        Denial::Token { guessed: false, account } => Some((Refused::EndedToken, account.clone())),
        Denial::Key { why, key } => {
            let refused = match why {
                KeyRefused::Unknown => Refused::InvalidKey,
                KeyRefused::Ended => Refused::EndedKey,
                KeyRefused::Misplaced => Refused::MisplacedKey,
            };
            Some((refused, key.as_ref().map(|key| key.caller.clone())))
        }
        Denial::Forbidden { account, .. } => Some((Refused::Forbidden, Some(account.clone()))),
        Denial::Forged | Denial::Callback => Some((Refused::Forbidden, None)),
        Denial::NotAllowed { account } => Some((Refused::Forbidden, Some(account.clone()))),
        Denial::Provider => Some((Refused::Unavailable, None)),
        Denial::Busy | Denial::Unavailable => Some((Refused::Unavailable, None)),
        Denial::Client { cause, .. } | Denial::Grant { cause } | Denial::Page { cause, .. } => refused(cause),
        Denial::NoCredential
        | Denial::UnsupportedGrant
        | Denial::InvalidScope
        | Denial::UnsupportedToken
        | Denial::NotFound
        | Denial::Method(_)
        | Denial::Malformed
        | Denial::TooLarge
        | Denial::HeadTooLarge
        | Denial::TooSlow => None,
    }
}
