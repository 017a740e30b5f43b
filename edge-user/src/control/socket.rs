//! The file of the admin socket: who may open it, and whether somebody else listens there already.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Group, Uid, chown, geteuid};
use tokio::net::UnixListener;

use crate::error::{Blame, Context, Failure};

/// Listens at `path`, in place of a socket that nobody listens on any more. Open to the group; where there is no such
/// group, to its owner alone, with a warning. Must be called within a runtime.
pub fn bind(path: &Path, group: &str) -> Result<(UnixListener, Vec<String>), Failure> {
    let what = || format!("the admin socket {} cannot be made", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| io_failure(&error, &what()))?;
    }
    refuse_occupied(path)?;
    // Made beside it and renamed, so that at no moment it is open to more than it should be, or missing.
    let made = beside(path);
    match fs::remove_file(&made) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(io_failure(&error, &what())),
        _ => {}
    }
    let listener = UnixListener::bind(&made).map_err(|error| io_failure(&error, &what()))?;
    let warnings = give_to_group(&made, path, group).inspect_err(|_| drop(fs::remove_file(&made)))?;
    fs::rename(&made, path).map_err(|error| io_failure(&error, &what()))?;
    Ok((listener, warnings))
}

/// The group that the socket's file was given to, where its mode is open to one.
pub(super) fn group_of(listener: &UnixListener) -> Option<Gid> {
    use std::os::unix::fs::MetadataExt;
    let address = listener.local_addr().ok()?;
    let bound = address.as_pathname()?;
    let data = fs::metadata(final_path(bound)?).ok()?;
    (data.mode() & 0o060 == 0o060).then(|| Gid::from_raw(data.gid()))
}

const MADE_SUFFIX: &str = ".new";

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(MADE_SUFFIX);
    PathBuf::from(name)
}

/// Where a socket made by [`bind`] lies now: the kernel remembers the name it was bound to.
fn final_path(bound: &Path) -> Option<PathBuf> {
    bound.to_str().map(|name| PathBuf::from(name.strip_suffix(MADE_SUFFIX).unwrap_or(name)))
}

/// Whether another agent, or something that is no socket, is in the way.
pub fn refuse_occupied(path: &Path) -> Result<(), Failure> {
    let data = match fs::symlink_metadata(path) {
        Ok(data) => data,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_failure(&error, &format!("the admin socket {} cannot be made", path.display()))),
    };
    if !data.file_type().is_socket() {
        let message = format!("{} exists and is no socket; remove it or name another admin.socket", path.display());
        return Err(Failure::refused(message));
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let message = format!("another agent answers at {}; stop it or name another admin.socket", path.display());
        return Err(Failure::refused(message));
    }
    Ok(())
}

fn give_to_group(made: &Path, path: &Path, group: &str) -> Result<Vec<String>, Failure> {
    let what = || format!("the admin socket {} cannot be given to group {group}", path.display());
    let mode = |mode| fs::set_permissions(made, fs::Permissions::from_mode(mode));
    mode(0o600).map_err(|error| io_failure(&error, &what()))?;
    let owner_only =
        |why: String| vec![format!("{why}: the admin socket {} is open to user {} alone", path.display(), user_name())];
    let Some(known) = Group::from_name(group).blame(Blame::System, what)? else {
        return Ok(owner_only(format!("there is no group {group}")));
    };
    if let Err(error) = chown(made, None, Some(known.gid)) {
        return Ok(owner_only(format!("the group {group} cannot be set ({})", error.desc())));
    }
    mode(0o660).map_err(|error| io_failure(&error, &what()))?;
    Ok(Vec::new())
}

fn user_name() -> String {
    let uid = geteuid();
    nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| Uid::to_string(&uid), |user| user.name)
}

fn io_failure(error: &io::Error, what: &str) -> Failure {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            Failure::forbidden(format!("{what}: {error}; run as root or name another admin.socket"))
        }
        _ => Failure::system(format!("{what}: {error}; name another admin.socket")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{
        client::{self, Silence},
        protocol::{Command, Request},
    };

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let request = Request { command: Command::Status, caller: None };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.sock");
        let (first, _) = bind(&path, "no-such-group-of-edge").unwrap();
        assert_eq!(bind(&path, "edge").unwrap_err().blame, Blame::Refused);
        drop(first);
        assert!(matches!(client::call(&path, &request), Err(Silence::Absent(_))));
        bind(&path, "no-such-group-of-edge").unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(bind(&file, "edge").unwrap_err().message.contains("is no socket"));
    }
}
