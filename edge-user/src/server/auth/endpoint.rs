//! What can be asked for by path, with which methods, and how a request for it ended: closed lists that also name the
//! labels of metrics.

use hyper::Method;

use super::{answer::Denial, wellknown};

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Login,
    OidcLogin,
    OidcCallback,
    Refresh,
    Logout,
    Me,
    Verify,
    Token,
    Introspect,
    Revoke,
    Health,
    Ready,
    Status,
    Jwks,
    Metadata,
}

/// How a request under `/auth/` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// 401 for a credential that is not good.
    Refused,
    /// 401 without a credential.
    Missing,
    /// 403.
    Forbidden,
    /// A request that cannot be understood or is too large.
    Invalid,
    /// 503.
    Unavailable,
}

impl Endpoint {
    pub const ALL: [Endpoint; 15] = [
        Endpoint::Login,
        Endpoint::OidcLogin,
        Endpoint::OidcCallback,
        Endpoint::Refresh,
        Endpoint::Logout,
        Endpoint::Me,
        Endpoint::Verify,
        Endpoint::Token,
        Endpoint::Introspect,
        Endpoint::Revoke,
        Endpoint::Health,
        Endpoint::Ready,
        Endpoint::Status,
        Endpoint::Jwks,
        Endpoint::Metadata,
    ];

    pub(super) fn of(path: &str) -> Option<Endpoint> {
        match path {
            "/auth/login" => Some(Endpoint::Login),
            "/auth/refresh" => Some(Endpoint::Refresh),
            "/auth/logout" => Some(Endpoint::Logout),
            "/auth/me" => Some(Endpoint::Me),
            "/auth/verify" => Some(Endpoint::Verify),
            "/auth/token" => Some(Endpoint::Token),
            "/auth/introspect" => Some(Endpoint::Introspect),
            "/auth/revoke" => Some(Endpoint::Revoke),
            "/health" => Some(Endpoint::Health),
            "/ready" => Some(Endpoint::Ready),
            "/status" => Some(Endpoint::Status),
            wellknown::JWKS => Some(Endpoint::Jwks),
            wellknown::METADATA => Some(Endpoint::Metadata),
            _ if path.starts_with("/auth/verify/") => Some(Endpoint::Verify),
            _ => match path.strip_prefix("/auth/oidc/")?.split_once('/')?.1 {
                "login" => Some(Endpoint::OidcLogin),
                "callback" => Some(Endpoint::OidcCallback),
                _ => None,
            },
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Endpoint::Login => "login",
            Endpoint::OidcLogin => "oidc_login",
            Endpoint::OidcCallback => "oidc_callback",
            Endpoint::Refresh => "refresh",
            Endpoint::Logout => "logout",
            Endpoint::Me => "me",
            Endpoint::Verify => "verify",
            Endpoint::Token => "token",
            Endpoint::Introspect => "introspect",
            Endpoint::Revoke => "revoke",
            Endpoint::Health => "health",
            Endpoint::Ready => "ready",
            Endpoint::Status => "status",
            Endpoint::Jwks => "jwks",
            Endpoint::Metadata => "metadata",
        }
    }

    pub const fn under_auth(self) -> bool {
        !matches!(self, Endpoint::Health | Endpoint::Ready | Endpoint::Status | Endpoint::Jwks | Endpoint::Metadata)
    }

    /// The methods it takes, as `Allow` names them; `None`: all.
    const fn allow(self) -> Option<&'static str> {
        match self {
            Endpoint::Login => Some("GET, HEAD, POST"),
            Endpoint::Refresh | Endpoint::Logout | Endpoint::Token | Endpoint::Introspect | Endpoint::Revoke => {
                Some("POST")
            }
            Endpoint::Me
            | Endpoint::OidcLogin
            | Endpoint::OidcCallback
            | Endpoint::Health
            | Endpoint::Ready
            | Endpoint::Status
            | Endpoint::Jwks
            | Endpoint::Metadata => Some("GET, HEAD"),
            Endpoint::Verify => None,
        }
    }

    pub(super) fn takes(self, method: &Method) -> Result<(), Denial> {
        match self.allow() {
            Some(allow) if !allow.split(", ").any(|allowed| allowed == method.as_str()) => Err(Denial::Method(allow)),
            Some(_) | None => Ok(()),
        }
    }
}

impl Outcome {
    pub const ALL: [Outcome; 6] = [
        Outcome::Success,
        Outcome::Refused,
        Outcome::Missing,
        Outcome::Forbidden,
        Outcome::Invalid,
        Outcome::Unavailable,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Refused => "refused",
            Outcome::Missing => "missing",
            Outcome::Forbidden => "forbidden",
            Outcome::Invalid => "invalid",
            Outcome::Unavailable => "unavailable",
        }
    }
}
