//! The store, through closing and opening, another boot, and files of others.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use super::*;
use crate::{
    batch::{Batch, BatchId, Terms},
    block::{Block, Origin},
    clock::{Boot, Now},
    targets::Targets,
};

const NOW: Now = Now { boot: Boot(1_000_000_000_000), wall: Wall(1_767_323_045_000) };
const HOUR: Duration = Duration::from_secs(3600);

fn block(target: &str, origin: Origin, length: Option<Duration>) -> Block {
    Block {
        target: target.parse().unwrap(),
        origin,
        reason: "it's \"enough\"".to_owned(),
        created: NOW.wall,
        until: length.map(|length| NOW.boot.plus(length + Duration::from_nanos(7))),
        expires: length.map(|length| NOW.wall.plus(length)),
        offence: 2,
    }
}

fn put(store: &mut Store, blocks: &[Block]) {
    store.change(&Changes { blocks: blocks.iter().collect(), ..Changes::default() }).unwrap();
}

fn blocks(store: &mut Store, now: Now) -> Vec<Block> {
    store.blocked(now).unwrap().blocks
}

fn later(by: Duration) -> Now {
    Now { boot: NOW.boot.plus(by), wall: NOW.wall.plus(by) }
}

#[test]
fn a_missing_store_is_made_for_its_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/edge.db");
    let mut store = Store::open(&path).unwrap();
    assert!(store.is_new());
    assert_eq!(blocks(&mut store, NOW), []);
    assert_eq!(store.allowed().unwrap(), []);
    assert_eq!(store.history().unwrap(), []);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
}

#[test]
fn blocks_come_back_exactly_within_one_boot() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.db");
    let stored = [
        block("2001:db8::/32", Origin::Feed, None),
        block("203.0.113.7", Origin::Auth, Some(HOUR)),
        block("203.0.113.7", Origin::Manual, None),
    ];
    put(&mut Store::open(&path).unwrap(), &stored);
    let mut found = blocks(&mut Store::open(&path).unwrap(), later(HOUR / 2));
    found.sort_by_key(|block| (block.target.to_string(), block.origin.name()));
    assert_eq!(found, stored);
}

#[test]
fn after_a_boot_the_end_is_reckoned_from_the_wall_clock() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.db");
    let mut store = Store::open_in(&path, "one").unwrap();
    put(&mut store, &[block("203.0.113.7", Origin::Auth, Some(HOUR))]);
    drop(store);
    let mut store = Store::open_in(&path, "two").unwrap();
    let rebooted = Now { boot: Boot(5_000_000_000), wall: NOW.wall.plus(HOUR / 4) };
    let found = blocks(&mut store, rebooted);
    assert_eq!(found[0].until, Some(rebooted.boot.plus(HOUR * 3 / 4)));
    assert_eq!(found[0].expires, Some(NOW.wall.plus(HOUR)));
    assert_eq!(blocks(&mut store, Now { boot: rebooted.boot, wall: NOW.wall.plus(HOUR) }), []);
}

/// In boot "one" an hour's block was made, and the boot was last seen a quarter of an hour later.
fn seen_once(directory: &Path) -> Store {
    let path = directory.join("edge.db");
    let mut store = Store::open_in(&path, "one").unwrap();
    fill(&mut store, NOW);
    put(&mut store, &[block("203.0.113.7", Origin::Auth, Some(HOUR))]);
    store
        .change(&Changes { batches: vec![(BatchId(1), &batch(&["203.0.113.8"], Some(HOUR)))], ..Changes::default() })
        .unwrap();
    store.see(later(HOUR / 4)).unwrap();
    drop(store);
    let store = Store::open_in(&path, "two").unwrap();
    assert!(!store.is_new() && !store.is_of_this_boot());
    store
}

fn fill(store: &mut Store, now: Now) {
    store.replace(now, &Changes::default(), [].into_iter(), [].into_iter(), None).unwrap();
}

/// What is left of both blocks at a boot whose wall clock says this.
fn left(store: &mut Store, wall: Wall) -> Option<Duration> {
    let now = Now { boot: Boot(5_000_000_000), wall };
    let found = store.blocked(now).unwrap();
    let alone = found.blocks.first().and_then(|block| block.until).map(|until| until.since(now.boot));
    let in_batch = found.batches.first().and_then(|(_, batch)| batch.terms.until).map(|until| until.since(now.boot));
    assert_eq!(alone, in_batch);
    // As exact as boot time is kept.
    alone.map(|left| left - Duration::from_nanos(7))
}

#[test]
fn after_a_boot_a_block_has_left_what_it_had_less_the_time_since() {
    const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    for (wall, expected) in [
        (NOW.wall.plus(HOUR / 4), HOUR * 3 / 4),
        (NOW.wall.plus(HOUR / 2), HOUR / 2),
        // No battery held the clock, or it was set back: nobody knows how long the machine was off.
        (Wall(60_000), HOUR * 3 / 4),
        (NOW.wall.minus(YEARS), HOUR * 3 / 4),
        // Years ahead before anybody has set it.
        (NOW.wall.plus(YEARS), HOUR * 3 / 4),
    ] {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(left(&mut seen_once(directory.path()), wall), Some(expected), "{wall}");
    }
    for over in [NOW.wall.plus(HOUR + Duration::from_millis(1)), NOW.wall.plus(YEARS / 20)] {
        let directory = tempfile::tempdir().unwrap();
        let mut store = seen_once(directory.path());
        assert_eq!(left(&mut store, over), None, "{over}");
    }
}

#[test]
fn a_wall_clock_that_jumped_before_a_boot_changes_no_end() {
    const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    for jumped in [NOW.wall.plus(YEARS), NOW.wall.minus(YEARS)] {
        let directory = tempfile::tempdir().unwrap();
        let mut store = seen_once(directory.path());
        let seen = Seen::now("one", Now { boot: NOW.boot.plus(HOUR / 2), wall: jumped });
        store.write("write the time", |transaction| seen.write(transaction)).unwrap();
        store.seen = Some(seen);
        assert_eq!(left(&mut store, jumped.plus(HOUR / 4)), Some(HOUR / 4), "{jumped}");
    }
}

/// Of what an earlier edge stored, or of a boot before the one that was seen.
#[test]
fn where_the_boot_was_not_seen_a_block_lasts_no_longer_than_it_was_made_for() {
    for (wall, expected) in [(NOW.wall.plus(HOUR / 4), HOUR * 3 / 4), (Wall(60_000), HOUR)] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.db");
        put(&mut Store::open_in(&path, "one").unwrap(), &[block("203.0.113.7", Origin::Auth, Some(HOUR))]);
        let mut store = Store::open_in(&path, "two").unwrap();
        let now = Now { boot: Boot(5_000_000_000), wall };
        assert_eq!(blocks(&mut store, now)[0].until, Some(now.boot.plus(expected)), "{wall}");
    }
}

#[test]
fn a_file_says_nothing_before_it_was_filled() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.db");
    drop(Store::open(&path).unwrap());
    let mut store = Store::open(&path).unwrap();
    assert!(store.is_new(), "nobody knows what was blocked when it was made");
    fill(&mut store, NOW);
    assert!(!store.is_new());
    drop(store);
    assert!(!Store::open(&path).unwrap().is_new());
}

#[test]
fn what_has_ended_is_left_out_and_a_jump_of_the_wall_clock_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&directory.path().join("edge.db")).unwrap();
    put(&mut store, &[block("203.0.113.7", Origin::Auth, Some(HOUR))]);
    let jumped = Now { boot: NOW.boot, wall: NOW.wall.plus(24 * HOUR) };
    assert_eq!(blocks(&mut store, jumped).len(), 1);
    assert_eq!(blocks(&mut store, later(HOUR + Duration::from_millis(1))), []);
    assert_eq!(blocks(&mut store, NOW), [], "what has ended is removed");
}

#[test]
fn a_block_again_is_replaced_and_a_removed_one_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&directory.path().join("edge.db")).unwrap();
    let first = block("203.0.113.7", Origin::Manual, None);
    let again = block("203.0.113.7", Origin::Manual, Some(HOUR));
    put(&mut store, &[first, block("203.0.113.7", Origin::Auth, None)]);
    put(&mut store, std::slice::from_ref(&again));
    let removed = vec![(again.target, Origin::Auth), (again.target, Origin::Feed)];
    store.change(&Changes { removed, ..Changes::default() }).unwrap();
    assert_eq!(blocks(&mut store, NOW), [again]);
}

fn batch(names: &[&str], length: Option<Duration>) -> Batch {
    let Block { origin, reason, created, until, expires, offence, .. } = block(names[0], Origin::Feed, length);
    let targets: Targets = names.iter().map(|name| name.parse::<Target>().unwrap()).collect();
    Batch::new(Terms { origin, reason, created, until, expires, offence }, targets)
}

fn names(store: &mut Store, now: Now) -> Vec<(BatchId, Vec<String>)> {
    let of = |batch: &Batch| batch.iter().map(|target| target.to_string()).collect();
    store.blocked(now).unwrap().batches.iter().map(|(id, batch)| (*id, of(batch))).collect()
}

#[test]
fn a_batch_comes_back_without_what_was_lifted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.db");
    let mut store = Store::open(&path).unwrap();
    let first = batch(&["203.0.113.7", "203.0.113.8", "2001:db8::/32"], Some(HOUR));
    let second = batch(&["198.51.100.0/24"], None);
    let batches = vec![(BatchId(1), &first), (BatchId(2), &second)];
    store.change(&Changes { batches, ..Changes::default() }).unwrap();
    let lifted = vec![(BatchId(1), "203.0.113.8".parse().unwrap())];
    store.change(&Changes { lifted, ..Changes::default() }).unwrap();
    drop(store);

    let mut store = Store::open(&path).unwrap();
    let found = store.blocked(later(HOUR / 2)).unwrap().batches;
    assert_eq!(found[0].1.terms, first.terms);
    let left = |id, names: &[&str]| (BatchId(id), names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let kept = left(2, &["198.51.100.0/24"]);
    assert_eq!(names(&mut store, NOW), [left(1, &["203.0.113.7/32", "2001:db8::/32"]), kept.clone()]);
    // Written anew under its id it has what it has now, whatever was lifted before.
    let again = batch(&["203.0.113.8"], Some(HOUR));
    store.change(&Changes { batches: vec![(BatchId(1), &again)], ..Changes::default() }).unwrap();
    assert_eq!(names(&mut store, NOW), [left(1, &["203.0.113.8/32"]), kept.clone()]);
    assert_eq!(names(&mut store, later(HOUR * 2)), [kept]);
    store.change(&Changes { ended: vec![BatchId(2)], ..Changes::default() }).unwrap();
    assert_eq!(names(&mut store, NOW), []);
}

#[test]
fn a_store_of_schema_1_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.db");
    let row = "INSERT INTO block VALUES ('203.0.113.7/32', 'manual', 'by hand', 1, NULL, 'boot', NULL, 1)";
    let old = Connection::open(&path).unwrap();
    old.execute_batch(&format!("{FIRST}; {row}; PRAGMA user_version = 1")).unwrap();
    drop(old);
    for _ in 0..2 {
        let mut store = Store::open(&path).unwrap();
        assert!(!store.is_new());
        assert_eq!(blocks(&mut store, NOW)[0].reason, "by hand");
        store
            .change(&Changes { batches: vec![(BatchId(1), &batch(&["203.0.113.8"], None))], ..Changes::default() })
            .unwrap();
        assert_eq!(names(&mut store, NOW).len(), 1);
    }
}

#[test]
fn a_store_of_schema_3_keeps_when_it_was_seen() {
    let directory = tempfile::tempdir().unwrap();
    drop(seen_once(directory.path()));
    let old = Connection::open(directory.path().join("edge.db")).unwrap();
    old.execute_batch("DROP TABLE restored; PRAGMA user_version = 3").unwrap();
    drop(old);
    let mut store = Store::open_in(&directory.path().join("edge.db"), "two").unwrap();
    assert_eq!(left(&mut store, NOW.wall.plus(HOUR / 4)), Some(HOUR * 3 / 4));
    assert_eq!(store.restored().unwrap(), None);
    assert_eq!(store.connection.query_row("SELECT count(*) FROM seen", [], |row| row.get(0)), Ok(1));
}

#[test]
fn what_is_set_aside_takes_no_earlier_ones_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.db");
    assert_eq!(set_aside(&path).unwrap(), None);
    for number in 1..=11 {
        fs::write(&path, number.to_string()).unwrap();
        set_aside(&path).unwrap().unwrap();
    }
    let at = |suffix: &str| fs::read_to_string(directory.path().join(format!("edge.db-aside{suffix}"))).unwrap();
    assert_eq!([at(""), at("-2"), at("-8"), at("-9")], ["1", "2", "8", "11"]);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 9);
}

#[test]
fn a_damaged_batch_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&directory.path().join("edge.db")).unwrap();
    store
        .change(&Changes { batches: vec![(BatchId(1), &batch(&["203.0.113.8"], None))], ..Changes::default() })
        .unwrap();
    store.connection.execute("UPDATE batch SET targets = x'01'", []).unwrap();
    let error = store.blocked(NOW).unwrap_err().to_string();
    assert!(error.contains("the packed addresses are damaged"), "{error}");
}

#[test]
fn the_allow_list_and_the_offences_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.db");
    let target = |text: &str| text.parse::<Target>().unwrap();
    let mut store = Store::open(&path).unwrap();
    store.allow(&[target("192.0.2.0/24"), target("2001:db8::1"), target("192.0.2.0/24")]).unwrap();
    store.disallow(&[target("2001:db8::1"), target("10.0.0.0/8")]).unwrap();
    let history = History { client: target("203.0.113.7"), number: 3, ended: NOW.wall };
    store.put_history(&History { number: 2, ..history }).unwrap();
    store.put_history(&history).unwrap();
    drop(store);
    let mut store = Store::open(&path).unwrap();
    assert_eq!(store.allowed().unwrap(), [target("192.0.2.0/24")]);
    assert_eq!(store.history().unwrap(), [history]);
    store.forget_history(&[history.client]).unwrap();
    assert_eq!(store.history().unwrap(), []);
}

#[test]
fn a_broken_store_is_named_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.db");
    let bytes = b"this is no database, it only lies where one should be".repeat(100);
    fs::write(&path, &bytes).unwrap();
    let error = Store::open(&path).unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_store_of_another_schema_or_of_another_program_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (name, sql, found) in [("a", "PRAGMA user_version = 5", 5), ("b", "CREATE TABLE other (x)", 0)] {
        let path = directory.path().join(name);
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Schema { found: version, .. } if version == found), "{error}");
    }
}

#[test]
fn what_no_edge_writes_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.db");
    let store = Store::open(&path).unwrap();
    store.connection.execute("INSERT INTO allowed VALUES ('nonsense')", []).unwrap();
    let error = store.allowed().unwrap_err().to_string();
    assert!(error.contains("the address `nonsense`"), "{error}");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let error = Store::open(&directory.path().join("file/edge.db")).unwrap_err().to_string();
    assert!(error.starts_with("cannot make the directory"), "{error}");
}
