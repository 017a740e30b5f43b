//! The agent: puts the parts together, starts the server, and runs the one loop that owns the enforcer. Ready means
//! that all the config asks for is in force.

mod certificate;
mod child;
mod connections;
mod cutoff;
mod drift;
mod fetcher;
mod growth;
mod interfaces;
mod listener;
mod pause;
mod prepare;
mod reload;
mod renewal;
mod rotation;
mod scrape;
mod servers;
mod start;
mod stop;
mod systemd;
mod trial;
mod watchdog;

use std::{mem, path::Path, rc::Rc, time::Duration};

pub use rotation::rotatable;

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at},
};

pub use self::trial::{confirmed, first_config};
use self::{
    child::Id,
    cutoff::{Cutoff, Question},
    drift::Comparison,
    growth::Growth,
    interfaces::Interfaces,
    reload::{Asked, Reloads},
    renewal::Renewals,
    scrape::{Asks, Scrape},
    servers::{Heard, Servers},
    stop::{HangUp, Stop},
    trial::Trial,
    watchdog::Watchdog,
};
use crate::{
    audit::Audit,
    clock::{Boot, Now},
    config::{Config, Overrides},
    control::{
        protocol::{Answer, Certificate, Command, Reply, Stores},
        server::Order,
    },
    datapath::{Events, Lock, Singles6},
    enforce::{Enforcer, Outcome, Surroundings},
    error::{Blame, Context, Failure},
    metrics::{Lost, Own, Snapshot},
    names::Names,
    netlink,
    server::link::{self, FromAgent, FromServer},
};

const SWEEP: Duration = Duration::from_secs(1);
const FOLLOW: Duration = Duration::from_secs(3);
/// How long the end waits for callers to take their answers.
const ANSWERED_WITHIN: Duration = Duration::from_millis(200);
/// How long the server may take to finish, a little longer than it takes itself.
const DRAINS_WITHIN: Duration = Duration::from_millis(4500);
/// Orders that may wait; further callers wait on the socket.
const ORDERS: usize = 64;

/// Runs until a signal or `unload` ends it. `overrides` are those that the config was read with; `reverted` says that it is
/// not the one of the file.
pub fn run(config: Config, overrides: Overrides, reverted: bool) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .blame(Blame::System, || "the runtime cannot be started".to_owned())?;
    let result = runtime.block_on(async {
        let (mut stop, hang_up) = (Stop::listen()?, HangUp::listen()?);
        match Agent::start(config, overrides, &mut stop).await? {
            Some(mut agent) => {
                if reverted {
                    agent.trial = Trial::Reverted;
                    agent.enforcer.began_reverted(Now::read());
                }
                agent.serve(stop, hang_up).await
            }
            None => Ok(()),
        }
    });
    // A task that still waits for the kernel must not hold up the end.
    runtime.shutdown_background();
    result
}

/// Everything that runs.
struct Agent {
    audit: Audit,
    /// What is in force.
    config: Config,
    overrides: Overrides,
    enforcer: Enforcer,
    /// Of the tables in force.
    events: Events,
    /// Held as long as this agent may write.
    lock: Rc<Lock>,
    interfaces: Interfaces,
    /// What is wrong with links or pins, as it was logged.
    loose: Option<Failure>,
    growth: Growth,
    comparison: Comparison,
    watch: Option<connections::Watch>,
    cutoff: Cutoff,
    /// Of who ends connections.
    questions: mpsc::Receiver<Question>,
    servers: Servers,
    heard: mpsc::Receiver<Heard>,
    reloads: Reloads,
    renewals: Renewals,
    trial: Trial,
    names: Names,
    orders: mpsc::Receiver<Order>,
    /// What is answered when the audit log is written: whoever waits for a disk is not the agent.
    later: mpsc::Sender<(Order, Answer)>,
    due: mpsc::Receiver<(Order, Answer)>,
    snapshots: mpsc::Receiver<oneshot::Sender<Snapshot>>,
    /// By which snapshots are asked for.
    ask: Asks,
    scrape: Scrape,
    admin: JoinHandle<()>,
    own: Own,
}

impl Agent {
    /// Whatever the server, which strangers talk to, has to say, it holds up nobody else: it is heard last, and once in
    /// each turn.
    async fn serve(mut self, mut stop: Stop, mut hang_up: HangUp) -> Result<(), Failure> {
        let mut sweep = interval(SWEEP);
        let mut follow = interval(FOLLOW);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        follow.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watchdog = Watchdog::start()?;
        loop {
            watchdog.beat();
            tokio::select! {
                biased;
                () = stop.asked() => return self.end("what is blocked stays blocked").await,
                () = self.interfaces.changed() => self.mend(),
                () = hang_up.asked() => self.reload(Asked::Signal),
                () = self.renewals.changed() => self.reload(Asked::Renewal),
                () = self.trial.over() => self.revert(),
                next = self.reloads.prepared() => self.reload_prepared(next).await,
                Some(order) = self.orders.recv() => {
                    if self.ordered(order).await {
                        return self.end("everything is unloaded, nothing is blocked any more").await;
                    }
                }
                Some((order, answer)) = self.due.recv() => self.answered(order, answer),
                Some(answer) = self.snapshots.recv() => {
                    self.own.lost(Lost::Ring, self.events.newly_lost());
                    self.own.lost(Lost::Audit, self.audit.newly_lost());
                    if let Ok(snapshot) = self.snapshot() {
                        let _ = answer.send(snapshot);
                    }
                }
                _ = sweep.tick() => {
                    self.mend();
                    logged("sweeping", self.enforcer.sweep(Now::read()));
                    self.audit.sweep(Now::read());
                    self.servers.sweep();
                    self.grow(Singles6::default());
                }
                Some(question) = self.questions.recv() => self.asked_who_is_blocked(question).await,
                _ = follow.tick() => {
                    self.protect();
                    logged("following the clock", self.enforcer.set_clock());
                }
                () = sleep_until(self.comparison.next) => self.compare(),
                () = self.events.there() => self.dropped(),
                () = watchdog.due() => {}
                Some(message) = self.heard.recv() => {
                    self.hear(message).await;
                    continue;
                }
            }
            if let Ok(message) = self.heard.try_recv() {
                self.hear(message).await;
            }
        }
    }

    /// Puts right what came loose: the lock, pins, links, interfaces that came. What is wrong is logged once.
    fn mend(&mut self) {
        let mended = self.hold_pins().and_then(|()| {
            let look = self.interfaces.look().blame(Blame::System, || "the interfaces cannot be followed".to_owned());
            self.enforcer.mend(&look?)
        });
        let loose = mended.err();
        if let Some(failure) = loose.as_ref().filter(|_| loose != self.loose) {
            tracing::error!("{failure}; what is filtered stays so, and it is tried again");
        }
        self.loose = loose;
    }

    /// Follows what is to be protected.
    fn protect(&mut self) {
        let named = self.names.addresses(&self.config, Boot::now());
        let surroundings = Surroundings::read(&self.config, named, Some(self.enforcer.surroundings()));
        if surroundings != *self.enforcer.surroundings() {
            // Who is blocked may be protected no more.
            self.end_blocked_connections();
        }
        logged("protecting", self.enforcer.follow(surroundings, Now::read()));
    }

    /// The directory of pins may have been removed, and its lock with it.
    fn hold_pins(&mut self) -> Result<(), Failure> {
        if !self.lock.holds() {
            let pin_path = &self.config.filter.pin_path;
            self.lock = Rc::new(take_lock(pin_path)?);
            tracing::warn!("the directory of pins {} was removed; it is made anew", pin_path.display());
        }
        Ok(())
    }

    async fn hear(&mut self, message: Heard) {
        if let Heard::Says(from, _) = message {
            self.servers.spoke(from);
        }
        match message {
            Heard::Says(from, FromServer::Offence(offence)) => self.judge(from, offence).await,
            Heard::Says(_, FromServer::SignedIn { peer, account }) => {
                self.enforcer.signed_in(link::client_address(peer), &account);
            }
            Heard::Says(_, FromServer::Audit { attempts, lost }) => self.audit.attempted(attempts, lost, Now::read()),
            Heard::Says(from, FromServer::Metrics(metrics)) => self.servers.counts(from, metrics),
            Heard::Says(from, FromServer::Fetched { failures }) => {
                if !failures.is_empty() {
                    self.enforcer.reloaded_in_part(Now::read());
                    failures.iter().for_each(|why| tracing::error!("reload: {why}; what was good last stays"));
                }
                self.servers.has_fetched(from, failures);
            }
            Heard::Says(from, FromServer::Retired) => self.servers.has_retired(from),
            Heard::Says(_, FromServer::Ready) => {}
            Heard::Says(_, FromServer::Failed { message }) => tracing::error!("the server cannot serve: {message}"),
            Heard::Ended(id) => self.servers.ended(id),
            Heard::Restarted(served, result) => {
                if self.servers.restarted(&served, result).await {
                    tracing::info!("the server accepts again");
                }
            }
        }
    }

    /// What the kernel sampled since.
    fn dropped(&mut self) {
        let now = Now::read();
        for sample in self.events.take() {
            self.audit.dropped(&sample, now);
            self.enforcer.dropped(sample);
        }
        self.own.lost(Lost::Ring, self.events.newly_lost());
    }

    async fn judge(&mut self, from: Id, offence: link::Offence) {
        let seen = Boot::now();
        let peer = link::client_address(offence.peer);
        let outcome = match self.is_served(from, &offence) {
            Ok(true) => self.enforcer.offence(offence.kind, peer, offence.account.as_deref(), Now::read()),
            Ok(false) => {
                tracing::warn!("the server reports an offence of a connection that it does not serve");
                Ok(Outcome::Noted)
            }
            Err(error) => {
                tracing::error!("an offence cannot be checked, so it does not count: {error}");
                Ok(Outcome::Noted)
            }
        };
        let outcome = outcome.unwrap_or_else(|failure| {
            tracing::error!("an offence could not be acted on: {failure}");
            Outcome::Noted
        });
        let enforced = !self.config.filter.dry_run;
        let blocked = match &outcome {
            Outcome::Noted => false,
            Outcome::AlreadyBlocked => enforced,
            Outcome::Blocked(client) => {
                self.own.block_latency(Boot::now().since(seen));
                tracing::warn!("{client} is blocked for its {} offences", offence.kind.name());
                enforced
            }
        };
        if let Outcome::Blocked(client) = outcome {
            let now = Now::read();
            self.audit.blocked(client, peer, self.enforcer.why_blocked(peer, now), now);
            self.end_connections_of(&[client]).await;
        }
        self.servers.tell(from, &FromAgent::Judged { id: offence.id, blocked }).await;
    }

    /// The server's word alone blocks nobody: the kernel must have the connection it speaks of, and this end of it must
    /// be one that it listens on, for whom other services talk to is not the server's to judge.
    fn is_served(&mut self, from: Id, offence: &link::Offence) -> Result<bool, netlink::NetlinkError> {
        if self.servers.serves(from, offence.local) {
            netlink::established(offence.peer, offence.local)
        } else {
            Ok(false)
        }
    }

    /// Whether the agent is to end.
    async fn ordered(&mut self, order: Order) -> bool {
        let is_unload = order.request.command == Command::Unload;
        match &order.request.command {
            Command::Status | Command::Reload { .. } | Command::Unload => self.mend(),
            Command::Why { .. } => {
                self.mend();
                self.dropped();
            }
            _ => {}
        }
        self.make_room_for(&order.request.command);
        let mut answer = match order.request.command {
            Command::Reload { confirm } => {
                self.reload(Asked::Command(order, confirm));
                return false;
            }
            Command::Keep => self.keep(),
            Command::Rotate(ref rotate) => match self.can_rotate(rotate) {
                Ok(()) if rotate.take_up => {
                    self.reload(Asked::Rotation(order));
                    return false;
                }
                Ok(()) => Ok(Reply::Noted),
                Err(failure) => Err(failure),
            },
            Command::Audit(ref part) => {
                self.dropped();
                let (opens, part) = (self.audit.opens(&self.config), part.clone());
                self.answer_when_written(order, move || opens.open(&part).map(Reply::Audit));
                return false;
            }
            Command::Note(ref noted) => noted.accepted(),
            _ => self.enforcer.execute(&order.request, Now::read()),
        };
        if let Ok(Reply::Status(status)) = &mut answer {
            let known = mem::take(&mut status.store.problems);
            status.store = Stores::with(known.into_iter().chain(self.users_problem()));
            status.certificates = self.certificates();
            status.reload.reverts_at = self.trial.pending().map(|pending| pending.reverts_at);
        }
        match (&order.request.command, &answer) {
            (Command::Block(_), Ok(Reply::Changed(changed))) => self.end_connections_of(&changed.changed).await,
            // Who is blocked and was allowed until now, too.
            (Command::Import(_) | Command::Restore(_) | Command::Disallow { .. }, Ok(_)) => {
                self.end_blocked_connections()
            }
            _ => {}
        }
        let ends = is_unload && answer.is_ok();
        self.answered(order, answer);
        ends
    }

    /// All that happened so far is in the audit log by then.
    fn answer_when_written(&self, order: Order, answer: impl FnOnce() -> Answer + Send + 'static) {
        let (written, later) = (self.audit.written(), self.later.clone());
        tokio::spawn(async move {
            written.await;
            let _ = later.send((order, answer())).await;
        });
    }

    fn answered(&mut self, order: Order, answer: Answer) {
        self.audit.commanded(&order.request.command, order.actor.uid, &answer, Now::read());
        order.answered(answer);
    }

    /// Those that are served.
    fn certificates(&self) -> Vec<Certificate> {
        let acme = self.servers.metrics().acme;
        self.servers.served().map(|served| served.certificates(acme)).unwrap_or_default()
    }

    /// What the server says of the store of users.
    fn users_problem(&self) -> Option<String> {
        let directory = self.config.store.auth_directory();
        let what = || format!("the store of users in {} cannot be used; /auth/ answers 503", directory.display());
        self.servers.metrics().store_failed.then(what)
    }

    fn snapshot(&mut self) -> Result<Snapshot, Failure> {
        self.mend();
        let now = Now::read();
        let connected = self.enforcer.connected();
        let server = self.servers.metrics();
        let certificates = self.certificates().into_iter().filter_map(|certificate| {
            // Of one that is yet to be issued 0.
            Some((certificate.names.into_iter().next()?, certificate.expires.unwrap_or_default()))
        });
        let links = self.enforcer.links();
        let attached = links.attached().map(|one| (one.name.clone(), one.mode().to_owned(), true));
        let unfiltered = links.unfiltered().iter().map(|one| (one.name.clone(), one.mode().to_owned(), false));
        Ok(Snapshot {
            counters: self.enforcer.counters()?,
            interfaces: attached.chain(unfiltered).collect(),
            blocks_active: self
                .enforcer
                .active(now)
                .into_iter()
                .map(|((origin, family), n)| (origin, family, n))
                .collect(),
            map_entries: self.enforcer.capacities(connected),
            drift: self.enforcer.drift(),
            connected,
            audit_ok: self.audit.is_ok(),
            store_ok: self.enforcer.store_is_ok() && !server.store_failed,
            server,
            certificates: certificates.collect(),
            dry_run: self.config.filter.dry_run,
        })
    }

    /// Lets the servers finish what they are answering. A refusal among that waits for the agent's word as ever, and what
    /// they have said before they ended is heard to its end.
    async fn drain(&mut self) {
        let finished = timeout(DRAINS_WITHIN, async {
            self.servers.drain().await;
            while self.servers.are_heard() {
                let Some(message) = self.heard.recv().await else { break };
                self.hear(message).await;
            }
        });
        if finished.await.is_err() {
            tracing::warn!("the server did not finish in time; the end of its link ends it");
        }
    }

    /// In one line, for the service manager.
    fn status_line(&self) -> String {
        let attached = self.enforcer.links().attached().map(|one| format!("{} ({})", one.name, one.mode()));
        let filters = attached.collect::<Vec<_>>().join(", ");
        let filters = if filters.is_empty() { "nothing yet".to_owned() } else { filters };
        let serves = match &self.config.server {
            Some(server) => server.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            None => "nobody".to_owned(),
        };
        let reload = self.enforcer.reload_state();
        let (generation, last) = (reload.generation, reload.last_result.name());
        format!("filters {filters}; serves {serves}; generation {generation} of the config, last reload {last}")
    }

    /// What was executed and waits to be answered.
    async fn answer_all(&mut self) {
        // Once the last that waits has answered, nobody holds the other end.
        drop(mem::replace(&mut self.later, mpsc::channel(1).0));
        let until = Instant::now() + ANSWERED_WITHIN;
        while let Ok(Some((order, answer))) = timeout_at(until, self.due.recv()).await {
            self.answered(order, answer);
        }
    }

    /// Nothing is detached here; `left` says what is in force now.
    async fn end(mut self, left: &str) -> Result<(), Failure> {
        systemd::stopping();
        let _ = std::fs::remove_file(&self.config.admin.socket);
        self.give_up_reloads();
        self.drain().await;
        self.end_trial();
        self.dropped();
        self.answer_all().await;
        drop(self.orders);
        let _ = timeout(ANSWERED_WITHIN, self.admin).await;
        self.audit.end(Now::read()).await;
        tracing::info!("ended; {left}");
        Ok(())
    }
}

fn logged(what: &str, result: Result<(), Failure>) {
    if let Err(failure) = result {
        tracing::error!("{what}: {failure}");
    }
}

fn take_lock(pin_path: &Path) -> Result<Lock, Failure> {
    Lock::take(pin_path)?.ok_or_else(|| {
        Failure::refused(format!(
            "another agent runs with the pin path {}; stop it, or give this one a `filter.pin_path` of its own",
            pin_path.display()
        ))
    })
}
