//! The enforcer over tables that only remember what they were told, or refuse.

mod connections;
mod import;
mod many;
mod memory;
mod reload;
mod restore;

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use edge_common::{
    reason::Counters,
    table::{Hits, Trust},
};
use tempfile::TempDir;

use super::*;
use crate::{
    config::Overrides,
    control::protocol::{BlockRequest, Changed, Command, Entry, Rates, Reply, Request, UnblockRequest},
    error::Blame,
    inventory::Inventory,
};

const START: Now = Now { boot: Boot(1_000_000_000_000), wall: Wall(1_767_323_045_000) };

#[derive(Default)]
struct Fake {
    held: BTreeMap<Target, Until>,
    refuses: Option<Target>,
    trusted: BTreeSet<Target>,
    /// More than these are not trusted.
    trusts: Option<usize>,
    connections: BTreeMap<IpAddr, u64>,
    connected: datapath::Connected,
    /// `None`: connections are not counted.
    cap: Option<u64>,
}

impl Tables for Fake {
    fn settle(&mut self, mut wanted: impl Iterator<Item = (Target, Option<Until>)>) -> Result<(), Failure> {
        wanted.try_for_each(|(target, until)| {
            match until {
                Some(_) if self.refuses == Some(target) => return Err(Failure::system("the kernel did not take it")),
                Some(until) => drop(self.held.insert(target, until)),
                None => drop(self.held.remove(&target)),
            }
            Ok(())
        })
    }

    fn until(&self, target: Target) -> Option<Until> {
        self.held.get(&target).copied()
    }

    fn hits(&self, _: Target) -> Hits {
        Hits::default()
    }

    fn inventory(&self) -> Inventory {
        self.held.iter().map(|(target, until)| (*target, *until)).collect()
    }

    fn capacities(&self, _: datapath::Connected) -> Vec<(&'static str, u64, u64)> {
        Vec::new()
    }

    fn counters(&self) -> Result<Counters, Failure> {
        Ok(Counters::default())
    }

    fn rates(&self, _: IpAddr, _: Boot) -> Rates {
        Rates::default()
    }

    fn connections(&self, address: IpAddr) -> Option<u64> {
        self.cap.map(|_| self.connections.get(&address).copied().unwrap_or_default())
    }

    fn connected(&self) -> datapath::Connected {
        self.connected
    }

    fn cap(&self) -> Option<u64> {
        self.cap
    }

    fn unload(&mut self) -> Result<datapath::Unloaded, Failure> {
        Ok(datapath::Unloaded::default())
    }

    fn trust(&mut self, wanted: &[(Target, Trust)]) -> Result<(), Failure> {
        self.trusted = wanted.iter().map(|(target, _)| *target).take(self.trusts.unwrap_or(usize::MAX)).collect();
        if self.trusts.is_some_and(|room| wanted.len() > room) {
            return Err(Failure::system("the table is full"));
        }
        Ok(())
    }
}

/// An enforcer with a store of its own, and the lines of `[filter]` that it is configured with.
fn enforcer(directory: &Path, filter: &str) -> Enforcer<Fake> {
    let text =
        format!("[filter]\ninterfaces = [\"lo\"]\n{filter}\n[store]\npath = \"{}/edge.db\"\n", directory.display());
    let file = directory.join("edge.toml");
    fs::write(&file, text).unwrap();
    let config = Config::load(&file, &Overrides::default()).unwrap();
    let memory = Memory::open(config.store.path.clone()).unwrap();
    let surroundings = Surroundings { own: vec!["192.0.2.1".parse().unwrap()], ..Surroundings::default() };
    Enforcer::new(&config, memory, Fake::default(), surroundings, Own::new().unwrap(), START)
}

fn started(directory: &TempDir, filter: &str) -> Enforcer<Fake> {
    let mut enforcer = enforcer(directory.path(), filter);
    enforcer.recall(|_| Held::default(), START).unwrap();
    enforcer.fill().unwrap();
    enforcer
}

fn rows(enforcer: &Enforcer<Fake>, origin: Option<Origin>, now: Now) -> Vec<Entry> {
    enforcer.list(origin, None, now).rows().iter().map(Entry::of).collect()
}

fn later(seconds: u64) -> Now {
    let by = Duration::from_secs(seconds);
    Now { boot: START.boot.plus(by), wall: START.wall.plus(by) }
}

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

fn order(command: Command) -> Request {
    Request { command, caller: None }
}

fn block(enforcer: &mut Enforcer<Fake>, targets: &[&str]) -> Result<Changed, Failure> {
    let request = BlockRequest {
        targets: targets.iter().map(|text| target(text)).collect(),
        for_seconds: None,
        reason: None,
        origin: Origin::Manual,
        force: false,
    };
    changed(enforcer.execute(&order(Command::Block(request)), START)?)
}

fn unblock(enforcer: &mut Enforcer<Fake>, targets: &[&str]) -> Result<Changed, Failure> {
    let targets = Some(targets.iter().map(|text| target(text)).collect());
    changed(enforcer.execute(&order(Command::Unblock(UnblockRequest { targets, origin: None })), START)?)
}

fn changed(reply: Reply) -> Result<Changed, Failure> {
    match reply {
        Reply::Changed(changed) => Ok(changed),
        other => Err(Failure::bug(format!("{other:?}"))),
    }
}

fn fail(enforcer: &mut Enforcer<Fake>, peer: &str, times: usize) -> Result<Outcome, Failure> {
    let mut offence = || enforcer.offence(Kind::Login, peer.parse().unwrap(), Some("root"), START);
    for _ in 1..times {
        assert_eq!(offence().unwrap(), Outcome::Noted);
    }
    offence()
}

#[test]
fn what_the_config_names_is_blocked_once_nothing_protects_it_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let named = "block = [\"192.0.2.1\", \"192.0.2.53\", \"198.51.100.7\"]\nallow = [\"198.51.100.0/24\"]";
    let mut enforcer = enforcer(directory.path(), named);
    let resolvers = vec!["192.0.2.53".parse().unwrap()];
    enforcer.follow(Surroundings { resolvers, ..enforcer.surroundings().clone() }, START).unwrap();
    enforcer.recall(|_| Held::default(), START).unwrap();
    enforcer.fill().unwrap();
    let held = |enforcer: &Enforcer<Fake>| enforcer.tables.held.keys().map(ToString::to_string).collect::<Vec<_>>();
    // Whom the allow list names passes, and is as blocked as who was allowed after it.
    assert_eq!(held(&enforcer), ["198.51.100.7/32"]);
    assert!(!enforcer.is_blocked("198.51.100.7".parse().unwrap(), START));
    let alone = Surroundings { resolvers: Vec::new(), ..enforcer.surroundings().clone() };
    enforcer.tables.refuses = Some(target("192.0.2.53"));
    assert!(enforcer.follow(alone.clone(), START).is_err());
    enforcer.tables.refuses = None;
    enforcer.follow(alone, START).unwrap();
    assert_eq!(held(&enforcer), ["192.0.2.53/32", "198.51.100.7/32"], "it is tried again");
    assert_eq!(enforcer.list(Some(Origin::Config), None, START).parts().len(), 1);
}

#[test]
fn what_is_missing_ends_otherwise_or_is_foreign_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "");
    block(&mut enforcer, &["203.0.113.7", "203.0.113.8", "198.51.100.0/24", "2001:db8::7"]).unwrap();
    let status = |enforcer: &Enforcer<Fake>| {
        let status = enforcer.status(START).unwrap();
        (status.blocked.total, status.enforced.total, status.drift)
    };
    assert_eq!(status(&enforcer), (4, 4, 0));
    enforcer.tables.held.remove(&target("203.0.113.7"));
    assert_eq!((status(&enforcer), enforcer.drift()), ((4, 3, 1), 1));
    enforcer.tables.held.insert(target("198.51.100.0/24"), Until::at(7));
    assert_eq!(status(&enforcer), (4, 3, 2));
    enforcer.tables.held.insert(target("203.0.113.9"), Until::NEVER);
    assert_eq!((status(&enforcer), enforcer.drift()), ((4, 4, 3), 3));
}

#[test]
fn what_is_protected_or_allowed_is_never_blocked_by_its_offences() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "allow = [\"198.51.100.0/24\"]");
    for peer in ["192.0.2.1", "198.51.100.9", "127.0.0.1", "::ffff:192.0.2.1"] {
        assert_eq!(fail(&mut enforcer, peer, 20).unwrap(), Outcome::Noted, "{peer}");
    }
    assert!(enforcer.tables.held.is_empty());
    assert_eq!(fail(&mut enforcer, "203.0.113.7", 5).unwrap(), Outcome::Blocked(target("203.0.113.7")));
    assert_eq!(enforcer.tables.held.keys().copied().collect::<Vec<_>>(), [target("203.0.113.7/32")]);
}

#[test]
fn what_the_kernel_refuses_leaves_everything_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "");
    block(&mut enforcer, &["203.0.113.1"]).unwrap();
    enforcer.tables.refuses = Some(target("203.0.113.3"));
    let failure = block(&mut enforcer, &["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4"]).unwrap_err();
    assert_eq!(failure.blame, Blame::System);
    assert_eq!(enforcer.tables.held.keys().copied().collect::<Vec<_>>(), [target("203.0.113.1")]);
    assert_eq!(rows(&enforcer, None, START).len(), 1);
    drop(enforcer);
    let stored = self::enforcer(directory.path(), "").memory.recall(START).unwrap();
    assert_eq!(stored.blocked.blocks.len(), 1);
}

#[test]
fn a_full_table_refuses_the_whole_command_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "max_blocked = 2\nmax_prefixes = 1");
    block(&mut enforcer, &["203.0.113.1"]).unwrap();
    let failure = block(&mut enforcer, &["203.0.113.2", "203.0.113.3"]).unwrap_err();
    assert!(failure.message.contains("1 addresses are blocked, 2 more are asked for, 2 fit"), "{failure}");
    block(&mut enforcer, &["203.0.113.1", "203.0.113.2", "203.0.113.2", "198.51.100.0/24"]).unwrap();
    assert!(block(&mut enforcer, &["198.51.101.0/24"]).is_err());
    assert_eq!(enforcer.tables.held.len(), 3);
    // An offender finds no room; it counts again once there is some.
    assert!(fail(&mut enforcer, "192.0.2.7", 5).is_err());
    unblock(&mut enforcer, &["203.0.113.1"]).unwrap();
    assert_eq!(fail(&mut enforcer, "192.0.2.7", 5).unwrap(), Outcome::Blocked(target("192.0.2.7")));
}

#[test]
fn a_store_that_fails_stops_no_block_and_is_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "");
    assert!(enforcer.store_is_ok());
    let other = rusqlite::Connection::open(directory.path().join("edge.db")).unwrap();
    other.execute_batch("ALTER TABLE block RENAME TO elsewhere").unwrap();
    assert_eq!(fail(&mut enforcer, "203.0.113.7", 5).unwrap(), Outcome::Blocked(target("203.0.113.7")));
    assert!(!enforcer.store_is_ok());
    let warned = block(&mut enforcer, &["203.0.113.8"]).unwrap();
    assert!(warned.warnings.iter().any(|warning| warning.contains("cannot be written")), "{warned:?}");
    other.execute_batch("ALTER TABLE elsewhere RENAME TO block").unwrap();
    enforcer.sweep(Now { boot: Boot(u64::MAX >> 1), wall: START.wall }).unwrap();
    assert!(enforcer.store_is_ok());
    let stored: i64 = other.query_row("SELECT count(*) FROM block", [], |row| row.get(0)).unwrap();
    let left = enforcer.ledger.iter().count();
    assert_eq!((stored, left), (1, 1), "the block without an end, and no other");
}

#[test]
fn what_the_config_names_is_in_force_but_for_what_is_protected() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "block = [\"203.0.113.7\", \"192.0.2.1\", \"198.51.100.0/24\"]");
    let held: Vec<Target> = enforcer.tables.held.keys().copied().collect();
    assert_eq!(held, [target("198.51.100.0/24"), target("203.0.113.7")]);
    assert!(rows(&enforcer, None, START).iter().all(|entry| entry.origin == Origin::Config));
    // Lifted and blocked by hand, it is the config's no more than any other.
    block(&mut enforcer, &["203.0.113.7"]).unwrap();
    let lifted = unblock(&mut enforcer, &["203.0.113.7"]).unwrap();
    assert!(lifted.warnings.iter().any(|warning| warning.contains("filter.block")), "{lifted:?}");
    drop(enforcer);
    // Nothing of it is in the store: it holds while the config names it.
    let mut without = self::enforcer(directory.path(), "");
    without.recall(|_| Held::default(), START).unwrap();
    assert_eq!(rows(&without, None, START), []);
}

#[test]
fn a_missing_store_takes_over_what_the_kernel_holds() {
    let directory = tempfile::tempdir().unwrap();
    let held = Held {
        blocks: vec![
            (target("203.0.113.7"), Until::NEVER),
            (target("2001:db8::/64"), Until::at(later(60).boot.0)),
            (target("198.51.100.0/24"), Until::NEVER),
        ],
        allowed: vec![target("203.0.113.9")],
    };
    let mut first = enforcer(directory.path(), "block = [\"198.51.100.0/24\"]");
    first.recall(|_| held, START).unwrap();
    assert_eq!(first.ledger.iter().count(), 3);
    assert!(first.never_blocked(target("203.0.113.9")).is_some());
    drop(first);
    // And the store has it from now on.
    let mut second = enforcer(directory.path(), "");
    second.recall(|_| Held::default(), later(30)).unwrap();
    let kept: Vec<Target> = rows(&second, None, later(30)).iter().map(|entry| entry.address).collect();
    assert_eq!(kept, [target("203.0.113.7"), target("2001:db8::/64")]);
    assert!(second.never_blocked(target("203.0.113.9")).is_some());
}

#[test]
fn more_blocks_than_the_config_allows_are_refused_before_anything_changes() {
    let directory = tempfile::tempdir().unwrap();
    block(&mut started(&directory, ""), &["203.0.113.1", "203.0.113.2"]).unwrap();
    let mut smaller = enforcer(directory.path(), "max_blocked = 1");
    let failure = smaller.recall(|_| Held::default(), START).unwrap_err();
    assert!(failure.message.contains("2 addresses are blocked and `filter.max_blocked` is 1"), "{failure}");
}

#[test]
fn a_block_that_ends_sooner_than_the_one_before_says_what_it_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "");
    let mut block_for = |targets: &[&str], for_seconds| {
        let request = BlockRequest {
            targets: targets.iter().map(|text| target(text)).collect(),
            for_seconds,
            reason: None,
            origin: Origin::Manual,
            force: false,
        };
        changed(enforcer.execute(&order(Command::Block(request)), START).unwrap()).unwrap().warnings
    };
    let one = ["203.0.113.7"];
    assert!(
        block_for(&one, Some(3_600)).is_empty() && block_for(&one, None).is_empty(),
        "a longer one replaces nothing"
    );
    let (hour, minute) = (later(3_600).wall, later(60).wall);
    let lifted = format!("203.0.113.7/32 was blocked until lifted by manual, and is until {hour} now");
    assert_eq!(block_for(&one, Some(3_600)), [lifted]);
    let sooner = format!("203.0.113.7/32 was blocked until {hour} by manual, and is until {minute} now");
    assert_eq!(block_for(&one, Some(60)), [sooner]);
    let many: Vec<String> = (0..20).map(|n| format!("198.51.100.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(block_for(&many, None).is_empty());
    let told = block_for(&many, Some(60));
    assert_eq!((told.len(), told.last().map(String::as_str)), (9, Some("12 more were blocked for longer before")));
}
