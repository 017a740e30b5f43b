//! The configuration: what was typed (`raw`), what it means with all errors at once (`validate`), and how one differs
//! from another (`diff`).

mod diff;
pub mod duration;
mod files;
mod filter;
mod issuers;
mod oidc;
mod partial;
mod raw;
#[cfg(test)]
mod readme;
#[cfg(test)]
mod tests;
mod tls;
mod validate;

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;

use edge_common::ports::Exposure;

use crate::{block::Target, error::Blame, server::jws::Algorithm};

pub use diff::{Difference, costs};
pub use files::{SigningFrom, read_client_secret, read_keys, read_signing_key, signing_from};
pub use filter::interface_name;
pub use issuers::{KeysFrom, TrustedIssuer};
pub use oidc::Oidc;
pub use raw::{ConfigErrors, Place, Problem};
pub use validate::Places;

/// The config file where none is named.
pub const DEFAULT_FILE: &str = "/etc/edge/edge.toml";
/// The admin socket where none is named.
pub const DEFAULT_SOCKET: &str = "/run/edge/edge.sock";

/// What the command line puts in place of what the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Empty: as the file says.
    pub interfaces: Vec<String>,
    pub socket: Option<PathBuf>,
    /// The number of `-v` less that of `-q`.
    pub loudness: i16,
    /// For commands that need no interface: a file that names none is good.
    pub interfaces_optional: bool,
}

/// A configuration that was read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// As it was written.
    pub text: String,
    pub mode: Mode,
    pub filter: Filter,
    /// `None`: nothing is served.
    pub server: Option<Server>,
    pub learn: Learn,
    pub metrics: Metrics,
    pub store: Store,
    pub admin: Admin,
    pub log: Log,
    /// What hinders nothing, but is hardly meant.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// Reads and checks the file alone; the files that it names are not looked at.
    pub fn load(file: &Path, overrides: &Overrides) -> Result<Config, ConfigErrors> {
        let text = read(file)?;
        Config::parse(file, &text, overrides)
    }

    /// The same, but a file that is not there is an empty one.
    pub fn load_optional(file: &Path, overrides: &Overrides) -> Result<Config, ConfigErrors> {
        let text = read_optional(file)?;
        Config::parse(file, &text, overrides)
    }

    /// The same as [`load`](Self::load), and all that is wrong with the files it names.
    pub fn load_with_files(file: &Path, overrides: &Overrides) -> Result<Config, ConfigErrors> {
        Config::parse_with_files(file, &read(file)?, overrides)
    }

    /// The same from text that is already read; `file` only names it.
    pub fn parse_with_files(file: &Path, text: &str, overrides: &Overrides) -> Result<Config, ConfigErrors> {
        let mut problems = raw::Problems::of(text);
        let (config, places) = validate::config(file, text, overrides, &mut problems);
        files::check(&config, &places, &mut problems);
        finished(config, problems)
    }

    /// The same as [`load_with_files`](Self::load_with_files), and what `look` finds on this machine.
    pub fn examine(
        file: &Path,
        overrides: &Overrides,
        look: impl FnOnce(&Config, &Places) -> Vec<(Place, String)>,
    ) -> Result<Config, ConfigErrors> {
        let text = read(file)?;
        let mut problems = raw::Problems::of(&text);
        let (config, places) = validate::config(file, &text, overrides, &mut problems);
        files::check(&config, &places, &mut problems);
        for (place, warning) in look(&config, &places) {
            problems.warn(&place, warning);
        }
        finished(config, problems)
    }

    /// The file of this config, which is in force, read and checked again, and what differs. A key that no reload can
    /// change is wrong beside all that is wrong otherwise.
    pub fn read_again(&self, overrides: &Overrides) -> Result<(Config, Difference), ConfigErrors> {
        let text = read(&self.file)?;
        let mut problems = raw::Problems::of(&text);
        let (config, places) = validate::config(&self.file, &text, overrides, &mut problems);
        files::check(&config, &places, &mut problems);
        let difference = Difference::between(self, &config);
        let (mut found, warnings) = problems.into_sorted();
        let blame = if found.is_empty() { Blame::Refused } else { Blame::Usage };
        found.extend(fixed(&difference, &found, &text));
        if found.is_empty() {
            return Ok((Config { warnings, ..config }, difference));
        }
        Err(ConfigErrors { warnings, ..ConfigErrors::new(config.file, found, blame) })
    }

    /// From text that is already read; `file` only names it.
    pub fn parse(file: &Path, text: &str, overrides: &Overrides) -> Result<Config, ConfigErrors> {
        let mut problems = raw::Problems::of(text);
        let (config, _) = validate::config(file, text, overrides, &mut problems);
        finished(config, problems)
    }

    /// As far as the `needed` keys are beyond doubt; the second is what is wrong elsewhere. If `optional`, a file that
    /// is not there is an empty one.
    pub fn load_partly(file: &Path, optional: bool, needed: &[&str]) -> Result<(Config, Vec<Problem>), ConfigErrors> {
        let overrides = Overrides { interfaces_optional: true, ..Overrides::default() };
        let text = if optional { read_optional(file)? } else { read(file)? };
        partial::parse(file, &text, &overrides, needed)
    }

    /// The admin socket that a file names, whatever else is wrong with it.
    pub fn socket_in(file: &Path) -> std::io::Result<PathBuf> {
        std::fs::read_to_string(file).map(|text| validate::socket(&text))
    }
}

fn read(file: &Path) -> Result<String, ConfigErrors> {
    std::fs::read_to_string(file).map_err(|error| ConfigErrors::unreadable(file.to_owned(), &error))
}

fn read_optional(file: &Path) -> Result<String, ConfigErrors> {
    match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| ConfigErrors::unreadable(file.to_owned(), &error)),
    }
}

fn finished(config: Config, problems: raw::Problems<'_>) -> Result<Config, ConfigErrors> {
    match problems.into_sorted() {
        (problems, warnings) if problems.is_empty() => Ok(Config { warnings, ..config }),
        (problems, warnings) => {
            Err(ConfigErrors { warnings, ..ConfigErrors::new(config.file, problems, Blame::Usage) })
        }
    }
}

/// Those of the keys that no reload can change whose value is beyond doubt, for all that was `found` otherwise.
fn fixed(difference: &Difference, found: &[Problem], text: &str) -> Vec<Problem> {
    let mut problems = raw::Problems::of(text);
    let beyond_doubt = |key: &str| !found.iter().any(|problem| partial::puts_in_doubt(problem, key, text));
    for (key, why) in difference.fixed.iter().filter(|(key, _)| beyond_doubt(key)) {
        let message = format!("cannot change in a reload, for {why}; put it back, or restart the agent");
        problems.at(&raw::place_of(text, key), message);
    }
    problems.into_sorted().0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Production,
    Development,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub interfaces: Interfaces,
    pub attach: Attach,
    /// Count what would be dropped, drop nothing.
    pub dry_run: bool,
    /// Empty: all are.
    pub exposed_ports: Vec<Exposed>,
    /// TCP ports whose connections `limits.connections` counts, ascending. Empty: all are.
    pub capped_ports: Vec<u16>,
    pub drop_fragments: bool,
    /// Addresses with connection or rate state at once.
    pub max_tracked: u32,
    pub limits: Limits,
    pub allow: Vec<Target>,
    pub block: Vec<Target>,
    pub max_blocked: u32,
    pub max_prefixes: u32,
    pub ipv6_unit: u8,
    pub pin_path: PathBuf,
}

/// A port or protocol that takes new traffic, and how it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    pub text: String,
    pub exposure: Exposure,
}

/// Each off unless given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections of one address at once.
    pub connections: Option<u32>,
    /// New TCP connections of one address.
    pub syns: Option<Rate>,
    /// Packets of one address.
    pub packets: Option<Rate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interfaces {
    /// Those that carry a default route.
    Auto,
    Named(Vec<String>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// Native, else generic, and says so.
    #[default]
    Auto,
    Native,
    Generic,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub listen: Vec<SocketAddr>,
    /// Where plain HTTP is sent on to `listen`.
    pub http_redirect: Vec<SocketAddr>,
    /// Networks of trusted proxies: protected.
    pub trusted_proxies: Vec<IpNet>,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub max_handshakes: usize,
    pub tls: Tls,
    pub auth: Auth,
}

/// Whether a connection with this end came in by a listener on one of these addresses.
pub fn listens_on(addresses: &[SocketAddr], local: SocketAddr) -> bool {
    let ip = local.ip().to_canonical();
    let takes = |of: IpAddr| of == ip || of.is_unspecified() && of.is_ipv4() == ip.is_ipv4();
    addresses.iter().any(|listen| listen.port() == local.port() && takes(listen.ip()))
}

/// What the listeners prove themselves with. The first certificate answers whoever asks for a name that none has. Where
/// there is nothing at all, they speak plain HTTP: development, and on loopback alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub files: Vec<CertificateFiles>,
    /// Made by edge and kept beside the store; development only.
    pub self_signed: bool,
    /// Has an authority issue one more.
    pub acme: Option<Acme>,
}

/// How certificates are had by ACME (RFC 8555).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// In lower case, at least one.
    pub domains: Vec<String>,
    /// As `mailto:ops@example.org`.
    pub contact: Option<String>,
    pub directory: String,
}

/// A certificate chain and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    pub issuer: String,
    pub audience: String,
    pub algorithm: Algorithm,
    /// The secret, or the private key in PEM, by the algorithm.
    pub signing_file: PathBuf,
    pub access_ttl: Duration,
    pub refresh_ttl: Duration,
    pub leeway: Duration,
    pub hashes_in_flight: usize,
    /// How long the session of a browser may be idle.
    pub session_idle: Duration,
    /// How long it may last.
    pub session_absolute: Duration,
    pub trusted_issuers: Vec<TrustedIssuer>,
    pub oidc: Vec<Oidc>,
}

impl Auth {
    /// The key of the config that names what is signed with.
    pub const fn signing_key(&self) -> &'static str {
        if self.algorithm.is_symmetric() { "auth.secret_file" } else { "auth.key_file" }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
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
    pub key: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    pub listen: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    pub path: PathBuf,
}

impl Default for Store {
    fn default() -> Store {
        Store { path: PathBuf::from("/var/lib/edge/edge.db") }
    }
}

impl Store {
    /// Where the server keeps users and sessions.
    pub fn auth_directory(&self) -> PathBuf {
        suffixed(&self.path, "-auth")
    }

    /// Where the audit log is kept that no journal takes.
    pub fn audit(&self) -> PathBuf {
        suffixed(&self.path, "-audit")
    }

    /// Where the config is kept that was confirmed last, while the file says another.
    pub fn confirmed(&self) -> PathBuf {
        suffixed(&self.path, "-confirmed.json")
    }

    /// Where a certificate that edge made itself is kept.
    pub fn self_signed(&self) -> PathBuf {
        suffixed(&self.path, "-self-signed.pem")
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    pub socket: PathBuf,
    pub group: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    pub audit: AuditTo,
    /// How much more is logged than usual.
    pub loudness: i16,
}

/// Where the audit log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AuditTo {
    /// Without a journal: standard error and the store.
    #[default]
    Journald,
    File(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Auto,
    Journald,
    Json,
    Text,
}
