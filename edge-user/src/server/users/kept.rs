//! Users as a backup keeps them, and all of them replaced at once: prepared first, in force when it is committed, so that
//! the agent's part of a restore can be refused in between. Whoever is in the store then begins anew: every session and
//! token of before is ended.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, ErrorCode, params};
use serde::{Deserialize, Serialize};

use super::{
    UserStore,
    accounts::{check_name, check_roles, joined, split},
    create_file, failure, password, random_id, unopened,
};
use crate::{clock::Wall, error::Failure};

/// One user, without what a session or a token could be bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    pub name: String,
    pub hash: String,
    pub roles: Vec<String>,
    pub disabled: bool,
    pub created: Wall,
}

impl Kept {
    /// Whether an edge wrote it.
    pub fn check(&self) -> Result<(), Failure> {
        check_name(&self.name)?;
        check_roles(&self.roles)?;
        password::check(&self.hash)
            .map_err(|why| Failure::usage(format!("the password hash of the user {:?} {why}", self.name)))
    }
}

/// All users of the store in `directory`; none where there is no store.
pub fn kept(directory: &Path) -> Result<Vec<Kept>, Failure> {
    if !path_in(directory).try_exists().map_err(|error| unopened(directory, &error))? {
        return Ok(Vec::new());
    }
    let store = UserStore::open(directory)?;
    let read = || {
        let mut query = store.db.prepare("SELECT name, hash, roles, disabled, created FROM users ORDER BY name")?;
        let rows = query.query_map([], |row| {
            Ok(Kept {
                name: row.get(0)?,
                hash: row.get(1)?,
                roles: split(&row.get::<_, String>(2)?),
                disabled: row.get(3)?,
                created: Wall(row.get(4)?),
            })
        })?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    };
    read().map_err(|error| store.failure(&error))
}

/// Users that take the place of all others; without a commit nothing is changed.
#[derive(Debug)]
pub struct Replacement {
    store: UserStore,
    path: PathBuf,
    /// A store of its own, where the one in place is damaged.
    beside: Option<PathBuf>,
}

impl Replacement {
    pub fn prepare(directory: &Path, users: &[Kept]) -> Result<Replacement, Failure> {
        users.iter().try_for_each(Kept::check)?;
        let path = path_in(directory);
        let damaged = is_damaged(&path)?;
        let (mut store, beside) = if damaged {
            let beside = new_beside(directory, &path)?;
            let store = UserStore::connect(&beside).map_err(|error| failure(&beside, &error))?;
            (store, Some(beside))
        } else {
            (UserStore::open_or_create(directory)?, None)
        };
        put(&mut store.db, users, Wall::now())?.map_err(|error| store.failure(&error))?;
        Ok(Replacement { store, path, beside })
    }

    /// Whether the store in place cannot be read and goes.
    pub fn replaces_damaged(&self) -> bool {
        self.beside.is_some()
    }

    pub fn commit(self) -> Result<(), Failure> {
        let Replacement { store, path, beside } = self;
        let failed = |error: rusqlite::Error| failure(&path, &error);
        store.db.execute_batch("COMMIT").map_err(failed)?;
        store.forget_replaced()?;
        let Some(beside) = beside else { return Ok(()) };
        store.db.close().map_err(|(_, error)| failed(error))?;
        take_place(&beside, &path).map_err(|error| unopened(&path, &error))
    }
}

fn path_in(directory: &Path) -> PathBuf {
    directory.join("users.db")
}

/// A store that cannot be opened for another reason, or is of a newer edge, is not replaced.
fn is_damaged(path: &Path) -> Result<bool, Failure> {
    if !path.try_exists().map_err(|error| unopened(path, &error))? {
        return Ok(false);
    }
    let sound = UserStore::connect(path)
        .and_then(|store| store.db.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0)));
    match sound {
        Ok(answer) => Ok(answer != "ok"),
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Ok(true),
            _ => Err(failure(path, &error)),
        },
    }
}

fn new_beside(directory: &Path, path: &Path) -> Result<PathBuf, Failure> {
    let (uid, owner) = (nix::unistd::Uid::effective(), directory.metadata().map(|data| data.uid()));
    if !uid.is_root() && owner.map_err(|error| unopened(directory, &error))? != uid.as_raw() {
        return Err(Failure::forbidden(format!(
            "the store of users {} is damaged, and only root can make one anew that is the server's; run this as root",
            path.display()
        )));
    }
    let beside = path.with_extension("db-new");
    for stale in [&beside, &beside.with_extension("db-new-wal"), &beside.with_extension("db-new-shm")] {
        remove(stale).map_err(|error| unopened(stale, &error))?;
    }
    create_file(directory, &beside)?;
    Ok(beside)
}

/// Who has the damaged store open sees by the file that it is another one now. What lay beside it must not be taken for
/// the new one's.
fn take_place(beside: &Path, path: &Path) -> io::Result<()> {
    for (of, suffix) in [(beside, "db-new-wal"), (beside, "db-new-shm"), (path, "db-wal"), (path, "db-shm")] {
        remove(&of.with_extension(suffix))?;
    }
    fs::File::open(beside)?.sync_all()?;
    fs::rename(beside, path)?;
    path.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Leaves the transaction open. Random numbers come first: they fail in another way.
fn put(db: &mut Connection, users: &[Kept], now: Wall) -> Result<rusqlite::Result<()>, Failure> {
    let generations = users.iter().map(|_| random_id()).collect::<Result<Vec<i64>, Failure>>()?;
    let not_before = now.0 / 1000 + 1;
    let write = || {
        db.execute_batch("BEGIN IMMEDIATE; DELETE FROM users; UPDATE families SET ended = 1")?;
        db.execute("UPDATE removal SET last = max(last, ?)", [now.0 / 1000])?;
        let mut insert = db.prepare("INSERT INTO users VALUES(?, ?, ?, ?, ?, ?, ?, ?)")?;
        for (user, generation) in users.iter().zip(&generations) {
            let Kept { name, hash, roles, disabled, created } = user;
            let scheme = password::scheme(hash);
            let (roles, created) = (joined(roles), created.0);
            insert.execute(params![name, hash, roles, disabled, generation, not_before, created, scheme])?;
        }
        let gone = "UPDATE families SET user = '' WHERE user NOT IN (SELECT name FROM users)";
        db.execute(gone, []).map(drop)
    };
    Ok(write())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::users::{Refreshed, Session, SessionKind, SignIn, password_matches};

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
        assert_eq!(kept(directory.path()).unwrap(), []);
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

        let replacement = Replacement::prepare(directory.path(), &users).unwrap();
        assert_eq!(names(&store), ["alice", "carol", "mallory"], "nothing is changed before the commit");
        drop(replacement);
        assert_eq!(names(&store), ["alice", "carol", "mallory"], "nothing is changed without it");
        Replacement::prepare(directory.path(), &users).unwrap().commit().unwrap();
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
        Replacement::prepare(directory.path(), &[]).unwrap().commit().unwrap();
        for entry in fs::read_dir(directory.path()).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(21).any(|window| window == b"zacharias-the-removed"));
        }
    }

    #[test]
    fn a_damaged_store_is_replaced_under_who_has_it_open() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = UserStore::open(directory.path()).unwrap();
        store.add("alice", "correct horse", &[]).unwrap();
        let users = kept(directory.path()).unwrap();
        fs::write(path_in(directory.path()), b"rubbish".repeat(2_000)).unwrap();
        let replacement = Replacement::prepare(directory.path(), &users).unwrap();
        assert!(replacement.replaces_damaged());
        drop(replacement);
        assert_eq!(fs::read(path_in(directory.path())).unwrap(), b"rubbish".repeat(2_000));

        assert!(store.is_current());
        Replacement::prepare(directory.path(), &users).unwrap().commit().unwrap();
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
        left.retain(|name| name.contains("new"));
        assert_eq!(left, [] as [String; 0]);
    }

    #[test]
    fn what_no_edge_wrote_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        UserStore::open(directory.path()).unwrap().add("alice", "correct horse", &[]).unwrap();
        let good = kept(directory.path()).unwrap().remove(0);
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
            assert!(Replacement::prepare(directory.path(), &[user]).is_err());
        }
        assert!(Replacement::prepare(directory.path(), &[good.clone(), good]).is_err(), "twice");
        assert_eq!(names(&UserStore::open(directory.path()).unwrap()), ["alice"]);
    }
}
