//! `edge audit`: the audit log, wherever it is written. The agent hands over the file, since the caller may have the right
//! to read the log but not to open it; without an agent the caller opens it. Written as it is read, since it may be long.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{
    args::{Audit, Format, Global},
    ask,
    output::{Complaint, Outcome, whole},
};
use crate::{
    audit::{
        self,
        event::Event,
        place::Written,
        read::{Journal, Since, Tail},
    },
    clock::Wall,
    config::Config,
    control::protocol::{AuditAt, Command, Handed, Reply},
    error::Failure,
};

/// Between two looks at a file that may have grown.
const LOOK: Duration = Duration::from_millis(200);

pub fn audit(global: &Global, arguments: &Audit) -> Result<Outcome, Complaint> {
    let since = Since(arguments.since.map(|since| Wall::now().minus(since)));
    let (source, former) = Source::find(global)?;
    let mut out = Printer::new(BufWriter::new(io::stdout().lock()), global.output, arguments.follow);
    let shown = match &source {
        Source::Journal(uids) => journal(uids, since, arguments.follow, &mut out)?,
        Source::Files { path, .. } => {
            let shown = former.map_or(Ok(()), |file| out.all(&mut Tail::new(file), since));
            let now = source.open(global)?;
            shown.and_then(|()| match (now, arguments.follow) {
                (now, true) => follow(global, &source, path, now, since, &mut out),
                (Some(now), false) => out.all(&mut Tail::new(now), since),
                (None, false) => Ok(()),
            })
        }
    };
    whole("the audit log", shown.and_then(|()| out.end()))
}

/// Where it is read.
enum Source {
    /// What these users wrote.
    Journal(Vec<u32>),
    Files {
        path: PathBuf,
        by_agent: bool,
    },
}

impl Source {
    /// And the file before, if there is one.
    fn find(global: &Global) -> Result<(Source, Option<File>), Complaint> {
        match ask::agent_if_any(global, Command::Audit { former: true }) {
            Some(Ok(Reply::Audit(AuditAt { path: Some(path), file, .. }))) => {
                Ok((Source::Files { path, by_agent: true }, own(file)?))
            }
            Some(Ok(Reply::Audit(AuditAt { path: None, uid, .. }))) => Ok((Source::Journal(writers(uid)), None)),
            Some(Ok(_)) => Err(ask::mismatched()),
            Some(Err(failure)) => Err(failure.into()),
            None => {
                let needed = ["log.audit", "store.path"];
                let (config, _) = Config::load_partly(&ask::config_file(global), global.config.is_none(), &needed)?;
                Ok(Source::of(&config)?)
            }
        }
    }

    fn of(config: &Config) -> Result<(Source, Option<File>), Failure> {
        match audit::written(config) {
            Written::Journal => Ok((Source::Journal(writers(nix::unistd::getuid().as_raw())), None)),
            Written::File { path, former } => {
                let former = former.as_deref().map(audit::opened).transpose()?.flatten();
                Ok((Source::Files { path, by_agent: false }, former))
            }
        }
    }

    /// The file that is written now; `None`: there is none.
    fn open(&self, global: &Global) -> Result<Option<File>, Complaint> {
        match self {
            Source::Files { path, by_agent: false } => Ok(audit::opened(path)?),
            Source::Files { by_agent: true, .. } => match ask::agent(global, Command::Audit { former: false })? {
                Reply::Audit(AuditAt { file, .. }) => Ok(own(file)?),
                _ => Err(ask::mismatched()),
            },
            Source::Journal(_) => Ok(None),
        }
    }
}

fn own(Handed(file): Handed) -> Result<Option<File>, Failure> {
    let file = file.map(|file| file.try_clone().map(File::from)).transpose();
    file.map_err(|error| Failure::system(format!("the audit log cannot be read: {error}")))
}

/// Those who write it: the agent, and root, who gives commands without one.
fn writers(agent: u32) -> Vec<u32> {
    let service = nix::unistd::User::from_name("edge").ok().flatten();
    [0, agent].into_iter().chain(service.map(|user| user.uid.as_raw())).collect::<BTreeSet<u32>>().into_iter().collect()
}

fn journal<W: Write>(
    uids: &[u32],
    since: Since,
    follow: bool,
    out: &mut Printer<W>,
) -> Result<io::Result<()>, Complaint> {
    let mut journal = Journal::open(since, follow, uids).map_err(|error| {
        Failure::system(format!("the audit log is in the journal, and journalctl cannot be run: {error}"))
    })?;
    Ok(loop {
        match journal.line() {
            Ok(Some(line)) => {
                let shown = out.line(&line, since);
                if let Err(error) = shown.and_then(|()| if follow { out.flush() } else { Ok(()) }) {
                    break Err(error);
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    })
}

/// Until nobody reads any more. A file that was moved away is read to its end before the next one.
fn follow<W: Write>(
    global: &Global,
    source: &Source,
    path: &Path,
    file: Option<File>,
    since: Since,
    out: &mut Printer<W>,
) -> io::Result<()> {
    let mut tail = file.map(Tail::new);
    loop {
        if let Some(tail) = &mut tail {
            out.all(tail, since)?;
        }
        out.flush()?;
        thread::sleep(LOOK);
        let is_left = tail.as_ref().map_or_else(|| path.exists(), |tail| tail.is_left(path));
        if is_left {
            if let Some(tail) = &mut tail {
                out.all(tail, since)?;
            }
            // What the agent cannot open now, or an agent that is gone, is asked for again.
            let opened = source.open(global).ok().flatten().or_else(|| audit::opened(path).ok().flatten());
            if let Some(file) = opened {
                tail = Some(Tail::new(file));
            }
        }
    }
}

struct Printer<W> {
    out: W,
    format: Format,
    /// Whether objects are elements of an array.
    array: bool,
    printed: bool,
}

impl<W: Write> Printer<W> {
    fn new(out: W, format: Format, follow: bool) -> Printer<W> {
        Printer { out, format, array: format == Format::Json && !follow, printed: false }
    }

    fn all(&mut self, tail: &mut Tail<File>, since: Since) -> io::Result<()> {
        while let Some(line) = tail.line()? {
            self.line(&line, since)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8], since: Since) -> io::Result<()> {
        since.event(line).map_or(Ok(()), |event| self.event(&event))
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        let before = match (self.array, self.printed) {
            (false, _) => "",
            (true, false) => "[",
            (true, true) => ",",
        };
        self.printed = true;
        match self.format {
            Format::Json => writeln!(self.out, "{before}{}", event.line()),
            Format::Text => writeln!(self.out, "{}", event.text()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn end(mut self) -> io::Result<()> {
        match (self.array, self.printed) {
            (true, true) => writeln!(self.out, "]")?,
            (true, false) => writeln!(self.out, "[]")?,
            (false, _) => {}
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::event::{Name, Outcome};

    fn printed(format: Format, follow: bool, events: usize) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, format, follow);
        let line = Event::new(Name::Block, Outcome::Success, Wall(7)).line();
        for _ in 0..events {
            printer.line(line.as_bytes(), Since(None)).unwrap();
            printer.line(b"no event", Since(None)).unwrap();
        }
        printer.end().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_array_is_one_document_and_whoever_follows_has_lines() {
        let count = |text: String| serde_json::from_str::<Vec<Event>>(&text).unwrap().len();
        assert_eq!([0, 1, 3].map(|events| count(printed(Format::Json, false, events))), [0, 1, 3]);
        let lines = printed(Format::Json, true, 2);
        assert!(lines.lines().all(|line| serde_json::from_str::<Event>(line).is_ok()) && lines.lines().count() == 2);
        assert_eq!(printed(Format::Text, false, 2).lines().count(), 2);
        assert_eq!(printed(Format::Text, false, 0), "");
    }
}
