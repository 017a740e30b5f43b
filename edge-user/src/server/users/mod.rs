//! Users, keys and sessions: one SQLite file in the server's directory. The server reads it at every request and the
//! CLI writes it beside a running server, so what either changes is in force for the next request. Passwords are kept
//! as argon2id, keys and refresh tokens as their SHA-256; what is removed is gone from the files too.

mod accounts;
mod anew;
mod cookies;
pub mod imported;
mod kept;
mod keys;
mod password;
mod replacement;
mod revocation;
mod schema;
mod sessions;

use std::{
    fs::{File, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, config::DbConfig};

pub use self::{
    accounts::{Account, User, check_name},
    cookies::{Cookie, Who},
    kept::{Holders, Kept, KeptKey, kept},
    keys::{Issued, Key, KeyKind, ListedKey, check_key_name},
    password::{is_outdated, matches as password_matches, renewed},
    replacement::{Replacement, Settled, settle, waiting},
    revocation::Former,
    sessions::{Begun, Peeked, Refreshed, Session, SessionKind, SignIn},
};
use super::spawn::{Identity, prepare_auth_directory};
use crate::error::{Blame, Failure};

/// The open file.
#[derive(Debug)]
pub struct UserStore {
    db: Connection,
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
    /// Of all that this process has opened.
    number: u64,
}

/// What the store held at a moment: it holds the same as long as this is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    number: u64,
    /// SQLite's `data_version`: another with each change that others commit, of this process or not.
    data: i64,
}

impl UserStore {
    /// Opens the store in `directory`, creating the file where it is missing.
    pub fn open(directory: &Path) -> Result<UserStore, Failure> {
        let path = directory.join("users.db");
        create_file(directory, &path)?;
        UserStore::connect(&path).map_err(|error| failure(&path, &error))
    }

    /// `None`: there is none, and none is made.
    pub fn open_existing(directory: &Path) -> Result<Option<UserStore>, Failure> {
        let path = directory.join("users.db");
        match path.try_exists() {
            Ok(true) => UserStore::open(directory).map(Some),
            Ok(false) => Ok(None),
            Err(error) => Err(unopened(&path, &error)),
        }
    }

    /// The same as [`open`](Self::open) for a command that may come before the first start: root makes the directory too.
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
        schema::bring_up(&mut db)?;
        static OPENED: AtomicU64 = AtomicU64::new(0);
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        Ok(UserStore { db, path: path.to_owned(), file: file_at(path), number })
    }

    /// Whether what it has open is still what lies at its path.
    pub fn is_current(&self) -> bool {
        file_at(&self.path) == self.file
    }

    /// Of what others wrote; a store that writes itself does not see that here.
    pub fn version(&self) -> Result<Version, Failure> {
        let read = || self.db.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0));
        let data = read().map_err(|error| self.failure(&error))?;
        Ok(Version { number: self.number, data })
    }

    /// Whether the disk let it be opened for reading alone.
    pub fn is_read_only(&self) -> bool {
        self.db.is_readonly("main").unwrap_or(false)
    }

    /// Whether it can be written.
    pub fn touch(&mut self) -> Result<(), Failure> {
        self.transact(|db| db.execute("UPDATE removal SET last = last", [])).map(drop)
    }

    /// A change that an operator made: whole, on the disk, and what it replaced gone from the write-ahead log.
    fn write<T>(&mut self, change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, Failure> {
        let result = self.transact(change)?;
        self.forget_replaced()?;
        Ok(result)
    }

    /// The same, but what is refused half-way changes nothing.
    fn write_or_leave<T, E>(
        &mut self,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Result<T, E>>,
    ) -> Result<Result<T, E>, Failure> {
        let run = |db: &mut Connection| {
            let write = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = change(&write)?;
            if result.is_ok() {
                write.commit()?
            } else {
                write.rollback()?
            }
            Ok(result)
        };
        let result = run(&mut self.db).map_err(|error| self.failure(&error))?;
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

fn digest(secret: &str) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes()).as_ref().to_vec()
}

/// As commands and documents name a row: never beginning with `-`.
fn id_text(id: i64) -> String {
    format!("{id:016x}")
}

/// What names no row for certain is `None`.
fn id_of(text: &str) -> Option<i64> {
    let is_id = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| i64::from_str_radix(text, 16).ok()).flatten()
}

fn random_id() -> Result<i64, Failure> {
    let number = getrandom::u64().map_err(|error| Failure::system(format!("no random bytes: {error}")))?;
    Ok((number >> 1) as i64)
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
            "the store of users {path} has layout {version}, which this edge does not know ({}); use the newer edge",
            schema::VERSION
        ));
    }
    let code = error.sqlite_error_code();
    let blame = match code {
        // Root lacks no right: the disk takes nothing.
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen)
            if !nix::unistd::Uid::effective().is_root() =>
        {
            Blame::Forbidden
        }
        _ => Blame::System,
    };
    let hint = match code {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            "; it is damaged, and `edge restore` of a backup makes it anew"
        }
        _ => "",
    };
    Failure::new(blame, format!("the store of users {path} cannot be used: {error}{hint}"))
}

/// What no name has, of users or of keys.
fn unfit(name: &str) -> Option<&'static str> {
    if name.chars().any(char::is_control) {
        Some("contains a control character")
    } else if !(1..=128).contains(&name.chars().count()) {
        Some("is empty or longer than 128 characters")
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
