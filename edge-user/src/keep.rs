//! Small files that agent and server keep for themselves, each written whole or not at all.

use std::{
    ffi::OsString,
    fs::{DirBuilder, File, remove_file, rename},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// For its owner alone, in a directory that is made where it is missing. On disk when this returns.
pub fn keep(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    if let Some(directory) = directory {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut name = OsString::from(path);
    name.push(".new");
    let unfinished = PathBuf::from(name);
    // One that a crash left behind may have been made by another user or with another mode.
    let _ = remove_file(&unfinished);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    rename(&unfinished, path)?;
    directory.map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}
