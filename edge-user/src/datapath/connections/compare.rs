//! What is counted against what the kernel has: connections from before the start are counted so, and whatever went wrong
//! is put right. Only in this network namespace, the only one whose sockets can be listed.
//!
//! Safe beside the kernel's own counting: what differs is looked at twice, since it may have changed in between.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use edge_common::{connection::Counted, rate::Place};

use super::{Connections, Entered, mapped};
use crate::{
    error::{Blame, Context, Failure},
    netlink::{self, Connection},
};

/// What was put right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Open and not counted.
    pub entered: u64,
    /// Counted and not open.
    pub left: u64,
    /// Counts that were not those of the connections that are listed.
    pub corrected: u64,
    /// How many are counted whose end only a comparison sees, since they are older than the program.
    pub older: u64,
    /// Over their client's cap, and still open.
    pub excess: Vec<Connection>,
}

impl Compared {
    pub fn repairs(&self) -> u64 {
        self.entered + self.left + self.corrected
    }
}

/// Compares again and again.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Counts that differed from the list by so much.
    odd: HashMap<Key, i64>,
}

impl Comparison {
    pub fn compare(&mut self, connections: &mut Connections) -> Result<Compared, Failure> {
        let listed = connections.all()?;
        let sockets = Sockets::read()?;
        let mut compared = Compared {
            older: listed.values().filter(|counted| counted.is_older()).count() as u64,
            corrected: self.correct(connections, &listed)?,
            ..Compared::default()
        };
        // As a reload asked for.
        let uncapped = listed.iter().filter(|(_, counted)| !connections.caps(counted.port)).map(|(cookie, _)| *cookie);
        for cookie in uncapped.collect::<Vec<_>>() {
            connections.leave(cookie);
        }
        let is_ghost = |(cookie, counted): &(&u64, &Counted)| counted.is_own() && !sockets.open.contains_key(*cookie);
        let ghosts: Vec<u64> = listed.iter().filter(is_ghost).map(|(cookie, _)| *cookie).collect();
        let entered = enter(connections, &sockets, |cookie| listed.contains_key(&cookie))?.0;
        let ghosts: Vec<u64> = ghosts.into_iter().filter(|cookie| connections.is_open(*cookie)).collect();
        if !ghosts.is_empty() || !entered.is_empty() {
            let still_open = Sockets::read()?.open;
            for cookie in ghosts.into_iter().filter(|cookie| !still_open.contains_key(cookie)) {
                let left = connections.leave(cookie);
                compared.left += u64::from(left && !listed.get(&cookie).is_some_and(Counted::is_older));
            }
            compared.entered = entered.len() as u64 - leave_closed(connections, entered, &still_open);
            compared.older += compared.entered;
        }
        let is_over =
            |counted: &Counted| counted.is_own() && counted.is_excess() && connections.is_over(counted.place());
        let excess = listed.iter().filter(|(_, counted)| is_over(counted)).map(|(cookie, _)| cookie);
        compared.excess = excess.filter_map(|cookie| sockets.open.get(cookie).cloned()).collect();
        Ok(compared)
    }

    /// A count that differs from the list by the same in two comparisons, of a client that opened and closed nothing
    /// meanwhile, was miscounted, and not counted just now.
    fn correct(&mut self, connections: &Connections, listed: &BTreeMap<u64, Counted>) -> Result<u64, Failure> {
        let before = std::mem::replace(&mut self.odd, differences(connections, listed));
        let mut twice: HashMap<Key, i64> = self
            .odd
            .iter()
            .filter(|(place, by)| before.get(place) == Some(by))
            .map(|(place, by)| (*place, *by))
            .collect();
        if twice.is_empty() {
            return Ok(0);
        }
        let again = connections.all()?;
        let now = differences(connections, &again);
        let came_or_went = |one: &BTreeMap<u64, Counted>, other: &BTreeMap<u64, Counted>| {
            one.iter()
                .filter(|(cookie, _)| !other.contains_key(*cookie))
                .map(|(_, counted)| key(counted.place()))
                .collect()
        };
        let moved: [BTreeSet<Key>; 2] = [came_or_went(listed, &again), came_or_went(&again, listed)];
        twice.retain(|place, by| now.get(place) == Some(by) && moved.iter().all(|moved| !moved.contains(place)));
        Ok(twice.into_iter().map(|((line, tag), by)| connections.correct(Place { line, tag }, by)).sum())
    }
}

/// A [`Place`], as line and tag.
type Key = (u32, u32);

const fn key(place: Place) -> Key {
    (place.line, place.tag)
}

/// By how much each count is more than what is listed, where it is not the same.
fn differences(connections: &Connections, listed: &BTreeMap<u64, Counted>) -> HashMap<Key, i64> {
    let mut differences: HashMap<Key, i64> = HashMap::new();
    for counted in listed.values() {
        *differences.entry(key(counted.place())).or_default() -= 1;
    }
    for (place, count) in connections.counts() {
        *differences.entry(key(place)).or_default() += count as i64;
    }
    differences.retain(|_, by| *by != 0);
    differences
}

/// Counts those that are open at a start; gives how many found no room.
pub(super) fn enter_open(connections: &mut Connections) -> Result<u64, Failure> {
    let (entered, left_out) = enter(connections, &Sockets::read()?, |_| false)?;
    if !entered.is_empty() {
        leave_closed(connections, entered, &Sockets::read()?.open);
    }
    Ok(left_out)
}

/// Those that others opened and that are not counted; and how many found no room.
fn enter(
    connections: &mut Connections,
    sockets: &Sockets,
    is_listed: impl Fn(u64) -> bool,
) -> Result<(Vec<u64>, u64), Failure> {
    let (mut entered, mut left_out) = (Vec::new(), 0);
    for (cookie, connection) in sockets.passive.iter().filter(|(cookie, _)| !is_listed(**cookie)) {
        if !connections.caps(connection.port) || connections.is_open(*cookie) {
            continue;
        }
        match connections.enter(*cookie, *connection)? {
            Entered::Now => entered.push(*cookie),
            Entered::Before => {}
            Entered::NoRoom => left_out += 1,
        }
    }
    Ok((entered, left_out))
}

/// Those that closed before they were entered: the kernel did not find them to count them off.
fn leave_closed(connections: &mut Connections, entered: Vec<u64>, open: &BTreeMap<u64, Connection>) -> u64 {
    let closed = entered.into_iter().filter(|cookie| !open.contains_key(cookie));
    closed.map(|cookie| connections.leave(cookie)).count() as u64
}

struct Sockets {
    /// By their cookies.
    open: BTreeMap<u64, Connection>,
    /// Those that others opened, from somewhere else than this host.
    passive: BTreeMap<u64, Counted>,
}

impl Sockets {
    fn read() -> Result<Sockets, Failure> {
        let what = || "the connections of this host cannot be listed".to_owned();
        let found = netlink::connections().blame(Blame::System, what)?;
        let own: BTreeSet<IpAddr> = netlink::own_addresses().blame(Blame::System, what)?.into_iter().collect();
        let others = found.passive().filter(|connection| !own.contains(&connection.peer.ip()));
        let passive = others.map(|connection| {
            let remote = mapped(connection.peer.ip());
            let counted = Counted {
                remote: [remote.unit(), remote.low()],
                port: u32::from(connection.local.port()),
                flags: Counted::OWN | Counted::OLDER,
                ..Counted::default()
            };
            (connection.cookie, counted)
        });
        let passive = passive.collect();
        Ok(Sockets {
            open: found.open.into_iter().map(|connection| (connection.cookie, connection)).collect(),
            passive,
        })
    }
}
