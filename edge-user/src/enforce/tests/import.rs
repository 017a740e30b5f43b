//! `import` and `export`.

use super::*;
use crate::{
    control::protocol::{ImportRequest, Imported},
    parcel::{About, End, Parcel, Part},
};

fn part(origin: Origin, end: End, names: &[String]) -> Part {
    let about = About { origin, reason: format!("list of {origin}"), created: None, end, offence: 1 };
    Part::new(about, names.iter().map(|name| target(name)).collect())
}

fn import(enforcer: &mut Enforcer<Fake>, parts: Vec<Part>, now: Now) -> Result<Imported, Failure> {
    let request = ImportRequest { source: "a.txt".to_owned(), count: 0, force: false, parcel: Parcel::new(parts) };
    let request = Request { command: Command::Import(request), caller: Some("198.51.100.9".parse().unwrap()) };
    match enforcer.execute(&request, now)? {
        Reply::Imported(imported) => Ok(*imported),
        other => Err(Failure::bug(format!("{other:?}"))),
    }
}

fn export(enforcer: &mut Enforcer<Fake>, now: Now) -> Parcel {
    match enforcer.execute(&order(Command::Export { origin: None }), now).unwrap() {
        Reply::Listed(parcel) => parcel,
        other => panic!("{other:?}"),
    }
}

fn hosts(count: u32) -> Vec<String> {
    (0..count).map(|n| std::net::Ipv4Addr::from_bits(0xc612_0000 + n).to_string()).collect()
}

fn named(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn what_is_protected_is_left_out_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "allow = [\"198.18.0.0/24\"]");
    let mut names = hosts(1_000);
    names.extend(named(&["192.0.2.1", "127.0.0.1", "198.18.0.0/25", "198.0.0.0/8", "192.0.2.0/24"]));
    let imported = import(&mut enforcer, vec![part(Origin::Feed, End::UntilLifted, &names)], START).unwrap();
    assert_eq!((imported.imported, imported.addresses, imported.prefixes), (746, 744, 2));
    assert_eq!((imported.left_out_total, imported.left_out.len()), (259, 20));
    assert_eq!(imported.left_out[2].reason, "198.18.0.0/24 is on the allow list");
    assert_eq!(imported.warnings.len(), 1, "the caller's own address: {imported:?}");
    assert!(imported.warnings[0].starts_with("198.0.0.0/8 covers the address"));
    assert_eq!(enforcer.tables.held.len(), 746);
    assert!(!enforcer.tables.held.contains_key(&target("192.0.2.1")));
}

#[test]
fn parts_come_into_force_together_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "max_blocked = 1_500\nmax_prefixes = 10");
    block(&mut enforcer, &["198.18.0.1"]).unwrap();
    let before = rows(&enforcer, None, START);
    let parts = |count, nets: &[&str]| {
        vec![
            part(Origin::Feed, End::After(60), &hosts(count)),
            part(Origin::Manual, End::UntilLifted, &named(&["198.18.0.1", "198.18.0.2"])),
            part(Origin::Feed, End::UntilLifted, &named(nets)),
        ]
    };
    enforcer.tables.refuses = Some(target("203.0.113.0/24"));
    let refused = import(&mut enforcer, parts(1_000, &["203.0.113.0/24"]), START).unwrap_err();
    assert_eq!(refused.blame, Blame::System);
    enforcer.tables.refuses = None;
    let full = import(&mut enforcer, parts(1_501, &[]), START).unwrap_err();
    assert!(full.message.contains("1 addresses are blocked, 1500 more are asked for, 1500 fit"), "{full}");
    let wide = import(&mut enforcer, parts(10, &["10.0.0.0/7"]), START).unwrap_err();
    assert!(wide.message.contains("nothing was changed: 10.0.0.0/7 of the list are wider than /8"), "{wide}");
    assert_eq!(rows(&enforcer, None, START), before);
    assert_eq!((enforcer.tables.held.len(), enforcer.drift()), (1, 0));

    import(&mut enforcer, parts(1_500, &["203.0.113.0/24"]), START).unwrap();
    assert_eq!((enforcer.ledger.iter().count(), enforcer.tables.held.len()), (1_503, 1_501));
    assert_eq!(enforcer.tables.until(target("198.18.0.2")), Some(Until::NEVER));
    enforcer.sweep(later(61)).unwrap();
    assert_eq!((enforcer.tables.held.len(), enforcer.drift()), (3, 0));
}

#[test]
fn what_is_exported_is_imported_as_it_was() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut enforcer = started(&here, "block = [\"203.0.113.0/24\"]");
    import(&mut enforcer, vec![part(Origin::Feed, End::After(600), &hosts(1_000))], START).unwrap();
    import(
        &mut enforcer,
        vec![part(Origin::Log, End::UntilLifted, &named(&["2001:db8::/32", "198.18.0.7"]))],
        later(1),
    )
    .unwrap();
    assert_eq!(fail(&mut enforcer, "203.0.114.7", 5).unwrap(), Outcome::Blocked(target("203.0.114.7")));
    unblock(&mut enforcer, &["198.18.0.8"]).unwrap();
    let parcel = export(&mut enforcer, later(2));
    let listed = rows(&enforcer, None, later(2));

    let all = order(Command::Unblock(UnblockRequest { targets: None, origin: None }));
    enforcer.execute(&all, later(2)).unwrap();
    assert!(enforcer.tables.held.is_empty());
    import(&mut enforcer, parcel.parts().to_vec(), later(3)).unwrap();
    assert_eq!(rows(&enforcer, None, later(3)), listed);

    // Elsewhere the config does not name what this one did: it is a person's block there.
    let mut other = started(&there, "");
    let imported = import(&mut other, parcel.parts().to_vec(), later(3)).unwrap();
    assert!(imported.warnings[0].contains("1 of origin config"), "{imported:?}");
    assert_eq!(rows(&other, Some(Origin::Manual), later(3))[0].address, target("203.0.113.0/24"));
    assert_eq!(rows(&other, None, later(3)).len(), listed.len());
}

#[test]
fn what_has_ended_is_not_imported() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "");
    let ended = part(Origin::Manual, End::At(START.wall), &hosts(300));
    let imported = import(&mut enforcer, vec![ended], START).unwrap();
    assert_eq!((imported.ended, imported.imported), (300, 0));
    let lasting = part(Origin::Manual, End::At(later(10).wall), &hosts(300));
    import(&mut enforcer, vec![lasting], START).unwrap();
    assert_eq!(enforcer.tables.until(target("198.18.0.0")), Some(Until::at(later(10).boot.0)));
}
