//! The config read again, by `edge reload` or SIGHUP: all that is wrong at once, or all of it in force. What takes time is
//! prepared beside the loop (files, sockets, another server, which does not accept yet); the loop then puts everything
//! into force, or drops what was prepared, so that nothing was changed.

use std::{collections::VecDeque, mem, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    Agent, certificate,
    child::{self, Running, Served},
    listener::Listener,
    logged,
    scrape::{self, Scrape},
    servers, systemd,
    trial::{Former, Trial},
};
use crate::{
    audit::event::Name,
    clock::Now,
    config::{self, Config, ConfigErrors, Difference, Overrides},
    control::{
        protocol::{Answer, LastResult, Reloaded, Reply},
        server::Order,
    },
    error::Failure,
    logging::Logging,
    metrics::Lost,
    server::{jws::Algorithm, link::ServerConfig, spawn::Identity},
};

/// How long an answer waits for the server before to accept nobody more.
const RETIRED_WITHIN: Duration = Duration::from_secs(1);
/// What takes longer changes nothing, so that a file that cannot be read through stops no later reload and no revert. A
/// server may take 10 s, a socket 2 s; callers wait 15 s.
const PREPARED_WITHIN: Duration = Duration::from_secs(14);
/// Further commands are refused.
const WAITING: usize = 16;

/// Who asked for it.
pub(super) enum Asked {
    /// By the CLI; it is on trial for so long.
    Command(Order, Option<Duration>),
    Signal,
    /// Files of certificates changed: what is in force with those that are there now.
    Renewal,
    /// Nobody confirmed what is in force.
    Overdue,
}

/// What is to come.
enum Aim {
    /// What the files say.
    File,
    /// What is in force, with the certificates that are there now.
    Renewed,
    Former(Box<Former>),
}

/// Those that were asked for: one after the other.
pub(super) struct Reloads {
    /// The one that is being prepared.
    asked: Option<Asked>,
    waiting: VecDeque<Asked>,
    tell: mpsc::Sender<Result<Box<Next>, Refusal>>,
    prepared: mpsc::Receiver<Result<Box<Next>, Refusal>>,
}

impl Default for Reloads {
    fn default() -> Reloads {
        let (tell, prepared) = mpsc::channel(1);
        Reloads { asked: None, waiting: VecDeque::new(), tell, prepared }
    }
}

impl Reloads {
    pub(super) fn is_reverting(&self) -> bool {
        self.asked.iter().chain(&self.waiting).any(|asked| matches!(asked, Asked::Overdue))
    }

    /// Returns when one can be put into force, or not. Cancel-safe.
    pub(super) async fn prepared(&mut self) -> Result<Box<Next>, Refusal> {
        match self.prepared.recv().await {
            Some(prepared) => prepared,
            // This side holds a sender.
            None => std::future::pending().await,
        }
    }
}

/// Why nothing was changed.
pub(super) enum Refusal {
    Errors(ConfigErrors),
    Failure(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal::Failure(failure)
    }
}

/// What is to be put into force.
pub(super) struct Next {
    config: Config,
    difference: Difference,
    server: NextServer,
    /// `None`: the metrics stay where they are.
    metrics: Option<Listener>,
}

enum NextServer {
    AsItIs,
    None,
    Another(Box<Running>, Identity),
}

/// What is in force, as far as it matters for what is to come.
struct Present {
    config: Config,
    overrides: Overrides,
    served: Option<Arc<Served>>,
    identity: Option<Identity>,
    metrics: Listener,
}

impl Present {
    async fn next(self, aim: Aim) -> Result<Box<Next>, Refusal> {
        let (config, mut difference, server) = match aim {
            Aim::Former(former) => {
                let Former { config, server } = *former;
                let difference = Difference::between(&self.config, &config);
                (config, difference, server)
            }
            Aim::Renewed => (self.config.clone(), Difference::default(), self.with_certificates()?),
            Aim::File => {
                let (config, difference) = self.read_again().await?;
                (config, difference, None)
            }
        };
        let metrics = (config.metrics.listen != self.config.metrics.listen).then_some(config.metrics.listen);
        let (served, metrics) = tokio::join!(self.served(&config, server), self.metrics(metrics));
        let (served, metrics) = both(served, metrics)?;
        let server = match served {
            served if self.served.as_deref() == served.as_ref() => NextServer::AsItIs,
            None => NextServer::None,
            Some(served) => {
                renewed(&mut difference, self.served.as_ref().map(|before| &before.config), &served.config);
                let identity = servers::identity(&config, self.identity)?;
                let running = child::launch(Arc::new(served), &identity).await?;
                NextServer::Another(Box::new(running), identity)
            }
        };
        Ok(Box::new(Next { config, difference, server, metrics }))
    }

    /// What is in force, with those that the files hold now.
    fn with_certificates(&self) -> Result<Option<ServerConfig>, Failure> {
        let (Some(server), Some(served)) = (&self.config.server, &self.served) else { return Ok(None) };
        let certificates = certificate::all(&self.config, server)?;
        Ok(Some(ServerConfig { certificates, ..served.config.clone() }))
    }

    async fn read_again(&self) -> Result<(Config, Difference), Refusal> {
        let (before, overrides) = (self.config.clone(), self.overrides.clone());
        let read = spawn_blocking(move || before.read_again(&overrides)).await;
        read.map_err(|_| Failure::bug("the config could not be read again"))?.map_err(Refusal::Errors)
    }

    /// `as_it_was`: whatever the files hold by now.
    async fn served(&self, config: &Config, as_it_was: Option<ServerConfig>) -> Result<Option<Served>, Failure> {
        let Some(server) = &config.server else { return Ok(None) };
        let held = self.served.as_ref().map(|served| served.listeners.as_slice()).unwrap_or_default();
        let listeners = child::listeners(server, held).await?;
        let mut config = as_it_was.map_or_else(|| child::server_config(config, server), Ok)?;
        if let Some(before) = &self.served {
            config.former_keys = former_keys(&before.config, &config);
        }
        Ok(Some(Served { config, listeners }))
    }

    async fn metrics(&self, moves_to: Option<std::net::SocketAddr>) -> Result<Option<Listener>, Failure> {
        match moves_to {
            Some(address) => scrape::open(address, std::slice::from_ref(&self.metrics)).await.map(Some),
            None => Ok(None),
        }
    }
}

/// The last few that signed, but for the one that signs now: clients go on with their tokens for a while.
fn former_keys(before: &ServerConfig, now: &ServerConfig) -> Vec<(Algorithm, String)> {
    const KEPT: usize = 4;
    let last = [(before.algorithm, before.signing_key.clone())];
    let all = last.into_iter().chain(before.former_keys.iter().cloned());
    all.filter(|key| *key != (now.algorithm, now.signing_key.clone())).take(KEPT).collect()
}

/// Files that hold something else than before, under the keys that name them.
fn renewed(difference: &mut Difference, before: Option<&ServerConfig>, after: &ServerConfig) {
    let Some(before) = before else { return };
    let key = if after.algorithm.is_symmetric() { "auth.secret_file" } else { "auth.key_file" };
    let files =
        [("server.tls", before.certificates != after.certificates), (key, before.signing_key != after.signing_key)];
    for (key, _) in files.into_iter().filter(|(_, differs)| *differs) {
        if !difference.reloaded.contains(&key) {
            difference.reloaded.push(key);
        }
    }
}

/// Or what is wrong with both.
fn both<A, B>(one: Result<A, Failure>, other: Result<B, Failure>) -> Result<(A, B), Failure> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (Err(one), Err(other)) => Err(Failure::new(one.blame, format!("{}; {}", one.message, other.message))),
        (Err(failure), Ok(_)) | (Ok(_), Err(failure)) => Err(failure),
    }
}

fn too_slow() -> Refusal {
    let seconds = PREPARED_WITHIN.as_secs();
    Failure::system(format!("files and server were not ready within {seconds} s; see that each file can be read"))
        .into()
}

impl Agent {
    /// Begins with it, or lets it wait for its turn.
    pub(super) fn reload(&mut self, asked: Asked) {
        if self.reloads.asked.is_some() {
            return self.wait(asked);
        }
        let aim = match (&asked, self.trial.pending()) {
            (Asked::Overdue, Some(pending)) if pending.is_over => Aim::Former(Box::new(pending.back_to.clone())),
            // It was kept meanwhile, or another is on trial.
            (Asked::Overdue, _) => return self.reload_next(),
            (Asked::Renewal, _) => Aim::Renewed,
            (Asked::Command(..) | Asked::Signal, _) => Aim::File,
        };
        self.reloads.asked = Some(asked);
        systemd::reloading();
        let present = Present {
            config: self.config.clone(),
            overrides: self.overrides.clone(),
            served: self.servers.served(),
            identity: self.servers.identity(),
            metrics: self.scrape.listener(),
        };
        let tell = self.reloads.tell.clone();
        tokio::spawn(async move {
            let next = timeout(PREPARED_WITHIN, present.next(aim)).await.unwrap_or_else(|_| Err(too_slow()));
            // An agent that has ended needs none.
            let _ = tell.send(next).await;
        });
    }

    fn wait(&mut self, asked: Asked) {
        let waiting = &mut self.reloads.waiting;
        match asked {
            // One reads the files as they are then, however many signals came.
            // The next one reads them anyway.
            Asked::Renewal if !waiting.is_empty() => {}
            Asked::Signal if waiting.iter().any(|asked| matches!(asked, Asked::Signal)) => {}
            Asked::Command(order, _) if waiting.len() >= WAITING => {
                let refused = Failure::refused("nothing was changed: other reloads wait already; try again");
                self.answered(order, Err(refused));
            }
            asked => waiting.push_back(asked),
        }
    }

    fn reload_next(&mut self) {
        match self.reloads.waiting.pop_front() {
            Some(next) => self.reload(next),
            None => systemd::ready(&self.status_line()),
        }
    }

    /// Puts into force what was prepared, tells who asked for it, and goes on with the next.
    pub(super) async fn reload_prepared(&mut self, next: Result<Box<Next>, Refusal>) {
        match self.reloads.asked.take() {
            Some(Asked::Command(order, confirm)) => {
                let (answer, retired) = self.reloaded(next, confirm).await;
                self.answer_when_retired(order, answer, retired);
            }
            Some(Asked::Signal) => {
                let (answer, _) = self.reloaded(next, None).await;
                self.tell_of_signal(answer);
            }
            Some(Asked::Renewal) => self.renewed(next).await,
            Some(Asked::Overdue) => self.reverted(next).await,
            None => {}
        }
        self.reload_next();
    }

    async fn reloaded(
        &mut self,
        next: Result<Box<Next>, Refusal>,
        confirm: Option<Duration>,
    ) -> (Answer, Option<oneshot::Receiver<()>>) {
        let (answer, retired) = match next {
            Ok(next) => match self.try_out(*next, confirm).await {
                Ok((reloaded, retired)) => (Ok(Reply::Reloaded(reloaded)), retired),
                Err(failure) => (Err(unchanged(failure)), None),
            },
            Err(Refusal::Errors(errors)) => (Ok(Reply::Refused(errors)), None),
            Err(Refusal::Failure(failure)) => (Err(unchanged(failure)), None),
        };
        if !matches!(answer, Ok(Reply::Reloaded(_))) {
            self.enforcer.reloaded(LastResult::Refused, Now::read());
        }
        // Also where nothing was changed: whoever moved the file away has to be able to go on.
        self.audit.reopen(&self.config);
        (answer, retired)
    }

    /// What a start would go by is on disk before.
    async fn try_out(
        &mut self,
        next: Next,
        confirm: Option<Duration>,
    ) -> Result<(Reloaded, Option<oneshot::Receiver<()>>), Failure> {
        let (before, recorded) = (self.present(), self.recorded());
        self.on_trial(confirm.is_some(), &next.config)?;
        let (mut reloaded, retired) =
            self.put_into_force(next, LastResult::Ok).await.inspect_err(|_| self.as_before(recorded))?;
        self.tried(before, confirm, LastResult::Ok);
        if let Some(pending) = self.trial.pending() {
            reloaded.now.reverts_at = Some(pending.reverts_at);
            reloaded.warnings.push(pending.told());
        }
        Ok((reloaded, retired))
    }

    /// The config stays as it is, and with it what is told of reloads.
    async fn renewed(&mut self, next: Result<Box<Next>, Refusal>) {
        let failed = match next {
            Ok(next) => {
                let NextServer::Another(..) = next.server else { return };
                self.serve_by(next.server).await;
                tracing::info!("certificates changed on disk and are served");
                None
            }
            Err(Refusal::Errors(errors)) => Some(Failure::from(errors)),
            Err(Refusal::Failure(failure)) => Some(failure),
        };
        if let Some(failure) = &failed {
            tracing::error!("certificates changed on disk and cannot be served, so what was served stays: {failure}");
        }
        let told = failed.as_ref().map_or_else(|| "server.tls".to_owned(), |failure| failure.message.clone());
        self.audit.done(
            Name::Reload,
            Some(format!("certificates changed on disk, {told}")),
            failed.is_some(),
            Now::read(),
        );
    }

    async fn reverted(&mut self, next: Result<Box<Next>, Refusal>) {
        if !self.trial.pending().is_some_and(|pending| pending.is_over) {
            // It was kept at the last moment.
            return;
        }
        let before = self.present();
        let done = match next {
            Ok(next) => self.put_into_force(*next, LastResult::Reverted).await.map(|(reloaded, _)| reloaded),
            Err(Refusal::Errors(errors)) => Err(errors.into()),
            Err(Refusal::Failure(failure)) => Err(failure),
        };
        match done {
            Ok(reloaded) => {
                self.tried(before, None, LastResult::Reverted);
                self.audit.reopen(&self.config);
                let told = format!("{}; nobody confirmed it in time", reloaded.told());
                tracing::warn!("reload: {told}");
                self.audit.done(Name::Reload, Some(told), false, Now::read());
            }
            Err(failure) => self.cannot_revert(&failure),
        }
    }

    /// Said once for each reason.
    fn cannot_revert(&mut self, failure: &Failure) {
        let Trial::Pending(pending) = &mut self.trial else { return };
        if pending.failed.as_ref() != Some(&failure.message) {
            tracing::error!("reload: what nobody confirmed cannot be reverted: {failure}; it is tried again");
            pending.failed = Some(failure.message.clone());
        }
    }

    /// Nobody who connects after the answer is served as before.
    fn answer_when_retired(&self, order: Order, answer: Answer, retired: Option<oneshot::Receiver<()>>) {
        let (written, later) = (self.audit.written(), self.later.clone());
        tokio::spawn(async move {
            written.await;
            if let Some(retired) = retired {
                let _ = timeout(RETIRED_WITHIN, retired).await;
            }
            let _ = later.send((order, answer)).await;
        });
    }

    /// The log has the answer to a signal.
    fn tell_of_signal(&mut self, answer: Answer) {
        let told = match &answer {
            Ok(Reply::Reloaded(done)) => format!("SIGHUP, {}", done.told()),
            Ok(Reply::Refused(errors)) => format!("SIGHUP, {errors}"),
            Ok(_) => "SIGHUP".to_owned(),
            Err(failure) => format!("SIGHUP, {failure}"),
        };
        self.audit.done(Name::Reload, Some(told), !matches!(answer, Ok(Reply::Reloaded(_))), Now::read());
        match answer {
            Ok(Reply::Reloaded(done)) => {
                tracing::info!("SIGHUP: reload: {}", done.told());
                done.warnings.iter().for_each(|sentence| tracing::warn!("SIGHUP: reload: {sentence}"));
            }
            Ok(Reply::Refused(errors)) => tracing::error!("SIGHUP: reload: refused, nothing was changed: {errors}"),
            Ok(_) => {}
            Err(failure) => tracing::error!("SIGHUP: reload: refused, {failure}"),
        }
    }

    /// What can fail comes first, so that it is all or nothing. The receiver hears when nobody new is served as before.
    async fn put_into_force(
        &mut self,
        next: Next,
        result: LastResult,
    ) -> Result<(Reloaded, Option<oneshot::Receiver<()>>), Failure> {
        let Next { config, difference, server, metrics } = next;
        let now = Now::read();
        let scrape = metrics.map(|listener| Scrape::start(listener, self.own.clone(), self.ask.clone())).transpose()?;
        let mut warnings: Vec<String> = config.warnings.iter().map(|warning| warning.told(&config.file)).collect();
        if difference.is_in("filter") {
            self.refilter(&config, now)?;
            warnings.extend(config::costs(&self.config.filter, &config.filter));
        }
        if let Some(scrape) = scrape {
            self.scrape = scrape;
        }
        self.enforcer.set_policy(config.learn.clone());
        if config.log.format != self.config.log.format {
            Logging::of(&config.log).change();
        }
        self.config = config;
        self.renewals.of(&self.config, result == LastResult::Reverted);
        let retired = self.serve_by(server).await;
        self.protect();
        if difference.is_in("filter") {
            self.end_blocked_connections();
        }
        let now = self.enforcer.reloaded(result, now);
        let applied = difference.reloaded.iter().map(|key| (*key).to_owned()).collect();
        let file = std::fs::canonicalize(&self.config.file).unwrap_or_else(|_| self.config.file.clone());
        Ok((Reloaded { now, config: file, applied, warnings }, retired))
    }

    async fn serve_by(&mut self, server: NextServer) -> Option<oneshot::Receiver<()>> {
        let next = match server {
            NextServer::AsItIs => return None,
            NextServer::None => None,
            NextServer::Another(running, identity) => Some((*running, identity)),
        };
        let before = self.servers.served();
        let retired = self.servers.replace(next).await;
        let now = self.servers.served();
        let listeners = |served: &Option<Arc<Served>>| served.as_ref().map(|served| served.listeners.clone());
        systemd::keep(&listeners(&now).unwrap_or_default(), &listeners(&before).unwrap_or_default());
        retired
    }

    fn refilter(&mut self, config: &Config, now: Now) -> Result<(), Failure> {
        let asked = &config.filter.interfaces;
        let links = self.interfaces.of_another(asked, self.lock.path())?;
        self.enforcer.reload(&config.filter, &self.lock, &links, now)?;
        self.interfaces.ask(asked.clone(), &links);
        self.follow_drops();
        logged("watching connections", self.follow_connections());
        Ok(())
    }

    /// What the tables before sampled is not lost.
    pub(super) fn follow_drops(&mut self) {
        match self.enforcer.events() {
            Ok(events) => {
                let mut former = mem::replace(&mut self.events, events);
                let now = Now::read();
                for sample in former.take_all() {
                    self.audit.dropped(&sample, now);
                    self.enforcer.dropped(sample);
                }
                self.own.lost(Lost::Ring, former.newly_lost());
            }
            Err(failure) => tracing::error!("drops are not sampled before the next reload: {failure}"),
        }
    }
}

fn unchanged(Failure { blame, message }: Failure) -> Failure {
    Failure::new(blame, format!("nothing was changed: {message}"))
}
