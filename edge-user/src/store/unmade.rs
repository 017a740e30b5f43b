//! Taking back a store that a start made which is then refused: what is kept of blocks begins with an agent that runs.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use super::file::lock;

/// How it was where a store is going to be made.
pub struct Unmade {
    path: PathBuf,
    /// What lies there of one and is no agent's, as the users.
    before: BTreeSet<OsString>,
    /// Directories that are missing, the deepest first.
    missing: Vec<PathBuf>,
}

impl Unmade {
    /// `None`: there is one, or nobody can tell.
    pub fn at(path: &Path) -> Option<Unmade> {
        let is_missing = |path: &Path| path.try_exists().is_ok_and(|there| !there);
        if !is_missing(path) {
            return None;
        }
        let missing = path.ancestors().skip(1).take_while(|directory| is_missing(directory));
        let missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        let before = if missing.is_empty() { named_after(path).ok()? } else { BTreeSet::new() };
        Some(Unmade { path: path.to_owned(), before, missing })
    }

    /// Removes what was made since, unless another agent uses it by now. A directory with something in it stays: a command
    /// may have added a user meanwhile.
    pub fn again(self) -> io::Result<()> {
        let Some(directory) = self.path.parent().filter(|directory| directory.is_dir()) else { return Ok(()) };
        {
            let Ok(_sole) = lock(&self.path) else { return Ok(()) };
            for name in named_after(&self.path)?.difference(&self.before) {
                let made = directory.join(name);
                if made.is_dir() { if_empty(&made) } else { fs::remove_file(made) }?;
            }
        }
        self.missing.iter().try_for_each(|directory| if_empty(directory))
    }
}

fn if_empty(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed,
    }
}

/// All that begins with the store's name.
fn named_after(path: &Path) -> io::Result<BTreeSet<OsString>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Ok(BTreeSet::new()) };
    let names = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name()));
    let is_of_it = |found: &OsString| found.as_encoded_bytes().starts_with(name.as_encoded_bytes());
    names.filter(|found| found.as_ref().map_or(true, is_of_it)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn what_was_made_is_gone_and_what_was_there_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("not/made/edge.db");
        let unmade = Unmade::at(&path).unwrap();
        drop(Store::open(&path).unwrap());
        fs::create_dir(path.with_file_name("edge.db-auth")).unwrap();
        assert!(Unmade::at(&path).is_none(), "there is one");
        unmade.again().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);

        let unmade = Unmade::at(&path).unwrap();
        drop(Store::open(&path).unwrap());
        let users = path.with_file_name("edge.db-auth/users.db");
        fs::create_dir(users.parent().unwrap()).unwrap();
        fs::write(&users, "").unwrap();
        unmade.again().unwrap();
        assert!(users.exists() && !path.exists(), "whoever was added meanwhile is not lost");
        fs::remove_dir_all(directory.path().join("not")).unwrap();

        let path = directory.path().join("edge.db");
        for other in ["edge.db-auth", "another"] {
            fs::write(directory.path().join(other), "").unwrap();
        }
        let unmade = Unmade::at(&path).unwrap();
        drop(Store::open(&path).unwrap());
        unmade.again().unwrap();
        let left = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<BTreeSet<_>>(), ["another", "edge.db-auth"].map(OsString::from).into());
    }

    #[test]
    fn one_that_another_agent_uses_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.db");
        let unmade = Unmade::at(&path).unwrap();
        let _of_another = Store::open(&path).unwrap();
        unmade.again().unwrap();
        assert!(path.exists());
    }
}
