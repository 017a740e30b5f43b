//! The audit log: who signed in or tried to, who gave which command, what was blocked and dropped. The agent collects:
//! the server's attempts ([`attempt`]), commands (`commanded`), blocks it decided itself, the kernel's samples; a limit
//! (`limit`) bounds what a flood writes; a thread (`log`) writes it where the config says ([`place`]), and `edge audit`
//! reads it there ([`read`]). Nothing here has a password, token, key or body to write.

pub mod attempt;
mod commanded;
pub mod event;
pub mod journal;
mod limit;
mod log;
pub mod place;
pub mod read;

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};

use self::{
    attempt::Attempt,
    commanded::Commanded,
    event::{Actor, Event, Name, Outcome},
    limit::{Limiter, Who},
    log::{Log, State},
    place::{Place, Sink},
    read::Since,
};
use crate::{
    block::Target,
    clock::{Now, Wall},
    config::Config,
    control::protocol::{Answer, AuditAt, AuditInJournal, AuditPart, Command, Handed, Noted, Rotate},
    drops::Sample,
    error::Failure,
};

/// What the server can have lost between two messages at most.
const MOST_LOST: u64 = 1 << 20;
/// How long an answer waits for a disk.
const WRITTEN_WITHIN: Duration = Duration::from_millis(200);
/// Callers whom the agent reads the journal for at once: each costs a process.
const READERS: usize = 8;

/// What the agent holds.
pub struct Audit {
    log: Log,
    place: Place,
    limiter: Limiter,
    ipv6_unit: u8,
    lost: u64,
    readers: Arc<Semaphore>,
}

impl Audit {
    /// A place that cannot be written is an alarm, and no reason not to start.
    pub fn start(config: &Config) -> Result<Audit, Failure> {
        let place = Place::of(config);
        let log = Log::start(place.clone())?;
        Ok(Audit {
            log,
            place,
            limiter: Limiter::default(),
            ipv6_unit: config.filter.ipv6_unit,
            lost: 0,
            readers: Arc::new(Semaphore::new(READERS)),
        })
    }

    /// The agent itself did it, or was told to by a signal.
    pub fn done(&mut self, name: Name, reason: Option<String>, refused: bool, now: Now) {
        let outcome = if refused { Outcome::Failure } else { Outcome::Success };
        self.take(Who::Nobody, name, Event { reason, ..Event::new(name, outcome, now.wall) }, now);
    }

    /// The start, with the user that the agent runs as.
    pub fn started(&mut self, now: Now) {
        let event = Event { actor: Some(own()), ..Event::new(Name::Run, Outcome::Success, now.wall) };
        self.take(Who::Nobody, Name::Run, event, now);
    }

    pub fn attempted(&mut self, attempts: Vec<Attempt>, lost: u64, now: Now) {
        self.lost = self.lost.saturating_add(lost.min(MOST_LOST));
        for attempt in attempts {
            let who = Who::Peer(Target::client(attempt.peer, self.ipv6_unit));
            let (name, event) = attempt.event(now.wall);
            self.take(who, name, event, now);
        }
    }

    /// A client is blocked for what it did.
    pub fn blocked(&mut self, client: Target, peer: std::net::IpAddr, reason: Option<String>, now: Now) {
        let event = Event {
            peer: Some(peer),
            subject: Some(commanded::subject(client)),
            reason,
            ..Event::new(Name::Block, Outcome::Success, now.wall)
        };
        self.take(Who::Nobody, Name::Block, event, now);
    }

    pub fn commanded(&mut self, command: &Command, uid: u32, answer: &Answer, now: Now) {
        let actor = Actor { uid, name: None };
        let commanded = match command {
            // Whoever reads it asks for its former part first, and for this one again and again.
            Command::Audit(AuditPart::Current | AuditPart::Journal { .. }) => return,
            // What comes of it is told when it is done, or by the caller.
            Command::Rotate(Rotate { take_up: false, .. }) => return,
            Command::Note(noted) if answer.is_ok() => {
                let (name, event) = commanded::noted(noted, actor, now.wall);
                return self.take(Who::Uid(uid), name, event, now);
            }
            _ => Commanded::new(command, &actor, answer, now.wall),
        };
        if limit::is_limited(commanded.name, commanded.outcome()) {
            commanded.events().for_each(|event| self.take(Who::Uid(uid), commanded.name, event, now));
        } else {
            self.log.write_all(commanded);
        }
    }

    /// A sample of what the kernel dropped.
    pub fn dropped(&mut self, sample: &Sample, now: Now) {
        let reason = Some(sample.reason.name().to_owned());
        let event = Event { peer: sample.source, reason, ..Event::new(Name::Drop, Outcome::Failure, sample.time) };
        self.take(Who::dropped(sample.reason), Name::Drop, event, now);
    }

    fn take(&mut self, who: Who, name: Name, event: Event, now: Now) {
        if let Some(event) = self.limiter.take(who, name, event.bounded(), now) {
            self.log.write(event);
        }
    }

    /// Once a second: counts whose time has come.
    pub fn sweep(&mut self, now: Now) {
        self.limiter.due(now).into_iter().for_each(|event| self.log.write(event));
    }

    /// The config was read again, or a signal came: the file may have been moved away.
    pub fn reopen(&mut self, config: &Config) {
        self.place = Place::of(config);
        self.ipv6_unit = config.filter.ipv6_unit;
        self.log.reopen(self.place.clone());
    }

    /// Waits for what came before this call to be written, but not long.
    pub fn written(&self) -> impl Future<Output = ()> + use<> {
        let written = self.log.is_ok().then(|| timeout(WRITTEN_WITHIN, self.log.written()));
        async move {
            if let Some(written) = written {
                let _ = written.await;
            }
        }
    }

    /// For whoever reads.
    pub fn opens(&self, config: &Config) -> Opens {
        Opens {
            place: self.place.clone(),
            group: config.admin.group.clone(),
            state: self.log.state(),
            readers: self.readers.clone(),
        }
    }

    pub fn is_ok(&self) -> bool {
        self.log.is_ok()
    }

    /// How many events more came too fast to be written.
    pub fn newly_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost).saturating_add(self.log.newly_lost())
    }

    /// The last words.
    pub async fn end(mut self, now: Now) {
        self.limiter.all(now).into_iter().for_each(|event| self.log.write(event));
        self.done(Name::Stop, None, false, now);
        self.written().await;
    }
}

/// Opens it for whoever reads: the agent may open what the caller may not, and the caller may do everything to edge.
pub struct Opens {
    place: Place,
    group: String,
    state: State,
    readers: Arc<Semaphore>,
}

impl Opens {
    pub fn open(self, part: &AuditPart) -> Result<AuditAt, Failure> {
        let file = match part {
            AuditPart::Former => {
                self.place.former().map(|path| opened(&path)).transpose()?.flatten().map(OwnedFd::from)
            }
            AuditPart::Current => opened(self.place.path())?.map(OwnedFd::from),
            AuditPart::Journal { writers, since, follow } => {
                let busy = |_| Failure::refused(format!("{READERS} callers read the journal already; end one of them"));
                let permit = self.readers.clone().try_acquire_owned().map_err(busy)?;
                Some(journal::handed(Since(*since), *follow, writers, permit)?)
            }
        };
        let at = located(&self.place, self.group, || self.state.is_in_journal());
        Ok(AuditAt { file: Handed(file.map(Arc::new)), ..at })
    }
}

fn located(place: &Place, group: String, now: impl FnOnce() -> bool) -> AuditAt {
    let uid = nix::unistd::getuid().as_raw();
    let journal = matches!(place, Place::Journal { .. }).then(|| AuditInJournal { now: now(), uid, group });
    AuditAt { path: place.path().to_owned(), journal, file: Handed::default() }
}

/// `None`: there is no such file.
pub fn opened(path: &Path) -> Result<Option<File>, Failure> {
    let failed = |error: &io::Error| format!("the audit log {} cannot be read: {error}", path.display());
    match File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Failure::forbidden(failed(&error))),
        Err(error) => Err(Failure::system(failed(&error))),
    }
}

/// Writes what a command did where no agent could be told, as the user who gives it. Where there is not even a directory
/// for a store it has changed nothing, and leaves nothing.
pub fn write_now(config: &Config, events: impl IntoIterator<Item = Event>) -> io::Result<()> {
    let Some(mut sink) = Sink::open_if_there(&Place::of(config))? else { return Ok(()) };
    events.into_iter().try_for_each(|event| sink.take(&event.bounded().line()))
}

/// A command that was carried out without an agent.
pub fn carried_out(command: &Command, answer: &Answer) -> Commanded {
    Commanded::new(command, &named(), answer, Wall::now())
}

/// The event of a command that is never the agent's.
pub fn noted(noted: &Noted) -> Event {
    commanded::noted(noted, named(), Wall::now()).1
}

/// The user of this process.
fn own() -> Actor {
    Actor { uid: nix::unistd::getuid().as_raw(), name: None }
}

fn named() -> Actor {
    let name = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    Actor { name, ..own() }
}

/// Where the caller looks for it by itself, with the file before.
pub fn located_by(config: &Config) -> Result<AuditAt, Failure> {
    let place = Place::of(config);
    let former = place.former().map(|path| opened(&path)).transpose()?.flatten();
    let at = located(&place, config.admin.group.clone(), || place.journal() == Some(true));
    Ok(AuditAt { file: Handed(former.map(OwnedFd::from).map(Arc::new)), ..at })
}

/// What `log.audit` of the config comes to that cannot be written; `None`: it can, or it is not known before.
pub fn unwritable(path: &Path) -> Option<String> {
    let directory = path.parent()?;
    (!directory.is_dir())
        .then(|| format!("there is no directory {}; make it, or nothing is written", directory.display()))
}
