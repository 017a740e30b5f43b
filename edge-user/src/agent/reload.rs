//! The config read again, by `edge reload` or SIGHUP: all that is wrong at once, or all of it in force. What takes time is
//! prepared beside the loop; the loop then puts everything into force, or drops what was prepared, so that nothing was
//! changed.

use std::{collections::VecDeque, mem, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Agent,
    child::{self, Served},
    listener::Listener,
    logged,
    prepare::{Aim, Next, NextServer, Present, Refusal},
    scrape::{self, Scrape},
    systemd,
    trial::Trial,
};
use crate::{
    audit::event::Name,
    clock::Now,
    config::{self, Config},
    control::{
        protocol::{Answer, LastResult, Reloaded, Reply},
        server::Order,
    },
    enforce::Surroundings,
    error::Failure,
    logging::Logging,
    metrics::Lost,
};

/// So long an answer waits for what is asked of others.
const FETCHED_WITHIN: Duration = Duration::from_secs(11);
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
    /// The signing secret was rotated: what is in force with that which is there now.
    Rotation(Order),
    /// Nobody confirmed what is in force.
    Overdue,
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
            (Asked::Rotation(_), _) => Aim::Resigned,
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
            // The next one reads them anyway.
            Asked::Renewal if waiting.iter().any(|asked| !matches!(asked, Asked::Rotation(_))) => {}
            // One reads the files as they are then, however many signals came.
            Asked::Signal if waiting.iter().any(|asked| matches!(asked, Asked::Signal)) => {}
            Asked::Command(order, _) if waiting.len() >= WAITING => {
                let refused = Failure::refused("nothing was changed: other reloads wait already; try again");
                self.answered(order, Err(refused));
            }
            asked => waiting.push_back(asked),
        }
    }

    /// Those that are not in force when the agent ends never will be.
    pub(super) fn give_up_reloads(&mut self) {
        for asked in self.reloads.asked.take().into_iter().chain(mem::take(&mut self.reloads.waiting)) {
            if let Asked::Command(order, _) = asked {
                self.answered(order, Err(Failure::unreachable("nothing was changed: the agent is ending")));
            }
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
                let fetched = self.fetch_again(&answer).await;
                self.answer_when_retired(order, answer, retired, fetched);
            }
            Some(Asked::Signal) => {
                let (answer, _) = self.reloaded(next, None).await;
                // What cannot be had is logged when that is heard.
                let _ = self.fetch_again(&answer).await;
                self.tell_of_signal(answer);
            }
            Some(Asked::Renewal) => self.renewed(next).await,
            Some(Asked::Rotation(order)) => self.rotated(order, next).await,
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
    pub(super) fn answer_when_retired(
        &self,
        order: Order,
        mut answer: Answer,
        retired: Option<oneshot::Receiver<()>>,
        fetched: Option<oneshot::Receiver<Vec<String>>>,
    ) {
        let (written, later) = (self.audit.written(), self.later.clone());
        tokio::spawn(async move {
            written.await;
            if let Some(retired) = retired {
                let _ = timeout(RETIRED_WITHIN, retired).await;
            }
            if let (Some(fetched), Ok(Reply::Reloaded(done))) = (fetched, &mut answer) {
                let failures = match timeout(FETCHED_WITHIN, fetched).await {
                    Ok(told) => told.unwrap_or_default(),
                    Err(_) => vec![format!("what is asked of others did not come within {FETCHED_WITHIN:?}")],
                };
                if !failures.is_empty() {
                    done.now.last_result = LastResult::Partial;
                    done.warnings.extend(failures.into_iter().map(|why| format!("{why}; what was good last stays")));
                }
            }
            let _ = later.send((order, answer)).await;
        });
    }

    /// What the config names of others is asked for anew, where it was put into force.
    async fn fetch_again(&mut self, answer: &Answer) -> Option<oneshot::Receiver<Vec<String>>> {
        matches!(answer, Ok(Reply::Reloaded(_))).then_some(())?;
        self.servers.fetch_again().await
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
        let (now, filters) = (Now::read(), difference.is_in("filter"));
        let warnings = config.warnings.iter().map(|warning| warning.told(&config.file));
        let mut warnings: Vec<String> = warnings.collect();
        self.enforce_and_listen(&config, filters, &server, metrics, now)?;
        if filters {
            warnings.extend(config::costs(&self.config.filter, &config.filter));
        }
        warnings.extend(self.enforcer.links().warning());
        self.enforcer.set_policy(config.learn.clone());
        if config.log.format != self.config.log.format {
            Logging::of(&config.log).change();
        }
        self.config = config;
        self.renewals.of(&self.config, result == LastResult::Reverted);
        let retired = self.serve_by(server).await;
        // Who is blocked may be allowed or protected no more.
        self.end_blocked_connections();
        let now = self.enforcer.reloaded(result, now);
        let applied = difference.reloaded.iter().map(|key| (*key).to_owned()).collect();
        let file = std::fs::canonicalize(&self.config.file).unwrap_or_else(|_| self.config.file.clone());
        Ok((Reloaded { now, config: file, applied, warnings }, retired))
    }

    /// All of it, or all is as it was. Connections come to new sockets last: nobody is let go there again.
    fn enforce_and_listen(
        &mut self,
        config: &Config,
        filters: bool,
        server: &NextServer,
        metrics: Option<Listener>,
        now: Now,
    ) -> Result<(), Failure> {
        let former = self.enforcer.surroundings().clone();
        let surroundings = Surroundings::read(config, self.names.addresses(config, now.boot), Some(&former));
        self.enforce(config, filters, surroundings, now)?;
        let scrape = self.listen(server, metrics).inspect_err(|_| {
            let before = self.config.clone();
            logged("going back to the config before", self.enforce(&before, filters, former, now));
        })?;
        if let Some(scrape) = scrape {
            self.scrape = scrape;
        }
        Ok(())
    }

    fn enforce(&mut self, config: &Config, filters: bool, surroundings: Surroundings, now: Now) -> Result<(), Failure> {
        if filters { self.refilter(config, surroundings, now) } else { self.enforcer.surround(surroundings, now) }
    }

    fn listen(&self, server: &NextServer, metrics: Option<Listener>) -> Result<Option<Scrape>, Failure> {
        if let NextServer::Another(running, _) = server {
            let held = self.servers.served().map(|served| served.listeners.clone()).unwrap_or_default();
            child::listen_on(&running.served, &held)?;
        }
        let Some(metrics) = metrics else { return Ok(None) };
        scrape::listen_on(&metrics, &[self.scrape.listener()])?;
        Scrape::start(metrics, self.own.clone(), self.ask.clone()).map(Some)
    }

    pub(super) async fn serve_by(&mut self, server: NextServer) -> Option<oneshot::Receiver<()>> {
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

    fn refilter(&mut self, config: &Config, surroundings: Surroundings, now: Now) -> Result<(), Failure> {
        let asked = &config.filter.interfaces;
        let links = self.interfaces.of_another(asked, self.lock.path())?;
        self.enforcer.reload(&config.filter, surroundings, &self.lock, &links, now)?;
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
