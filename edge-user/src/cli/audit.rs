//! `edge audit`: the audit log, wherever it is written. The agent hands over what the caller may not open, for whoever may
//! command it may read it; without an agent the caller opens it. Written as it is read, since it may be long.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufWriter, Write},
    path::PathBuf,
    sync::mpsc::{SyncSender, sync_channel},
    thread,
    time::Duration,
};

use nix::unistd::{Gid, Group, User, getgid, getgroups, getuid};

use super::{
    args::{Audit, Format, Global},
    ask,
    output::{Complaint, Outcome, whole},
};
use crate::{
    audit::{
        self,
        event::Event,
        journal::{self, Journal},
        read::{Since, Tail},
    },
    clock::Wall,
    config::Config,
    control::protocol::{AuditAt, AuditInJournal, AuditPart, Command, Handed, Reply},
    error::{Blame, Failure},
    printable::printable,
};

/// Between two looks at a file that may have grown.
const LOOK: Duration = Duration::from_millis(200);
/// Events that are read before they are printed.
const AHEAD: usize = 256;

pub fn audit(global: &Global, arguments: &Audit) -> Result<Outcome, Complaint> {
    let since = Since(arguments.since.map(|since| Wall::now().minus(since)));
    let (source, former) = Source::find(global)?;
    let journal = source.journal(since, arguments.follow)?;
    let files = Files { since, former: former.map(Tail::new), current: source.open()?.map(Tail::new) };
    let mut out = Printer::new(BufWriter::new(io::stdout().lock()), global.output, arguments.follow);
    let shown = match arguments.follow {
        true => follow(source, files, journal, &mut out),
        false => merge(files, journal.map(|journal| Journalled { since, journal }), &mut out),
    };
    match shown {
        // What was shown is a document all the same.
        Err(error) if out.printed && error.kind() != io::ErrorKind::BrokenPipe => {
            let ended = whole("the audit log", out.end())?;
            eprintln!("edge: the audit log cannot be shown whole: {}", printable(&error.to_string()));
            Ok(Outcome { exit_code: Blame::System.exit_code(), ..ended })
        }
        shown => whole("the audit log", shown.and_then(|()| out.end())),
    }
}

/// Where it is read.
struct Source {
    global: Global,
    by_agent: bool,
    path: PathBuf,
    journal: Option<AuditInJournal>,
}

impl Source {
    /// And the file before, if there is one.
    fn find(global: &Global) -> Result<(Source, Option<File>), Complaint> {
        let (by_agent, at) = match ask::agent_if_any(global, Command::Audit(AuditPart::Former)) {
            Some(Ok(Reply::Audit(at))) => (true, at),
            Some(Ok(_)) => return Err(ask::mismatched()),
            Some(Err(failure)) => return Err(failure.into()),
            None => {
                let needed = ["log.audit", "store.path", "admin.group"];
                let (config, _) = Config::load_partly(&ask::config_file(global), global.config.is_none(), &needed)?;
                (false, audit::located_by(&config)?)
            }
        };
        let AuditAt { path, journal, file } = at;
        Ok((Source { global: global.clone(), by_agent, path, journal }, own(file)?))
    }

    /// The file that is written now; `None`: there is none.
    fn open(&self) -> Result<Option<File>, Complaint> {
        if self.by_agent { self.ask(AuditPart::Current) } else { Ok(audit::opened(&self.path)?) }
    }

    /// `None`: it is not in the journal and never was, as far as this system can tell.
    fn journal(&self, Since(since): Since, follow: bool) -> Result<Option<Journal>, Complaint> {
        let Some(journal) = &self.journal else { return Ok(None) };
        let writers = writers(journal);
        if !journal::may_read() {
            if !self.by_agent {
                return Err(journal::may_not_read("this user").into());
            }
            return Ok(self.ask(AuditPart::Journal { writers, since, follow })?.map(Journal::of));
        }
        match Journal::open(Since(since), follow, &writers)? {
            None if journal.now => {
                Err(Failure::system("the audit log is in the journal, and there is no journalctl to read it").into())
            }
            found => Ok(found),
        }
    }

    fn ask(&self, part: AuditPart) -> Result<Option<File>, Complaint> {
        match ask::agent(&self.global, Command::Audit(part))? {
            Reply::Audit(AuditAt { file, .. }) => Ok(own(file)?),
            _ => Err(ask::mismatched()),
        }
    }
}

fn own(Handed(file): Handed) -> Result<Option<File>, Failure> {
    let file = file.map(|file| file.try_clone().map(File::from)).transpose();
    file.map_err(|error| Failure::system(format!("the audit log cannot be read: {error}")))
}

/// Those who write it: the agent, and those who may give commands without one.
fn writers(AuditInJournal { uid, group, .. }: &AuditInJournal) -> Vec<u32> {
    let named = |name: &str| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
    let group = Group::from_name(group).ok().flatten();
    let members = group.iter().flat_map(|group| &group.mem).filter_map(|name| named(name));
    // A group that is a user's first one does not name that user.
    let caller = group.as_ref().is_some_and(|group| is_own(group.gid)).then(|| getuid().as_raw());
    let writers: BTreeSet<u32> = members.chain([0, *uid]).chain(named("edge")).chain(caller).collect();
    writers.into_iter().collect()
}

fn is_own(group: Gid) -> bool {
    getgid() == group || getgroups().is_ok_and(|groups| groups.contains(&group))
}

/// Events of one place, in their order.
trait Place {
    /// `None` at the end.
    fn event(&mut self) -> io::Result<Option<Event>>;
}

struct Journalled {
    since: Since,
    journal: Journal,
}

impl Place for Journalled {
    fn event(&mut self) -> io::Result<Option<Event>> {
        while let Some(line) = self.journal.line()? {
            if let Some(event) = self.since.event(&line) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

struct Files {
    since: Since,
    former: Option<Tail<File>>,
    current: Option<Tail<File>>,
}

impl Place for Files {
    fn event(&mut self) -> io::Result<Option<Event>> {
        for tail in [&mut self.former, &mut self.current].into_iter().flatten() {
            while let Some(line) = tail.line()? {
                if let Some(event) = self.since.event(&line) {
                    return Ok(Some(event));
                }
            }
        }
        Ok(None)
    }
}

impl Files {
    /// As long as it is wanted. A file that was moved away is read to its end before the next one.
    fn follow(&mut self, source: &Source, mut tell: impl FnMut(Event) -> io::Result<()>) -> io::Result<()> {
        loop {
            // Looked at before the file is read to its end, so that nothing comes between.
            let is_left = self.current.as_ref().map_or_else(|| source.path.exists(), |tail| tail.is_left(&source.path));
            while let Some(event) = self.event()? {
                tell(event)?;
            }
            if is_left {
                // What the agent cannot open now, or an agent that is gone, is asked for again.
                let opened = source.open().ok().flatten().or_else(|| audit::opened(&source.path).ok().flatten());
                self.current = opened.map(Tail::new).or(self.current.take());
            }
            thread::sleep(LOOK);
        }
    }
}

/// In the order of time: the journal may have come later, or gone.
fn merge<W: Write>(mut files: impl Place, journal: Option<impl Place>, out: &mut Printer<W>) -> io::Result<()> {
    let Some(mut journal) = journal else { return out.all(&mut files) };
    let (mut file, mut journalled) = (files.event()?, journal.event()?);
    loop {
        let is_file_next = match (&file, &journalled) {
            (Some(file), Some(journalled)) => file.time <= journalled.time,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => return Ok(()),
        };
        let (next, after) =
            if is_file_next { (&mut file, files.event()?) } else { (&mut journalled, journal.event()?) };
        if let Some(event) = std::mem::replace(next, after) {
            out.event(&event)?;
        }
    }
}

/// Until nobody reads any more. What is in the files already comes first.
fn follow<W: Write>(
    source: Source,
    mut files: Files,
    journal: Option<Journal>,
    out: &mut Printer<W>,
) -> io::Result<()> {
    out.all(&mut files)?;
    let since = files.since;
    let (tell, told) = sync_channel(AHEAD);
    if let Some(journal) = journal {
        let tell = tell.clone();
        thread::spawn(move || tell_all(Journalled { since, journal }, &tell));
    }
    thread::spawn(move || {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        if let Err(error) = files.follow(&source, |event| tell.send(Ok(event)).map_err(gone)) {
            let _ = tell.send(Err(error));
        }
    });
    out.flush()?;
    for event in told {
        out.event(&event?)?;
        out.flush()?;
    }
    Ok(())
}

fn tell_all(mut place: impl Place, tell: &SyncSender<io::Result<Event>>) {
    loop {
        let Some(event) = place.event().transpose() else { return };
        let is_last = event.is_err();
        if tell.send(event).is_err() || is_last {
            return;
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

    fn all(&mut self, place: &mut impl Place) -> io::Result<()> {
        while let Some(event) = place.event()? {
            self.event(&event)?;
        }
        Ok(())
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

    struct Given<I>(I);

    impl<I: Iterator<Item = i64>> Place for Given<I> {
        fn event(&mut self) -> io::Result<Option<Event>> {
            Ok(self.0.next().map(|time| Event::new(Name::Block, Outcome::Success, Wall(time))))
        }
    }

    fn given(times: impl IntoIterator<Item = i64>) -> impl Place {
        Given(times.into_iter())
    }

    fn printed(format: Format, follow: bool, events: usize) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, format, follow);
        printer.all(&mut given((0..events).map(|_| 7))).unwrap();
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

    #[test]
    fn two_places_are_read_in_the_order_of_time() {
        let merged = |files: &[i64], journal: &[i64]| {
            let mut out = Vec::new();
            let mut printer = Printer::new(&mut out, Format::Json, false);
            merge(given(files.to_vec()), Some(given(journal.to_vec())), &mut printer).unwrap();
            printer.end().unwrap();
            let events: Vec<Event> = serde_json::from_slice(&out).unwrap();
            events.iter().map(|event| event.time.0).collect::<Vec<_>>()
        };
        assert_eq!(merged(&[1, 2, 7], &[3, 4, 9]), [1, 2, 3, 4, 7, 9]);
        assert_eq!((merged(&[], &[3]), merged(&[3], &[]), merged(&[], &[])), (vec![3], vec![3], vec![]));
    }
}
