//! The tables of the store, version by version. A new file goes through every step too, so that an old one that is
//! brought up to date in place and a new one are the same.

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::password;
use crate::clock::Wall;

/// Written to the file; a file with a higher one was made by a newer edge.
pub(super) const VERSION: i64 = 3;

const USERS_AND_SESSIONS: &str = "
    CREATE TABLE users(
        name TEXT PRIMARY KEY, hash TEXT NOT NULL, roles TEXT NOT NULL, disabled INTEGER NOT NULL,
        generation INTEGER NOT NULL, not_before INTEGER NOT NULL, created INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE families(
        id INTEGER PRIMARY KEY, user TEXT NOT NULL, generation INTEGER NOT NULL, ended INTEGER NOT NULL,
        created INTEGER NOT NULL, expires INTEGER NOT NULL);
    CREATE INDEX families_of_user ON families(user);
    CREATE TABLE refresh(
        hash BLOB PRIMARY KEY, family INTEGER NOT NULL, used INTEGER NOT NULL, expires INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX refresh_of_family ON refresh(family);
    CREATE TABLE removal(last INTEGER NOT NULL);
    INSERT INTO removal VALUES(0);
    PRAGMA user_version = 1;";

/// `keys.expires` is where a key ends by itself: as it was made, or at the end of the overlap once another took its
/// place. An ended key is kept, so that it is known to be one of ours. `revoked` holds the SHA-256 of what names a
/// token; `external` the second up to which tokens of a name, or with an empty name of all, are revoked.
const KEYS_AND_REVOCATION: &str = "
    ALTER TABLE users ADD COLUMN scheme TEXT NOT NULL DEFAULT '';
    CREATE INDEX users_by_scheme ON users(scheme);
    ALTER TABLE families ADD COLUMN kind TEXT NOT NULL DEFAULT 'password';
    ALTER TABLE families ADD COLUMN peer TEXT NOT NULL DEFAULT '';
    ALTER TABLE families ADD COLUMN last_seen INTEGER NOT NULL DEFAULT 0;
    UPDATE families SET last_seen = created;
    CREATE TABLE keys(
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, roles TEXT NOT NULL, prefix TEXT NOT NULL,
        hash BLOB NOT NULL UNIQUE, created INTEGER NOT NULL, expires INTEGER, last_used INTEGER,
        generation INTEGER NOT NULL, not_before INTEGER NOT NULL, replaced INTEGER NOT NULL, ended INTEGER NOT NULL);
    CREATE UNIQUE INDEX keys_in_force ON keys(name) WHERE ended = 0 AND replaced = 0;
    CREATE TABLE former(
        algorithm TEXT NOT NULL, key TEXT NOT NULL, until INTEGER NOT NULL, PRIMARY KEY(algorithm, key)) WITHOUT ROWID;
    CREATE TABLE revoked(hash BLOB PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX revoked_until ON revoked(until);
    CREATE TABLE external(name TEXT PRIMARY KEY, revoked_before INTEGER NOT NULL) WITHOUT ROWID;";

/// What browsers hold: the SHA-256 of each cookie. `idle` and `until` bound its session, in milliseconds.
const COOKIES: &str = "
    CREATE TABLE cookies(
        hash BLOB PRIMARY KEY, family INTEGER NOT NULL, idle INTEGER NOT NULL, until INTEGER NOT NULL,
        email TEXT) WITHOUT ROWID;
    CREATE INDEX cookies_of_family ON cookies(family);";

/// Makes the tables, or brings those of an earlier version up to date: all of it or nothing.
pub(super) fn bring_up(db: &mut Connection) -> rusqlite::Result<()> {
    if version(db)? < VERSION {
        let write = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let from = version(&write)?;
        if from < 1 {
            write.execute_batch(USERS_AND_SESSIONS)?;
        }
        if from < 2 {
            write.execute_batch(KEYS_AND_REVOCATION)?;
            fill_in_schemes(&write)?;
        }
        if from < 1 {
            // What was revoked before is not known to a new store, and must not be good again.
            write.execute("INSERT INTO external VALUES('', ?)", [Wall::now().0 / 1000])?;
        }
        if from < 3 {
            write.execute_batch(COOKIES)?;
        }
        write.pragma_update(None, "user_version", VERSION)?;
        write.commit()?;
    }
    match version(db)? {
        VERSION => Ok(()),
        other => Err(rusqlite::Error::IntegralValueOutOfRange(0, other)),
    }
}

fn version(db: &Connection) -> rusqlite::Result<i64> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn fill_in_schemes(write: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut query = write.prepare("SELECT name, hash FROM users")?;
    let users = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    for (name, hash) in users.collect::<rusqlite::Result<Vec<_>>>()? {
        write.execute("UPDATE users SET scheme = ? WHERE name = ?", params![password::scheme(&hash), name])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Wall,
        server::users::{Refreshed, UserStore, password_matches},
    };

    /// Of an edge that wrote version 1: a user who is signed in.
    const FORMER: &str = "
        INSERT INTO users VALUES('alice', '$argon2id$v=19$m=19456,t=2,p=1$c29tZSBzYWx0IG9mIGVkZ2U$TIjDmXjNRJbcOMRMMBuDRDrOoWyMCWIBaSAVzLdDx3c',
            'chat,admin', 0, 77, 1700000000, 1700000000123);
        INSERT INTO families VALUES(5, 'alice', 77, 0, 1700000001000, 9700000001000);
        INSERT INTO refresh VALUES(x'9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08', 5, 0, 9700000001000);
        UPDATE removal SET last = 1600000000;";

    #[test]
    fn a_store_of_version_1_is_brought_up_to_date_in_place_and_nothing_of_it_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("users.db");
        let db = Connection::open(&file).unwrap();
        db.execute_batch(USERS_AND_SESSIONS).unwrap();
        db.execute_batch(FORMER).unwrap();
        drop(db);
        // Two at once, as the server and a command are.
        let mut store = UserStore::open(directory.path()).unwrap();
        let other = UserStore::open(directory.path()).unwrap();
        let alice = other.lookup("alice").unwrap().unwrap();
        assert_eq!((alice.generation, alice.not_before), (77, 1_700_000_000));
        assert_eq!(alice.roles, ["chat", "admin"]);
        assert!(store.session_lives(5).unwrap());
        let hour = std::time::Duration::from_secs(3600);
        assert!(
            matches!(store.refresh("test", Wall::now(), hour).unwrap(), Refreshed::Good(session) if session.family == 5)
        );
        assert_eq!(store.schemes().unwrap(), [password::scheme(&alice.hash)]);
        assert!(!password_matches(Some(&alice), &[], "wrong"));
        assert_eq!(version(&Connection::open(&file).unwrap()).unwrap(), VERSION);
    }

    #[test]
    fn a_store_of_a_newer_edge_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        drop(UserStore::open(directory.path()).unwrap());
        let db = Connection::open(directory.path().join("users.db")).unwrap();
        db.pragma_update(None, "user_version", VERSION + 1).unwrap();
        let failure = UserStore::open(directory.path()).unwrap_err();
        assert!(failure.message.contains("has layout 4, which this edge does not know (3)"), "{failure}");
        assert_eq!(version(&db).unwrap(), VERSION + 1);
    }
}
