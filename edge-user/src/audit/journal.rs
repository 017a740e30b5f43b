//! What of the audit log is in the journal, as `journalctl` prints it: libsystemd is not everywhere, and where it is not,
//! neither is a journal. Whoever may not read the journal has the agent do it: it hands over the pipe.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::unistd::getuid;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    place::IDENTIFIER,
    read::{Since, Tail},
};
use crate::{clock::Wall, error::Failure};

/// Where the journal's files are (systemd-journald.service(8)).
const FOLDERS: [&str; 2] = ["/var/log/journal", "/run/log/journal"];
/// Before how it ended, in the last line of what the agent hands over. No event begins so.
const ENDED: &[u8] = b"journalctl: ";
const WELL: &[u8] = b"exit status: 0";

/// Lines of the journal, and how it ended.
pub struct Journal {
    lines: Tail<Box<dyn Read + Send>>,
    child: Option<Child>,
}

impl Journal {
    /// Read by the caller. Only what these users wrote counts, since anybody can write under any name. `None`: there is no
    /// `journalctl` here.
    pub fn open(since: Since, follow: bool, writers: &[u32]) -> Result<Option<Journal>, Failure> {
        let spawned = command(since, follow, writers).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(not_run(&error)),
        };
        let output = child.stdout.take().ok_or_else(|| Failure::bug("journalctl has no output"))?;
        Ok(Some(Journal { lines: Tail::new(Box::new(output)), child: Some(child) }))
    }

    /// Read by the agent, who has handed over this.
    pub fn of(handed: File) -> Journal {
        Journal { lines: Tail::new(Box::new(handed)), child: None }
    }

    /// The next line; `None` at the end, if it was a good one.
    pub fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.lines.line()?;
        let ended = match (&line, &mut self.child) {
            (None, Some(child)) => child.wait()?.to_string(),
            (None, None) => "the agent has not said how".to_owned(),
            (Some(line), None) if line.starts_with(ENDED) => String::from_utf8_lossy(&line[ENDED.len()..]).into_owned(),
            (Some(_), _) => return Ok(line),
        };
        if ended.as_bytes() == WELL { Ok(None) } else { Err(io::Error::other(format!("journalctl failed ({ended})"))) }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The agent reads for a caller: what comes out of this is for [`Journal::of`]. It ends when the caller goes away.
pub fn handed(since: Since, follow: bool, writers: &[u32], permit: OwnedSemaphorePermit) -> Result<OwnedFd, Failure> {
    if !may_read() {
        return Err(may_not_read("the agent"));
    }
    let (from, to) = io::pipe().map_err(|error| not_run(&error))?;
    let mut ends = to.try_clone().map_err(|error| not_run(&error))?;
    let spawned = command(since, follow, writers).stdin(Stdio::null()).stdout(to).spawn();
    let mut child = spawned.map_err(|error| not_run(&error))?;
    tokio::task::spawn_blocking(move || {
        let ended = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        // A caller who is gone needs no word.
        let _ = ends.write_all(&[ENDED, ended.as_bytes(), b"\n"].concat());
        drop(permit);
    });
    Ok(from.into())
}

/// The command owns a copy of the pipe's end, so it must not outlive the start.
fn command(Since(since): Since, follow: bool, writers: &[u32]) -> Command {
    let mut command = Command::new("journalctl");
    command.args(["--quiet", "--no-pager", "--output=cat", "--all"]);
    if follow {
        command.args(["--follow", "--no-tail"]);
    }
    if let Some(Wall(since)) = since {
        command.arg(format!("--since=@{}", since.div_euclid(1_000)));
    }
    command.arg(format!("SYSLOG_IDENTIFIER={IDENTIFIER}")).args(writers.iter().map(|uid| format!("_UID={uid}")));
    command
}

/// Whether this process may read what the system wrote; `journalctl` says nothing where it shows less than all.
pub fn may_read() -> bool {
    FOLDERS.iter().all(|folder| may_read_below(Path::new(folder)))
}

fn may_read_below(folder: &Path) -> bool {
    let is_denied = |error: io::Error| error.kind() == ErrorKind::PermissionDenied;
    let machines: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(machines) => machines.flatten().map(|machine| machine.path()).collect(),
        Err(error) => return !is_denied(error),
    };
    machines.iter().all(|machine| File::open(machine.join("system.journal")).map_or_else(|e| !is_denied(e), |_| true))
}

/// `who` begins the sentence.
pub fn may_not_read(who: &str) -> Failure {
    Failure::forbidden(format!(
        "{who} (uid {}) may not read the journal, where the audit log is; add its user to the group systemd-journal, or run `edge audit` as root",
        getuid()
    ))
}

fn not_run(error: &io::Error) -> Failure {
    Failure::system(format!("the audit log is in the journal, and journalctl cannot be run: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn of(text: &str) -> Journal {
        let (from, mut to) = io::pipe().unwrap();
        to.write_all(text.as_bytes()).unwrap();
        Journal::of(File::from(OwnedFd::from(from)))
    }

    #[test]
    fn only_a_good_end_is_one() {
        let mut good = of("{}\njournalctl: exit status: 0\n");
        assert_eq!(good.line().unwrap().as_deref(), Some(&b"{}"[..]));
        assert_eq!(good.line().unwrap(), None);
        for (bad, why) in [("journalctl: exit status: 1\n", "exit status: 1"), ("", "has not said how")] {
            let error = of(bad).line().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_journal_that_is_not_there_hides_nothing_and_one_that_is_closed_does() {
        let folder = tempfile::tempdir().unwrap();
        let machine = folder.path().join("machine");
        assert!(may_read_below(&machine) && may_read_below(folder.path()));
        fs::create_dir(&machine).unwrap();
        fs::write(machine.join("system.journal"), "").unwrap();
        assert!(may_read_below(folder.path()));
        fs::set_permissions(machine.join("system.journal"), fs::Permissions::from_mode(0o000)).unwrap();
        assert_eq!(may_read_below(folder.path()), nix::unistd::geteuid().is_root());
    }
}
