//! A state in place of another: all of it, or what was.

use super::*;
use crate::{
    backup::State,
    control::protocol::{RestoreRequest, Restored},
    parcel::{About, End, Parcel, Part},
};

fn state(enforcer: &mut Enforcer<Fake>, now: Now) -> State {
    let answer = enforcer.execute(&order(Command::Backup { file: "a".to_owned() }), now);
    let Ok(Reply::State(state)) = answer else { panic!("{answer:?}") };
    state
}

fn restore(enforcer: &mut Enforcer<Fake>, state: State, now: Now) -> Result<Restored, Failure> {
    let request = RestoreRequest { source: "a".to_owned(), id: "7".to_owned(), state };
    match enforcer.execute(&order(Command::Restore(request)), now)? {
        Reply::Restored(restored) => Ok(*restored),
        other => panic!("{other:?}"),
    }
}

fn trust(enforcer: &mut Enforcer<Fake>, command: Command) {
    enforcer.execute(&order(command), START).unwrap();
}

/// Blocks of one end; more than 255 are a batch.
fn blocks(names: &[&str], many: u32, end: End) -> Part {
    let about = About { origin: Origin::Log, reason: "seen".to_owned(), created: Some(START.wall), end, offence: 2 };
    let addresses = (0..many).map(|n| Target::of(std::net::Ipv4Addr::from_bits(0xc612_0000 + n).into()));
    Part::new(about, addresses.chain(names.iter().map(|name| target(name))).collect())
}

fn names(enforcer: &Enforcer<Fake>, now: Now) -> Vec<String> {
    rows(enforcer, None, now).iter().map(|row| format!("{} {}", row.address, row.origin)).collect()
}

fn held(enforcer: &Enforcer<Fake>) -> Vec<String> {
    enforcer.tables.held.keys().map(ToString::to_string).collect()
}

const HOUR: u64 = 3_600;

#[test]
fn what_was_comes_back_and_what_came_since_is_gone_through_a_restart() {
    let directory = TempDir::new().unwrap();
    let mut enforcer = started(&directory, "block = [\"198.51.100.9\"]");
    let parts = vec![
        blocks(&["203.0.113.7", "2001:db8::/48"], 300, End::After(HOUR)),
        blocks(&["203.0.113.8"], 0, End::UntilLifted),
    ];
    restore(&mut enforcer, State { blocks: Parcel::new(parts), ..State::default() }, START).unwrap();
    trust(&mut enforcer, Command::Allow { targets: vec![target("192.0.2.77")] });
    let history = History { client: target("203.0.113.7"), number: 3, ended: START.wall };
    enforcer.learner.restore(history);
    let (kept, listed) = (state(&mut enforcer, later(60)), rows(&enforcer, None, later(60)));
    assert!(listed.iter().any(|row| row.origin == Origin::Config), "the config's is in force");
    assert!(kept.blocks.parts().iter().all(|part| part.about.origin != Origin::Config), "and not in the backup");

    unblock(&mut enforcer, &["203.0.113.7", "198.18.0.3"]).unwrap();
    block(&mut enforcer, &["203.0.113.99", "10.0.0.0/8"]).unwrap();
    trust(&mut enforcer, Command::Disallow { targets: vec![target("192.0.2.77")] });
    trust(&mut enforcer, Command::Allow { targets: vec![target("192.0.2.78")] });
    enforcer.learner.forget_past();

    let restored = restore(&mut enforcer, kept.clone(), later(120)).unwrap();
    assert_eq!((restored.imported.addresses, restored.imported.prefixes, restored.allowed), (302, 1, 1));
    assert_eq!(state(&mut enforcer, later(120)), kept);
    assert_eq!(rows(&enforcer, None, later(120)), listed);
    assert_eq!(enforcer.drift(), 0);
    assert!(restored.before.allowed.contains(&target("192.0.2.78")), "what was in force is given back");
    drop(enforcer);

    let mut enforcer = started(&directory, "block = [\"198.51.100.9\"]");
    assert_eq!(state(&mut enforcer, later(120)), kept);
    assert_eq!(enforcer.learner.histories().collect::<Vec<_>>(), [history]);
}

#[test]
fn what_ended_meanwhile_and_what_is_protected_is_left_out() {
    let directory = TempDir::new().unwrap();
    let mut enforcer = started(&directory, "allow = [\"198.51.100.7\"]");
    let parts = vec![
        blocks(&["203.0.113.7"], 0, End::At(START.wall.plus(Duration::from_secs(HOUR)))),
        blocks(&["198.51.100.7", "192.0.2.1", "203.0.113.9", "203.0.113.10"], 0, End::UntilLifted),
    ];
    let state = State { blocks: Parcel::new(parts), allowed: vec![target("203.0.113.9")], ..State::default() };
    let restored = restore(&mut enforcer, state, later(HOUR)).unwrap();
    assert_eq!((restored.imported.ended, restored.imported.left_out_total), (1, 3));
    assert_eq!(names(&enforcer, later(HOUR)), ["203.0.113.10/32 log"]);
    assert_eq!(held(&enforcer), ["203.0.113.10/32"]);
}

#[test]
fn what_the_kernel_or_a_limit_refuses_leaves_everything_as_it_was() {
    let directory = TempDir::new().unwrap();
    let mut enforcer = started(&directory, "max_blocked = 1_000");
    block(&mut enforcer, &["203.0.113.99"]).unwrap();
    trust(&mut enforcer, Command::Allow { targets: vec![target("192.0.2.78")] });
    let before = state(&mut enforcer, START);
    let with = |parts| State { blocks: Parcel::new(parts), ..State::default() };
    enforcer.tables.refuses = Some(target("203.0.113.8"));
    let parts = vec![blocks(&["203.0.113.7", "203.0.113.8"], 0, End::UntilLifted)];
    assert_eq!(restore(&mut enforcer, with(parts), START).unwrap_err().blame, Blame::System);
    let too_many = restore(&mut enforcer, with(vec![blocks(&[], 1_001, End::UntilLifted)]), START).unwrap_err();
    assert!(too_many.message.contains("max_blocked"), "{too_many}");
    assert_eq!(state(&mut enforcer, START), before);
    assert_eq!(held(&enforcer), ["203.0.113.99/32"]);
    assert_eq!(enforcer.drift(), 0);
    drop(enforcer);
    assert_eq!(names(&started(&directory, ""), START), ["203.0.113.99/32 manual"]);
}

#[test]
fn a_store_that_cannot_be_read_is_set_aside_and_made_anew() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("edge.db");
    fs::write(&path, "rubbish".repeat(2_000)).unwrap();
    let mut enforcer = started(&directory, "");
    assert!(!enforcer.store_is_ok());
    let state_of = |end| State { blocks: Parcel::new(vec![blocks(&["203.0.113.7"], 0, end)]), ..State::default() };
    let restored = restore(&mut enforcer, state_of(End::UntilLifted), START).unwrap();
    assert!(restored.imported.warnings.iter().any(|warning| warning.contains("edge.db-aside")), "{restored:?}");
    assert!(enforcer.store_is_ok());
    assert_eq!(fs::read_to_string(directory.path().join("edge.db-aside")).unwrap(), "rubbish".repeat(2_000));
    drop(enforcer);
    assert_eq!(names(&started(&directory, ""), START), ["203.0.113.7/32 log"]);
}

#[test]
fn what_another_config_named_is_a_persons_and_what_is_wide_is_told() {
    let directory = TempDir::new().unwrap();
    let mut enforcer = started(&directory, "block = [\"198.51.100.9\"]");
    let mut part = blocks(&["198.51.100.9", "203.0.113.7"], 300, End::UntilLifted);
    part.about.origin = Origin::Config;
    let wide = blocks(&["64.0.0.0/2"], 0, End::UntilLifted);
    let state = State { blocks: Parcel::new(vec![part, wide]), ..State::default() };
    let restored = restore(&mut enforcer, state, START).unwrap();
    let told = restored.imported.warnings.join("\n");
    assert!(told.contains("301 of origin config") && told.contains("64.0.0.0/2: wider than /8"), "{told}");
    let names = names(&enforcer, START);
    assert!(
        names.contains(&"198.51.100.9/32 config".to_owned()) && names.contains(&"203.0.113.7/32 manual".to_owned())
    );
    assert_eq!(names.iter().filter(|name| name.ends_with("config")).count(), 1);
}

#[test]
fn more_allowed_than_the_kernel_holds_is_refused_before_anything_is_touched() {
    let directory = TempDir::new().unwrap();
    let mut enforcer = started(&directory, "");
    let many = (0..65_537).map(|n| Target::of(std::net::Ipv4Addr::from_bits(0xc612_0000 + n).into()));
    let refused = restore(&mut enforcer, State { allowed: many.collect(), ..State::default() }, START).unwrap_err();
    assert!(refused.message.contains("65537") && refused.message.contains("65536"), "{refused}");
    assert_eq!(state(&mut enforcer, START), State::default());
}

/// What the config names and the kernel does not have is the next start's.
#[test]
fn without_an_agent_no_more_of_the_config_is_in_force_than_before() {
    let directory = TempDir::new().unwrap();
    drop(started(&directory, ""));
    let mut enforcer = started(&directory, "block = [\"198.51.100.9\"]");
    enforcer.tables.held.clear();
    enforcer.go_without_agent();
    restore(
        &mut enforcer,
        State { blocks: Parcel::new(vec![blocks(&["203.0.113.7"], 0, End::UntilLifted)]), ..State::default() },
        START,
    )
    .unwrap();
    assert_eq!(names(&enforcer, START), ["203.0.113.7/32 log"]);
    assert_eq!(held(&enforcer), ["203.0.113.7/32"]);
}

#[test]
fn the_store_knows_which_restore_it_comes_from() {
    let directory = TempDir::new().unwrap();
    let mut enforcer = started(&directory, "");
    assert_eq!(enforcer.restored(), Some(None));
    restore(&mut enforcer, State::default(), START).unwrap();
    block(&mut enforcer, &["203.0.113.99"]).unwrap();
    drop(enforcer);
    assert_eq!(started(&directory, "").restored(), Some(Some("7".to_owned())));
}
