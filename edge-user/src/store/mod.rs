//! What outlives the agent: blocks, alone and in batches, the allow list and who offended before, in one SQLite file
//! that only the agent opens. A crash loses nothing that was answered; a loss of power may lose the last moments, never the file (WAL,
//! `synchronous=NORMAL`). Times are wall-clock milliseconds; a block's end is also kept in boot time beside the boot's
//! id, so that a restart within one boot keeps it to the nanosecond.

mod blocked;
mod file;
mod seen;
#[cfg(test)]
mod tests;
mod unmade;

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::fcntl::Flock;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, Transaction, config::DbConfig, params};

use self::file::{Left, connect_to_read, lock, make_directory_of, make_file, prepare};
use self::seen::Seen;
pub use self::{
    blocked::{Blocked, Changes},
    file::{make_directory, set_aside},
    unmade::Unmade,
};
use crate::{
    block::Target,
    clock::{Now, Wall},
    offense::History,
};

/// `user_version` of the file. One of an earlier edge is brought up to date, one of a later edge is refused, never
/// reinterpreted.
const SCHEMA: i64 = 4;

/// What each schema adds to the one before.
const ADDED: [&str; SCHEMA as usize] = [FIRST, blocked::BATCHES, seen::SEEN, RESTORED];

const FIRST: &str = "
    CREATE TABLE block (
        target  TEXT NOT NULL,
        origin  TEXT NOT NULL,
        reason  TEXT NOT NULL,
        created INTEGER NOT NULL,
        expires INTEGER,
        boot_id TEXT NOT NULL,
        until   INTEGER,
        offence INTEGER NOT NULL,
        PRIMARY KEY (target, origin)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE allowed (target TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
    CREATE TABLE history (
        client TEXT PRIMARY KEY,
        number INTEGER NOT NULL,
        ended  INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// What schema 4 adds: which restore all of it came from last, by its id. Whoever has the other half of it goes by that.
const RESTORED: &str = "CREATE TABLE restored (id TEXT NOT NULL) STRICT;";

/// Which step failed, on which file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot make the directory {path} of the store: {error}")]
    Directory { path: PathBuf, error: std::io::Error },
    #[error("cannot open the store {path}: {error}")]
    Open { path: PathBuf, error: std::io::Error },
    #[error("the store {path} cannot be read ({error}); move it away to begin with an empty one")]
    Unreadable { path: PathBuf, error: rusqlite::Error },
    #[error(
        "the store {path} has schema {found}, this edge knows {SCHEMA}; use the edge that wrote it, or a newer one"
    )]
    Schema { path: PathBuf, found: i64 },
    #[error("the store {path} holds {what}, which no edge writes; move it away to begin with an empty one")]
    Content { path: PathBuf, what: String },
    #[error(
        "the store {path} is in use by another agent, or by a command (as `edge backup`); give this one a `store.path` of its \
         own, stop the other, or wait for the command"
    )]
    InUse { path: PathBuf },
    #[error("cannot {what} in the store {path}: {error}")]
    Query { path: PathBuf, what: &'static str, error: rusqlite::Error },
    #[error("the store {path} is not as edge left it: it was removed, or another program wrote to it")]
    Changed { path: PathBuf },
    #[error("cannot read the boot's id from {BOOT_ID}: {0}")]
    BootId(std::io::Error),
}

impl StoreError {
    /// Whether the file itself is no good, and not the disk or the right to use it.
    pub fn is_spoilt(&self) -> bool {
        match self {
            StoreError::Changed { .. } => true,
            StoreError::Unreadable { error, .. } | StoreError::Query { error, .. } => {
                matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
            }
            _ => false,
        }
    }
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The open file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    connection: Connection,
    /// Beside the file, since closing any descriptor of the file itself would drop SQLite's own locks. `None`: it is only
    /// read.
    sole: Option<Flock<fs::File>>,
    boot_id: String,
    /// What both clocks said when all was written last; `None`: nothing was yet.
    seen: Option<Seen>,
    left: Left,
}

impl Store {
    /// Opens the file, or makes it anew, with its directory, where there is none.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let boot_id = fs::read_to_string(BOOT_ID).map_err(StoreError::BootId)?;
        Store::open_in(path, boot_id.trim())
    }

    fn open_in(path: &Path, boot_id: &str) -> Result<Store, StoreError> {
        make_file(path)?;
        let sole = lock(path)?;
        let unreadable = |error| StoreError::Unreadable { path: path.to_owned(), error };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(unreadable)?;
        let found = prepare(&mut connection).map_err(unreadable)?;
        if found != SCHEMA {
            return Err(StoreError::Schema { path: path.to_owned(), found });
        }
        let seen = Seen::last(&connection).map_err(unreadable)?;
        let (path, boot_id) = (path.to_owned(), boot_id.to_owned());
        Ok(Store { left: Left::at(&path), path, connection, sole: Some(sole), boot_id, seen })
    }

    /// A file that cannot be written, for what it holds.
    pub fn open_to_read(path: &Path) -> Result<Store, StoreError> {
        let boot_id = fs::read_to_string(BOOT_ID).map_err(StoreError::BootId)?.trim().to_owned();
        let unreadable = |error| StoreError::Unreadable { path: path.to_owned(), error };
        let (connection, found) = connect_to_read(path).map_err(unreadable)?;
        if found != SCHEMA {
            return Err(StoreError::Schema { path: path.to_owned(), found });
        }
        let seen = Seen::last(&connection).map_err(unreadable)?;
        Ok(Store { left: Left::at(path), path: path.to_owned(), connection, sole: None, boot_id, seen })
    }

    /// Closes it without touching a file: another may lie at its path.
    pub fn abandon(self) {
        let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }

    /// Whether nobody else wrote to it.
    pub fn check_intact(&self) -> Result<(), StoreError> {
        if Left::at(&self.path) == self.left { Ok(()) } else { Err(StoreError::Changed { path: self.path.clone() }) }
    }

    /// The same in place of a file that cannot be read; gives where that one lies now.
    pub fn open_anew(path: &Path) -> Result<(Store, Option<PathBuf>), StoreError> {
        make_directory_of(path)?;
        let sole = lock(path)?;
        let aside = set_aside(path)?;
        drop(sole);
        Ok((Store::open(path)?, aside))
    }

    /// Whether it was made and never filled: what it holds says nothing then.
    pub fn is_new(&self) -> bool {
        self.seen.is_none()
    }

    /// Whether it was filled in this boot.
    pub fn is_of_this_boot(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.boot_id == self.boot_id)
    }

    /// Notes what both clocks say, so that after a reboot it is known how long a block had to last.
    pub fn see(&mut self, now: Now) -> Result<(), StoreError> {
        let seen = Seen::now(&self.boot_id, now);
        self.write("write the time", |transaction| seen.write(transaction))?;
        self.seen = Some(seen);
        Ok(())
    }

    /// Replaces all that is stored; of `blocked` by what is put. `restored`: it comes from this restore.
    pub fn replace(
        &mut self,
        now: Now,
        blocked: &Changes<'_>,
        mut allowed: impl Iterator<Item = Target>,
        mut history: impl Iterator<Item = History>,
        restored: Option<&str>,
    ) -> Result<(), StoreError> {
        let boot_id = self.boot_id.clone();
        let seen = Seen::now(&self.boot_id, now);
        self.write("write everything", |transaction| {
            seen.write(transaction)?;
            transaction.execute_batch("DELETE FROM allowed; DELETE FROM history")?;
            blocked::clear(transaction)?;
            blocked.write(transaction, &boot_id)?;
            let mut allow = transaction.prepare_cached(ALLOW)?;
            allowed.try_for_each(|target| allow.execute([target.to_string()]).map(drop))?;
            history.try_for_each(|history| insert_history(transaction, &history))?;
            restored.map_or(Ok(()), |id| {
                transaction.execute("DELETE FROM restored", [])?;
                transaction.execute("INSERT INTO restored VALUES (?1)", [id]).map(drop)
            })
        })?;
        self.seen = Some(seen);
        Ok(())
    }

    /// The restore that all of it came from last.
    pub fn restored(&self) -> Result<Option<String>, StoreError> {
        Ok(self.rows("read the last restore", "SELECT id FROM restored", |row| row.get(0))?.pop())
    }

    /// The allow list as `edge allow` made it.
    pub fn allowed(&self) -> Result<Vec<Target>, StoreError> {
        let names = self.rows("read the allow list", "SELECT target FROM allowed", |row| row.get::<_, String>(0))?;
        names.iter().map(|name| target(name).map_err(|what| self.content(what))).collect()
    }

    pub fn allow(&mut self, targets: &[Target]) -> Result<(), StoreError> {
        self.each("write the allow list", ALLOW, targets)
    }

    pub fn disallow(&mut self, targets: &[Target]) -> Result<(), StoreError> {
        self.each("write the allow list", "DELETE FROM allowed WHERE target = ?1", targets)
    }

    /// Who offended before.
    pub fn history(&self) -> Result<Vec<History>, StoreError> {
        let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get(1)?, Wall(row.get(2)?)));
        let stored = self.rows("read the offences", "SELECT client, number, ended FROM history", read)?;
        let revive = |(client, number, ended): (String, u32, Wall)| {
            Ok(History { client: target(&client).map_err(|what| self.content(what))?, number, ended })
        };
        stored.into_iter().map(revive).collect()
    }

    pub fn put_history(&mut self, history: &History) -> Result<(), StoreError> {
        self.write("write an offence", |transaction| insert_history(transaction, history))
    }

    pub fn forget_history(&mut self, clients: &[Target]) -> Result<(), StoreError> {
        self.each("remove an offence", "DELETE FROM history WHERE client = ?1", clients)
    }

    fn each(&mut self, what: &'static str, sql: &str, targets: &[Target]) -> Result<(), StoreError> {
        self.write(what, |transaction| {
            let mut statement = transaction.prepare_cached(sql)?;
            targets.iter().try_for_each(|target| statement.execute([target.to_string()]).map(drop))
        })
    }

    fn write(
        &mut self,
        what: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        self.check_intact()?;
        let Store { path, connection, .. } = self;
        let done = || {
            let transaction = connection.transaction()?;
            work(&transaction)?;
            transaction.commit()
        };
        let done = done().map_err(|error| StoreError::Query { path: path.clone(), what, error });
        self.left = Left::at(&self.path);
        done
    }

    fn rows<T>(
        &self,
        what: &'static str,
        sql: &str,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = || self.connection.prepare_cached(sql)?.query_map([], read)?.collect::<rusqlite::Result<Vec<T>>>();
        rows().map_err(|error| StoreError::Query { path: self.path.clone(), what, error })
    }

    fn content(&self, what: String) -> StoreError {
        StoreError::Content { path: self.path.clone(), what }
    }
}

const ALLOW: &str = "INSERT OR IGNORE INTO allowed VALUES (?1)";

fn insert_history(transaction: &Transaction<'_>, history: &History) -> rusqlite::Result<()> {
    let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO history VALUES (?1, ?2, ?3)")?;
    put.execute(params![history.client.to_string(), history.number, history.ended.0]).map(drop)
}

fn target(name: &str) -> Result<Target, String> {
    name.parse().map_err(|_| format!("the address `{}`", shown(name)))
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}
