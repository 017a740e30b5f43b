//! What the server reports of the requests it answered, as it travels to the agent. The agent takes it for what it is:
//! the word of a process that strangers talk to, about endpoints and nothing else. It names no command and no actor.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::event::{Event, Name, Outcome};
use crate::clock::Wall;

/// The most in one message, so that it stays far under the bound of a frame.
pub const AT_ONCE: usize = 24;
/// The longest user name, in bytes.
const MAX_SUBJECT: usize = 256;
const MAX_REQUEST_ID: usize = 64;

/// One request to an endpoint that asks for a credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    pub endpoint: Endpoint,
    pub peer: IpAddr,
    /// The name as given, or of whom the credential names.
    pub subject: Option<String>,
    /// As `edge key list` has it, of a key that is known.
    pub key_id: Option<String>,
    /// `None`: it was good.
    pub refused: Option<Refused>,
    /// As the client or a proxy before the server named the request.
    pub request_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    Login,
    Refresh,
    Logout,
    Me,
    Verify,
    Token,
    Introspect,
    Revoke,
}

/// Why the answer was no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// User name and password do not belong together.
    InvalidCredentials,
    /// Edge never issued the token.
    InvalidToken,
    /// Edge issued it, but it is expired, revoked or used up.
    EndedToken,
    /// Edge never issued the key.
    InvalidKey,
    /// Edge issued it, but it is expired, revoked or replaced.
    EndedKey,
    /// It is good, but not where it was sent: an internal key counts in its own header alone, and no other does there.
    MisplacedKey,
    /// A role is missing.
    Forbidden,
    /// It could not be judged: too much at once, or the store cannot be used.
    Unavailable,
}

impl Refused {
    const fn text(self) -> &'static str {
        match self {
            Refused::InvalidCredentials => "invalid_credentials",
            Refused::InvalidToken => "invalid_token",
            Refused::EndedToken => "ended_token",
            Refused::InvalidKey => "invalid_key",
            Refused::EndedKey => "ended_key",
            Refused::MisplacedKey => "misplaced_key",
            Refused::Forbidden => "forbidden",
            Refused::Unavailable => "unavailable",
        }
    }
}

impl Attempt {
    /// Cut to what travels.
    pub fn bounded(self) -> Attempt {
        let cut = |name: String| match name.len() {
            0..=MAX_SUBJECT => name,
            _ => name[..name.floor_char_boundary(MAX_SUBJECT)].to_owned(),
        };
        Attempt {
            subject: self.subject.map(cut),
            key_id: self.key_id.filter(|id| is_request_id(id)),
            request_id: self.request_id.filter(|id| is_request_id(id)),
            peer: self.peer.to_canonical(),
            ..self
        }
    }

    pub fn event(self, time: Wall) -> (Name, Event) {
        let Attempt { endpoint, peer, subject, key_id, refused, request_id } = self.bounded();
        let name = match endpoint {
            Endpoint::Login => Name::Login,
            Endpoint::Refresh => Name::Refresh,
            Endpoint::Logout => Name::Logout,
            Endpoint::Me => Name::Me,
            Endpoint::Verify => Name::Verify,
            Endpoint::Token => Name::Token,
            Endpoint::Introspect => Name::Introspect,
            Endpoint::Revoke => Name::Revoke,
        };
        let outcome = if refused.is_some() { Outcome::Failure } else { Outcome::Success };
        let reason = refused.map(|refused| refused.text().to_owned());
        (name, Event { peer: Some(peer), subject, key_id, reason, request_id, ..Event::new(name, outcome, time) })
    }
}

/// Whether it can only be one: a client could write anything.
pub fn is_request_id(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_REQUEST_ID).contains(&text.len()) && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::link::{FromServer, MAX_FROM_SERVER, frame};

    fn attempt() -> Attempt {
        Attempt {
            endpoint: Endpoint::Login,
            peer: "::ffff:203.0.113.7".parse().unwrap(),
            subject: Some("ä".repeat(200)),
            key_id: None,
            refused: Some(Refused::InvalidCredentials),
            request_id: Some("a\nb".to_owned()),
        }
    }

    #[test]
    fn the_server_s_word_is_cut_to_its_bounds_and_names_no_actor() {
        let (name, event) = attempt().event(Wall(7));
        assert_eq!((name, event.outcome, event.subject.unwrap().len()), (Name::Login, Outcome::Failure, 256));
        assert_eq!(event.peer, Some("203.0.113.7".parse().unwrap()));
        assert_eq!((event.request_id, event.actor, event.reason.as_deref()), (None, None, Some("invalid_credentials")));
        let good = Attempt { refused: None, request_id: Some("4f-2.a_B".to_owned()), ..attempt() };
        let (_, event) = good.event(Wall(7));
        assert_eq!(
            (event.outcome, event.reason, event.request_id.as_deref()),
            (Outcome::Success, None, Some("4f-2.a_B"))
        );
    }

    #[test]
    fn a_message_of_the_worst_names_is_within_the_bound() {
        let worst = Attempt {
            subject: Some("\u{1}".repeat(MAX_SUBJECT)),
            key_id: Some("x".repeat(64)),
            request_id: Some("x".repeat(64)),
            ..attempt()
        };
        let message = FromServer::Audit { attempts: vec![worst; AT_ONCE], lost: u64::MAX };
        assert!(frame(&message, MAX_FROM_SERVER).is_ok());
    }
}
