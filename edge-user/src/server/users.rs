//! Users and their sessions: one SQLite file in the server's directory. The server reads it at every request and the
//! CLI writes it beside a running server, so what either changes is in force for the next request. Passwords are kept
//! as argon2id, refresh tokens as their SHA-256; what is removed is gone from the files too.

mod kept;

use std::{
    fs::{File, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    time::Duration,
};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, config::DbConfig, params};
use serde::Serialize;

pub use self::kept::{Kept, Replacement, kept};
use super::spawn::{Identity, prepare_auth_directory};
use crate::{
    clock::Wall,
    error::{Blame, Failure},
};

/// Written to the file; a file with a higher one was made by a newer edge.
const SCHEMA: i64 = 1;
const TABLES: &str = "
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

/// How long an ended or expired session is remembered, so that its refresh token is known to be one of ours.
const REMEMBERED_MS: i64 = 30 * 24 * 3600 * 1000;

/// What a login of an unknown user is compared with: the same cost as a real one.
const NOBODYS_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZSBzYWx0IG9mIGVkZ2U$TIjDmXjNRJbcOMRMMBuDRDrOoWyMCWIBaSAVzLdDx3c";

/// The open file.
#[derive(Debug)]
pub struct UserStore {
    db: Connection,
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

/// One row of `edge user list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    pub name: String,
    pub roles: Vec<String>,
    pub disabled: bool,
    pub created: Wall,
}

/// What a request needs to know of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub hash: String,
    pub roles: Vec<String>,
    pub disabled: bool,
    /// Another one with every change that ends the user's sessions and tokens; random, so that none ever comes back.
    pub generation: i64,
    /// Seconds since 1970: tokens that do not carry a generation are good if issued then or later.
    pub not_before: i64,
}

/// One sign-in and what follows from it; ends as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub family: i64,
    pub user: String,
    pub generation: i64,
    /// The refresh token: 256 random bits in base64url. Only its hash is kept.
    pub refresh_token: String,
}

/// What became of a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// The next one of the same session.
    Good(Session),
    /// Edge issued it, but it is used up, expired or revoked. A second use has ended the session.
    Spent,
    /// Edge never issued it.
    Unknown,
}

impl UserStore {
    /// Opens the store in `directory`, creating the file where it is missing.
    pub fn open(directory: &Path) -> Result<UserStore, Failure> {
        let path = directory.join("users.db");
        create_file(directory, &path)?;
        UserStore::connect(&path).map_err(|error| failure(&path, &error))
    }

    /// The same for a command that may come before the first start: root makes the directory too.
    pub fn open_or_create(directory: &Path) -> Result<UserStore, Failure> {
        if nix::unistd::Uid::effective().is_root() && !directory.exists() {
            if let Some(parent) = directory.parent() {
                std::fs::create_dir_all(parent).map_err(|error| unopened(parent, &error))?;
            }
            prepare_auth_directory(directory, &Identity::find()?)?;
        }
        UserStore::open(directory)
    }

    fn connect(path: &Path) -> rusqlite::Result<UserStore> {
        let mut db = Connection::open(path)?;
        db.busy_timeout(Duration::from_secs(5))?;
        // Whoever closes a file that another took the place of would remove what SQLite keeps beside that one.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "NORMAL")?;
        db.pragma_update(None, "secure_delete", true)?;
        db.pragma_update(None, "cache_size", -512)?;
        let version = |db: &Connection| db.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
        if version(&db)? == 0 {
            let write = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if version(&write)? == 0 {
                write.execute_batch(TABLES)?;
            }
            write.commit()?;
        }
        match version(&db)? {
            SCHEMA => Ok(UserStore { db, path: path.to_owned(), file: file_at(path) }),
            other => Err(rusqlite::Error::IntegralValueOutOfRange(0, other)),
        }
    }

    /// Whether what it has open is still what lies at its path.
    pub fn is_current(&self) -> bool {
        file_at(&self.path) == self.file
    }

    /// Whether the disk let it be opened for reading alone.
    pub fn is_read_only(&self) -> bool {
        self.db.is_readonly("main").unwrap_or(false)
    }

    /// Adds a user; a name that exists is refused.
    pub fn add(&mut self, name: &str, password: &str, roles: &[String]) -> Result<(), Failure> {
        check_name(name)?;
        check_roles(roles)?;
        let hash = hash_password(password)?;
        let (generation, created) = (random_id()?, Wall::now());
        let added = self.write(|db| {
            let removal: i64 = db.query_row("SELECT last FROM removal", [], |row| row.get(0))?;
            db.execute(
                "INSERT INTO users VALUES(?, ?, ?, 0, ?, ?, ?) ON CONFLICT DO NOTHING",
                params![name, hash, joined(roles), generation, (created.0 / 1000).max(removal + 1), created.0],
            )
        })?;
        if added == 0 {
            return Err(Failure::refused(format!(
                "the user {name} exists already; `edge user passwd {name}` changes the password"
            )));
        }
        Ok(())
    }

    /// All users, by name.
    pub fn list(&self) -> Result<Vec<User>, Failure> {
        let read = || {
            let mut query = self.db.prepare_cached("SELECT name, roles, disabled, created FROM users ORDER BY name")?;
            let rows = query.query_map([], |row| {
                Ok(User {
                    name: row.get(0)?,
                    roles: split(&row.get::<_, String>(1)?),
                    disabled: row.get(2)?,
                    created: Wall(row.get(3)?),
                })
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|error| self.failure(&error))
    }

    /// Changes the password and ends every session and token of the user.
    pub fn set_password(&mut self, name: &str, password: &str) -> Result<(), Failure> {
        let hash = hash_password(password)?;
        let (generation, not_before) = (random_id()?, Wall::now().0 / 1000 + 1);
        let sql = "UPDATE users SET hash = ?, generation = ?, not_before = ? WHERE name = ?";
        self.change(name, sql, params![hash, generation, not_before, name])
    }

    /// Disabling ends every session and token of the user.
    pub fn set_disabled(&mut self, name: &str, disabled: bool) -> Result<(), Failure> {
        let (generation, not_before) = (random_id()?, Wall::now().0 / 1000 + 1);
        let sql = "UPDATE users SET disabled = ?, generation = ?, not_before = ? WHERE name = ?";
        self.change(name, sql, params![disabled, generation, not_before, name])
    }

    /// Replaces the roles; they hold for the next request, with the tokens that are out.
    pub fn set_roles(&mut self, name: &str, roles: &[String]) -> Result<(), Failure> {
        check_roles(roles)?;
        self.change(name, "UPDATE users SET roles = ? WHERE name = ?", params![joined(roles), name])
    }

    /// Removes the user, and the name and hash from the files too.
    pub fn remove(&mut self, name: &str) -> Result<(), Failure> {
        let removed = self.write(|db| {
            db.execute("UPDATE families SET user = '', ended = 1 WHERE user = ?", [name])?;
            db.execute("UPDATE removal SET last = max(last, ?)", [Wall::now().0 / 1000])?;
            db.execute("DELETE FROM users WHERE name = ?", [name])
        })?;
        if removed == 0 { Err(unknown(name)) } else { Ok(()) }
    }

    /// The account of that very name.
    pub fn lookup(&self, name: &str) -> Result<Option<Account>, Failure> {
        let read = || {
            let sql = "SELECT name, hash, roles, disabled, generation, not_before FROM users WHERE name = ?";
            let mut query = self.db.prepare_cached(sql)?;
            let account = |row: &rusqlite::Row<'_>| {
                Ok(Account {
                    name: row.get(0)?,
                    hash: row.get(1)?,
                    roles: split(&row.get::<_, String>(2)?),
                    disabled: row.get(3)?,
                    generation: row.get(4)?,
                    not_before: row.get(5)?,
                })
            };
            query.query_row([name], account).optional()
        };
        read().map_err(|error| self.failure(&error))
    }

    /// Begins a session for an account as it was looked up; `None` if it has changed since then.
    pub fn begin_session(&mut self, account: &Account, now: Wall, ttl: Duration) -> Result<Option<Session>, Failure> {
        let (family, token) = (random_id()?, random_token()?);
        let expires = now.plus(ttl).0;
        let begun = self.transact(|db| {
            let sql = "SELECT 1 FROM users WHERE name = ? AND generation = ? AND disabled = 0";
            if !db.prepare_cached(sql)?.exists(params![account.name, account.generation])? {
                return Ok(false);
            }
            forget_old(db, now)?;
            db.prepare_cached("INSERT INTO families VALUES(?, ?, ?, 0, ?, ?)")?.execute(params![
                family,
                account.name,
                account.generation,
                now.0,
                expires
            ])?;
            insert_refresh(db, &token, family, expires)?;
            Ok(true)
        })?;
        let (user, generation) = (account.name.clone(), account.generation);
        Ok(begun.then_some(Session { family, user, generation, refresh_token: token }))
    }

    /// Takes a refresh token for the next one. A second use of the same ends the session.
    pub fn refresh(&mut self, token: &str, now: Wall, ttl: Duration) -> Result<Refreshed, Failure> {
        let next = random_token()?;
        let expires = now.plus(ttl).0;
        self.transact(|db| {
            let Some(found) = find_refresh(db, token)? else { return Ok(Refreshed::Unknown) };
            if found.used {
                db.execute("UPDATE families SET ended = 1 WHERE id = ?", [found.family])?;
            }
            if found.used || found.ended || !found.current || found.expires <= now.0 {
                return Ok(Refreshed::Spent);
            }
            db.prepare_cached("UPDATE refresh SET used = 1 WHERE hash = ?")?.execute([digest(token)])?;
            db.prepare_cached("UPDATE families SET expires = ? WHERE id = ?")?.execute([expires, found.family])?;
            insert_refresh(db, &next, found.family, expires)?;
            let Found { family, user, generation, .. } = found;
            Ok(Refreshed::Good(Session { family, user, generation, refresh_token: next.clone() }))
        })
    }

    /// Whether a session goes on. One that was never there does not.
    pub fn session_lives(&self, family: i64) -> Result<bool, Failure> {
        let read = || {
            let mut query = self.db.prepare_cached("SELECT 1 FROM families WHERE id = ? AND ended = 0")?;
            query.exists([family])
        };
        read().map_err(|error| self.failure(&error))
    }

    /// Ends a session: its refresh token and its access tokens.
    pub fn end_session(&mut self, family: i64) -> Result<(), Failure> {
        self.transact(|db| db.execute("UPDATE families SET ended = 1 WHERE id = ?", [family])).map(drop)
    }

    /// Whether it can be written.
    pub fn touch(&mut self) -> Result<(), Failure> {
        self.transact(|db| db.execute("UPDATE removal SET last = last", [])).map(drop)
    }

    fn change(&mut self, name: &str, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<(), Failure> {
        let changed = self.write(|db| db.execute(sql, values))?;
        if changed == 0 { Err(unknown(name)) } else { Ok(()) }
    }

    /// A change that an operator made: whole, on the disk, and what it replaced gone from the write-ahead log.
    fn write<T>(&mut self, change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, Failure> {
        let result = self.transact(change)?;
        self.forget_replaced()?;
        Ok(result)
    }

    fn forget_replaced(&self) -> Result<(), Failure> {
        for _ in 0..3 {
            let busy = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
            if busy.map_err(|error| self.failure(&error))? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn transact<T>(&mut self, change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, Failure> {
        let run = |db: &mut Connection| {
            let write = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = change(&write)?;
            write.commit()?;
            Ok(result)
        };
        run(&mut self.db).map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &rusqlite::Error) -> Failure {
        failure(Path::new(self.db.path().unwrap_or("users.db")), error)
    }
}

/// Zeroes where there is none.
fn file_at(path: &Path) -> (u64, u64) {
    std::fs::metadata(path).map_or((0, 0), |data| (data.dev(), data.ino()))
}

struct Found {
    family: i64,
    user: String,
    generation: i64,
    used: bool,
    ended: bool,
    /// Its account is there, may sign in, and is of the generation that the session began with.
    current: bool,
    expires: i64,
}

fn find_refresh(db: &Connection, token: &str) -> rusqlite::Result<Option<Found>> {
    let sql = "SELECT f.id, f.user, f.generation, r.used, f.ended, r.expires,
            EXISTS(SELECT 1 FROM users u WHERE u.name = f.user AND u.generation = f.generation AND u.disabled = 0)
        FROM refresh r JOIN families f ON f.id = r.family WHERE r.hash = ?";
    let found = |row: &rusqlite::Row<'_>| {
        Ok(Found {
            family: row.get(0)?,
            user: row.get(1)?,
            generation: row.get(2)?,
            used: row.get(3)?,
            ended: row.get(4)?,
            expires: row.get(5)?,
            current: row.get(6)?,
        })
    };
    db.prepare_cached(sql)?.query_row([digest(token)], found).optional()
}

fn insert_refresh(db: &Connection, token: &str, family: i64, expires: i64) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO refresh VALUES(?, ?, 0, ?)")?
        .execute(params![digest(token), family, expires])
        .map(drop)
}

fn forget_old(db: &Connection, now: Wall) -> rusqlite::Result<()> {
    let before = now.0 - REMEMBERED_MS;
    db.prepare_cached("DELETE FROM refresh WHERE family IN (SELECT id FROM families WHERE expires < ?)")?
        .execute([before])?;
    db.prepare_cached("DELETE FROM families WHERE expires < ?")?.execute([before]).map(drop)
}

/// Whether the password is the account's; without an account the same work is done, and it never is. Takes some
/// 20 ms of one CPU and 19 MiB.
pub fn password_matches(account: Option<&Account>, password: &str) -> bool {
    let text = account.map_or(NOBODYS_HASH, |account| &account.hash);
    let Ok(hash) = PasswordHash::new(text) else { return false };
    let equal = Argon2::default().verify_password(password.as_bytes(), &hash).is_ok();
    equal && account.is_some_and(|account| !account.disabled)
}

/// argon2id with the parameters that OWASP recommends and the library defaults to: 19 MiB, 2 passes, 1 lane.
fn hash_password(password: &str) -> Result<String, Failure> {
    if !(8..=1024).contains(&password.len()) {
        return Err(Failure::usage(format!("the password has {} bytes; it must have 8 to 1024", password.len())));
    }
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| Failure::system(format!("no random bytes: {error}")))?;
    let hash: Result<PasswordHash, _> = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
    Ok(hash.map_err(|error| Failure::bug(format!("hashing the password: {error}")))?.to_string())
}

/// Whether a user can have this name.
pub fn check_name(name: &str) -> Result<(), Failure> {
    let wrong = if name.contains(':') {
        "contains ':', which names of keys and of foreign callers have"
    } else if name.chars().any(char::is_control) {
        "contains a control character"
    } else if !(1..=128).contains(&name.chars().count()) {
        "is empty or longer than 128 characters"
    } else {
        return Ok(());
    };
    Err(Failure::usage(format!("the user name {name:?} {wrong}")))
}

fn check_roles(roles: &[String]) -> Result<(), Failure> {
    let bad = |role: &&String| role.is_empty() || role.chars().any(|c| c == ',' || c.is_whitespace() || c.is_control());
    match roles.iter().find(bad) {
        Some(role) => Err(Failure::usage(format!(
            "the role {role:?} is empty or contains a comma, white space or a control character"
        ))),
        None => Ok(()),
    }
}

fn joined(roles: &[String]) -> String {
    roles.join(",")
}

fn split(roles: &str) -> Vec<String> {
    roles.split(',').filter(|role| !role.is_empty()).map(str::to_owned).collect()
}

fn digest(token: &str) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes()).as_ref().to_vec()
}

fn random_token() -> Result<String, Failure> {
    super::secret::generate()
}

fn random_id() -> Result<i64, Failure> {
    let number = getrandom::u64().map_err(|error| Failure::system(format!("no random bytes: {error}")))?;
    Ok((number >> 1) as i64)
}

fn unknown(name: &str) -> Failure {
    Failure::refused(format!("there is no user {name}; `edge user list` names those there are"))
}

/// The file has to be the directory's owner's whoever is first: SQLite gives its companions the same owner and mode.
fn create_file(directory: &Path, path: &Path) -> Result<(), Failure> {
    let options = |options: &mut OpenOptions| options.write(true).create_new(true).mode(0o660).open(path);
    let file: File = match options(&mut OpenOptions::new()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(unopened(path, &error)),
    };
    let owner = directory.metadata().map_err(|error| unopened(directory, &error))?;
    let arrange = || {
        if nix::unistd::Uid::effective().is_root() {
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        file.set_permissions(Permissions::from_mode(0o660))
    };
    arrange().map_err(|error| unopened(path, &error))
}

fn unopened(path: &Path, error: &io::Error) -> Failure {
    let blame = if error.kind() == io::ErrorKind::PermissionDenied { Blame::Forbidden } else { Blame::System };
    Failure::new(blame, format!("the store of users {} cannot be opened: {error}", path.display()))
}

fn failure(path: &Path, error: &rusqlite::Error) -> Failure {
    let path = path.display();
    if let rusqlite::Error::IntegralValueOutOfRange(_, version) = error {
        return Failure::refused(format!(
            "the store of users {path} has layout {version}, which this edge does not know ({SCHEMA}); use the newer edge"
        ));
    }
    let blame = match error.sqlite_error_code() {
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => Blame::Forbidden,
        _ => Blame::System,
    };
    Failure::new(blame, format!("the store of users {path} cannot be used: {error}"))
}

#[cfg(test)]
mod tests;
