//! Blocks that come together, as `block -` and `import` bring them.

use super::*;

/// `count` addresses of 198.18.0.0/15 from `from` on.
fn addresses(from: u32, count: u32) -> Vec<String> {
    (from..from + count).map(|n| std::net::Ipv4Addr::from_bits(0xc612_0000 + n).to_string()).collect()
}

fn block_all(
    enforcer: &mut Enforcer<Fake>,
    names: &[String],
    seconds: Option<u64>,
    now: Now,
) -> Result<Changed, Failure> {
    let request = BlockRequest {
        targets: names.iter().map(|text| target(text)).collect(),
        for_seconds: seconds,
        reason: Some("together".to_owned()),
        origin: Origin::Manual,
        force: false,
    };
    changed(enforcer.execute(&order(Command::Block(request)), now)?)
}

fn listed(enforcer: &Enforcer<Fake>, now: Now) -> Vec<Target> {
    rows(enforcer, None, now).iter().map(|entry| entry.address).collect()
}

/// Kernel and model agree, and so does the store when it is opened again.
fn restarted(directory: &TempDir, enforcer: Enforcer<Fake>, now: Now) -> Enforcer<Fake> {
    assert_eq!(enforcer.drift(), 0);
    let (before, held) = (rows(&enforcer, None, now), enforcer.tables.held.clone());
    drop(enforcer);
    let mut after = self::enforcer(directory.path(), "");
    after.recall(|_| Held::default(), now).unwrap();
    after.fill().unwrap();
    assert_eq!(rows(&after, None, now), before);
    assert_eq!(after.tables.held, held);
    after
}

#[test]
fn many_are_one_batch_and_look_like_any_block() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "");
    block_all(&mut enforcer, &addresses(0, 1_000), Some(3_600), START).unwrap();
    assert_eq!(enforcer.ledger.blocks().count(), 0);
    assert_eq!(enforcer.tables.held.len(), 1_000);
    let mut enforcer = restarted(&directory, enforcer, START);
    let entry = &rows(&enforcer, None, START)[500];
    assert_eq!((entry.address, entry.reason.as_str()), (target("198.18.1.244"), "together"));
    assert_eq!(enforcer.why("198.18.1.244".parse().unwrap(), START).unwrap().verdict, "drop");
    assert_eq!(enforcer.status(START).unwrap().blocked.ipv4, 1_000);
    assert_eq!(enforcer.active(START).get(&(Origin::Manual, "ipv4")), Some(&1_000));

    unblock(&mut enforcer, &["198.18.1.244", "198.18.0.0"]).unwrap();
    assert_eq!(enforcer.tables.held.len(), 998);
    let mut enforcer = restarted(&directory, enforcer, START);
    assert!(!listed(&enforcer, START).contains(&target("198.18.1.244")), "what was lifted came back");
    // Blocked again by hand it is no member any more, and leaves none behind when it is lifted.
    block(&mut enforcer, &["198.18.0.9"]).unwrap();
    let mut enforcer = restarted(&directory, enforcer, START);
    unblock(&mut enforcer, &["198.18.0.9"]).unwrap();
    let enforcer = restarted(&directory, enforcer, START);
    assert_eq!(listed(&enforcer, START).len(), 997);
}

#[test]
fn many_again_replace_what_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "");
    block(&mut enforcer, &["198.18.0.1"]).unwrap();
    block_all(&mut enforcer, &addresses(0, 3_000), Some(3_600), START).unwrap();
    block_all(&mut enforcer, &addresses(0, 2_000), Some(60), later(1)).unwrap();
    assert_eq!(enforcer.tables.until(target("198.18.0.1")), Some(Until::at(later(61).boot.0)));
    assert_eq!(enforcer.status(later(1)).unwrap().blocked.total, 3_000);
    let mut enforcer = restarted(&directory, enforcer, later(1));
    enforcer.sweep(later(62)).unwrap();
    assert_eq!(enforcer.tables.held.len(), 1_000);
    let mut enforcer = restarted(&directory, enforcer, later(62));
    enforcer.sweep(later(4_000)).unwrap();
    assert!(restarted(&directory, enforcer, later(4_000)).tables.held.is_empty());
}

#[test]
fn what_the_kernel_refuses_of_many_leaves_everything_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "max_blocked = 3_000");
    block(&mut enforcer, &["198.18.0.1", "198.18.0.2"]).unwrap();
    block_all(&mut enforcer, &addresses(100, 500), Some(60), START).unwrap();
    let (listed, held) = (rows(&enforcer, None, START), enforcer.tables.held.clone());
    enforcer.tables.refuses = Some(target("198.18.1.99"));
    let failure = block_all(&mut enforcer, &addresses(0, 1_000), None, START).unwrap_err();
    assert_eq!(failure.blame, Blame::System);
    enforcer.tables.refuses = None;
    let failure = block_all(&mut enforcer, &addresses(0, 3_001), None, START).unwrap_err();
    assert!(failure.message.contains("502 addresses are blocked, 2499 more are asked for, 3000 fit"), "{failure}");
    assert_eq!((rows(&enforcer, None, START), &enforcer.tables.held), (listed, &held));
    assert_eq!(enforcer.ledger.counts().total(), 502);
    restarted(&directory, enforcer, START);
}

#[test]
fn all_are_lifted_at_once_and_forgiven() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "");
    assert_eq!(fail(&mut enforcer, "203.0.113.7", 5).unwrap(), Outcome::Blocked(target("203.0.113.7")));
    block_all(&mut enforcer, &addresses(0, 2_000), None, START).unwrap();
    block_all(&mut enforcer, &["203.0.113.0/24".to_owned()], None, START).unwrap();
    let all = |origin| order(Command::Unblock(UnblockRequest { targets: None, origin }));
    let lifted = changed(enforcer.execute(&all(Some(Origin::Manual)), START).unwrap()).unwrap();
    assert_eq!((lifted.count(), lifted.changed.len()), (2_001, 1_000));
    assert_eq!(listed(&enforcer, START), [target("203.0.113.7")]);
    let lifted = changed(enforcer.execute(&all(None), START).unwrap()).unwrap();
    assert_eq!((lifted.changed, lifted.more), (vec![target("203.0.113.7")], 0));
    assert_eq!(enforcer.learner.histories().count(), 0);
    assert!(restarted(&directory, enforcer, START).tables.held.is_empty());
}

#[test]
fn many_that_are_lifted_by_name_stay_lifted() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "");
    block_all(&mut enforcer, &addresses(0, 3_000), None, START).unwrap();
    let names = addresses(500, 1_500);
    unblock(&mut enforcer, &names.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let enforcer = restarted(&directory, enforcer, START);
    assert_eq!(enforcer.tables.held.len(), 1_500);
    let other = rusqlite::Connection::open(directory.path().join("edge.db")).unwrap();
    let rows: i64 = other.query_row("SELECT count(*) FROM lifted", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 0, "what is left is stored anew");
}

#[test]
fn a_missing_store_takes_over_many_from_the_kernel() {
    let directory = tempfile::tempdir().unwrap();
    let ends = [Until::NEVER, Until::at(later(60).boot.0)];
    let blocks =
        addresses(0, 1_000).iter().zip(ends.into_iter().cycle()).map(|(name, end)| (target(name), end)).collect();
    let mut enforcer = enforcer(directory.path(), "");
    enforcer.recall(|_| Held { blocks, allowed: Vec::new() }, START).unwrap();
    enforcer.fill().unwrap();
    let mut enforcer = restarted(&directory, enforcer, START);
    enforcer.sweep(later(61)).unwrap();
    assert_eq!(enforcer.tables.held.len(), 500);
}
