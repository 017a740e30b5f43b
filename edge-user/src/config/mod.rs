//! The configuration: what was typed (`raw`), what it means with all errors at once (`validate`).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

use crate::block::Target;

/// A configuration that was read and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    pub mode: Mode,
    pub filter: Filter,
    /// `None`: nothing is served.
    pub server: Option<Server>,
    pub learn: Learn,
    pub metrics: Metrics,
    pub store: Store,
    pub admin: Admin,
    pub log: Log,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Production,
    Development,
}

#[derive(Clone, Debug)]
pub struct Filter {
    pub interfaces: Interfaces,
    pub attach: Attach,
    pub allow: Vec<Target>,
    pub block: Vec<Target>,
    pub max_blocked: u32,
    pub max_prefixes: u32,
    pub ipv6_unit: u8,
    pub pin_path: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interfaces {
    /// Those that carry a default route.
    Auto,
    Named(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// Native, else generic, and says so.
    Auto,
    Native,
    Generic,
}

#[derive(Clone, Debug)]
pub struct Server {
    pub listen: Vec<SocketAddr>,
    /// Networks of trusted proxies: protected.
    pub trusted_proxies: Vec<IpNet>,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub max_handshakes: usize,
    pub tls: Tls,
    pub auth: Auth,
}

#[derive(Clone, Debug)]
pub enum Tls {
    Files {
        cert_file: PathBuf,
        key_file: PathBuf,
    },
    /// Made by edge and kept beside the store; development only.
    SelfSigned,
}

#[derive(Clone, Debug)]
pub struct Auth {
    pub issuer: String,
    pub audience: String,
    pub secret_file: PathBuf,
    pub access_ttl: Duration,
    pub refresh_ttl: Duration,
    pub leeway: Duration,
    pub hashes_in_flight: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Learn {
    pub threshold: u32,
    pub window: Duration,
    pub block_for: Duration,
    pub factor: u32,
    pub block_for_max: Duration,
    pub forget_after: Duration,
    pub weights: Weights,
}

/// How much one failure of each kind counts; 0: not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    pub login: u32,
    pub token: u32,
}

#[derive(Clone, Debug)]
pub struct Metrics {
    pub listen: SocketAddr,
}

#[derive(Clone, Debug)]
pub struct Store {
    pub path: PathBuf,
}

impl Store {
    /// Where the server keeps users and sessions.
    pub fn auth_directory(&self) -> PathBuf {
        suffixed(&self.path, "-auth")
    }

    /// Where a certificate that edge made itself is kept.
    pub fn self_signed(&self) -> PathBuf {
        suffixed(&self.path, "-self-signed.pem")
    }
}

fn suffixed(path: &std::path::Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[derive(Clone, Debug)]
pub struct Admin {
    pub socket: PathBuf,
    pub group: String,
}

#[derive(Clone, Debug)]
pub struct Log {
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Auto,
    Journald,
    Json,
    Text,
}
