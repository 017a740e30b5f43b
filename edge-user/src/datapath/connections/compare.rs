//! What is counted against what the kernel has: connections from before the start are counted so, and whatever went wrong
//! is put right. Only in this network namespace, the only one whose sockets can be listed.

use std::collections::{BTreeMap, BTreeSet};

use edge_common::connection::Counted;

use super::{Connections, mapped};
use crate::{
    error::{Blame, Context, Failure},
    netlink,
};

/// What was put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Open and not counted.
    pub entered: u64,
    /// Counted and not open, or not capped any more.
    pub left: u64,
    /// How many are counted whose end only a comparison sees, since they are older than the program.
    pub older: u64,
}

/// Safe beside the kernel's own counting: what changes meanwhile is looked at twice.
pub fn compare(connections: &mut Connections) -> Result<Compared, Failure> {
    let listed: BTreeMap<u64, Counted> = connections.all()?.into_iter().collect();
    let sockets = sockets()?;
    let older = listed.values().filter(|counted| counted.is_older()).count() as u64;
    let mut compared = Compared { older, ..Compared::default() };
    let uncapped = listed.iter().filter(|(_, counted)| !connections.caps(counted.port));
    let uncapped: Vec<u64> = uncapped.map(|(cookie, _)| *cookie).collect();
    compared.left += uncapped.into_iter().map(|cookie| u64::from(connections.leave(cookie))).sum::<u64>();
    // What is listed is not seen among the sockets in the moment before it is established, and after it is closed.
    let is_ghost =
        |(cookie, counted): &(&u64, &Counted)| counted.flags & Counted::OWN != 0 && !sockets.open.contains(cookie);
    let ghosts: Vec<u64> = listed.iter().filter(is_ghost).map(|(cookie, _)| *cookie).collect();
    let missing = sockets.passive.into_iter().filter(|(cookie, _)| !listed.contains_key(cookie));
    let mut entered = Vec::new();
    for (cookie, connection) in missing {
        if connections.caps(connection.port) && !connections.is_open(cookie) && connections.enter(cookie, connection)? {
            entered.push(cookie);
        }
    }
    let ghosts: Vec<u64> = ghosts.into_iter().filter(|cookie| connections.is_open(*cookie)).collect();
    if entered.is_empty() && ghosts.is_empty() {
        return Ok(compared);
    }
    let still_open = self::sockets()?.open;
    for cookie in ghosts.into_iter().filter(|cookie| !still_open.contains(cookie)) {
        let left = connections.leave(cookie);
        let is_older = listed.get(&cookie).is_some_and(Counted::is_older);
        compared.left += u64::from(left && !is_older);
    }
    compared.entered = entered.len() as u64;
    compared.older += compared.entered;
    // One that closed before it was entered: the kernel did not find it to count it off.
    for cookie in entered.into_iter().filter(|cookie| !still_open.contains(cookie)) {
        connections.leave(cookie);
        compared.entered -= 1;
    }
    Ok(compared)
}

struct Sockets {
    /// Cookies of all whose handshake was completed.
    open: BTreeSet<u64>,
    /// Those that others opened.
    passive: BTreeMap<u64, Counted>,
}

fn sockets() -> Result<Sockets, Failure> {
    let what = || "the connections of this host cannot be listed".to_owned();
    let found = netlink::connections().blame(Blame::System, what)?;
    let passive = found.passive().map(|connection| {
        let remote = mapped(connection.peer.ip());
        let counted = Counted {
            remote: [remote.unit(), remote.low()],
            remote_port: connection.peer.port(),
            port: connection.local.port(),
            flags: Counted::OWN | Counted::OLDER,
            ..Counted::default()
        };
        (connection.cookie, counted)
    });
    let passive = passive.collect();
    Ok(Sockets { open: found.open.iter().map(|connection| connection.cookie).collect(), passive })
}
