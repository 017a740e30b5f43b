//! What the typed document means: defaults, bounds, and what production forbids. Every problem is reported, none ends
//! the reading.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Admin, AuditTo, Auth, Config, Learn, Log, LogFormat, Metrics, Mode, Overrides, Server, Store, Tls, Weights,
    filter::FilterPlaces,
    raw::{Node, Place, Problems, Section},
    tls::{CertificatePlaces, tls},
};
use crate::server::jws::Algorithm;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Where the text says what only a look at the machine can judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    pub filter: FilterPlaces,
    pub group: Place,
    pub signing: Place,
    /// In the order of the files.
    pub certificates: Vec<CertificatePlaces>,
    /// Where each trusted issuer says where its keys are.
    pub issuers: Vec<Place>,
    /// Where each OpenID provider names its secret.
    pub oidc: Vec<Place>,
    pub audit: Option<Place>,
}

/// Reads the document. The result is meaningful only if no problem was added.
pub fn config(file: &Path, text: &str, overrides: &Overrides, problems: &mut Problems<'_>) -> (Config, Places) {
    let mut document = Section::document(text, problems);
    let modes = [("production", Mode::Production), ("development", Mode::Development)];
    let mode = document.read("mode", problems, Mode::Production, |node, p| node.choice(p, &modes));
    let (filter, filter_places) = super::filter::filter(document.section("filter", problems), overrides, problems);
    let mut server_section = document.section("server", problems);
    let auth_section = document.section("auth", problems);
    if auth_section.present && !server_section.present {
        let place = Place { offset: auth_section.offset, key: "auth".to_owned() };
        problems.warn(&place, "says nothing without [server], which serves it; write that too, or leave this out");
    }
    let (auth, signing, issuers, oidc) = auth(auth_section, mode, problems);
    let listen = listen(&mut server_section, problems);
    let may_be_plain = mode == Mode::Development && listen.iter().all(|address| address.ip().is_loopback());
    let (tls, certificates) = tls(server_section.section("tls", problems), mode, may_be_plain, problems);
    let server = server(server_section, listen, tls, auth, problems);
    let (admin, group) = admin(document.section("admin", problems), overrides, problems);
    let (log, audit) = log(document.section("log", problems), overrides, problems);
    let config = Config {
        file: file.to_owned(),
        text: text.to_owned(),
        mode,
        filter,
        server,
        learn: learn(document.section("learn", problems), problems),
        metrics: metrics(document.section("metrics", problems), problems),
        store: store(document.section("store", problems), problems),
        admin,
        log,
        warnings: Vec::new(),
    };
    document.finish(problems);
    (config, Places { filter: filter_places, group, signing, certificates, issuers, oidc, audit })
}

/// The socket that the config names, whatever else is wrong with it.
pub fn socket(text: &str) -> PathBuf {
    let mut problems = Problems::of(text);
    let mut document = Section::document(text, &mut problems);
    let section = document.section("admin", &mut problems);
    admin(section, &Overrides::default(), &mut problems).0.socket
}

/// Networks of which the kernel is told that they are trusted. Its tables take 65,536 of a family, from two such lists, the
/// host's surroundings and who is allowed at run time.
pub(super) fn trusted<T>(
    node: &Node<'_, '_>,
    problems: &mut Problems<'_>,
    read: impl FnMut(&Node<'_, '_>, &mut Problems<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    const AT_MOST: usize = 30_000;
    let list = node.list(problems, read)?;
    if list.len() > AT_MOST {
        return node.wrong(problems, format!("names {} networks; write at most {AT_MOST}", list.len()));
    }
    Some(list)
}

pub(super) fn target(node: &Node<'_, '_>, problems: &mut Problems<'_>) -> Option<crate::block::Target> {
    match node.text(problems)?.parse() {
        Ok(target) => Some(target),
        Err(error) => node.wrong(problems, error.to_string()),
    }
}

fn listen(section: &mut Section<'_>, problems: &mut Problems<'_>) -> Vec<SocketAddr> {
    let everywhere = vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 443))];
    section.read("listen", problems, everywhere, |node, p| {
        let addresses = node.list(p, socket_address)?;
        let mut seen = BTreeSet::new();
        match addresses.iter().find(|address| !seen.insert(**address)) {
            _ if addresses.is_empty() => node.wrong(p, "names no address; write [\"0.0.0.0:443\"]"),
            Some(twice) => node.wrong(p, format!("names {twice} twice; write it once")),
            None => Some(addresses),
        }
    })
}

fn server(
    mut section: Section<'_>,
    listen: Vec<SocketAddr>,
    tls: Tls,
    auth: Auth,
    problems: &mut Problems<'_>,
) -> Option<Server> {
    let listened = listen.clone();
    let server = Server {
        listen,
        http_redirect: section.read("http_redirect", problems, Vec::new(), |node, p| {
            let addresses = node.list(p, socket_address)?;
            match addresses.iter().find(|address| listened.contains(address)) {
                Some(both) => node.wrong(p, format!("{both} is in `listen` too; write another port, as 80")),
                None => Some(addresses),
            }
        }),
        trusted_proxies: section.read("trusted_proxies", problems, Vec::new(), |node, p| {
            trusted(node, p, |node, p| target(node, p).map(|target| target.net()))
        }),
        header_timeout: duration(&mut section, "header_timeout", problems, 10 * SECOND, SECOND..=HOUR),
        idle_timeout: duration(&mut section, "idle_timeout", problems, MINUTE, SECOND..=DAY),
        max_handshakes: number(&mut section, "max_handshakes", problems, 256, 1..=65_536) as usize,
        tls,
        auth,
    };
    let present = section.present;
    section.finish(problems);
    present.then_some(server)
}

fn auth(mut section: Section<'_>, mode: Mode, problems: &mut Problems<'_>) -> (Auth, Place, Vec<Place>, Vec<Place>) {
    let algorithms = Algorithm::ALL.map(|algorithm| (algorithm.name(), algorithm));
    let read = section.read_placed("algorithm", problems, |node, p| node.choice(p, &algorithms));
    let known = read.map_or(Some(Algorithm::HS256), |(algorithm, _)| algorithm);
    let algorithm = known.unwrap_or(Algorithm::HS256);
    let (signing_file, place) = signing_file(&mut section, known, problems);
    let issuer = section.read("issuer", problems, "edge".to_owned(), |node, p| node.string(p));
    let (trusted_issuers, issuers) = super::issuers::trusted(&mut section, mode, &issuer, problems);
    let (oidc, client_secrets) = super::oidc::oidc(&mut section, mode, &issuer, &trusted_issuers, problems);
    let mut session = section.section("session", problems);
    let session_idle = duration(&mut session, "idle", problems, 30 * MINUTE, SECOND..=YEAR);
    let session_absolute = duration(&mut session, "absolute", problems, 12 * HOUR, SECOND..=YEAR);
    session.finish(problems);
    let auth = Auth {
        issuer,
        audience: section.read("audience", problems, "api".to_owned(), |node, p| node.string(p)),
        algorithm,
        signing_file,
        access_ttl: duration(&mut section, "access_ttl", problems, DAY, SECOND..=YEAR),
        refresh_ttl: duration(&mut section, "refresh_ttl", problems, 30 * DAY, SECOND..=10 * YEAR),
        leeway: duration(&mut section, "leeway", problems, 30 * SECOND, Duration::ZERO..=MINUTE),
        hashes_in_flight: number(&mut section, "hashes_in_flight", problems, 4, 1..=1_024) as usize,
        session_idle,
        session_absolute,
        trusted_issuers,
        oidc,
    };
    section.finish(problems);
    (auth, place, issuers, client_secrets)
}

/// What this algorithm signs with, and where that is said. The other kind of key beside it is a mistake. `None`: nobody
/// knows which is meant, so that nothing can be said of its keys.
fn signing_file(
    section: &mut Section<'_>,
    algorithm: Option<Algorithm>,
    problems: &mut Problems<'_>,
) -> (PathBuf, Place) {
    let Some(algorithm) = algorithm else {
        for key in ["secret_file", "key_file"] {
            section.read_placed(key, problems, |node, p| node.path(p));
        }
        return (PathBuf::new(), section.place("algorithm"));
    };
    let (own, other) = if algorithm.is_symmetric() { ("secret_file", "key_file") } else { ("key_file", "secret_file") };
    let name = algorithm.name();
    if let Some((_, place)) = section.read_placed(other, problems, |node, p| node.path(p)) {
        problems.at(&place, format!("says nothing with algorithm = \"{name}\", which takes {own}; leave it out"));
    }
    match section.read_placed(own, problems, |node, p| node.path(p)) {
        Some((path, place)) => (path.unwrap_or_default(), place),
        None if algorithm.is_symmetric() => (PathBuf::from("/etc/edge/secrets/jwt"), section.place(own)),
        None => {
            let place = section.place(own);
            problems.at(&place, format!("is missing; write the file with the private key for {name}"));
            (PathBuf::new(), place)
        }
    }
}

fn learn(mut section: Section<'_>, problems: &mut Problems<'_>) -> Learn {
    let mut weights = section.section("weights", problems);
    let learn = Learn {
        threshold: number(&mut section, "threshold", problems, 5, 1..=1_000_000),
        window: duration(&mut section, "window", problems, 10 * MINUTE, SECOND..=YEAR),
        block_for: duration(&mut section, "block_for", problems, 15 * MINUTE, SECOND..=10 * YEAR),
        factor: number(&mut section, "factor", problems, 4, 1..=1_000),
        block_for_max: duration(&mut section, "block_for_max", problems, 7 * DAY, SECOND..=10 * YEAR),
        forget_after: duration(&mut section, "forget_after", problems, 30 * DAY, SECOND..=10 * YEAR),
        weights: Weights {
            login: number(&mut weights, "login", problems, 1, 0..=1_000_000),
            token: number(&mut weights, "token", problems, 1, 0..=1_000_000),
            key: number(&mut weights, "key", problems, 1, 0..=1_000_000),
        },
    };
    weights.finish(problems);
    if learn.block_for > learn.block_for_max {
        let place = section.place("block_for_max");
        problems.at(&place, "is shorter than block_for; write the longest block, at least as long as block_for");
    }
    section.finish(problems);
    learn
}

fn metrics(mut section: Section<'_>, problems: &mut Problems<'_>) -> Metrics {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 9464));
    let metrics = Metrics { listen: section.read("listen", problems, default, socket_address) };
    section.finish(problems);
    metrics
}

fn store(mut section: Section<'_>, problems: &mut Problems<'_>) -> Store {
    let store = Store { path: section.read("path", problems, Store::default().path, |node, p| node.path(p)) };
    section.finish(problems);
    store
}

fn admin(mut section: Section<'_>, overrides: &Overrides, problems: &mut Problems<'_>) -> (Admin, Place) {
    let socket = section.read("socket", problems, PathBuf::from(super::DEFAULT_SOCKET), |node, p| node.path(p));
    let group = section.read_placed("group", problems, |node, p| node.string(p));
    let place = group.as_ref().map_or_else(|| section.place("group"), |(_, place)| place.clone());
    let admin = Admin {
        socket: overrides.socket.clone().unwrap_or(socket),
        group: group.and_then(|(group, _)| group).unwrap_or_else(|| "edge".to_owned()),
    };
    section.finish(problems);
    (admin, place)
}

fn log(mut section: Section<'_>, overrides: &Overrides, problems: &mut Problems<'_>) -> (Log, Option<Place>) {
    let formats = [
        ("auto", LogFormat::Auto),
        ("journald", LogFormat::Journald),
        ("json", LogFormat::Json),
        ("text", LogFormat::Text),
    ];
    let format = section.read("format", problems, LogFormat::Auto, |node, p| node.choice(p, &formats));
    let audit = section.read_placed("audit", problems, audit_to);
    section.finish(problems);
    let place = audit.as_ref().map(|(_, place)| place.clone());
    let audit = audit.and_then(|(audit, _)| audit).unwrap_or_default();
    (Log { format, audit, loudness: overrides.loudness }, place)
}

fn audit_to(node: &Node<'_, '_>, problems: &mut Problems<'_>) -> Option<AuditTo> {
    match node.text(problems)? {
        "journald" => Some(AuditTo::Journald),
        path if path.starts_with('/') && !path.ends_with('/') => Some(AuditTo::File(PathBuf::from(path))),
        other => {
            let right = "write `journald`, or the absolute path of a file, as /var/log/edge/audit.log";
            node.wrong(problems, format!("`{other}` is neither; {right}"))
        }
    }
}

pub(super) fn number(
    section: &mut Section<'_>,
    key: &'static str,
    problems: &mut Problems<'_>,
    default: u32,
    allowed: RangeInclusive<u32>,
) -> u32 {
    section.read(key, problems, default, |node, problems| node.number(problems, allowed))
}

fn duration(
    section: &mut Section<'_>,
    key: &'static str,
    problems: &mut Problems<'_>,
    default: Duration,
    allowed: RangeInclusive<Duration>,
) -> Duration {
    section.read(key, problems, default, |node, problems| node.duration(problems, allowed))
}

fn socket_address(node: &Node<'_, '_>, problems: &mut Problems<'_>) -> Option<SocketAddr> {
    let address: SocketAddr = node.parsed(problems, "an address and a port, as 0.0.0.0:443 or [::]:443")?;
    match address.ip() {
        IpAddr::V6(six) if six.is_multicast() => node.wrong(problems, "is multicast; write an address of this host"),
        IpAddr::V4(four) if four.is_multicast() => node.wrong(problems, "is multicast; write an address of this host"),
        _ => Some(address),
    }
}
