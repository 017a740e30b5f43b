//! The config read again, by `edge reload` or SIGHUP: all that is wrong at once, or all of it in force. What lies outside
//! of `[filter]` counts from the next start on, and is named.

use std::mem;

use super::{Agent, logged};
use crate::{
    audit::event::Name,
    clock::Now,
    config::{self, Config, Difference},
    control::protocol::{Answer, LastResult, Reloaded, Reply},
    error::Failure,
    metrics::Lost,
};

impl Agent {
    /// As a command asks for it.
    pub(super) async fn reload(&mut self) -> Answer {
        let answer = match self.config.read_again(&self.overrides) {
            Ok((config, difference)) => self.put_into_force(config, &difference).await.map(Reply::Reloaded),
            Err(errors) => Ok(Reply::Refused(errors)),
        };
        if !matches!(answer, Ok(Reply::Reloaded(_))) {
            self.enforcer.reloaded(LastResult::Refused, Now::read());
        }
        // Also where nothing was changed: whoever moved the file away has to be able to go on.
        self.audit.reopen(&self.config);
        answer
    }

    /// As a signal asks for it: the log has the answer.
    pub(super) async fn hung_up(&mut self) {
        let answer = self.reload().await;
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
                done.sentences().iter().for_each(|sentence| tracing::warn!("SIGHUP: reload: {sentence}"));
            }
            Ok(Reply::Refused(errors)) => tracing::error!("SIGHUP: reload: refused, nothing was changed: {errors}"),
            Ok(_) => {}
            Err(failure) => tracing::error!("SIGHUP: reload: refused, {failure}"),
        }
    }

    async fn put_into_force(&mut self, config: Config, difference: &Difference) -> Result<Reloaded, Failure> {
        let now = Now::read();
        let Difference { reloaded, at_restart, fixed: _ } = difference;
        let mut warnings: Vec<String> = config.warnings.iter().map(|warning| warning.told(&config.file)).collect();
        if reloaded.iter().any(|key| key.starts_with("filter.")) {
            self.refilter(&config, now)
                .map_err(|Failure { blame, message }| Failure::new(blame, format!("nothing was changed: {message}")))?;
            warnings.extend(config::costs(&self.config.filter, &config.filter));
            self.config.filter = config.filter;
            self.tell_ipv6_unit().await;
            self.end_blocked_connections();
        }
        self.config.log.audit = config.log.audit;
        let result = if at_restart.is_empty() { LastResult::Ok } else { LastResult::Partial };
        let owned = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
        let now = self.enforcer.reloaded(result, now);
        let file = std::fs::canonicalize(&config.file).unwrap_or(config.file);
        Ok(Reloaded { now, config: file, applied: owned(reloaded), at_restart: owned(at_restart), warnings })
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
