//! The store's file and what lies beside it: made, locked, opened, set aside, and looked at for what others do to it.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, OpenFlags};

use super::{ADDED, SCHEMA, StoreError};

/// How the files lie there when edge is done with them: whoever else writes to them, or removes them, changes that. What
/// SQLite keeps beside the file is written at every change, and is known by its inode alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    file: Option<(u64, u64, u64, i64, i64)>,
    log: Option<(u64, u64)>,
}

impl Left {
    pub fn at(path: &Path) -> Left {
        let data = |path: &Path| fs::metadata(path).ok();
        Left {
            file: data(path).map(|of| (of.dev(), of.ino(), of.len(), of.mtime(), of.mtime_nsec())),
            log: data(&suffixed(path, "-wal")).map(|of| (of.dev(), of.ino())),
        }
    }
}

/// The directory of a store's file, for its owner alone, where it is missing.
pub fn make_directory(file: &Path) -> std::io::Result<()> {
    match file.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        Some(directory) => fs::DirBuilder::new().recursive(true).mode(0o700).create(directory),
        None => Ok(()),
    }
}

pub fn make_directory_of(path: &Path) -> Result<(), StoreError> {
    make_directory(path)
        .map_err(|error| StoreError::Directory { path: path.parent().unwrap_or(path).to_owned(), error })
}

/// Makes directory and file, for their owner alone, where they are missing.
pub fn make_file(path: &Path) -> Result<(), StoreError> {
    make_directory_of(path)?;
    let unopened = |error| StoreError::Open { path: path.to_owned(), error };
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => give_to_owner_of_directory(&file, path).map_err(unopened),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(unopened(error)),
    }
}

/// What root makes before the first start is the agent's, whoever that runs as.
fn give_to_owner_of_directory(file: &fs::File, path: &Path) -> std::io::Result<()> {
    let Some(directory) = path.parent().filter(|_| nix::unistd::Uid::effective().is_root()) else { return Ok(()) };
    let (owner, own) = (directory.metadata()?, file.metadata()?);
    if (owner.uid(), owner.gid()) == (own.uid(), own.gid()) {
        return Ok(());
    }
    match std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid())) {
        // An agent that runs as root without this right is the one that uses it.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// So many are kept; of later ones the last counts, since the first may be all that is left of a good one.
const ASIDE: usize = 9;

/// What SQLite keeps beside the file goes along, since it belongs to no other. Gives where it lies now.
pub fn set_aside(path: &Path) -> Result<Option<PathBuf>, StoreError> {
    let numbered = (2..=ASIDE).map(|number| suffixed(path, &format!("-aside-{number}")));
    let mut places = std::iter::once(suffixed(path, "-aside")).chain(numbered);
    let is_free = |place: &PathBuf| ["", "-wal", "-shm"].iter().all(|of| !suffixed(place, of).exists());
    let aside = places.find(is_free).unwrap_or_else(|| suffixed(path, &format!("-aside-{ASIDE}")));
    let mut was_there = false;
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (suffixed(path, suffix), suffixed(&aside, suffix));
        match fs::rename(&from, to) {
            Ok(()) => was_there |= suffix.is_empty(),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::Open { path: from, error }),
        }
    }
    Ok(was_there.then_some(aside))
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Two agents on one store would undo each other's blocks at every start.
pub fn lock(path: &Path) -> Result<Flock<fs::File>, StoreError> {
    let beside = suffixed(path, "-lock");
    let unopened = |error| StoreError::Open { path: beside.clone(), error };
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&beside).map_err(unopened)?;
    give_to_owner_of_directory(&file, path).map_err(unopened)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => StoreError::InUse { path: path.to_owned() },
        errno => unopened(errno.into()),
    })
}

/// Sets the file up; gives its schema's version.
pub fn prepare(connection: &mut Connection) -> rusqlite::Result<i64> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "normal")?;
    let version = |connection: &Connection| -> rusqlite::Result<i64> {
        connection.pragma_query_value(None, "user_version", |row| row.get(0))
    };
    let empty = "SELECT count(*) = 0 FROM sqlite_schema";
    let transaction = connection.transaction()?;
    let found = version(&transaction)?;
    let new = found == 0 && transaction.query_row(empty, [], |row| row.get(0))?;
    if new || (1..SCHEMA).contains(&found) {
        let missing = ADDED.iter().skip(usize::try_from(found).unwrap_or(0));
        missing.copied().try_for_each(|schema| transaction.execute_batch(schema))?;
        if (1..3).contains(&found) {
            transaction.execute_batch(super::seen::SEEN_NEVER)?;
        }
        transaction.pragma_update(None, "user_version", SCHEMA)?;
    }
    transaction.commit()?;
    version(connection)
}

/// Without what SQLite keeps beside the file nobody else can be writing, and none of it has to be made.
pub fn connect_to_read(path: &Path) -> rusqlite::Result<(Connection, i64)> {
    let version = |connection: Connection| {
        let found = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok((connection, found))
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let log = fs::metadata(suffixed(path, "-wal")).map_or(0, |log| log.len());
    if log > 0 {
        return Connection::open_with_flags(path, flags).and_then(version);
    }
    let quoted: String = path.as_os_str().as_encoded_bytes().iter().map(|byte| format!("%{byte:02x}")).collect();
    Connection::open_with_flags(format!("file:{quoted}?immutable=1"), flags | OpenFlags::SQLITE_OPEN_URI)
        .and_then(version)
}
