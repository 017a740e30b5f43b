//! `edge restore`: what `edge backup` wrote, in place of what there is. The users are laid beside their store, the agent's
//! part is put into force, then the users take their places: where that is cut short, the next start finishes or undoes it.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use super::{
    args::{Global, RestoreFile},
    ask, note,
    output::{Complaint, Outcome},
};
use crate::{
    audit::event::Name,
    backup::{Backup, Made, State},
    config::Config,
    control::protocol::{Command, Reply, RestoreRequest, Restored},
    error::{Blame, Failure},
    printable::printable,
    server::{
        secret,
        users::{Holders, Replacement},
    },
};

/// The longest file that is read.
const MAX_BYTES: u64 = 1 << 30;

pub fn restore(global: &Global, arguments: &RestoreFile) -> Result<Outcome, Complaint> {
    let file = &arguments.file;
    let command = Command::Restore(request(file, String::new(), State::default()));
    let config = ask::config_for(global, &command)?;
    let failed = |failure: Failure| {
        note::done(global, &config, Name::Restore, Some(&file.display().to_string()), Some(&failure));
        Complaint::from(failure)
    };
    let Backup { made, state, holders } = read(file).map_err(failed)?;
    // Who hangs up does not leave half of it.
    SigSet::from_iter([Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM])
        .thread_block()
        .map_err(|errno| failed(Failure::system(format!("signals cannot be held back: {errno}"))))?;
    let replacement = prepared(&config, &holders, file).map_err(failed)?;
    let id = replacement.as_ref().map_or_else(secret::generate, |users| Ok(users.id().to_owned())).map_err(failed)?;
    let restored = match put(global, &config, request(file, id, state)) {
        Ok(Ok(restored)) => restored,
        Ok(Err(refused)) => {
            // What cannot be taken away now is at the next start.
            let _ = replacement.map(Replacement::give_up);
            return Err(refused.into());
        }
        Err(silence) => return Err(unanswered(silence, file).into()),
    };
    let aside = match replacement.as_ref().map_or(Ok(None), Replacement::commit) {
        Ok(aside) => aside,
        Err(failure) => {
            let before = secret::generate().map(|id| request(file, id, restored.before));
            let undone = before.and_then(|before| put(global, &config, before));
            return Err(failed(without_users(failure, replacement, matches!(undone, Ok(Ok(_))))));
        }
    };
    let revived = replacement.as_ref().map(Replacement::revived).unwrap_or_default();
    let outcome = told(file, &made, &restored, &holders, aside.as_deref());
    Ok(with_revived(outcome, revived))
}

fn without_users(failure: Failure, replacement: Option<Replacement>, undone: bool) -> Failure {
    let now = if undone {
        let _ = replacement.map(Replacement::give_up);
        "blocks and allow list are again as they were"
    } else {
        "blocks and allow list are the backup's now; the next start of edge, or this again, restores the users"
    };
    Failure { message: format!("{}; {now}", failure.message), ..failure }
}

fn request(file: &Path, id: String, state: State) -> RestoreRequest {
    RestoreRequest { source: file.display().to_string(), id, state }
}

/// The outer error: whether it was put into force is not known.
fn put(global: &Global, config: &Config, request: RestoreRequest) -> Result<Result<Restored, Failure>, Failure> {
    match ask::answer_by(global, config, Command::Restore(request))? {
        Ok(Reply::Restored(restored)) => Ok(Ok(*restored)),
        Ok(_) => Err(ask::another_answer()),
        Err(refused) => Ok(Err(refused)),
    }
}

fn unanswered(silence: Failure, file: &Path) -> Failure {
    let file = printable(&file.display().to_string());
    let message = format!(
        "{}; it is not known whether {file} is in force: restore it again, or start edge again, which finishes or undoes it",
        silence.message
    );
    Failure { message, ..silence }
}

/// `None`: there are no users, here and there.
fn prepared(config: &Config, holders: &Holders, file: &Path) -> Result<Option<Replacement>, Failure> {
    let directory = config.store.auth_directory();
    if holders.is_empty() && !directory.exists() {
        return Ok(None);
    }
    let prepared = Replacement::prepare(&directory, holders, &file.display().to_string());
    prepared
        .map(Some)
        .map_err(|failure| Failure { message: format!("nothing was changed: {}", failure.message), ..failure })
}

pub(super) fn read(file: &Path) -> Result<Backup, Failure> {
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
    backup.holders.check().map_err(|failure| refused(failure.message))?;
    Ok(backup)
}

fn told(file: &Path, made: &Made, restored: &Restored, holders: &Holders, aside: Option<&Path>) -> Outcome {
    let mut document = json!(restored);
    document["file"] = json!(file.display().to_string());
    document["made"] = json!(made.time);
    let (users, keys) = (holders.users.len(), holders.keys.len());
    document["users"] = json!(users);
    document["keys"] = json!(keys);
    let Restored { imported, allowed, offences, .. } = restored;
    let mut text = format!(
        "restored from {}, made {}: {} blocks, {allowed} allowed, {offences} with offences, {users} users, {keys} keys; every \
         session and token of before is ended",
        printable(&file.display().to_string()),
        made.time,
        imported.imported,
    );
    if imported.ended > 0 {
        text.push_str(&format!("\nended meanwhile, so left out: {}", imported.ended));
    }
    let mut warnings = imported.told_left_out();
    warnings.extend(aside.map(|aside| {
        format!("the store of users was damaged and is made anew; the damaged one lies at {} now", aside.display())
    }));
    warnings.extend(imported.warnings.iter().cloned());
    Outcome { warnings, ..Outcome::new(document, text) }
}

/// Whoever took a key away has to hear that it opens again.
fn with_revived(mut outcome: Outcome, names: &[String]) -> Outcome {
    let warning = |name: &String| {
        let name = printable(name);
        format!("the key {name} was ended since the backup and is in force again; `edge key revoke {name}` ends it")
    };
    outcome.warnings.extend(names.iter().map(warning));
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::backup::write, clock::Wall, control::protocol::Imported, server::users::Kept};

    fn backup() -> Backup {
        let made = Made { time: Wall(1_767_323_045_000), version: "0.1.0".to_owned() };
        Backup { made, state: State::default(), holders: Holders::default() }
    }

    #[test]
    fn what_cannot_be_restored_is_named_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        assert_eq!(read(&file).unwrap_err().blame, Blame::Usage);
        std::fs::write(&file, "nothing of edge").unwrap();
        let failure = read(&file).unwrap_err();
        assert_eq!(failure.blame, Blame::Refused);
        assert!(failure.message.contains("/a cannot be restored: it is no backup of edge"), "{failure}");
        let user =
            Kept { name: "a:b".to_owned(), hash: String::new(), roles: Vec::new(), disabled: false, created: Wall(1) };
        write(&file, &Backup { holders: Holders { users: vec![user], keys: Vec::new() }, ..backup() }).unwrap();
        assert!(read(&file).unwrap_err().message.contains("the user name \"a:b\" contains ':'"));
    }

    #[test]
    fn what_was_left_out_is_told() {
        let imported = Imported { imported: 3, ended: 2, left_out_total: 4, ..Imported::default() };
        let restored = Restored { imported, allowed: 1, offences: 5, before: State::default() };
        let holders = Holders::default();
        let outcome = told(Path::new("a"), &backup().made, &restored, &holders, Some(Path::new("b")));
        assert!(outcome.text.contains("3 blocks, 1 allowed, 5 with offences, 0 users, 0 keys"), "{}", outcome.text);
        assert!(outcome.text.ends_with("left out: 2"), "{}", outcome.text);
        assert_eq!(outcome.warnings.len(), 2, "{:?}", outcome.warnings);
        assert_eq!((&outcome.json["users"], &outcome.json["imported"]), (&json!(0), &json!(3)));
    }
}
