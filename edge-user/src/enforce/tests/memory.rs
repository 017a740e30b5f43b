//! A store that goes, is spoilt, or could not be read, and comes back.

use super::*;

/// When all is tried again that is tried after a while.
fn next(enforcer: &mut Enforcer<Fake>) {
    enforcer.sweep(later(0)).unwrap();
    let boot = Boot::now().plus(Duration::from_secs(6));
    enforcer.sweep(Now { boot, wall: START.wall }).unwrap();
}

fn names(enforcer: &Enforcer<Fake>) -> Vec<String> {
    rows(enforcer, None, START).iter().map(|row| format!("{} {}", row.address, row.reason)).collect()
}

const RUBBISH: &str = "this is no database ";

#[test]
fn a_file_that_is_removed_or_overwritten_is_written_anew() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("edge.db");
    for spoil in
        [|path: &Path| fs::remove_file(path).unwrap(), |path: &Path| fs::write(path, RUBBISH.repeat(900)).unwrap()]
    {
        let mut enforcer = started(&directory, "");
        unblock(&mut enforcer, &["203.0.113.8"]).unwrap();
        block(&mut enforcer, &["203.0.113.7"]).unwrap();
        spoil(&path);
        let warned = block(&mut enforcer, &["203.0.113.8"]).unwrap();
        assert!(warned.warnings.iter().any(|warning| warning.contains("cannot be written")), "{warned:?}");
        assert!(!enforcer.store_is_ok());
        next(&mut enforcer);
        assert!(enforcer.store_is_ok());
        block(&mut enforcer, &["203.0.113.9"]).unwrap();
        assert_eq!(block(&mut enforcer, &["203.0.113.9"]).unwrap().warnings, [] as [String; 0]);
        drop(enforcer);
        let again = started(&directory, "");
        let all = ["203.0.113.7/32 by hand", "203.0.113.8/32 by hand", "203.0.113.9/32 by hand"];
        assert_eq!(names(&again), all);
    }
    assert_eq!(fs::read_to_string(directory.path().join("edge.db-aside-2")).unwrap(), RUBBISH.repeat(900));
}

#[test]
fn nobody_has_to_write_for_others_to_be_noticed() {
    let directory = TempDir::new().unwrap();
    let mut enforcer = started(&directory, "");
    block(&mut enforcer, &["203.0.113.7"]).unwrap();
    enforcer.sweep(START).unwrap();
    assert!(enforcer.store_is_ok());
    fs::write(directory.path().join("edge.db"), RUBBISH).unwrap();
    enforcer.sweep(START).unwrap();
    assert!(!enforcer.store_is_ok());
}

#[test]
fn what_was_damaged_at_the_start_is_left_alone_until_it_is_moved_away() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("edge.db");
    fs::write(&path, RUBBISH.repeat(900)).unwrap();
    let mut enforcer = started(&directory, "");
    block(&mut enforcer, &["203.0.113.7"]).unwrap();
    next(&mut enforcer);
    assert!(!enforcer.store_is_ok());
    assert_eq!(fs::read_to_string(&path).unwrap(), RUBBISH.repeat(900));
    fs::remove_file(&path).unwrap();
    next(&mut enforcer);
    assert!(enforcer.store_is_ok());
    drop(enforcer);
    assert_eq!(names(&started(&directory, "")), ["203.0.113.7/32 by hand"]);
}

#[test]
fn what_could_not_be_read_at_the_start_joins_what_was_decided_since() {
    let directory = TempDir::new().unwrap();
    let (path, elsewhere) = (directory.path().join("edge.db"), directory.path().join("elsewhere"));
    let mut enforcer = started(&directory, "");
    let seen = BlockRequest {
        targets: vec![target("203.0.113.4")],
        for_seconds: None,
        reason: Some("seen".to_owned()),
        origin: Origin::Log,
        force: false,
    };
    enforcer.execute(&order(Command::Block(seen)), START).unwrap();
    block(&mut enforcer, &["203.0.113.1", "203.0.113.2", "203.0.113.3"]).unwrap();
    for allow in ["192.0.2.7", "192.0.2.8"] {
        enforcer.execute(&order(Command::Allow { targets: vec![target(allow)] }), START).unwrap();
    }
    drop(enforcer);
    fs::rename(&path, &elsewhere).unwrap();
    fs::create_dir(&path).unwrap();

    let mut enforcer = self::enforcer(directory.path(), "");
    let blocks = ["203.0.113.1", "203.0.113.2", "203.0.113.4"].map(|name| (target(name), Until::NEVER)).to_vec();
    enforcer.recall(|_| Held { blocks, allowed: Vec::new() }, START).unwrap();
    enforcer.fill().unwrap();
    assert!(!enforcer.store_is_ok());
    unblock(&mut enforcer, &["203.0.113.2", "203.0.113.3"]).unwrap();
    block(&mut enforcer, &["203.0.113.5"]).unwrap();
    enforcer.execute(&order(Command::Disallow { targets: vec![target("192.0.2.8")] }), START).unwrap();
    next(&mut enforcer);
    assert!(!enforcer.store_is_ok(), "it cannot be read yet");
    fs::remove_dir(&path).unwrap();
    fs::rename(&elsewhere, &path).unwrap();
    next(&mut enforcer);
    assert!(enforcer.store_is_ok());
    let all = ["203.0.113.1/32 by hand", "203.0.113.4/32 seen", "203.0.113.5/32 by hand"];
    assert_eq!(names(&enforcer), all);
    assert_eq!(enforcer.allowed, BTreeSet::from([target("192.0.2.7")]));
    assert_eq!(enforcer.drift(), 0);
    drop(enforcer);
    assert_eq!(names(&started(&directory, "")), all);
}
