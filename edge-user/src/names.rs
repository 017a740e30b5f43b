//! The addresses of hosts that the config names, as identity providers are: what edge itself depends on is never blocked.
//! The system's resolver is asked every minute, on a thread of its own, since it may take as long as it likes. Its answer
//! is believed, so each name brings a bounded number of addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::mpsc::{Receiver, TryRecvError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use hyper::Uri;

use crate::{
    clock::Boot,
    config::{Config, KeysFrom},
};

const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Who answers for a name by turns has more addresses than one answer says.
const KEPT_FOR: Duration = Duration::from_secs(3_600);
/// How long a command waits for addresses.
const SOON: Duration = Duration::from_secs(2);
/// Addresses of one name.
const MOST: usize = 64;

/// Each address, and what stands there.
pub type Named = BTreeMap<IpAddr, &'static str>;

type Resolve = fn(&str) -> io::Result<Vec<IpAddr>>;
type Answers = Receiver<(String, io::Result<Vec<IpAddr>>)>;

/// What is known of the names by now.
pub struct Names {
    resolve: Resolve,
    /// When each address was last in an answer.
    found: BTreeMap<String, BTreeMap<IpAddr, Boot>>,
    /// Of which the last answer was none.
    failing: BTreeSet<String>,
    asking: Option<Answers>,
    asked: Option<(Boot, BTreeSet<String>)>,
}

impl Default for Names {
    fn default() -> Names {
        Names::by(resolve)
    }
}

impl Names {
    fn by(resolve: Resolve) -> Names {
        Names { resolve, found: BTreeMap::new(), failing: BTreeSet::new(), asking: None, asked: None }
    }

    /// As far as they are known; asks again where that is due, and never waits.
    pub fn addresses(&mut self, config: &Config, now: Boot) -> Named {
        self.follow(&hosts(config), now)
    }

    fn follow(&mut self, hosts: &BTreeMap<String, &'static str>, now: Boot) -> Named {
        self.found.retain(|host, _| hosts.contains_key(host));
        self.failing.retain(|host| hosts.contains_key(host));
        self.take(now);
        self.ask(hosts.keys().filter(|host| literal(host).is_none()).cloned().collect(), now);
        named(hosts, |host| self.found.get(host).into_iter().flat_map(BTreeMap::keys).copied().collect())
    }

    fn take(&mut self, now: Boot) {
        let Some(answers) = &self.asking else { return };
        loop {
            match answers.try_recv() {
                Ok((host, Ok(addresses))) => {
                    if self.failing.remove(&host) {
                        tracing::info!("{host}: its addresses are found again");
                    }
                    let seen = self.found.entry(host).or_default();
                    seen.retain(|_, last| now.since(*last) < KEPT_FOR);
                    seen.extend(addresses.into_iter().map(|address| (address, now)));
                    while seen.len() > MOST
                        && let Some(oldest) = seen.iter().min_by_key(|(_, last)| **last).map(|(address, _)| *address)
                    {
                        seen.remove(&oldest);
                    }
                }
                // What was found before stays.
                Ok((host, Err(error))) => {
                    if self.failing.insert(host.clone()) {
                        tracing::warn!(
                            "{host}: its addresses cannot be found: {error}; those found before stay protected"
                        );
                    }
                }
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => break,
            }
        }
        self.asking = None;
    }

    fn ask(&mut self, hosts: BTreeSet<String>, now: Boot) {
        let is_due = self.asked.as_ref().is_none_or(|(at, of)| now.since(*at) >= AGAIN_AFTER || *of != hosts);
        if self.asking.is_none() && is_due {
            self.asking = (!hosts.is_empty()).then(|| asked(hosts.clone(), self.resolve)).flatten();
            self.asked = Some((now, hosts));
        }
    }
}

/// For a command, which waits a moment for it.
pub fn found_soon(config: &Config) -> Named {
    let (hosts, end) = (hosts(config), Instant::now() + SOON);
    let names = hosts.keys().filter(|host| literal(host).is_none()).cloned().collect::<BTreeSet<_>>();
    let mut found: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let answers = (!names.is_empty()).then(|| asked(names, resolve)).flatten();
    let left = || end.saturating_duration_since(Instant::now());
    while let Some(Ok((host, answer))) = answers.as_ref().map(|answers| answers.recv_timeout(left())) {
        found.insert(host, answer.unwrap_or_default());
    }
    named(&hosts, |host| found.get(host).cloned().unwrap_or_default())
}

/// `None`: no thread can be started, and it is tried again when it is due again.
fn asked(hosts: BTreeSet<String>, resolve: Resolve) -> Option<Answers> {
    let (tell, answers) = sync_channel(hosts.len());
    let ask = move || {
        hosts.into_iter().map(|host| (resolve(&host), host)).try_for_each(|(told, host)| tell.send((host, told)))
    };
    let thread = thread::Builder::new().name("resolver".to_owned()).spawn(move || drop(ask()));
    thread.is_ok().then_some(answers)
}

fn named(hosts: &BTreeMap<String, &'static str>, found: impl Fn(&str) -> Vec<IpAddr>) -> Named {
    let of = |host: &str| literal(host).map_or_else(|| found(host), |address| vec![address]);
    hosts.iter().flat_map(|(host, what)| of(host).into_iter().map(|address| (address, *what))).collect()
}

/// Each host that is named, and what stands there.
fn hosts(config: &Config) -> BTreeMap<String, &'static str> {
    let Some(server) = &config.server else { return BTreeMap::new() };
    let keys = server.auth.trusted_issuers.iter().filter_map(|issuer| match &issuer.keys {
        KeysFrom::Url(url) => host(url),
        KeysFrom::File(_) => None,
    });
    let providers = server.auth.oidc.iter().filter_map(|provider| host(&provider.issuer));
    keys.chain(providers).map(|host| (host, "it is an identity provider")).collect()
}

fn host(url: &str) -> Option<String> {
    Some(url.parse::<Uri>().ok()?.host()?.to_ascii_lowercase())
}

/// Of a host that is an address, as it stands in a URL.
fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

fn resolve(host: &str) -> io::Result<Vec<IpAddr>> {
    let found: BTreeSet<IpAddr> = (host, 0).to_socket_addrs()?.map(|address| address.ip().to_canonical()).collect();
    Ok(found.into_iter().take(MOST).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHAT: &str = "it is an identity provider";

    fn at(seconds: u64) -> Boot {
        Boot(seconds * 1_000_000_000)
    }

    fn of(hosts: &[&str]) -> BTreeMap<String, &'static str> {
        hosts.iter().map(|host| ((*host).to_owned(), WHAT)).collect()
    }

    fn addresses(named: &Named) -> Vec<String> {
        named.keys().map(ToString::to_string).collect()
    }

    /// Asks, and takes the answer.
    fn followed(names: &mut Names, hosts: &[&str], now: Boot) -> Vec<String> {
        names.follow(&of(hosts), now);
        while names.asking.is_some() {
            names.take(now);
            thread::yield_now();
        }
        addresses(&names.follow(&of(hosts), now))
    }

    #[test]
    fn an_address_needs_no_resolver_and_a_name_is_known_when_it_has_answered() {
        let mut names = Names::by(|host| {
            if host == "a.test" { Ok(vec!["192.0.2.7".parse().unwrap()]) } else { Err(io::ErrorKind::NotFound.into()) }
        });
        let hosts = ["198.51.100.9", "[2001:db8::1]", "a.test", "b.test"];
        let first = names.follow(&of(&hosts), at(0));
        assert_eq!(addresses(&first), ["198.51.100.9", "2001:db8::1"]);
        assert_eq!(followed(&mut names, &hosts, at(1)), ["192.0.2.7", "198.51.100.9", "2001:db8::1"]);
        assert_eq!(followed(&mut names, &["b.test"], at(2)), [""; 0], "who is named no more is not protected");
    }

    #[test]
    fn what_answers_by_turns_is_kept_for_an_hour_and_what_fails_keeps_what_it_had() {
        let mut names = Names::by(|_| Ok(vec!["192.0.2.1".parse().unwrap()]));
        assert_eq!(followed(&mut names, &["a.test"], at(0)), ["192.0.2.1"]);
        names.resolve = |_| Ok(vec!["192.0.2.2".parse().unwrap()]);
        assert_eq!(followed(&mut names, &["a.test"], at(30)), ["192.0.2.1"], "it is not asked that often");
        assert_eq!(followed(&mut names, &["a.test"], at(60)), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(followed(&mut names, &["a.test"], at(3_600)), ["192.0.2.2"]);
        names.resolve = |_| Err(io::ErrorKind::TimedOut.into());
        assert_eq!(followed(&mut names, &["a.test"], at(90_000)), ["192.0.2.2"]);
    }

    #[test]
    fn a_name_brings_a_bounded_number() {
        let mut names = Names::by(|_| Ok((0..MOST as u32).map(|n| IpAddr::V4((0xc000_0200 + n).into())).collect()));
        followed(&mut names, &["a.test"], at(0));
        names.resolve = |_| Ok(vec!["198.51.100.9".parse().unwrap()]);
        let found = followed(&mut names, &["a.test"], at(60));
        assert!(found.len() == MOST && found.contains(&"198.51.100.9".to_owned()));
    }
}
