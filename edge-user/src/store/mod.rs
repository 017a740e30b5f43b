//! What outlives the agent: blocks, the allow list and who offended before, in one SQLite file that only the agent
//! opens. A crash loses nothing that was answered; a loss of power may lose the last moments, never the file (WAL,
//! `synchronous=NORMAL`). Times are wall-clock milliseconds; a block's end is also kept in boot time beside the boot's
//! id, so that a restart within one boot keeps it to the nanosecond.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, OpenFlags, Row, Transaction, params};

use crate::{
    block::{Block, Origin, Target},
    clock::{Boot, Now, Wall},
    offense::History,
};

/// `user_version` of the file. A file of a later edge is refused, never reinterpreted.
const SCHEMA: i64 = 1;

const CREATE: &str = "
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
    PRAGMA user_version = 1;
";

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
    #[error("the store {path} is in use by another agent; give this one a `store.path` of its own, or stop the other")]
    InUse { path: PathBuf },
    #[error("cannot {what} in the store {path}: {error}")]
    Query { path: PathBuf, what: &'static str, error: rusqlite::Error },
    #[error("cannot read the boot's id from {BOOT_ID}: {0}")]
    BootId(std::io::Error),
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The open file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    connection: Connection,
    /// Beside the file, since closing any descriptor of the file itself would drop SQLite's own locks.
    _sole: Flock<fs::File>,
    boot_id: String,
    new: bool,
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
        let (found, new) = prepare(&mut connection).map_err(unreadable)?;
        if found != SCHEMA {
            return Err(StoreError::Schema { path: path.to_owned(), found });
        }
        Ok(Store { path: path.to_owned(), connection, _sole: sole, boot_id: boot_id.to_owned(), new })
    }

    /// Whether the file was made by this opening.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// Every block that has not ended. One stored in this boot keeps its exact end; of one stored before, the end is
    /// reckoned from the wall clock.
    pub fn blocks(&self, now: Now) -> Result<Vec<Block>, StoreError> {
        let sql = "SELECT target, origin, reason, created, expires, boot_id, until, offence FROM block";
        let stored = self.rows("read the blocks", sql, StoredBlock::read)?;
        let blocks = stored.into_iter().map(|block| block.revive(&self.boot_id, now)).collect::<Result<Vec<_>, _>>();
        Ok(blocks.map_err(|what| self.content(what))?.into_iter().flatten().collect())
    }

    /// Adds blocks, replacing those with the same target and origin; all of them or none.
    pub fn put_blocks(&mut self, blocks: &[Block]) -> Result<(), StoreError> {
        let boot_id = self.boot_id.clone();
        self.write("write blocks", |transaction| insert_blocks(transaction, blocks.iter(), &boot_id))
    }

    /// Replaces all that is stored.
    pub fn replace<'a>(
        &mut self,
        blocks: impl Iterator<Item = &'a Block>,
        mut allowed: impl Iterator<Item = Target>,
        mut history: impl Iterator<Item = History>,
    ) -> Result<(), StoreError> {
        let boot_id = self.boot_id.clone();
        self.write("write everything", |transaction| {
            transaction.execute_batch("DELETE FROM block; DELETE FROM allowed; DELETE FROM history")?;
            insert_blocks(transaction, blocks, &boot_id)?;
            let mut allow = transaction.prepare_cached(ALLOW)?;
            allowed.try_for_each(|target| allow.execute([target.to_string()]).map(drop))?;
            history.try_for_each(|history| insert_history(transaction, &history))
        })
    }

    /// Removes blocks; what is not there is no error.
    pub fn remove_blocks(&mut self, blocks: &[(Target, Origin)]) -> Result<(), StoreError> {
        self.write("remove blocks", |transaction| {
            let mut remove = transaction.prepare_cached("DELETE FROM block WHERE target = ?1 AND origin = ?2")?;
            for (target, origin) in blocks {
                remove.execute(params![target.to_string(), origin.name()])?;
            }
            Ok(())
        })
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
        let Store { path, connection, .. } = self;
        let done = || {
            let transaction = connection.transaction()?;
            work(&transaction)?;
            transaction.commit()
        };
        done().map_err(|error| StoreError::Query { path: path.clone(), what, error })
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

/// What the config names is in the config.
fn insert_blocks<'a>(
    transaction: &Transaction<'_>,
    blocks: impl Iterator<Item = &'a Block>,
    boot_id: &str,
) -> rusqlite::Result<()> {
    let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO block VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
    for block in blocks.filter(|block| block.origin != Origin::Config) {
        put.execute(params![
            block.target.to_string(),
            block.origin.name(),
            block.reason,
            block.created.0,
            block.expires.map(|expires| expires.0),
            boot_id,
            block.until.map(|until| i64::try_from(until.0).unwrap_or(i64::MAX)),
            block.offence,
        ])?;
    }
    Ok(())
}

fn insert_history(transaction: &Transaction<'_>, history: &History) -> rusqlite::Result<()> {
    let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO history VALUES (?1, ?2, ?3)")?;
    put.execute(params![history.client.to_string(), history.number, history.ended.0]).map(drop)
}

/// Makes directory and file, for their owner alone, where they are missing.
fn make_file(path: &Path) -> Result<(), StoreError> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| StoreError::Directory { path: directory.to_owned(), error })?;
    }
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::Open { path: path.to_owned(), error }),
    }
}

/// Two agents on one store would undo each other's blocks at every start.
fn lock(path: &Path) -> Result<Flock<fs::File>, StoreError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push("-lock");
    let unopened = |error| StoreError::Open { path: PathBuf::from(&beside), error };
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&beside).map_err(unopened)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => StoreError::InUse { path: path.to_owned() },
        errno => unopened(errno.into()),
    })
}

/// Sets the file up; gives its schema's version, and whether it was made just now.
fn prepare(connection: &mut Connection) -> rusqlite::Result<(i64, bool)> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "normal")?;
    let version = |connection: &Connection| connection.pragma_query_value(None, "user_version", |row| row.get(0));
    let empty = "SELECT count(*) = 0 FROM sqlite_schema";
    let transaction = connection.transaction()?;
    let new = version(&transaction)? == 0 && transaction.query_row(empty, [], |row| row.get(0))?;
    if new {
        transaction.execute_batch(CREATE)?;
    }
    transaction.commit()?;
    Ok((version(connection)?, new))
}

/// A row as it lies on the disk.
struct StoredBlock {
    target: String,
    origin: String,
    reason: String,
    created: Wall,
    expires: Option<Wall>,
    boot_id: String,
    until: Option<i64>,
    offence: u32,
}

impl StoredBlock {
    fn read(row: &Row<'_>) -> rusqlite::Result<StoredBlock> {
        Ok(StoredBlock {
            target: row.get(0)?,
            origin: row.get(1)?,
            reason: row.get(2)?,
            created: Wall(row.get(3)?),
            expires: row.get::<_, Option<i64>>(4)?.map(Wall),
            boot_id: row.get(5)?,
            until: row.get(6)?,
            offence: row.get(7)?,
        })
    }

    /// The block as it holds now; `None` once it has ended.
    fn revive(self, boot_id: &str, now: Now) -> Result<Option<Block>, String> {
        let target = target(&self.target)?;
        let origin = Origin::named(&self.origin).ok_or_else(|| format!("the origin `{}`", shown(&self.origin)))?;
        let until = match (self.expires, self.until) {
            (None, _) => None,
            (Some(_), Some(until)) if self.boot_id == boot_id => Some(Boot(until.try_into().unwrap_or(0))),
            (Some(expires), _) => Some(now.boot.plus(left(expires, now.wall))),
        };
        let ended = until.is_some_and(|until| until <= now.boot);
        Ok((!ended).then_some(Block {
            target,
            origin,
            reason: self.reason,
            created: self.created,
            until,
            expires: self.expires,
            offence: self.offence,
        }))
    }
}

fn left(expires: Wall, now: Wall) -> Duration {
    Duration::from_millis(u64::try_from(expires.0.saturating_sub(now.0)).unwrap_or(0))
}

fn target(name: &str) -> Result<Target, String> {
    name.parse().map_err(|_| format!("the address `{}`", shown(name)))
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: Now = Now { boot: Boot(1_000_000_000_000), wall: Wall(1_767_323_045_000) };
    const HOUR: Duration = Duration::from_secs(3600);

    fn block(target: &str, origin: Origin, length: Option<Duration>) -> Block {
        Block {
            target: target.parse().unwrap(),
            origin,
            reason: "it's \"enough\"".to_owned(),
            created: NOW.wall,
            until: length.map(|length| NOW.boot.plus(length + Duration::from_nanos(7))),
            expires: length.map(|length| NOW.wall.plus(length)),
            offence: 2,
        }
    }

    fn later(by: Duration) -> Now {
        Now { boot: NOW.boot.plus(by), wall: NOW.wall.plus(by) }
    }

    #[test]
    fn a_missing_store_is_made_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/edge.db");
        let store = Store::open(&path).unwrap();
        assert_eq!(store.blocks(NOW).unwrap(), []);
        assert_eq!(store.allowed().unwrap(), []);
        assert_eq!(store.history().unwrap(), []);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn blocks_come_back_exactly_within_one_boot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.db");
        let blocks = [
            block("2001:db8::/32", Origin::Feed, None),
            block("203.0.113.7", Origin::Auth, Some(HOUR)),
            block("203.0.113.7", Origin::Manual, None),
        ];
        Store::open(&path).unwrap().put_blocks(&blocks).unwrap();
        let mut found = Store::open(&path).unwrap().blocks(later(HOUR / 2)).unwrap();
        found.sort_by_key(|block| (block.target.to_string(), block.origin.name()));
        assert_eq!(found, blocks);
    }

    #[test]
    fn after_a_boot_the_end_is_reckoned_from_the_wall_clock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.db");
        let mut store = Store::open_in(&path, "one").unwrap();
        store.put_blocks(&[block("203.0.113.7", Origin::Auth, Some(HOUR))]).unwrap();
        drop(store);
        let store = Store::open_in(&path, "two").unwrap();
        let rebooted = Now { boot: Boot(5_000_000_000), wall: NOW.wall.plus(HOUR / 4) };
        let found = store.blocks(rebooted).unwrap();
        assert_eq!(found[0].until, Some(rebooted.boot.plus(HOUR * 3 / 4)));
        assert_eq!(found[0].expires, Some(NOW.wall.plus(HOUR)));
        assert_eq!(store.blocks(Now { boot: rebooted.boot, wall: NOW.wall.plus(HOUR) }).unwrap(), []);
    }

    #[test]
    fn what_has_ended_is_left_out_and_a_jump_of_the_wall_clock_ends_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(&directory.path().join("edge.db")).unwrap();
        store.put_blocks(&[block("203.0.113.7", Origin::Auth, Some(HOUR))]).unwrap();
        assert_eq!(store.blocks(later(HOUR + Duration::from_millis(1))).unwrap(), []);
        let jumped = Now { boot: NOW.boot, wall: NOW.wall.plus(24 * HOUR) };
        assert_eq!(store.blocks(jumped).unwrap().len(), 1);
    }

    #[test]
    fn a_block_again_is_replaced_and_a_removed_one_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(&directory.path().join("edge.db")).unwrap();
        let first = block("203.0.113.7", Origin::Manual, None);
        let again = block("203.0.113.7", Origin::Manual, Some(HOUR));
        store.put_blocks(&[first, block("203.0.113.7", Origin::Auth, None)]).unwrap();
        store.put_blocks(std::slice::from_ref(&again)).unwrap();
        store.remove_blocks(&[(again.target, Origin::Auth), (again.target, Origin::Feed)]).unwrap();
        assert_eq!(store.blocks(NOW).unwrap(), [again]);
    }

    #[test]
    fn the_allow_list_and_the_offences_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.db");
        let target = |text: &str| text.parse::<Target>().unwrap();
        let mut store = Store::open(&path).unwrap();
        store.allow(&[target("192.0.2.0/24"), target("2001:db8::1"), target("192.0.2.0/24")]).unwrap();
        store.disallow(&[target("2001:db8::1"), target("10.0.0.0/8")]).unwrap();
        let history = History { client: target("203.0.113.7"), number: 3, ended: NOW.wall };
        store.put_history(&History { number: 2, ..history }).unwrap();
        store.put_history(&history).unwrap();
        drop(store);
        let mut store = Store::open(&path).unwrap();
        assert_eq!(store.allowed().unwrap(), [target("192.0.2.0/24")]);
        assert_eq!(store.history().unwrap(), [history]);
        store.forget_history(&[history.client]).unwrap();
        assert_eq!(store.history().unwrap(), []);
    }

    #[test]
    fn a_broken_store_is_named_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.db");
        let bytes = b"this is no database, it only lies where one should be".repeat(100);
        fs::write(&path, &bytes).unwrap();
        let error = Store::open(&path).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn a_store_of_another_schema_or_of_another_program_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for (name, sql, found) in [("a", "PRAGMA user_version = 2", 2), ("b", "CREATE TABLE other (x)", 0)] {
            let path = directory.path().join(name);
            Connection::open(&path).unwrap().execute_batch(sql).unwrap();
            let error = Store::open(&path).unwrap_err();
            assert!(matches!(error, StoreError::Schema { found: version, .. } if version == found), "{error}");
        }
    }

    #[test]
    fn what_no_edge_writes_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.db");
        let store = Store::open(&path).unwrap();
        store.connection.execute("INSERT INTO allowed VALUES ('nonsense')", []).unwrap();
        let error = store.allowed().unwrap_err().to_string();
        assert!(error.contains("the address `nonsense`"), "{error}");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        let error = Store::open(&directory.path().join("file/edge.db")).unwrap_err().to_string();
        assert!(error.starts_with("cannot make the directory"), "{error}");
    }
}
