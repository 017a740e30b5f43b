//! The few messages between agent and server, and their bounds; they travel as frames. Nothing the server can say lifts
//! a block, names a network, or names how long a block lasts.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use crate::frame::{frame, read, write};
use crate::{
    audit::attempt::Attempt,
    clock::Wall,
    logging::Logging,
    server::{
        auth::OidcProvider,
        issuers::{Keys, TrustedIssuer},
        jws::Algorithm,
    },
};

/// The largest frame that the agent takes from the server.
pub const MAX_FROM_SERVER: usize = 64 << 10;
/// The largest frame that the server takes from the agent: certificates and keys are in it.
pub const MAX_FROM_AGENT: usize = 4 << 20;

/// From the server to the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromServer {
    /// What was asked for can be served; it waits for [`FromAgent::Accept`].
    Ready,
    /// After [`FromAgent::Retire`]: it accepts no more.
    Retired,
    /// After [`FromAgent::FetchAgain`]: what could not be had, a sentence each.
    Fetched { failures: Vec<String> },
    /// The config cannot be served; one sentence for the operator. The server ends after it.
    Failed { message: String },
    /// A credential was refused. The server waits for [`FromAgent::Judged`] before it answers the client, so that a
    /// block is in force before the client can send its next packet.
    Offence(Offence),
    /// A good login: takes back the failures of that name from that address.
    SignedIn { peer: SocketAddr, account: String },
    /// For the audit log: what came of requests, at most [`AT_ONCE`](crate::audit::attempt::AT_ONCE) of them, in their order; and how many more
    /// there was no room for.
    Audit { attempts: Vec<Attempt>, lost: u64 },
    /// Sent every second: the server's own counters.
    Metrics(Metrics),
}

/// One refused credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offence {
    /// Chosen by the server, to match the answer.
    pub id: u64,
    pub kind: Kind,
    /// Both ends of the accepted connection; the agent asks the kernel whether it exists.
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// The user name as given, at most 256 bytes of it; `None` where no name came with the credential.
    pub account: Option<String>,
}

/// What kind of credential was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// User name and password.
    Login,
    /// A bearer token, access or refresh.
    Token,
    /// A key of a program.
    Key,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Login, Kind::Token, Kind::Key];

    pub const fn name(self) -> &'static str {
        match self {
            Kind::Login => "login",
            Kind::Token => "token",
            Kind::Key => "key",
        }
    }
}

/// A snapshot of the server's counters since it started: labels, value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// `edge_auth_requests_total{endpoint,outcome}`.
    pub auth_requests: Vec<(String, String, u64)>,
    /// `edge_tls_handshakes_total{result}`.
    pub tls_handshakes: Vec<(String, u64)>,
    /// The store of users cannot be used.
    pub store_failed: bool,
    /// Of the certificate that is had by ACME; `None`: none is to be had.
    pub acme: Option<AcmeState>,
}

/// How it stands with the certificate that an authority issues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeState {
    /// Of what is served; `None`: there is none yet.
    pub end: Option<Wall>,
    /// When another is asked for, if all is well.
    pub renews_at: Option<Wall>,
    /// In a row, since the last one was issued.
    pub failures: u32,
    pub last_error: Option<String>,
    pub retries_at: Option<Wall>,
}

impl Metrics {
    /// What another server counted; a series that is not known here stays unknown.
    pub fn add(&mut self, other: &Metrics) {
        for (endpoint, outcome, count) in &mut self.auth_requests {
            let same = other.auth_requests.iter().filter(|one| (&one.0, &one.1) == (endpoint, outcome));
            *count = same.fold(*count, |sum, one| sum.saturating_add(one.2));
        }
        for (result, count) in &mut self.tls_handshakes {
            let same = other.tls_handshakes.iter().filter(|one| one.0 == *result);
            *count = same.fold(*count, |sum, one| sum.saturating_add(one.1));
        }
    }
}

/// From the agent to the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromAgent {
    /// Always the first message, and once.
    Config(Box<ServerConfig>),
    /// The answer to an offence.
    Judged { id: u64, blocked: bool },
    /// This client is blocked now: its connections are to be closed.
    Blocked { client: ipnet::IpNet },
    /// Accept from now on; once.
    Accept,
    /// Another server takes over: stop accepting, serve who has come until now, end. Who was answered and asks no more
    /// is let go at once.
    Retire,
    /// Ask anew for what is kept of others, and read again whom the system trusts.
    FetchAgain,
    /// Stop accepting, finish what is being answered, end.
    Drain,
}

/// All that the server needs, secrets included; the agent has read the files.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    pub logging: Logging,
    pub production: bool,
    /// The addresses of the first listeners; the others send plain HTTP on to them.
    pub listen: Vec<SocketAddr>,
    /// Whether any listener sends plain HTTP on.
    pub redirects: bool,
    /// The first answers whoever asks for a name that none has; without any, the listeners speak plain HTTP.
    pub certificates: Vec<CertificatePem>,
    /// Has an authority issue one more, which comes last.
    pub acme: Option<Acme>,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub max_handshakes: usize,
    /// The prefix that stands for one IPv6 client.
    pub ipv6_unit: u8,
    pub issuer: String,
    pub audience: String,
    pub algorithm: Algorithm,
    /// The signing secret, or the private key in PEM.
    pub signing_key: String,
    /// Those that were in force before: what they signed is refused, and is no guess.
    pub former_keys: Vec<(Algorithm, String)>,
    pub access_ttl: Duration,
    pub refresh_ttl: Duration,
    pub leeway: Duration,
    pub hashes_in_flight: usize,
    /// Of browsers.
    pub session_idle: Duration,
    pub session_absolute: Duration,
    pub trusted_issuers: Vec<TrustedIssuer>,
    pub oidc: Vec<OidcProvider>,
    /// The directory of users and sessions, which belongs to the server.
    pub auth_store: PathBuf,
}

/// A certificate chain and its private key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificatePem {
    pub chain: String,
    pub key: String,
}

/// How certificates are had by ACME.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    pub domains: Vec<String>,
    pub contact: Option<String>,
    pub directory: String,
}

impl ServerConfig {
    /// Whether anything in it has the server ask others, for which it needs a fetcher.
    pub fn fetches(&self) -> bool {
        let by_url = |issuer: &TrustedIssuer| matches!(issuer.keys, Keys::Url(_));
        self.acme.is_some() || !self.oidc.is_empty() || self.trusted_issuers.iter().any(by_url)
    }
}

impl std::fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerConfig").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// The peer's address without its port, an IPv4-mapped one as IPv4.
pub fn client_address(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_travels_and_an_end_is_no_error() {
        let (mut near, mut far) = tokio::io::duplex(4096);
        write(&mut near, &FromServer::Ready, MAX_FROM_SERVER).await.unwrap();
        write(&mut near, &FromAgent::Judged { id: 7, blocked: true }, MAX_FROM_AGENT).await.unwrap();
        drop(near);
        assert_eq!(read::<FromServer>(&mut far, MAX_FROM_SERVER).await.unwrap(), Some(FromServer::Ready));
        let judged = read::<FromAgent>(&mut far, MAX_FROM_AGENT).await.unwrap();
        assert!(matches!(judged, Some(FromAgent::Judged { id: 7, blocked: true })));
        assert!(read::<FromAgent>(&mut far, MAX_FROM_AGENT).await.unwrap().is_none());
    }
}
