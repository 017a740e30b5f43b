//! The servers: the one in service, and those that finish what they began. One that dies is started again, at once and
//! then with pauses of at most 5 s, with what it served; another takes over on the same sockets, so that nobody who
//! connects meanwhile is refused. All that live are heard.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    child::{Child, Id, Running, Served, launch},
    pause::Pause,
};
use crate::{
    config::Config,
    error::Failure,
    server::{
        counters,
        link::{FromAgent, FromServer, Metrics},
        spawn::{self, Identity},
    },
};

/// So many may finish what they began; of one more the oldest has to hurry.
const RETIRED: usize = 4;

/// What the agent's loop hears.
pub enum Heard {
    Says(Id, FromServer),
    Ended(Id),
    /// What came of starting one again.
    Restarted(Arc<Served>, Result<Running, Failure>),
}

pub struct Servers {
    tell: mpsc::Sender<Heard>,
    /// Of the last one.
    id: Id,
    /// What is to be served; `None`: nothing.
    served: Option<Arc<Served>>,
    identity: Option<Identity>,
    /// `None`: nothing is to be served, or it is being started again.
    current: Option<Child>,
    /// Starts it again. What it is to serve is held for so long.
    restarting: Option<JoinHandle<()>>,
    retired: Vec<Child>,
    /// By those that have ended.
    counted: Metrics,
    pause: Pause,
}

impl Servers {
    /// Nothing is served yet. What the servers say goes to `tell`.
    pub fn new(tell: mpsc::Sender<Heard>) -> Servers {
        Servers {
            tell,
            id: Id(0),
            served: None,
            identity: None,
            current: None,
            restarting: None,
            retired: Vec::new(),
            counted: counters::none(),
            pause: Pause::default(),
        }
    }

    pub fn served(&self) -> Option<Arc<Served>> {
        self.served.clone()
    }

    pub fn identity(&self) -> Option<Identity> {
        self.identity.clone()
    }

    /// Puts another into service, or nothing, in place of what is. The receiver hears when nobody new is served by that
    /// any more.
    pub async fn replace(&mut self, by: Option<(Running, Identity)>) -> Option<oneshot::Receiver<()>> {
        let former = self.current.take();
        self.stop_restarting();
        (self.served, self.identity) = match &by {
            Some((running, identity)) => (Some(running.served.clone()), Some(identity.clone())),
            None => (None, self.identity.take()),
        };
        if let Some((running, _)) = by {
            self.adopt(running).await;
        }
        let mut former = former?;
        let hears = former.retire().await;
        self.retired.push(former);
        if let Some(oldest) = self.retired.len().checked_sub(RETIRED + 1) {
            self.retired[oldest].tell(&FromAgent::Drain).await;
        }
        Some(hears)
    }

    /// Nothing stays open for it.
    fn stop_restarting(&mut self) {
        if let Some(task) = self.restarting.take() {
            task.abort();
        }
    }

    async fn adopt(&mut self, running: Running) {
        self.id = Id(self.id.0 + 1);
        self.pause.served(Instant::now());
        self.current = Some(Child::start(self.id, running, self.tell.clone()).await);
    }

    /// Takes one that was started again into service; whether it was. What it served may have been replaced meanwhile.
    pub async fn restarted(&mut self, served: &Arc<Served>, result: Result<Running, Failure>) -> bool {
        if !self.served.as_ref().is_some_and(|now| Arc::ptr_eq(now, served)) {
            return false;
        }
        match result {
            Ok(running) => {
                self.adopt(running).await;
                true
            }
            Err(failure) => {
                tracing::error!("the server cannot be started again: {failure}");
                self.restart();
                false
            }
        }
    }

    /// One has ended: that in service is started again.
    pub fn ended(&mut self, id: Id) {
        if let Some(at) = self.retired.iter().position(|child| child.id == id) {
            let child = self.retired.remove(at);
            self.counted.add(&child.metrics);
            tokio::spawn(async move { tracing::debug!("a server that was replaced ended ({})", child.fate().await) });
        } else if let Some(child) = self.current.take_if(|child| child.id == id) {
            self.counted.add(&child.metrics);
            tokio::spawn(async move {
                tracing::error!("the server ended ({}); it is started again", child.fate().await);
            });
            self.restart();
        }
    }

    /// In the background, since it may take a while.
    fn restart(&mut self) {
        let (Some(served), Some(identity)) = (self.served.clone(), self.identity.clone()) else { return };
        let pause = self.pause.ended(Instant::now());
        let tell = self.tell.clone();
        let task = tokio::spawn(async move {
            sleep(pause).await;
            let result = launch(served.clone(), &identity).await;
            let _ = tell.send(Heard::Restarted(served, result)).await;
        });
        self.restarting = Some(task);
    }

    pub fn spoke(&mut self, id: Id) {
        if let Some(child) = self.all().find(|child| child.id == id) {
            child.spoke();
        }
    }

    /// Once a second: whoever hangs is ended.
    pub fn sweep(&mut self) {
        self.all().for_each(Child::sweep);
    }

    pub async fn tell(&mut self, id: Id, message: &FromAgent) {
        if let Some(child) = self.all().find(|child| child.id == id) {
            child.tell(message).await;
        }
    }

    pub async fn tell_all(&mut self, message: &FromAgent) {
        for child in self.all() {
            child.tell(message).await;
        }
    }

    /// Has the one in service ask others anew. `None`: it asks nobody.
    pub async fn fetch_again(&mut self) -> Option<oneshot::Receiver<Vec<String>>> {
        self.current.as_mut()?.fetch_again().await
    }

    pub fn has_fetched(&mut self, id: Id, failures: Vec<String>) {
        if let Some(child) = self.all().find(|child| child.id == id) {
            child.has_fetched(failures);
        }
    }

    /// It accepts no more.
    pub fn has_retired(&mut self, id: Id) {
        if let Some(child) = self.all().find(|child| child.id == id) {
            child.has_retired();
        }
    }

    pub fn counts(&mut self, id: Id, metrics: Metrics) {
        if let Some(child) = self.all().find(|child| child.id == id) {
            child.metrics = metrics;
        }
    }

    /// Whether this server serves connections with this end.
    pub fn serves(&mut self, id: Id, local: SocketAddr) -> bool {
        self.all().find(|child| child.id == id).is_some_and(|child| child.listens_on(local))
    }

    /// All that servers of this agent counted, and what is wrong with the one in service.
    pub fn metrics(&self) -> Metrics {
        let mut sum = self.counted.clone();
        self.current.iter().chain(&self.retired).for_each(|child| sum.add(&child.metrics));
        sum.store_failed = self.current.as_ref().is_some_and(|child| child.metrics.store_failed);
        sum.acme = self.current.as_ref().and_then(|child| child.metrics.acme.clone());
        sum
    }

    /// Asks all to end. None is started again, and they can still be talked to.
    pub async fn drain(&mut self) {
        self.served = None;
        self.stop_restarting();
        self.retired.extend(self.current.take());
        for child in &mut self.retired {
            child.tell(&FromAgent::Drain).await;
        }
    }

    /// Whether any is left after [`drain`](Self::drain).
    pub fn are_heard(&self) -> bool {
        !self.retired.is_empty()
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Child> {
        self.current.iter_mut().chain(&mut self.retired)
    }
}

/// The user that the server runs as, and its directory, which is made where it is missing.
pub fn identity(config: &Config, known: Option<Identity>) -> Result<Identity, Failure> {
    let identity = match known {
        Some(known) => known,
        None => {
            let found = Identity::find()?;
            if found.fallback {
                tracing::warn!("there is no user edge-server here; the server runs as {}", found.name);
            }
            found
        }
    };
    spawn::prepare_auth_directory(&config.store.auth_directory(), &identity)?;
    Ok(identity)
}
