//! `edge backup`: the agent's state and the users as one file. The agent, or else its pins and store, gives its part;
//! users are the caller's to read, as with `edge user`.

use std::{
    fs::{self, File},
    io::{self, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{
    args::{BackupFile, Format, Global},
    ask, note,
    output::{Complaint, Outcome},
};
use crate::{
    audit::event::Name,
    backup::{Backup, Made, State},
    clock::Wall,
    control::protocol::{Command, Reply},
    error::{Blame, Failure},
    printable::printable,
    server::users,
};

pub fn backup(global: &Global, arguments: &BackupFile) -> Result<Outcome, Complaint> {
    let file = &arguments.file;
    let to_output = file == Path::new("-");
    if to_output && (global.output == Format::Json || io::stdout().is_terminal()) {
        return Err(Failure::usage(
            "the backup goes to standard output, which has to be a file or a pipe, without -o json",
        )
        .into());
    }
    let command = Command::Backup { file: file.display().to_string() };
    let config = ask::config_for(global, &command)?;
    let state = match ask::agent_or_pins_by(global, &config, command)? {
        Reply::State(state) => state,
        _ => return Err(ask::mismatched()),
    };
    let made = Made { time: Wall::now(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let written = users::kept(&config.store.auth_directory()).and_then(|holders| {
        let backup = Backup { made, state, holders };
        if to_output {
            pour(&backup)?
        } else {
            write(file, &backup)?
        }
        Ok(backup)
    });
    // The agent's part is in the audit log by now.
    if let Err(failure) = &written {
        note::done(global, &config, Name::Backup, Some(&file.display().to_string()), Some(failure));
    }
    let told = told_backup(file, &written?);
    if to_output {
        eprintln!("edge: {}", told.text);
        return Ok(Outcome::new(told.json, String::new()));
    }
    Ok(told)
}

fn pour(backup: &Backup) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    let written = backup.encode().and_then(|bytes| output.write_all(&bytes)).and_then(|()| output.flush());
    written.map_err(|error| Failure::system(format!("the backup cannot be written to standard output: {error}")))
}

/// A file that lies there is replaced by a whole one or stays as it is.
pub(super) fn write(file: &Path, backup: &Backup) -> Result<(), Failure> {
    let unwritten = |error: io::Error| {
        let blame = if error.kind() == io::ErrorKind::PermissionDenied { Blame::Forbidden } else { Blame::System };
        Failure::new(blame, format!("the backup {} cannot be written: {error}", printable(&file.display().to_string())))
    };
    let bytes = backup.encode().map_err(unwritten)?;
    let file = place(file).map_err(unwritten)?;
    replace(&file, &bytes).map_err(unwritten)
}

/// Where a link points to. What is no file is never replaced by one.
fn place(file: &Path) -> io::Result<PathBuf> {
    match fs::metadata(file) {
        Ok(data) if data.is_file() => fs::canonicalize(file),
        Ok(_) => Err(io::Error::other("it is there and is no regular file; name another")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(file.to_owned()),
        Err(error) => Err(error),
    }
}

fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = file.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(".new");
    let beside = directory.join(beside);
    // One that was killed left it.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut new = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = new.write_all(bytes).and_then(|()| new.sync_all()).and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.and_then(|()| File::open(directory)?.sync_all())
}

fn told_backup(file: &Path, backup: &Backup) -> Outcome {
    let Backup { made, state: State { blocks, allowed, history }, holders } = backup;
    let blocks: usize = blocks.parts().iter().map(|part| part.targets.len()).sum();
    let (allowed, offences) = (allowed.len(), history.len());
    let (users, keys) = (holders.users.len(), holders.keys.len());
    let text = format!(
        "written to {}: {blocks} blocks, {allowed} allowed, {offences} with offences, {users} users, {keys} keys",
        printable(&file.display().to_string())
    );
    let document = json!({
        "file": file.display().to_string(), "made": made.time, "blocks": blocks, "allowed": allowed,
        "offences": offences, "users": users, "keys": keys,
    });
    Outcome::new(document, text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::{backup::State, cli::restore::read, server::users::Holders};

    fn backup() -> Backup {
        let made = Made { time: Wall(1_767_323_045_000), version: "0.1.0".to_owned() };
        Backup { made, state: State::default(), holders: Holders::default() }
    }

    fn names(directory: &Path) -> Vec<String> {
        let all = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_written_whole_for_its_owner_alone_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        fs::write(&file, "what was there before").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let link = directory.path().join("link");
        symlink("a", &link).unwrap();
        write(&link, &backup()).unwrap();
        assert_eq!(names(directory.path()), ["a", "link"]);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&link).unwrap(), backup());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn what_is_no_file_is_not_replaced_and_a_failure_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert!(write(directory.path(), &backup()).unwrap_err().message.contains("no regular file"));
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(write(&pipe, &backup()).unwrap_err().message.contains("no regular file"));
        let missing = directory.path().join("none/a");
        assert!(write(&missing, &backup()).unwrap_err().message.contains("none/a cannot be written"));
        assert_eq!(names(directory.path()), ["pipe"]);
    }

    #[test]
    fn what_one_that_was_killed_left_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(".a.new"), "half of one").unwrap();
        write(&directory.path().join("a"), &backup()).unwrap();
        assert_eq!(names(directory.path()), ["a"]);
    }
}
