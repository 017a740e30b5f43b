//! All users and keys replaced at once: prepared first, in force when it is committed, so that the agent's part of a restore can be
//! refused in between, or the restore cut short. Whoever is in the store then begins anew: every session and token of
//! before is ended.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use rusqlite::{Connection, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use super::{
    UserStore,
    accounts::joined,
    anew::{is_damaged, make_anew, may_make_anew},
    create_file,
    kept::{Holders, Kept, KeptKey, path_in},
    password, random_id,
    revocation::revoke_external,
    unopened,
};
use crate::{clock::Wall, error::Failure, server::secret};

/// Users that are to take the place of all others. They lie beside the store until they have, with the id of their
/// restore: where that is cut short, a start knows by the agent's part whether to finish or to undo it.
#[derive(Debug)]
pub struct Replacement {
    directory: PathBuf,
    laid: Laid,
    replaces_damaged: bool,
    revived: Vec<String>,
}

/// What lies beside the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Laid {
    id: String,
    /// The file that they come from.
    source: String,
    users: Vec<Kept>,
    #[serde(default)]
    keys: Vec<KeptKey>,
}

/// What became of a restore that was cut short, and of which backup it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    Finished(String),
    Undone(String),
}

impl Replacement {
    /// Changes nothing yet.
    pub fn prepare(directory: &Path, holders: &Holders, source: &str) -> Result<Replacement, Failure> {
        check_all(holders)?;
        let path = path_in(directory);
        let replaces_damaged = is_damaged(&path)?;
        let mut revived = Vec::new();
        if replaces_damaged {
            may_make_anew(directory, &path)?;
        } else {
            let mut store = UserStore::open_or_create(directory)?;
            store.touch()?;
            revived = store.ended_of(holders.keys.iter().map(|key| key.id.clone()), Wall::now())?;
        }
        let Holders { users, keys } = holders.clone();
        let laid = Laid { id: secret::generate()?, source: source.to_owned(), users, keys };
        lay(directory, &laid).map_err(|error| unopened(&laid_in(directory), &error))?;
        Ok(Replacement { directory: directory.to_owned(), laid, replaces_damaged, revived })
    }

    /// Whether the store in place cannot be read and goes.
    pub fn replaces_damaged(&self) -> bool {
        self.replaces_damaged
    }

    /// Names of keys that were ended since and are in force again.
    pub fn revived(&self) -> &[String] {
        &self.revived
    }

    pub fn id(&self) -> &str {
        &self.laid.id
    }

    /// After a failure the users are as they were. Gives where a damaged store lies now.
    pub fn commit(&self) -> Result<Option<PathBuf>, Failure> {
        let path = path_in(&self.directory);
        let holders = self.laid.holders();
        let aside = if self.replaces_damaged {
            make_anew(&self.directory, &path, &holders)?
        } else {
            let mut store = UserStore::open(&self.directory)?;
            put(&mut store.db, &holders, Wall::now())?.map_err(|error| store.failure(&error))?;
            // What they replaced is gone from the log with its next checkpoint otherwise.
            let _ = store.forget_replaced();
            None
        };
        // What stays is finished once more at a start, and until then nothing else may change the users.
        let _ = take_away(&self.directory);
        Ok(aside)
    }

    /// The agent's part is not in force.
    pub fn give_up(self) -> Result<(), Failure> {
        take_away(&self.directory).map_err(|error| unopened(&laid_in(&self.directory), &error))
    }
}

/// Of which backup users wait for their restore to be finished.
pub fn waiting(directory: &Path) -> Result<Option<String>, Failure> {
    Ok(laid(directory)?.map(|laid| laid.source))
}

/// Finishes or undoes a restore that was cut short. `restored`: the last of which the agent's part is in force.
pub fn settle(directory: &Path, restored: Option<&str>) -> Result<Option<Settled>, Failure> {
    let Some(laid) = laid(directory)? else { return Ok(None) };
    let source = laid.source.clone();
    if restored == Some(&laid.id) {
        let replaces_damaged = is_damaged(&path_in(directory))?;
        Replacement { directory: directory.to_owned(), laid, replaces_damaged, revived: Vec::new() }.commit()?;
        return Ok(Some(Settled::Finished(source)));
    }
    take_away(directory).map_err(|error| unopened(&laid_in(directory), &error))?;
    Ok(Some(Settled::Undone(source)))
}

impl Laid {
    fn holders(&self) -> Holders {
        Holders { users: self.users.clone(), keys: self.keys.clone() }
    }
}

fn check_all(holders: &Holders) -> Result<(), Failure> {
    holders.check()?;
    let Holders { users, keys } = holders;
    let (mut ids, mut in_force) = (BTreeSet::new(), BTreeSet::new());
    if let Some(twice) = keys.iter().find(|key| !ids.insert(&key.id) || !key.replaced && !in_force.insert(&key.name)) {
        return Err(Failure::usage(format!("the key {} is named twice", twice.name)));
    }
    let mut names = BTreeSet::new();
    match users.iter().find(|user| !names.insert(&user.name)) {
        Some(twice) => Err(Failure::usage(format!("the user {} is named twice", twice.name))),
        None => Ok(()),
    }
}

fn laid_in(directory: &Path) -> PathBuf {
    directory.join("users.db-restore")
}

/// What is whole is on disk when this returns.
fn lay(directory: &Path, laid: &Laid) -> io::Result<()> {
    let (path, new) = (laid_in(directory), directory.join("users.db-restore-new"));
    remove(&new)?;
    create_file(directory, &new).map_err(|failure| io::Error::other(failure.message))?;
    let mut file = fs::File::options().write(true).open(&new)?;
    let written = serde_json::to_vec(laid).map_err(io::Error::from).and_then(|bytes| file.write_all(&bytes));
    let done = written.and_then(|()| file.sync_all()).and_then(|()| fs::rename(&new, path));
    if done.is_err() {
        let _ = remove(&new);
    }
    done.and_then(|()| fs::File::open(directory)?.sync_all())
}

fn laid(directory: &Path) -> Result<Option<Laid>, Failure> {
    let path = laid_in(directory);
    let read = fs::read(&path).and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from));
    match read {
        Ok(laid) => Ok(Some(laid)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(unopened(&path, &error)),
    }
}

fn take_away(directory: &Path) -> io::Result<()> {
    remove(&laid_in(directory))?;
    fs::File::open(directory)?.sync_all()
}

/// All of them in one transaction. Random numbers come first: they fail in another way.
pub(super) fn put(db: &mut Connection, holders: &Holders, now: Wall) -> Result<rusqlite::Result<()>, Failure> {
    let Holders { users, keys } = holders;
    let keys = keys.iter().map(|key| Ok((key, key.check()?, random_id()?))).collect::<Result<Vec<_>, Failure>>()?;
    let generations = users.iter().map(|_| random_id()).collect::<Result<Vec<i64>, Failure>>()?;
    let not_before = now.0 / 1000 + 1;
    let mut write = || {
        let write = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        write.execute_batch("DELETE FROM users; UPDATE families SET ended = 1")?;
        write.execute("UPDATE removal SET last = max(last, ?)", [now.0 / 1000])?;
        let mut insert = write.prepare("INSERT INTO users VALUES(?, ?, ?, ?, ?, ?, ?, ?)")?;
        for (user, generation) in users.iter().zip(&generations) {
            let Kept { name, hash, roles, disabled, created } = user;
            let scheme = password::scheme(hash);
            let (roles, created) = (joined(roles), created.0);
            insert.execute(params![name, hash, roles, disabled, generation, not_before, created, scheme])?;
        }
        drop(insert);
        // Those that the backup does not have stay known as ended.
        write.execute("UPDATE keys SET ended = 1, replaced = 1", [])?;
        for (key, (row, hash), generation) in &keys {
            let KeptKey { name, kind, roles, prefix, created, expires, last_used, replaced, .. } = key;
            let (expires, last_used) = (expires.map(|at| at.0), last_used.map(|at| at.0));
            write.execute(
                "INSERT OR REPLACE INTO keys VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
                params![
                    row,
                    name,
                    kind.name(),
                    joined(roles),
                    prefix,
                    hash,
                    created.0,
                    expires,
                    last_used,
                    generation,
                    not_before,
                    replaced
                ],
            )?;
        }
        revoke_external(&write, "", now)?;
        write.execute("UPDATE families SET user = '' WHERE user NOT IN (SELECT name FROM users)", [])?;
        write.commit()
    };
    Ok(write())
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::users::{KeyKind, Refreshed, Session, SessionKind, SignIn, kept, password_matches};

    const HOUR: Duration = Duration::from_secs(3600);

    fn begin(store: &mut UserStore, name: &str) -> Session {
        let account = store.lookup(name).unwrap().unwrap();
        let (peer, now) = ("203.0.113.7".parse().unwrap(), Wall::now());
        let sign_in = SignIn { kind: SessionKind::Password, peer, now, ttl: HOUR };
        store.begin_session(&account, sign_in).unwrap().unwrap()
    }

    fn names(store: &UserStore) -> Vec<String> {
        store.list().unwrap().into_iter().map(|user| user.name).collect()
    }

    #[test]
    fn users_come_back_as_they_were_and_every_session_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(kept(directory.path()).unwrap(), Holders::default());
        assert!(!path_in(directory.path()).exists(), "looking makes no store");
        let mut store = UserStore::open(directory.path()).unwrap();
        store.add("alice", "correct horse", &["chat".to_owned()]).unwrap();
        store.add("carol", "correct horse", &[]).unwrap();
        store.set_disabled("carol", true).unwrap();
        let users = kept(directory.path()).unwrap();
        let (before, session) = (store.lookup("alice").unwrap().unwrap(), begin(&mut store, "alice"));
        store.set_password("alice", "battery staple").unwrap();
        store.add("mallory", "correct horse", &[]).unwrap();
        let later = begin(&mut store, "mallory");

        let replacement = Replacement::prepare(directory.path(), &users, "a").unwrap();
        assert_eq!(names(&store), ["alice", "carol", "mallory"], "nothing is changed before the commit");
        store.touch().unwrap();
        assert_eq!(waiting(directory.path()).unwrap().as_deref(), Some("a"));
        replacement.give_up().unwrap();
        assert_eq!(waiting(directory.path()).unwrap(), None);
        assert_eq!(names(&store), ["alice", "carol", "mallory"], "nothing is changed without it");
        Replacement::prepare(directory.path(), &users, "a").unwrap().commit().unwrap();
        assert_eq!(kept(directory.path()).unwrap(), users);
        let alice = store.lookup("alice").unwrap().unwrap();
        assert!(password_matches(Some(&alice), &[], "correct horse"));
        assert_ne!(alice.generation, before.generation);
        assert!(alice.not_before > before.not_before);
        for session in [session, later] {
            assert!(!store.session_lives(session.family).unwrap());
            assert_eq!(store.refresh(&session.refresh_token, Wall::now(), HOUR).unwrap(), Refreshed::Spent);
        }
    }

    #[test]
    fn what_is_replaced_is_gone_from_the_files() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = UserStore::open(directory.path()).unwrap();
        store.add("zacharias-the-removed", "correct horse", &[]).unwrap();
        begin(&mut store, "zacharias-the-removed");
        Replacement::prepare(directory.path(), &Holders::default(), "a").unwrap().commit().unwrap();
        for entry in fs::read_dir(directory.path()).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(21).any(|window| window == b"zacharias-the-removed"));
        }
    }

    #[test]
    fn keys_come_back_as_they_were_and_no_others_and_those_ended_since_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = UserStore::open(directory.path()).unwrap();
        let now = Wall::now();
        let mut create = |name| store.create_key(name, KeyKind::Api, &["ci".to_owned()], None, now).unwrap();
        let (one, two) = (create("one"), create("two"));
        let before = kept(directory.path()).unwrap();
        assert_eq!(before.keys.len(), 2);
        store.revoke_key("one", now).unwrap();
        let rotated = store.rotate_key("two", Duration::ZERO, now).unwrap();
        let later = store.create_key("three", KeyKind::Internal, &[], None, now).unwrap();
        let generation = store.find_key(&two.key).unwrap().unwrap().generation;

        let replacement = Replacement::prepare(directory.path(), &before, "a").unwrap();
        assert_eq!(replacement.revived(), ["one", "two"]);
        replacement.commit().unwrap();
        assert_eq!(kept(directory.path()).unwrap(), before);
        let good = |key: &str| store.find_key(key).unwrap().unwrap().is_good(Wall::now());
        assert!(good(&one.key) && good(&two.key));
        assert!(!good(&rotated.key) && !good(&later.key), "known, and ended");
        assert_ne!(store.find_key(&two.key).unwrap().unwrap().generation, generation, "its tokens are ended");
        assert!(store.external_not_before("google:7").unwrap() > now.0 / 1000);
        store.create_key("three", KeyKind::Api, &[], None, now).unwrap();
    }

    #[test]
    fn a_damaged_store_is_replaced_under_who_has_it_open() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = UserStore::open(directory.path()).unwrap();
        store.add("alice", "correct horse", &[]).unwrap();
        let users = kept(directory.path()).unwrap();
        fs::write(path_in(directory.path()), b"rubbish".repeat(2_000)).unwrap();
        let replacement = Replacement::prepare(directory.path(), &users, "a").unwrap();
        assert!(replacement.replaces_damaged());
        replacement.give_up().unwrap();
        assert_eq!(fs::read(path_in(directory.path())).unwrap(), b"rubbish".repeat(2_000));

        assert!(store.is_current());
        Replacement::prepare(directory.path(), &users, "a").unwrap().commit().unwrap();
        assert!(!store.is_current());
        let mut new = UserStore::open(directory.path()).unwrap();
        new.add("bob", "correct horse", &[]).unwrap();
        // Who still has the old one leaves what lies beside the new one alone.
        drop(store);
        drop(new);
        assert_eq!(names(&UserStore::open(directory.path()).unwrap()), ["alice", "bob"]);
        let mut left: Vec<String> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.retain(|name| name.contains("new") || name.contains("restore"));
        assert_eq!(left, [] as [String; 0]);
        assert_eq!(fs::read(directory.path().join("users.db-aside")).unwrap(), b"rubbish".repeat(2_000));
    }

    #[test]
    fn what_was_cut_short_is_finished_where_the_other_half_is_in_force_and_undone_where_not() {
        for damaged in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let mut store = UserStore::open(directory.path()).unwrap();
            store.add("alice", "correct horse", &[]).unwrap();
            let users = kept(directory.path()).unwrap();
            store.add("mallory", "correct horse", &[]).unwrap();
            drop(store);
            if damaged {
                fs::write(path_in(directory.path()), b"rubbish".repeat(2_000)).unwrap();
            }
            let before = fs::read(path_in(directory.path())).unwrap();
            assert_eq!(settle(directory.path(), Some("1")).unwrap(), None);
            let id = Replacement::prepare(directory.path(), &users, "a").unwrap().id().to_owned();
            assert_eq!(settle(directory.path(), None).unwrap(), Some(Settled::Undone("a".to_owned())));
            assert_eq!(settle(directory.path(), Some(&id)).unwrap(), None);
            assert!(damaged <= (fs::read(path_in(directory.path())).unwrap() == before));
            let id = Replacement::prepare(directory.path(), &users, "a").unwrap().id().to_owned();
            assert_eq!(settle(directory.path(), Some(&id)).unwrap(), Some(Settled::Finished("a".to_owned())));
            assert_eq!(names(&UserStore::open(directory.path()).unwrap()), ["alice"]);
            assert_eq!(settle(directory.path(), Some(&id)).unwrap(), None);
        }
        assert_eq!(settle(Path::new("/no/such/directory"), None).unwrap(), None);
    }

    #[test]
    fn what_no_edge_wrote_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        UserStore::open(directory.path()).unwrap().add("alice", "correct horse", &[]).unwrap();
        let good = kept(directory.path()).unwrap().users.remove(0);
        let bad = [
            Kept { name: "a:b".to_owned(), ..good.clone() },
            Kept { roles: vec!["a b".to_owned()], ..good.clone() },
            Kept { hash: "secret".to_owned(), ..good.clone() },
            Kept { hash: good.hash.replace("m=19456", "m=4294967295"), ..good.clone() },
            Kept { hash: good.hash.replace("m=19456,t=2", "m=8,t=1"), ..good.clone() },
            Kept { hash: good.hash.replace("argon2id", "argon2d"), ..good.clone() },
            Kept { hash: good.hash.rsplit_once('$').unwrap().0.to_owned(), ..good.clone() },
        ];
        for user in bad {
            assert!(
                Replacement::prepare(directory.path(), &Holders { users: vec![user], ..Holders::default() }, "a")
                    .is_err()
            );
        }
        let twice = Holders { users: vec![good.clone(), good], ..Holders::default() };
        assert!(Replacement::prepare(directory.path(), &twice, "a").is_err(), "twice");
        assert_eq!(names(&UserStore::open(directory.path()).unwrap()), ["alice"]);
    }
}
