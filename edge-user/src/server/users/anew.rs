//! A damaged store of users, and a new one in its place. The damaged one is set aside: what is left of it may be wanted.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rusqlite::ErrorCode;

use super::{
    UserStore, create_file, failure,
    kept::Holders,
    replacement::{put, remove},
    unopened,
};
use crate::{clock::Wall, error::Failure, store};

/// A store that cannot be opened for another reason, or is of a newer edge, is not replaced.
pub fn is_damaged(path: &Path) -> Result<bool, Failure> {
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

pub fn may_make_anew(directory: &Path, path: &Path) -> Result<(), Failure> {
    let (uid, owner) = (nix::unistd::Uid::effective(), directory.metadata().map(|data| data.uid()));
    if !uid.is_root() && owner.map_err(|error| unopened(directory, &error))? != uid.as_raw() {
        return Err(Failure::forbidden(format!(
            "the store of users {} is damaged, and only root can make one anew that is the server's; run this as root",
            path.display()
        )));
    }
    Ok(())
}

/// In place of a damaged one, which is set aside.
pub fn make_anew(directory: &Path, path: &Path, holders: &Holders) -> Result<Option<PathBuf>, Failure> {
    let beside = path.with_extension("db-new");
    let made = written_beside(directory, &beside, holders).and_then(|()| take_place(&beside, path));
    if made.is_err() {
        let _ = remove_with_log(&beside);
    }
    made
}

fn written_beside(directory: &Path, beside: &Path, holders: &Holders) -> Result<(), Failure> {
    remove_with_log(beside).map_err(|error| unopened(beside, &error))?;
    create_file(directory, beside)?;
    let failed = |error: rusqlite::Error| failure(beside, &error);
    let mut store = UserStore::connect(beside).map_err(failed)?;
    put(&mut store.db, holders, Wall::now())?.map_err(failed)?;
    store.forget_replaced()?;
    store.db.close().map_err(|(_, error)| failed(error))
}

/// Who has the damaged store open sees by the file that it is another one now. What lay beside it goes with it, and must
/// not be taken for the new one's.
fn take_place(beside: &Path, path: &Path) -> Result<Option<PathBuf>, Failure> {
    let aside = store::set_aside(path).map_err(|error| Failure::system(error.to_string()))?;
    let placed = || {
        for suffix in ["db-new-wal", "db-new-shm"] {
            remove(&beside.with_extension(suffix))?;
        }
        fs::File::open(beside)?.sync_all()?;
        fs::rename(beside, path)?;
        path.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all())
    };
    placed().map_err(|error| unopened(path, &error))?;
    Ok(aside)
}

fn remove_with_log(beside: &Path) -> io::Result<()> {
    [beside, &beside.with_extension("db-new-wal"), &beside.with_extension("db-new-shm")]
        .into_iter()
        .try_for_each(remove)
}
