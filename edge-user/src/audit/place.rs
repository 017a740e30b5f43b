//! Where the audit log is written: a file that the config names, the journal, or, where no journal listens, standard
//! error and a bounded file of the store. Opening, writing, and going on after a write that failed.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::{
        fs::{MetadataExt, OpenOptionsExt, fchown},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    config::{AuditTo, Config},
    store,
};

/// Where systemd's journal takes messages (systemd.io, "Native Journal Protocol").
const JOURNAL: &str = "/run/systemd/journal/socket";
/// The name under which the journal has them.
pub const IDENTIFIER: &str = "edge-audit";
/// A journal that takes nothing for so long does not listen.
const JOURNAL_TAKES_WITHIN: Duration = Duration::from_secs(1);
/// Of the store's file; the one before is kept beside it.
const MAX_BYTES: u64 = 16 << 20;

/// Where it is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    File(PathBuf),
    /// Else the store's file.
    Journal {
        socket: PathBuf,
        kept: PathBuf,
    },
}

impl Place {
    pub fn of(config: &Config) -> Place {
        match &config.log.audit {
            AuditTo::File(path) => Place::File(path.clone()),
            AuditTo::Journald => Place::Journal { socket: PathBuf::from(JOURNAL), kept: config.store.audit() },
        }
    }

    /// The file that has it, or what the journal does not take of it.
    pub fn path(&self) -> &Path {
        match self {
            Place::File(path) | Place::Journal { kept: path, .. } => path,
        }
    }

    /// The file before, where edge itself puts it there.
    pub fn former(&self) -> Option<PathBuf> {
        match self {
            Place::File(_) => None,
            Place::Journal { kept, .. } => Some(former(kept)),
        }
    }

    /// `None`: it never is in the journal. Else whether the journal listens now.
    pub fn journal(&self) -> Option<bool> {
        match self {
            Place::File(_) => None,
            Place::Journal { socket, .. } => Some(connected(socket).is_ok()),
        }
    }

    /// For people.
    pub fn told(&self) -> String {
        match self.journal() {
            Some(true) => "in the journal".to_owned(),
            Some(false) | None => self.path().display().to_string(),
        }
    }
}

/// Takes lines.
pub enum Sink {
    File(Lines),
    Journal(UnixDatagram),
    /// Standard error has them too, if asked for.
    Kept {
        lines: Lines,
        path: PathBuf,
        stderr: bool,
    },
}

impl Sink {
    /// `stderr`: whether standard error is a log.
    pub fn open(place: &Place, stderr: bool) -> io::Result<Sink> {
        match place {
            Place::File(path) => Lines::open(path).map(Sink::File),
            Place::Journal { socket, kept } => match connected(socket) {
                Ok(journal) => Ok(Sink::Journal(journal)),
                Err(_) => {
                    // Beside the store, which may not have been made yet.
                    store::make_directory(kept)?;
                    Ok(Sink::Kept { lines: Lines::open(kept)?, path: kept.clone(), stderr })
                }
            },
        }
    }

    /// Without standard error. `None`: it would lie beside a store, and there is no directory for one.
    pub fn open_if_there(place: &Place) -> io::Result<Option<Sink>> {
        let is_missing = |file: &Path| file.parent().is_some_and(|of| of.try_exists().is_ok_and(|there| !there));
        match place {
            Place::Journal { socket, kept } if is_missing(kept) && connected(socket).is_err() => Ok(None),
            _ => Sink::open(place, false).map(Some),
        }
    }

    /// Goes to the journal where that listens again; what came meanwhile stays where it is.
    pub fn back_to_journal(&mut self, place: &Place) {
        if let (Sink::Kept { .. }, Place::Journal { socket, .. }) = (&self, place)
            && let Ok(journal) = connected(socket)
        {
            *self = Sink::Journal(journal);
        }
    }

    /// Takes one line. What is taken in part is finished by the next call with the same line.
    pub fn take(&mut self, line: &str) -> io::Result<()> {
        match self {
            Sink::File(lines) => lines.take(line),
            Sink::Journal(journal) => journal.send(&message(line)).map(drop),
            Sink::Kept { lines, path, stderr } => {
                if lines.bytes >= MAX_BYTES {
                    std::fs::rename(&*path, former(path))?;
                    *lines = Lines::open(path)?;
                }
                lines.take(line)?;
                if *stderr {
                    // It has no more room, or nobody reads it: the file has the line.
                    let _ = writeln!(io::stderr(), "{line}");
                }
                Ok(())
            }
        }
    }
}

/// A file that lines are added to.
pub struct Lines {
    file: File,
    /// Its length, as far as this process knows.
    bytes: u64,
    /// What is there of the line that could not be finished.
    begun: usize,
}

impl Lines {
    /// A file that is made anew belongs to whom its directory belongs, so that the agent can use what root's command
    /// made. It is readable by its group.
    pub fn open(path: &Path) -> io::Result<Lines> {
        let options = |file: &mut OpenOptions| {
            file.read(true)
                .append(true)
                .mode(0o640)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC);
            file.clone()
        };
        let mut file = match options(&mut OpenOptions::new()).create_new(true).open(path) {
            Ok(file) => given_to_owner(file, path)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => options(&mut OpenOptions::new()).open(path)?,
            Err(error) => return Err(error),
        };
        let bytes = file.metadata()?.len();
        let mut lines = Lines { bytes, begun: 0, file: file.try_clone()? };
        if bytes > 0 && !ends_with_newline(&mut file) {
            // Who wrote before was interrupted; what is left of that line is none.
            lines.file.write_all(b"\n")?;
        }
        Ok(lines)
    }

    fn take(&mut self, line: &str) -> io::Result<()> {
        let whole = [line.as_bytes(), b"\n"].concat();
        while self.begun < whole.len() {
            match self.file.write(&whole[self.begun..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.begun += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.begun = 0;
        self.bytes += whole.len() as u64;
        Ok(())
    }
}

fn given_to_owner(file: File, path: &Path) -> io::Result<File> {
    if nix::unistd::geteuid().is_root()
        && let Some(directory) = path.parent()
    {
        let owner = std::fs::metadata(directory)?;
        fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(file)
}

/// What cannot be looked at, as a terminal, has no end.
fn ends_with_newline(file: &mut File) -> bool {
    let mut last = [0];
    let read = file.seek(SeekFrom::End(-1)).and_then(|_| file.read_exact(&mut last));
    read.is_err() || last == *b"\n"
}

fn connected(socket: &Path) -> io::Result<UnixDatagram> {
    let journal = UnixDatagram::unbound()?;
    journal.connect(socket)?;
    journal.set_write_timeout(Some(JOURNAL_TAKES_WITHIN))?;
    Ok(journal)
}

/// A line has no newline in it, so the short form of each field will do.
fn message(line: &str) -> Vec<u8> {
    format!("MESSAGE={line}\nPRIORITY=5\nSYSLOG_FACILITY=10\nSYSLOG_IDENTIFIER={IDENTIFIER}\n").into_bytes()
}

fn former(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn place(directory: &Path) -> Place {
        Place::Journal { socket: directory.join("journal"), kept: directory.join("not/made/kept") }
    }

    #[test]
    fn lines_are_added_and_an_interrupted_one_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        Lines::open(&path).unwrap().take("one").unwrap();
        fs::write(&path, "one\n{\"tor").unwrap();
        let mut lines = Lines::open(&path).unwrap();
        lines.take("two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n{\"tor\ntwo\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_link_is_not_followed_and_nobody_waits_for_a_pipe_that_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let [target, link, pipe] = ["target", "link", "pipe"].map(|name| directory.path().join(name));
        fs::write(&target, "").unwrap();
        symlink(&target, &link).unwrap();
        assert!(Lines::open(&link).is_err());
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut lines = Lines::open(&pipe).unwrap();
        let line = "x".repeat(1 << 20);
        assert_eq!(lines.take(&line).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn what_no_journal_takes_is_kept_in_two_files_of_bounded_size() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(directory.path());
        assert_eq!(place.journal(), Some(false));
        let mut sink = Sink::open(&place, false).unwrap();
        let line = "x".repeat(1 << 20);
        for _ in 0..40 {
            sink.take(&line).unwrap();
        }
        let length = |path: &Path| fs::metadata(path).unwrap().len();
        assert!((1..=MAX_BYTES + (2 << 20)).contains(&length(place.path())), "{}", length(place.path()));
        assert!((MAX_BYTES..=MAX_BYTES + (2 << 20)).contains(&length(&place.former().unwrap())));
    }

    #[test]
    fn a_journal_that_listens_has_each_line_as_a_message() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(directory.path());
        let journal = UnixDatagram::bind(directory.path().join("journal")).unwrap();
        assert_eq!(place.journal(), Some(true));
        Sink::open(&place, true).unwrap().take("{\"event\":\"login\"}").unwrap();
        let mut message = [0; 256];
        let length = journal.recv(&mut message).unwrap();
        let text = std::str::from_utf8(&message[..length]).unwrap();
        assert!(text.starts_with("MESSAGE={\"event\":\"login\"}\n"), "{text}");
        assert!(text.contains("\nSYSLOG_IDENTIFIER=edge-audit\n") && !directory.path().join("kept").exists());
    }
}
