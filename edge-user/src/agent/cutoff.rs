//! Ends the open connections of who is blocked, of every service of this host, within a second. What is read from the
//! kernel and closed is so on a thread of its own; the agent's loop is only asked who is blocked, a few at a time.

use std::{
    collections::BTreeSet,
    mem,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::spawn_blocking,
    time::sleep,
};

use super::Agent;
use crate::{
    block::Target,
    clock::Now,
    error::{Blame, Context, Failure},
    netlink::{self, Closed, Closer, Connection},
    server::link::FromAgent,
};

/// By then the refusal that led to a block has reached its client, and many blocks cost one reading.
const AFTER: Duration = Duration::from_millis(500);
/// Of more targets it is easier to ask of everybody who is connected.
const NAMED: usize = 256;
/// Whom the loop is asked about at once.
const AT_ONCE: usize = 128;

/// Which of these are blocked.
pub struct Question {
    peers: Vec<IpAddr>,
    /// Nobody was found blocked before.
    is_first: bool,
    blocked: oneshot::Sender<Vec<IpAddr>>,
}

/// Among whom the blocked are to be looked for.
#[derive(Debug, Default)]
enum Whom {
    #[default]
    Nobody,
    These(Vec<Target>),
    Everybody,
}

impl Whom {
    fn and(self, other: Whom) -> Whom {
        match (self, other) {
            (Whom::Nobody, whom) | (whom, Whom::Nobody) => whom,
            (Whom::These(mut these), Whom::These(more)) if these.len() + more.len() <= NAMED => {
                these.extend(more);
                Whom::These(these)
            }
            _ => Whom::Everybody,
        }
    }

    fn has(&self, peer: IpAddr) -> bool {
        match self {
            Whom::Nobody => false,
            Whom::These(these) => these.iter().any(|target| target.covers(peer)),
            Whom::Everybody => true,
        }
    }
}

/// What the agent's loop leaves to the task.
#[derive(Clone, Debug, Default)]
pub struct Cutoff(Arc<Wanted>);

#[derive(Debug, Default)]
struct Wanted {
    whom: Mutex<Whom>,
    there: Notify,
}

impl Cutoff {
    /// Starts the task; what it asks is to be answered.
    pub fn start() -> (Cutoff, mpsc::Receiver<Question>) {
        let (ask, questions) = mpsc::channel(1);
        let cutoff = Cutoff::default();
        tokio::spawn(cutoff.clone().work(ask));
        (cutoff, questions)
    }

    fn want(&self, more: Whom) {
        let mut whom = self.whom();
        *whom = mem::take(&mut *whom).and(more);
        drop(whom);
        self.0.there.notify_one();
    }

    fn whom(&self) -> MutexGuard<'_, Whom> {
        self.0.whom.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(self, ask: mpsc::Sender<Question>) {
        let mut told = false;
        loop {
            self.0.there.notified().await;
            sleep(AFTER).await;
            let whom = mem::take(&mut *self.whom());
            match cut_off(whom, &ask).await {
                Ok(Closed::Never) if mem::replace(&mut told, true) => {}
                Ok(Closed::Never) => tracing::warn!(
                    "connections of who is blocked fall silent and stay open, but for edge's own: this kernel closes none \
                     (CONFIG_INET_DIAG_DESTROY is not built in)"
                ),
                Ok(Closed::Now | Closed::Before) => {}
                Err(failure) => {
                    tracing::error!("open connections of who is blocked fall silent and stay open: {failure}")
                }
            }
        }
    }
}

impl Agent {
    /// Of what was blocked just now.
    pub(super) async fn end_connections_of(&mut self, blocked: &[Target]) {
        if self.config.filter.dry_run || blocked.is_empty() {
            return;
        }
        // The server knows at once whom to answer no more; of a network somebody may be allowed or protected.
        let now = Now::read();
        let singles = blocked.iter().filter(|target| target.is_single()).map(|target| target.net().addr());
        let singles = singles.filter(|address| self.enforcer.is_blocked(*address, now)).take(NAMED).collect();
        self.tell_server_of(singles).await;
        self.cutoff.want(match blocked.len() {
            ..=NAMED => Whom::These(blocked.to_vec()),
            _ => Whom::Everybody,
        });
    }

    /// Where it is not known who is blocked that was not before.
    pub(super) fn end_blocked_connections(&self) {
        if !self.config.filter.dry_run {
            self.cutoff.want(Whom::Everybody);
        }
    }

    pub(super) async fn asked_who_is_blocked(&mut self, question: Question) {
        let now = Now::read();
        let mut blocked = question.peers;
        blocked.retain(|peer| !self.config.filter.dry_run && self.enforcer.is_blocked(*peer, now));
        if question.is_first && !blocked.is_empty() {
            // Somebody may have signed in over SSH just now: a block passes, a closed session does not come back.
            self.protect();
            blocked.retain(|peer| self.enforcer.is_blocked(*peer, now));
        }
        let _ = question.blocked.send(blocked.clone());
        self.tell_server_of(blocked).await;
    }

    async fn tell_server_of(&mut self, blocked: Vec<IpAddr>) {
        for address in blocked {
            self.servers.tell_all(&FromAgent::Blocked { client: Target::of(address).net() }).await;
        }
    }
}

/// The least that was done: `Never` where this kernel cannot close what had to be.
async fn cut_off(whom: Whom, ask: &mpsc::Sender<Question>) -> Result<Closed, Failure> {
    let mut open = beside(move || open_of(&whom)).await?;
    let blocked = blocked_among(open.iter().map(|connection| connection.peer.ip()).collect(), ask).await;
    open.retain(|connection| blocked.contains(&connection.peer.ip()));
    if open.is_empty() {
        return Ok(Closed::Before);
    }
    beside(move || close(&open)).await
}

async fn beside<R: Send + 'static>(work: impl FnOnce() -> Result<R, Failure> + Send + 'static) -> Result<R, Failure> {
    spawn_blocking(work).await.blame(Blame::Bug, || "closing connections".to_owned())?
}

fn open_of(whom: &Whom) -> Result<Vec<Connection>, Failure> {
    let found = netlink::connections().blame(Blame::System, || "who is connected is not known".to_owned())?;
    Ok(found.open.into_iter().filter(|connection| whom.has(connection.peer.ip())).collect())
}

/// Nobody where the loop has ended.
async fn blocked_among(peers: BTreeSet<IpAddr>, ask: &mpsc::Sender<Question>) -> BTreeSet<IpAddr> {
    let peers: Vec<IpAddr> = peers.into_iter().collect();
    let mut found = BTreeSet::new();
    for part in peers.chunks(AT_ONCE) {
        let (blocked, answer) = oneshot::channel();
        let question = Question { peers: part.to_vec(), is_first: found.is_empty(), blocked };
        if ask.send(question).await.is_ok() {
            found.extend(answer.await.unwrap_or_default());
        }
    }
    found
}

/// One that cannot be closed keeps none of the others open.
fn close(open: &[Connection]) -> Result<Closed, Failure> {
    let what = || "a connection cannot be closed".to_owned();
    let mut closer = Closer::open().blame(Blame::System, what)?;
    let (mut closed, mut failed) = (0, None);
    for connection in open {
        match closer.close(connection).blame(Blame::System, what) {
            Ok(Closed::Now) => closed += 1,
            Ok(Closed::Before) => {}
            Ok(Closed::Never) => return Ok(Closed::Never),
            Err(failure) => failed = Some(failure),
        }
    }
    if closed > 0 {
        tracing::info!("{closed} open connections of who is blocked were closed");
    }
    failed.map_or(Ok(Closed::Now), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn these(count: usize) -> Whom {
        Whom::These(vec!["203.0.113.0/24".parse().unwrap(); count])
    }

    #[test]
    fn a_few_are_looked_for_by_name_and_many_among_everybody() {
        let (inside, outside) = ("203.0.113.7".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let reach = |whom: &Whom| [whom.has(inside), whom.has(outside)];
        assert_eq!(reach(&Whom::Nobody.and(these(1)).and(Whom::Nobody)), [true, false]);
        assert_eq!(reach(&these(NAMED - 1).and(these(1))), [true, false]);
        assert_eq!(reach(&these(NAMED).and(these(1))), [true, true]);
        assert_eq!(reach(&these(1).and(Whom::Everybody).and(these(1))), [true, true]);
        assert_eq!(reach(&Whom::default()), [false, false]);
    }
}
