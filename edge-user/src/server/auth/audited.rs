//! Which requests the audit log is told of, and what: those that named somebody or tried to, however that ended. A
//! request without a credential, and one that cannot be understood, is no attempt.

use std::net::SocketAddr;

use super::{Endpoint, Good, answer::Denial};
use crate::audit::attempt::{self, Attempt, Refused};

pub(super) fn attempt(
    endpoint: Endpoint,
    peer: SocketAddr,
    result: &Result<Good, Denial>,
    request_id: Option<String>,
) -> Option<Attempt> {
    let endpoint = audited(endpoint)?;
    let (refused, subject) = match result {
        Ok(good) => (None, good.subject.clone()),
        Err(denial) => {
            let (refused, subject) = refused(denial)?;
            (Some(refused), subject)
        }
    };
    Some(Attempt { endpoint, peer: peer.ip(), subject, refused, request_id })
}

fn audited(endpoint: Endpoint) -> Option<attempt::Endpoint> {
    match endpoint {
        Endpoint::Login => Some(attempt::Endpoint::Login),
        Endpoint::Refresh => Some(attempt::Endpoint::Refresh),
        Endpoint::Logout => Some(attempt::Endpoint::Logout),
        Endpoint::Me => Some(attempt::Endpoint::Me),
        Endpoint::Verify => Some(attempt::Endpoint::Verify),
        Endpoint::Health | Endpoint::Ready | Endpoint::Status | Endpoint::Jwks | Endpoint::Metadata => None,
    }
}

fn refused(denial: &Denial) -> Option<(Refused, Option<String>)> {
    match denial {
        Denial::Login { account } => Some((Refused::InvalidCredentials, Some(account.clone()))),
        Denial::Token { guessed: true, account } => Some((Refused::InvalidToken, account.clone())),
        Denial::Token { guessed: false, account } => Some((Refused::EndedToken, account.clone())),
        Denial::Forbidden { account } => Some((Refused::Forbidden, Some(account.clone()))),
        Denial::Busy | Denial::Unavailable => Some((Refused::Unavailable, None)),
        Denial::NoCredential
        | Denial::NotFound
        | Denial::Method(_)
        | Denial::Malformed
        | Denial::TooLarge
        | Denial::HeadTooLarge
        | Denial::TooSlow => None,
    }
}
