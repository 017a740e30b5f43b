//! The store of users: who is in it, who signs in, which sessions last.

use argon2::password_hash::phc::PasswordHash;

use super::*;
use crate::clock::Wall;

const HOUR: Duration = Duration::from_secs(3600);

fn store() -> (tempfile::TempDir, UserStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = UserStore::open(directory.path()).unwrap();
    (directory, store)
}

fn begin(store: &mut UserStore, name: &str) -> Session {
    let account = store.lookup(name).unwrap().unwrap();
    store.begin_session(&account, Wall::now(), HOUR).unwrap().unwrap()
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
    assert!(password_matches(Some(&first), "correct horse"));
    assert!(!password_matches(Some(&first), "correct horse "));
    assert!(!password_matches(None, "correct horse"));
    other.set_password("alice", "battery staple").unwrap();
    let second = store.lookup("alice").unwrap().unwrap();
    assert!(password_matches(Some(&second), "battery staple"));
    assert_ne!(first.generation, second.generation);
    store.set_disabled("alice", true).unwrap();
    assert!(!password_matches(store.lookup("alice").unwrap().as_ref(), "battery staple"));
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
    assert_eq!(store.begin_session(&account, Wall::now(), HOUR).unwrap(), None);
    let session = begin(&mut store, "alice");
    store.remove("alice").unwrap();
    assert_eq!(store.refresh(&session.refresh_token, Wall::now(), HOUR).unwrap(), Refreshed::Spent);
    store.add("alice", "correct horse", &[]).unwrap();
    assert_eq!(store.refresh(&session.refresh_token, Wall::now(), HOUR).unwrap(), Refreshed::Spent);
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
fn nobody_costs_what_somebody_does() {
    let (nobody, somebody) =
        (PasswordHash::new(password::NOBODYS_HASH).unwrap(), password::hash("correct horse").unwrap());
    let somebody = PasswordHash::new(&somebody).unwrap();
    assert_eq!(nobody.params, somebody.params);
    assert_eq!((nobody.algorithm, nobody.version), (somebody.algorithm, somebody.version));
}

#[test]
fn a_broken_file_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("users.db"), vec![b'x'; 8192]).unwrap();
    let error = UserStore::open(directory.path()).unwrap_err();
    assert!(error.message.contains("users.db"), "{error}");
}
