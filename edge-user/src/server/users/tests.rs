//! The store of users: who is in it, who signs in, which sessions last.

use super::*;
use crate::clock::Wall;

const HOUR: Duration = Duration::from_secs(3600);

fn store() -> (tempfile::TempDir, UserStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = UserStore::open(directory.path()).unwrap();
    (directory, store)
}

fn sign_in() -> SignIn {
    SignIn { kind: SessionKind::Password, peer: "::ffff:203.0.113.7".parse().unwrap(), now: Wall::now(), ttl: HOUR }
}

fn begin(store: &mut UserStore, name: &str) -> Session {
    let account = store.lookup(name).unwrap().unwrap();
    store.begin_session(&account, sign_in()).unwrap().unwrap()
}

#[test]
fn users_come_change_and_go() {
    let (directory, mut store) = store();
    store.add("alice", "correct horse", &["chat".to_owned(), "admin".to_owned()]).unwrap();
    assert_eq!(store.add("alice", "correct horse", &[]).unwrap_err().blame, Blame::Refused);
    // Another process, as the CLI is one, sees the same.
    let mut other = UserStore::open(directory.path()).unwrap();
    let first = other.lookup("alice").unwrap().unwrap();
    assert_eq!(first.roles, ["chat", "admin"]);
    assert!(password_matches(Some(&first), &[], "correct horse"));
    assert!(!password_matches(Some(&first), &[], "correct horse "));
    assert!(!password_matches(None, &[], "correct horse"));
    other.set_password("alice", "battery staple").unwrap();
    let second = store.lookup("alice").unwrap().unwrap();
    assert!(password_matches(Some(&second), &[], "battery staple"));
    assert_ne!(first.generation, second.generation);
    store.set_disabled("alice", true).unwrap();
    assert!(!password_matches(store.lookup("alice").unwrap().as_ref(), &[], "battery staple"));
    assert!(store.list().unwrap()[0].disabled);
    store.remove("alice").unwrap();
    assert_eq!(store.remove("alice").unwrap_err().blame, Blame::Refused);
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn names_and_passwords_have_bounds() {
    let (_directory, mut store) = store();
    for name in ["", "a:b", "a\nb", &"x".repeat(129)] {
        assert_eq!(store.add(name, "long enough", &[]).unwrap_err().blame, Blame::Usage, "{name:?}");
    }
    for password in ["1234567".to_owned(), "x".repeat(1025)] {
        assert_eq!(store.add("a", &password, &[]).unwrap_err().blame, Blame::Usage);
    }
    store.add(&"ä".repeat(128), "12345678", &[]).unwrap();
    store.add("b", &"x".repeat(1024), &[]).unwrap();
}

#[test]
fn a_refresh_token_is_good_once_and_a_second_use_ends_the_session() {
    let (_directory, mut store) = store();
    store.add("alice", "correct horse", &[]).unwrap();
    let first = begin(&mut store, "alice");
    let Refreshed::Good(second) = store.refresh(&first.refresh_token, Wall::now(), HOUR).unwrap() else { panic!() };
    assert_eq!((second.family, second.user.as_str()), (first.family, "alice"));
    assert!(store.session_lives(first.family).unwrap());
    assert_eq!(store.refresh(&first.refresh_token, Wall::now(), HOUR).unwrap(), Refreshed::Spent);
    assert!(!store.session_lives(first.family).unwrap());
    assert_eq!(store.refresh(&second.refresh_token, Wall::now(), HOUR).unwrap(), Refreshed::Spent);
    assert_eq!(store.refresh("never issued", Wall::now(), HOUR).unwrap(), Refreshed::Unknown);
}

#[test]
fn sessions_end_by_time_logout_and_change_of_the_account() {
    let (_directory, mut store) = store();
    store.add("alice", "correct horse", &[]).unwrap();
    let session = begin(&mut store, "alice");
    let late = Wall::now().plus(HOUR);
    assert_eq!(store.refresh(&session.refresh_token, late, HOUR).unwrap(), Refreshed::Spent);
    let session = begin(&mut store, "alice");
    store.end_session(session.family).unwrap();
    assert_eq!(store.refresh(&session.refresh_token, Wall::now(), HOUR).unwrap(), Refreshed::Spent);
    let (session, account) = (begin(&mut store, "alice"), store.lookup("alice").unwrap().unwrap());
    store.set_password("alice", "battery staple").unwrap();
    assert_eq!(store.refresh(&session.refresh_token, Wall::now(), HOUR).unwrap(), Refreshed::Spent);
    assert_eq!(store.begin_session(&account, sign_in()).unwrap(), None);
    let session = begin(&mut store, "alice");
    store.remove("alice").unwrap();
    assert_eq!(store.refresh(&session.refresh_token, Wall::now(), HOUR).unwrap(), Refreshed::Spent);
    store.add("alice", "correct horse", &[]).unwrap();
    assert_eq!(store.refresh(&session.refresh_token, Wall::now(), HOUR).unwrap(), Refreshed::Spent);
}

#[test]
fn sessions_are_listed_as_long_as_they_go_on_and_end_by_their_id() {
    let (_directory, mut store) = store();
    for name in ["alice", "bob"] {
        store.add(name, "correct horse", &[]).unwrap();
    }
    let (one, two, three) = (begin(&mut store, "alice"), begin(&mut store, "alice"), begin(&mut store, "bob"));
    let ids = |store: &UserStore, user: Option<&str>| -> Vec<String> {
        store.sessions(user, Wall::now()).unwrap().into_iter().map(|session| session.id).collect()
    };
    let first = store.sessions(Some("bob"), Wall::now()).unwrap().remove(0);
    assert_eq!((&*first.user, &*first.kind, &*first.peer), ("bob", "password", "203.0.113.7"));
    assert_eq!((first.last_seen, first.expires), (first.created, first.created.plus(HOUR)));
    assert_eq!(ids(&store, None).len(), 3);
    let later = Wall::now().plus(Duration::from_secs(60));
    store.sessions_seen(&[(three.family, later)]).unwrap();
    assert_eq!(store.sessions(Some("bob"), Wall::now()).unwrap()[0].last_seen, later);
    assert_eq!(store.end_named_session(&first.id, Wall::now()).unwrap(), "bob");
    assert!(!store.session_lives(three.family).unwrap());
    for id in [&first.id, "", "-1", "zz", "éééééééé"] {
        assert_eq!(store.end_named_session(id, Wall::now()).unwrap_err().blame, Blame::Refused, "{id}");
    }
    assert!(store.end_session_of(&one.refresh_token).unwrap());
    assert_eq!(ids(&store, Some("alice")), [id_text(two.family)]);
    store.set_password("alice", "battery staple").unwrap();
    assert_eq!(ids(&store, None), [] as [String; 0]);
    let session = begin(&mut store, "alice");
    let good = |store: &UserStore| store.peek_refresh(&session.refresh_token, Wall::now()).unwrap();
    assert!(matches!(good(&store), Peeked::Good { user, .. } if user == "alice"));
    store.revoke_all(Wall::now()).unwrap();
    assert_eq!((good(&store), ids(&store, None)), (Peeked::Ended, Vec::new()));
    assert!(!store.session_lives(session.family).unwrap());
    let again = begin(&mut store, "alice");
    assert!(store.session_lives(again.family).unwrap(), "who signs in afterwards is in");
}

#[test]
fn single_tokens_and_external_callers_are_revoked_until_their_end() {
    let (_directory, mut store) = store();
    let made = store.external_not_before("google:8").unwrap();
    assert!(made >= Wall::now().0 / 1000 - 60, "what was revoked before the store was made is not good again");
    let now = Wall::now().plus(Duration::from_secs(60));
    let end = now.plus(Duration::from_secs(60));
    store.revoke_token(b"one", end, now).unwrap();
    assert!(store.is_token_revoked(b"one").unwrap() && !store.is_token_revoked(b"two").unwrap());
    store.revoke_token(b"two", end, Wall(end.0 + 1)).unwrap();
    assert!(!store.is_token_revoked(b"one").unwrap(), "it is no more good by itself");
    assert_eq!(store.external_not_before("google:7").unwrap(), made);
    store.revoke_external("google:7", now).unwrap();
    assert_eq!(store.external_not_before("google:7").unwrap(), now.0 / 1000 + 1);
    assert_eq!(store.external_not_before("google:8").unwrap(), made);
}

#[test]
fn a_hash_is_renewed_in_place_and_the_old_one_is_gone_from_the_files() {
    let (directory, mut store) = store();
    store.add("alice", "correct horse", &[]).unwrap();
    let before = store.lookup("alice").unwrap().unwrap();
    store.renew_hash(&before, &renewed("correct horse").unwrap()).unwrap();
    let after = store.lookup("alice").unwrap().unwrap();
    assert_eq!((after.generation, after.hash == before.hash), (before.generation, false));
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(before.hash.len()).any(|window| window == before.hash.as_bytes()));
    }
    store.renew_hash(&before, "another").unwrap();
    assert_eq!(store.lookup("alice").unwrap().unwrap().hash, after.hash, "it was changed meanwhile");
}

#[test]
fn what_is_removed_is_gone_from_the_files() {
    let (directory, mut store) = store();
    store.add("zacharias-the-removed", "correct horse", &[]).unwrap();
    begin(&mut store, "zacharias-the-removed");
    let second = UserStore::open(directory.path()).unwrap();
    second.lookup("zacharias-the-removed").unwrap();
    let found = |directory: &Path| {
        std::fs::read_dir(directory).unwrap().any(|entry| {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            bytes.windows(21).any(|window| window == b"zacharias-the-removed")
        })
    };
    assert!(found(directory.path()));
    store.remove("zacharias-the-removed").unwrap();
    assert!(!found(directory.path()));
}

#[test]
fn a_broken_file_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("users.db"), vec![b'x'; 8192]).unwrap();
    let error = UserStore::open(directory.path()).unwrap_err();
    assert!(error.message.contains("users.db"), "{error}");
}
