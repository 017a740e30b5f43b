//! From refused credentials to the decision to block: a sliding window for each client, and how often it was blocked
//! before. Pure: no clock, no I/O, no random number; the agent hands in the time and carries the decisions out.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hasher},
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use crate::server::link::Kind;
use crate::{
    block::Target,
    bounded::{Bounded, Families},
    clock::{Boot, Now, Wall},
    config::Learn,
    targets::{Lengths, Targets},
};

/// How many clients of one family are remembered. One more drops the client whose last failure is the oldest (and of
/// the histories the one whose last block ended first), so a flood of new addresses costs old evidence, never memory.
pub const MAX_CLIENTS: usize = 262_144;

/// How much of an account's name is kept to be shown, in bytes; the rest of it counts by its hash.
const NAME_SHOWN: usize = 32;

/// An account's name, cut to what is kept of it.
pub fn shown(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_SHOWN)]
}

/// A client is to be blocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub client: Target,
    pub duration: Duration,
    /// Which offence of this client it is, from 1.
    pub number: u32,
    /// For people: "5 failed logins within 10m".
    pub evidence: String,
}

/// What is remembered of a client that was blocked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    pub client: Target,
    /// How many offences there were.
    pub number: u32,
    /// When the last block ends, or ended.
    pub ended: Wall,
}

/// What stands against a client right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub score: u32,
    pub threshold: u32,
    /// The failures within the window, oldest first, with the account's name cut to 32 bytes.
    pub recent: Vec<(Wall, Kind, Option<String>)>,
    pub history: Option<History>,
}

/// Learns whom to block.
#[derive(Debug)]
pub struct Learner {
    policy: Learn,
    ipv6_unit: u8,
    clients: Families<Bounded<Target, Boot, Client>>,
    past: Families<Bounded<Target, Wall, Past>>,
}

impl Learner {
    pub fn new(policy: Learn, ipv6_unit: u8) -> Learner {
        Learner::bounded(policy, ipv6_unit, MAX_CLIENTS)
    }

    fn bounded(policy: Learn, ipv6_unit: u8, clients: usize) -> Learner {
        Learner {
            policy,
            ipv6_unit,
            clients: Families { four: Bounded::new(clients), six: Bounded::new(clients) },
            past: Families { four: Bounded::new(clients), six: Bounded::new(clients) },
        }
    }

    /// Another prefix stands for an IPv6 client from now on: what was said of the former ones says nothing of these.
    pub fn set_ipv6_unit(&mut self, ipv6_unit: u8) {
        if self.ipv6_unit != ipv6_unit {
            self.ipv6_unit = ipv6_unit;
            self.clients.six.retain(|_| false);
        }
    }

    /// What was seen so far counts by another policy from now on.
    pub fn set_policy(&mut self, policy: Learn) {
        self.policy = policy;
    }

    /// Takes over what the store remembers.
    pub fn restore(&mut self, history: History) {
        let past = Past { number: history.number, until: None };
        self.past.of(history.client).put(history.client, history.ended, past);
    }

    /// Forgets who was blocked before. What counts against clients now goes on to count.
    pub fn forget_past(&mut self) {
        for past in self.past.both() {
            past.retain(|_| false);
        }
    }

    /// Counts one refused credential. At the threshold the client's evidence is used up and the decision returned.
    /// What arrives while that block lasts (requests that were already on their way) counts for nothing.
    pub fn failure(&mut self, kind: Kind, peer: IpAddr, account: Option<&str>, now: Now) -> Option<Decision> {
        let weight = self.weight(kind);
        if weight == 0 || !learnable(peer) {
            return None;
        }
        let client = Target::client(peer, self.ipv6_unit);
        let past = self.past.of(client).find(client).copied();
        if past.and_then(|past| past.until).is_some_and(|until| now.boot < until) {
            return None;
        }
        if !self.count(client, Failure { at: now.boot, kind, account: account.map(Account::new) }, now.boot) {
            return None;
        }
        Some(self.decide(client, now))
    }

    /// A good login takes back the failures of that same name from that client, and no others: an attacker's own
    /// account clears nothing.
    pub fn success(&mut self, peer: IpAddr, account: &str) {
        let client = Target::client(peer, self.ipv6_unit);
        let clients = self.clients.of(client);
        let Some(known) = clients.find(client) else { return };
        let account = Account::new(account);
        known.failures.retain(|failure| failure.account.as_ref() != Some(&account));
        if known.failures.is_empty() {
            clients.remove(client);
        }
    }

    /// Lifted by hand: nothing stands against these clients any more. A network pardons every client inside it. Gives the
    /// clients whose past is forgotten.
    pub fn pardon(&mut self, lifted: &Targets) -> Vec<Target> {
        let mut pardoned = Vec::new();
        let mut networks = Targets::default();
        for (_, client) in lifted.iter() {
            let unit = Target::client(client.net().addr(), self.ipv6_unit);
            if client.is_single() || unit == client {
                pardoned.extend([client, unit].into_iter().filter(|one| self.forget(*one)));
            } else {
                networks.push(client);
            }
        }
        pardoned.extend(self.forget_inside(&networks.sorted()));
        pardoned
    }

    /// Whether there was a past.
    fn forget(&mut self, client: Target) -> bool {
        self.clients.of(client).remove(client);
        self.past.of(client).remove(client).is_some()
    }

    fn forget_inside(&mut self, networks: &Targets) -> Vec<Target> {
        let lengths = Lengths::of(networks);
        let inside = |known: &Target| lengths.covering(*known).any(|cover| networks.position(cover).is_some());
        let known = [&self.past.four, &self.past.six].into_iter().flat_map(|past| past.iter());
        let forgotten: Vec<Target> = known.map(|(client, ..)| client).filter(inside).collect();
        for clients in self.clients.both() {
            clients.retain(|known| !inside(&known));
        }
        for past in self.past.both() {
            past.retain(|known| !inside(&known));
        }
        forgotten
    }

    /// The block that was decided did not come about, so that further failures count again.
    pub fn not_blocked(&mut self, client: Target) {
        if let Some(past) = self.past.of(client).find(client) {
            past.until = None;
        }
    }

    /// Everything that is remembered of those who were blocked before.
    pub fn histories(&self) -> impl Iterator<Item = History> {
        let all = self.past.four.iter().chain(self.past.six.iter());
        all.map(|(client, ended, past)| History { client, number: past.number, ended })
    }

    pub fn evidence(&self, peer: IpAddr, now: Now) -> Evidence {
        let client = Target::client(peer, self.ipv6_unit);
        let recent: Vec<&Failure> = self
            .clients
            .at(client)
            .look(client)
            .map(|known| known.failures.iter().filter(|failure| self.counts(failure.at, now.boot)).collect())
            .unwrap_or_default();
        Evidence {
            score: recent.iter().fold(0, |score: u32, failure| score.saturating_add(self.weight(failure.kind))),
            threshold: self.policy.threshold,
            recent: recent.into_iter().map(|failure| failure.told(now)).collect(),
            history: self.history(client, now.wall),
        }
    }

    /// Drops what is older than the window, and the histories of those who were quiet long enough.
    pub fn sweep(&mut self, now: Now) {
        let (window, forget_after) = (self.policy.window, self.policy.forget_after);
        for clients in self.clients.both() {
            clients.drop_while(|last| last.plus(window) <= now.boot);
        }
        for past in self.past.both() {
            past.drop_while(|ended| ended.plus(forget_after) <= now.wall);
        }
    }

    /// Adds a failure and says whether the threshold is reached.
    fn count(&mut self, client: Target, failure: Failure, now: Boot) -> bool {
        let Learner { policy, clients, .. } = self;
        let known = clients.of(client).touch(client, now);
        known.failures.retain(|failure| failure.at.plus(policy.window) > now);
        known.failures.push_back(failure);
        let score =
            known.failures.iter().fold(0, |score: u32, failure| score.saturating_add(weight_of(policy, failure.kind)));
        score >= policy.threshold
    }

    fn decide(&mut self, client: Target, now: Now) -> Decision {
        let used = self.clients.of(client).remove(client).unwrap_or_default();
        let number = self.history(client, now.wall).map_or(1, |history| history.number.saturating_add(1));
        let duration = self.duration(number);
        let past = Past { number, until: Some(now.boot.plus(duration)) };
        self.past.of(client).put(client, now.wall.plus(duration), past);
        Decision { client, duration, number, evidence: told(&used.failures, self.policy.window) }
    }

    fn duration(&self, number: u32) -> Duration {
        let factor = self.policy.factor.max(1).saturating_pow(number.saturating_sub(1));
        self.policy.block_for.saturating_mul(factor).min(self.policy.block_for_max)
    }

    fn history(&self, client: Target, now: Wall) -> Option<History> {
        let (ended, past) = self.past.at(client).look_aged(client)?;
        let remembered = now < ended.plus(self.policy.forget_after);
        remembered.then_some(History { client, number: past.number, ended })
    }

    fn counts(&self, at: Boot, now: Boot) -> bool {
        at.plus(self.policy.window) > now
    }

    fn weight(&self, kind: Kind) -> u32 {
        weight_of(&self.policy, kind)
    }
}

fn weight_of(policy: &Learn, kind: Kind) -> u32 {
    match kind {
        Kind::Login => policy.weights.login,
        Kind::Token => policy.weights.token,
        Kind::Key => policy.weights.key,
    }
}

/// What no client can have is never learned.
fn learnable(peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    let broadcast = matches!(peer, IpAddr::V4(four) if four.is_broadcast());
    !(peer.is_unspecified() || peer.is_loopback() || peer.is_multicast() || broadcast)
}

/// "3 failed logins and 2 refused tokens within 10m".
fn told(failures: &VecDeque<Failure>, window: Duration) -> String {
    let counted = |kind, one: &str| {
        let count = failures.iter().filter(|failure| failure.kind == kind).count();
        (count > 0).then(|| format!("{count} {one}{}", if count == 1 { "" } else { "s" }))
    };
    let parts: Vec<String> =
        [counted(Kind::Login, "failed login"), counted(Kind::Token, "refused token")].into_iter().flatten().collect();
    let window = jiff::SignedDuration::try_from(window).unwrap_or(jiff::SignedDuration::MAX);
    format!("{} within {window:#}", parts.join(" and "))
}

/// The failures of one client: fewer than the threshold, since each weighs at least 1 and the threshold clears them.
#[derive(Debug, Default)]
struct Client {
    failures: VecDeque<Failure>,
}

#[derive(Debug)]
struct Failure {
    at: Boot,
    kind: Kind,
    account: Option<Account>,
}

impl Failure {
    fn told(&self, now: Now) -> (Wall, Kind, Option<String>) {
        let account = self.account.as_ref().map(|account| account.shown.to_string());
        (now.wall_of(self.at), self.kind, account)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Past {
    number: u32,
    /// When the block that was decided here ends; `None` for what came from the store.
    until: Option<Boot>,
}

/// An account's name in bounded space.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    shown: Box<str>,
    hash: u64,
}

impl Account {
    fn new(name: &str) -> Account {
        let mut hasher = DefaultHasher::new();
        hasher.write(name.as_bytes());
        Account { shown: shown(name).into(), hash: hasher.finish() }
    }
}

#[cfg(test)]
mod tests;
