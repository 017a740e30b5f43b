//! `edge backup` and `edge restore`: the agent's state and the users as one file. The agent, or else its pins and store,
//! gives and takes its part; users are the caller's to read and write, as with `edge user`.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{
    args::{BackupFile, Global},
    ask, note,
    output::{Complaint, Outcome},
};
use crate::{
    audit::event::Name,
    backup::{Backup, Made, State},
    clock::Wall,
    config::Config,
    control::protocol::{Command, Reply, RestoreRequest, Restored},
    error::{Blame, Failure},
    printable::printable,
    server::users::{self, Kept, Replacement},
};

/// The longest file that is read.
const MAX_BYTES: u64 = 1 << 30;

pub fn backup(global: &Global, arguments: &BackupFile) -> Result<Outcome, Complaint> {
    let file = &arguments.file;
    let command = Command::Backup { file: file.display().to_string() };
    let config = ask::config_for(global, &command)?;
    let state = match ask::agent_or_pins_by(global, &config, command)? {
        Reply::State(state) => state,
        _ => return Err(ask::mismatched()),
    };
    let made = Made { time: Wall::now(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let written = users::kept(&config.store.auth_directory()).and_then(|users| {
        let backup = Backup { made, state, users };
        write(file, &backup)?;
        Ok(backup)
    });
    // The agent's part is in the audit log by now.
    if let Err(failure) = &written {
        note::done(global, &config, Name::Backup, Some(&file.display().to_string()), Some(failure));
    }
    Ok(told_backup(file, &written?))
}

pub fn restore(global: &Global, arguments: &BackupFile) -> Result<Outcome, Complaint> {
    let file = &arguments.file;
    let source = file.display().to_string();
    let command = Command::Restore(RestoreRequest { source: source.clone(), state: State::default() });
    let config = ask::config_for(global, &command)?;
    let refused = |failure: Failure| {
        note::done(global, &config, Name::Restore, Some(&source), Some(&failure));
        Complaint::from(failure)
    };
    let Backup { made, state, users } = read(file).map_err(refused)?;
    let replacement = prepared(&config, &users).map_err(refused)?;
    let damaged = replacement.as_ref().is_some_and(Replacement::replaces_damaged);
    let restored = put(global, &config, RestoreRequest { source: source.clone(), state })?;
    if let Err(failure) = replacement.map_or(Ok(()), Replacement::commit) {
        let undone = put(global, &config, RestoreRequest { source: source.clone(), state: restored.before });
        let state = if undone.is_ok() { "nothing was changed" } else { "blocks and allow list are the backup's now" };
        return Err(refused(Failure { message: format!("{}; {state}", failure.message), ..failure }));
    }
    Ok(told_restore(file, &made, &restored, users.len(), damaged))
}

fn put(global: &Global, config: &Config, request: RestoreRequest) -> Result<Restored, Complaint> {
    match ask::agent_or_pins_by(global, config, Command::Restore(request))? {
        Reply::Restored(restored) => Ok(*restored),
        _ => Err(ask::mismatched()),
    }
}

/// `None`: there are no users, here and there.
fn prepared(config: &Config, users: &[Kept]) -> Result<Option<Replacement>, Failure> {
    let directory = config.store.auth_directory();
    if users.is_empty() && !directory.exists() {
        return Ok(None);
    }
    Replacement::prepare(&directory, users).map(Some)
}

fn read(file: &Path) -> Result<Backup, Failure> {
    let name = printable(&file.display().to_string());
    let unread = |error: io::Error| {
        let blame = if error.kind() == io::ErrorKind::PermissionDenied { Blame::Forbidden } else { Blame::Usage };
        Failure::new(blame, format!("the backup {name} cannot be read: {error}"))
    };
    let mut bytes = Vec::new();
    File::open(file).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(unread)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure::refused(format!("{name} is over {MAX_BYTES} bytes, which no backup of edge is")));
    }
    let refused = |why: String| Failure::refused(format!("nothing was changed: {name} cannot be restored: {why}"));
    let backup = Backup::decode(&bytes).map_err(|error| refused(error.to_string()))?;
    backup.users.iter().try_for_each(Kept::check).map_err(|failure| refused(failure.message))?;
    Ok(backup)
}

/// A file that lies there is replaced by a whole one or stays as it is.
fn write(file: &Path, backup: &Backup) -> Result<(), Failure> {
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
    beside.push(format!(".{}", std::process::id()));
    let beside = directory.join(beside);
    let mut new = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = new.write_all(bytes).and_then(|()| new.sync_all()).and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.and_then(|()| File::open(directory)?.sync_all())
}

fn told_backup(file: &Path, backup: &Backup) -> Outcome {
    let Backup { made, state: State { blocks, allowed, history }, users } = backup;
    let blocks: usize = blocks.parts().iter().map(|part| part.targets.len()).sum();
    let (allowed, offences, users) = (allowed.len(), history.len(), users.len());
    let text = format!(
        "written to {}: {blocks} blocks, {allowed} allowed, {offences} with offences, {users} users",
        printable(&file.display().to_string())
    );
    let document = json!({
        "file": file.display().to_string(), "made": made.time, "blocks": blocks, "allowed": allowed,
        "offences": offences, "users": users,
    });
    Outcome::new(document, text)
}

fn told_restore(file: &Path, made: &Made, restored: &Restored, users: usize, damaged: bool) -> Outcome {
    let mut document = json!(restored);
    document["file"] = json!(file.display().to_string());
    document["made"] = json!(made.time);
    document["users"] = json!(users);
    let Restored { imported, allowed, offences, .. } = restored;
    let mut text = format!(
        "restored from {}, made {}: {} blocks, {allowed} allowed, {offences} with offences, {users} users; every session \
         and token of before is ended",
        printable(&file.display().to_string()),
        made.time,
        imported.imported,
    );
    if imported.ended > 0 {
        text.push_str(&format!("\nended meanwhile, so left out: {}", imported.ended));
    }
    let mut warnings = imported.told_left_out();
    if damaged {
        warnings.push("the store of users was damaged and is made anew".to_owned());
    }
    warnings.extend(imported.warnings.iter().cloned());
    Outcome { warnings, ..Outcome::new(document, text) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::{backup::State, control::protocol::Imported};

    fn backup() -> Backup {
        let made = Made { time: Wall(1_767_323_045_000), version: "0.1.0".to_owned() };
        Backup { made, state: State::default(), users: Vec::new() }
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
        assert!(write(Path::new("/dev/null"), &backup()).unwrap_err().message.contains("no regular file"));
        let missing = directory.path().join("none/a");
        assert!(write(&missing, &backup()).unwrap_err().message.contains("none/a cannot be written"));
        assert_eq!(names(directory.path()), [] as [String; 0]);
    }

    #[test]
    fn what_cannot_be_restored_is_named_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        assert_eq!(read(&file).unwrap_err().blame, Blame::Usage);
        fs::write(&file, "nothing of edge").unwrap();
        let failure = read(&file).unwrap_err();
        assert_eq!(failure.blame, Blame::Refused);
        assert!(failure.message.contains("/a cannot be restored: it is no backup of edge"), "{failure}");
        let user =
            Kept { name: "a:b".to_owned(), hash: String::new(), roles: Vec::new(), disabled: false, created: Wall(1) };
        write(&file, &Backup { users: vec![user], ..backup() }).unwrap();
        assert!(read(&file).unwrap_err().message.contains("the user name \"a:b\" contains ':'"));
    }

    #[test]
    fn what_was_left_out_is_told() {
        let imported = Imported { imported: 3, ended: 2, left_out_total: 4, ..Imported::default() };
        let restored = Restored { imported, allowed: 1, offences: 5, before: State::default() };
        let outcome = told_restore(Path::new("a"), &backup().made, &restored, 7, true);
        assert!(outcome.text.contains("3 blocks, 1 allowed, 5 with offences, 7 users"), "{}", outcome.text);
        assert!(outcome.text.ends_with("left out: 2"), "{}", outcome.text);
        assert_eq!(outcome.warnings.len(), 2, "{:?}", outcome.warnings);
        assert_eq!((&outcome.json["users"], &outcome.json["imported"]), (&json!(7), &json!(3)));
    }
}
