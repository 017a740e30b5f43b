//! The thread that writes. Nobody waits for a disk: what comes goes through a bounded queue, what finds it full is counted,
//! and while nothing can be written, that is said once and tried again every second.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use nix::unistd::{Uid, User};
use tokio::sync::oneshot;

use super::{
    commanded::Commanded,
    event::Event,
    place::{Place, Sink},
};
use crate::error::{Blame, Context, Failure};

/// Lines that may wait, some 300 bytes each.
const QUEUE: usize = 8_192;
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Hands lines to the thread.
pub struct Log {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    thread: Thread,
}

/// How it stands with the thread, for others.
pub struct State(Arc<Shared>);

impl State {
    /// Whether the journal takes the lines.
    pub fn is_in_journal(&self) -> bool {
        self.0.in_journal.load(Ordering::Relaxed)
    }
}

struct Shared {
    /// Where it is to be written from now on; `None`: where it is.
    moved: Mutex<Option<Place>>,
    /// Whether the last attempt to write succeeded.
    is_ok: AtomicBool,
    in_journal: AtomicBool,
    lost: AtomicU64,
}

enum Message {
    Line(Box<Event>),
    Lines(Box<Commanded>),
    /// Everything before it is written.
    Written(oneshot::Sender<()>),
    /// Look at `moved`.
    Look,
}

impl Log {
    pub fn start(place: Place) -> Result<Log, Failure> {
        Log::with_queue(place, QUEUE)
    }

    fn with_queue(place: Place, length: usize) -> Result<Log, Failure> {
        let (queue, messages) = sync_channel(length);
        let shared = Arc::new(Shared {
            moved: Mutex::new(None),
            is_ok: AtomicBool::new(true),
            in_journal: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        });
        let writer =
            Writer { place, sink: None, looked: Instant::now(), shared: shared.clone(), names: HashMap::new() };
        let what = || "the thread that writes the audit log cannot be started".to_owned();
        let thread = thread::Builder::new().name("audit".to_owned());
        let thread = thread.spawn(move || writer.run(&messages)).blame(Blame::System, what)?;
        Ok(Log { queue, shared, thread: thread.thread().clone() })
    }

    pub fn write(&self, event: Event) {
        if self.queue.try_send(Message::Line(Box::new(event))).is_err() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All lines of a command: one place in the queue, since a command is bounded where it comes in.
    pub fn write_all(&self, commanded: Commanded) {
        let count = commanded.count() as u64;
        if self.queue.try_send(Message::Lines(Box::new(commanded))).is_err() {
            self.shared.lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Opens it anew, there or elsewhere.
    pub fn reopen(&self, place: Place) {
        *self.shared.moved() = Some(place);
        let _ = self.queue.try_send(Message::Look);
        self.thread.unpark();
    }

    /// Ends when all that was handed over before this call is written; at once where the queue is full.
    pub fn written(&self) -> impl Future<Output = ()> + use<> {
        let (tell, told) = oneshot::channel();
        let _ = self.queue.try_send(Message::Written(tell));
        async move { drop(told.await) }
    }

    pub fn is_ok(&self) -> bool {
        self.shared.is_ok.load(Ordering::Relaxed)
    }

    pub fn state(&self) -> State {
        State(self.shared.clone())
    }

    /// How many lines found the queue full since this was asked last.
    pub fn newly_lost(&self) -> u64 {
        self.shared.lost.swap(0, Ordering::Relaxed)
    }
}

impl Shared {
    fn moved(&self) -> MutexGuard<'_, Option<Place>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Writer {
    place: Place,
    /// `None`: to be opened.
    sink: Option<Sink>,
    /// When the journal was looked for last.
    looked: Instant,
    shared: Arc<Shared>,
    /// What users are called.
    names: HashMap<u32, Option<String>>,
}

impl Writer {
    /// Until nobody is left who could say anything.
    fn run(mut self, messages: &Receiver<Message>) {
        self.attempt(None);
        while let Ok(message) = messages.recv() {
            self.follow();
            match message {
                Message::Line(event) => {
                    let line = self.named(*event).line();
                    self.insist(&line);
                }
                Message::Lines(commanded) => {
                    let commanded = commanded.by(|event| self.named(event));
                    commanded.events().for_each(|event| self.insist(&event.line()));
                }
                Message::Written(tell) => drop(tell.send(())),
                Message::Look => drop(self.attempt(None)),
            }
        }
    }

    /// Tries until the line is written. Meanwhile what comes waits in the queue.
    fn insist(&mut self, line: &str) {
        while !self.attempt(Some(line)) && Arc::strong_count(&self.shared) > 1 {
            thread::park_timeout(AGAIN_AFTER);
            self.follow();
        }
    }

    fn follow(&mut self) {
        if let Some(place) = self.shared.moved().take() {
            (self.place, self.sink) = (place, None);
        }
    }

    /// One attempt to write, or only to open; whether it succeeded.
    fn attempt(&mut self, line: Option<&str>) -> bool {
        let done = self.take(line);
        let was_ok = self.shared.is_ok.swap(done.is_ok(), Ordering::Relaxed);
        let place = || self.place.told();
        match &done {
            Err(error) if was_ok => tracing::error!(
                "the audit log ({}) cannot be written: {error}; what edge enforces goes on, {QUEUE} events wait, more are lost",
                place()
            ),
            Ok(()) if !was_ok => tracing::info!("the audit log ({}) is written again", place()),
            Ok(()) | Err(_) => {}
        }
        done.is_ok()
    }

    fn take(&mut self, line: Option<&str>) -> io::Result<()> {
        let sink = match &mut self.sink {
            Some(sink) => sink,
            none => none.insert(Sink::open(&self.place, true)?),
        };
        if self.looked.elapsed() >= AGAIN_AFTER {
            sink.back_to_journal(&self.place);
            self.looked = Instant::now();
        }
        self.shared.in_journal.store(matches!(sink, Sink::Journal(_)), Ordering::Relaxed);
        let taken = line.map_or(Ok(()), |line| sink.take(line));
        // A line that was begun where there is no room is gone on with there.
        if taken.as_ref().is_err_and(|error| !is_lack_of_room(error)) {
            self.sink = None;
        }
        taken
    }

    /// The user's name may have to be looked up elsewhere, so nobody but this thread asks for it.
    fn named(&mut self, event: Event) -> Event {
        let Event { actor: Some(mut actor), .. } = event else { return event };
        let find = || User::from_uid(Uid::from_raw(actor.uid)).ok().flatten().map(|user| user.name);
        actor.name = self.names.entry(actor.uid).or_insert_with(find).clone();
        Event { actor: Some(actor), ..event }
    }
}

fn is_lack_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

#[cfg(test)]
mod tests {
    use std::{fs, net::Ipv4Addr, os::unix::net::UnixDatagram, path::Path};

    use super::*;
    use crate::{
        audit::event::{Actor, Name, Outcome},
        block::Target,
        clock::Wall,
        control::protocol::{Changed, Command, Reply},
    };

    fn event(number: i64) -> Event {
        let actor = Some(Actor { uid: 0, name: None });
        Event { actor, ..Event::new(Name::Block, Outcome::Success, Wall(number)) }
    }

    fn read(path: &Path) -> Vec<Event> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn lines_are_in_the_file_when_it_says_so_also_in_one_that_was_moved_away() {
        let directory = tempfile::tempdir().unwrap();
        let [path, moved] = ["audit.log", "audit.log.1"].map(|name| directory.path().join(name));
        let log = Log::start(Place::File(path.clone())).unwrap();
        log.write(event(1));
        log.written().await;
        assert_eq!((read(&path).len(), read(&path)[0].actor.as_ref().unwrap().name.as_deref()), (1, Some("root")));
        fs::rename(&path, &moved).unwrap();
        log.write(event(2));
        log.written().await;
        log.reopen(Place::File(path.clone()));
        log.write(event(3));
        log.written().await;
        assert_eq!((read(&moved).len(), read(&path)), (2, vec![read(&path)[0].clone()]));
        assert_eq!((read(&path)[0].time, log.is_ok(), log.newly_lost()), (Wall(3), true, 0));
    }

    #[tokio::test]
    async fn a_long_command_loses_no_line_in_a_short_queue() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let log = Log::with_queue(Place::File(path.clone()), 4).unwrap();
        let targets: Vec<Target> =
            (0..10_000).map(|n| Target::of(Ipv4Addr::from_bits(0xcb00_0000 + n).into())).collect();
        let command = Command::Allow { targets: targets.clone() };
        let answer = Ok(Reply::Changed(Changed::default()));
        log.write_all(Commanded::new(&command, &Actor { uid: 0, name: None }, &answer, Wall(7)));
        log.written().await;
        let told = read(&path);
        assert_eq!((told.len(), log.newly_lost()), (targets.len(), 0));
        assert!(told.iter().all(|event| event.actor.as_ref().unwrap().name.as_deref() == Some("root")));
    }

    #[tokio::test]
    async fn what_no_journal_takes_is_kept_until_one_listens_again() {
        let directory = tempfile::tempdir().unwrap();
        let [socket, kept] = ["journal", "kept"].map(|name| directory.path().join(name));
        let log = Log::start(Place::Journal { socket: socket.clone(), kept: kept.clone() }).unwrap();
        log.write(event(1));
        log.written().await;
        assert_eq!((read(&kept).len(), log.state().is_in_journal()), (1, false));
        let journal = UnixDatagram::bind(&socket).unwrap();
        let mut written = 1;
        // It is looked for once a second.
        while !log.state().is_in_journal() {
            tokio::time::sleep(AGAIN_AFTER / 4).await;
            written += 1;
            log.write(event(written));
            log.written().await;
        }
        let mut message = [0; 512];
        let length = journal.recv(&mut message).unwrap();
        let last = event(written);
        let time = String::from_utf8_lossy(&message[..length]).contains(&last.time.to_string());
        assert_eq!((time, read(&kept).len() as i64), (true, written - 1));
        drop(journal);
        fs::remove_file(&socket).unwrap();
        log.write(event(0));
        while log.state().is_in_journal() {
            thread::yield_now();
        }
        log.written().await;
        assert_eq!(read(&kept).last().unwrap().time, Wall(0));
    }

    #[tokio::test]
    async fn a_full_disk_is_an_alarm_and_what_waits_is_written_when_there_is_room() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let log = Log::with_queue(Place::File("/dev/full".into()), 4).unwrap();
        log.write(event(0));
        while log.is_ok() {
            thread::yield_now();
        }
        (1..11).for_each(|number| log.write(event(number)));
        let lost = log.newly_lost();
        assert_eq!((lost, log.newly_lost()), (6, 0));
        log.reopen(Place::File(path.clone()));
        while !log.is_ok() {
            thread::yield_now();
        }
        // It waits for nothing while the queue is full.
        while read(&path).len() < 5 {
            log.written().await;
        }
        assert_eq!(read(&path).iter().map(|event| event.time.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }
}
