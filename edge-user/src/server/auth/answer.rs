//! What answers look like: the one table of refusals with their status, body and challenge, and the headers that every
//! answer carries.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{
        ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, STRICT_TRANSPORT_SECURITY,
        WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    },
};
use serde_json::{Value, json};

use super::{Outcome, credential::Identity, page::Page};

/// Why a request is not answered with what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// No credential came: no offence.
    NoCredential,
    /// User name and password are not good.
    Login {
        account: String,
    },
    /// A token is not good. `guessed`: edge never issued it, which is an offence.
    Token {
        guessed: bool,
        account: Option<String>,
    },
    /// A key is not good.
    Key {
        why: KeyRefused,
        key: Option<KnownKey>,
    },
    /// The credential is good, its roles do not suffice.
    Forbidden {
        account: String,
        key_id: Option<String>,
    },
    /// Who asks for a token is not known.
    Client {
        cause: Box<Denial>,
        by_basic: bool,
    },
    /// What a token is asked for with is not good.
    Grant {
        cause: Box<Denial>,
    },
    /// A cookie came along with what another site asked for, or nobody can tell.
    Forged,
    /// What came back from an OpenID provider is not what was asked for.
    Callback,
    /// Whoever signed in at a provider may not sign in here.
    NotAllowed {
        account: String,
    },
    /// An OpenID provider fails.
    Provider,
    /// The sign-in page says it.
    Page {
        cause: Box<Denial>,
        page: Box<Page>,
    },
    UnsupportedGrant,
    InvalidScope,
    /// A key is no token.
    UnsupportedToken,
    NotFound,
    /// Another method is needed: those.
    Method(&'static str),
    Malformed,
    TooLarge,
    HeadTooLarge,
    TooSlow,
    /// Too many password hashes in flight.
    Busy,
    /// The store cannot be used.
    Unavailable,
}

/// Why a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRefused {
    /// Edge never issued it, which is an offence.
    Unknown,
    /// Expired, revoked or replaced.
    Ended,
    /// It counts elsewhere.
    Misplaced,
}

/// A key that edge issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    pub id: String,
    pub caller: String,
}

impl Denial {
    pub fn forbidden(identity: &Identity) -> Denial {
        Denial::Forbidden { account: identity.name.clone(), key_id: identity.key_id() }
    }

    /// As the token endpoint says it (RFC 6749, section 5.2).
    pub fn granted(self) -> Denial {
        match self {
            Denial::Login { .. } | Denial::Token { .. } => Denial::Grant { cause: Box::new(self) },
            other => other,
        }
    }

    /// What it comes from.
    pub fn cause(&self) -> &Denial {
        match self {
            Denial::Client { cause, .. } | Denial::Grant { cause } | Denial::Page { cause, .. } => cause.cause(),
            other => other,
        }
    }

    pub fn outcome(&self) -> Outcome {
        match self {
            Denial::NoCredential => Outcome::Missing,
            Denial::Login { .. } | Denial::Token { .. } | Denial::Key { .. } => Outcome::Refused,
            Denial::Client { cause, .. } | Denial::Grant { cause } | Denial::Page { cause, .. } => cause.outcome(),
            Denial::Forbidden { .. } | Denial::NotAllowed { .. } | Denial::Forged => Outcome::Forbidden,
            Denial::Callback
            | Denial::UnsupportedGrant
            | Denial::InvalidScope
            | Denial::UnsupportedToken
            | Denial::NotFound
            | Denial::Method(_)
            | Denial::Malformed
            | Denial::TooLarge
            | Denial::HeadTooLarge
            | Denial::TooSlow => Outcome::Invalid,
            Denial::Busy | Denial::Unavailable | Denial::Provider => Outcome::Unavailable,
        }
    }

    pub fn response(&self, under_auth: bool) -> Response<Full<Bytes>> {
        let (status, error) = self.status();
        if let Denial::Page { cause, page } = self {
            let mut response = page.refused(status, cause);
            cause.set_headers(&mut response);
            return response;
        }
        let mut response = if under_auth {
            json_answer(status, &json!({"error": error}))
        } else {
            let title = status.canonical_reason().unwrap_or("Error");
            let mut problem =
                json_answer(status, &json!({"type": "about:blank", "title": title, "status": status.as_u16()}));
            set(&mut problem, CONTENT_TYPE, "application/problem+json");
            problem
        };
        self.set_headers(&mut response);
        response
    }

    fn set_headers(&self, response: &mut Response<Full<Bytes>>) {
        match self {
            Denial::NoCredential | Denial::Login { .. } | Denial::Client { by_basic: false, .. } => {
                set(response, WWW_AUTHENTICATE, "Bearer realm=\"edge\"")
            }
            Denial::Client { by_basic: true, .. } => set(response, WWW_AUTHENTICATE, "Basic realm=\"edge\""),
            Denial::Key { .. } => set(
                response,
                WWW_AUTHENTICATE,
                "Bearer realm=\"edge\", error=\"invalid_token\", error_description=\"the key is not good\"",
            ),
            Denial::Token { .. } => set(
                response,
                WWW_AUTHENTICATE,
                "Bearer realm=\"edge\", error=\"invalid_token\", error_description=\"the token is not good\"",
            ),
            Denial::Forbidden { .. } => {
                set(response, WWW_AUTHENTICATE, "Bearer realm=\"edge\", error=\"insufficient_scope\"");
            }
            Denial::Method(allow) => set(response, ALLOW, allow),
            Denial::Busy => set(response, RETRY_AFTER, "1"),
            Denial::Unavailable => set(response, RETRY_AFTER, "5"),
            Denial::Grant { .. }
            | Denial::Forged
            | Denial::Callback
            | Denial::NotAllowed { .. }
            | Denial::Provider
            | Denial::Page { .. }
            | Denial::UnsupportedGrant
            | Denial::InvalidScope
            | Denial::UnsupportedToken
            | Denial::NotFound
            | Denial::Malformed
            | Denial::TooLarge
            | Denial::HeadTooLarge
            | Denial::TooSlow => {}
        }
    }

    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Denial::NoCredential => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Denial::Login { .. } => (StatusCode::UNAUTHORIZED, "invalid_credentials"),
            Denial::Token { .. } => (StatusCode::UNAUTHORIZED, "invalid_token"),
            Denial::Key { .. } => (StatusCode::UNAUTHORIZED, "invalid_key"),
            Denial::Client { .. } => (StatusCode::UNAUTHORIZED, "invalid_client"),
            Denial::Grant { .. } => (StatusCode::BAD_REQUEST, "invalid_grant"),
            Denial::Callback => (StatusCode::BAD_REQUEST, "sign_in_refused"),
            Denial::NotAllowed { .. } => (StatusCode::FORBIDDEN, "not_allowed"),
            Denial::Provider => (StatusCode::BAD_GATEWAY, "provider_failed"),
            Denial::Forged => (StatusCode::FORBIDDEN, "forged"),
            Denial::Page { cause, .. } => cause.status(),
            Denial::UnsupportedGrant => (StatusCode::BAD_REQUEST, "unsupported_grant_type"),
            Denial::InvalidScope => (StatusCode::BAD_REQUEST, "invalid_scope"),
            Denial::UnsupportedToken => (StatusCode::BAD_REQUEST, "unsupported_token_type"),
            Denial::Forbidden { .. } => (StatusCode::FORBIDDEN, "forbidden"),
            Denial::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Denial::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Denial::Malformed => (StatusCode::BAD_REQUEST, "invalid_request"),
            Denial::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Denial::HeadTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large"),
            Denial::TooSlow => (StatusCode::REQUEST_TIMEOUT, "too_slow"),
            Denial::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Denial::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        }
    }
}

pub fn json_answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    set(&mut response, CONTENT_TYPE, "application/json");
    response
}

/// What every answer carries.
pub fn finish(response: &mut Response<Full<Bytes>>, under_auth: bool, production: bool) {
    set(response, X_CONTENT_TYPE_OPTIONS, "nosniff");
    if under_auth {
        set(response, CACHE_CONTROL, "no-store");
    }
    if production {
        set(response, STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
}

fn set(response: &mut Response<Full<Bytes>>, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}
