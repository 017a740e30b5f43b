//! The server's side of the link: what is sent to the agent, and the answers that requests wait for.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::link::{FromServer, Kind, Metrics, Offence};
use crate::audit::attempt::{AT_ONCE, Attempt};

/// How long a refusal waits for the agent's word, then it is sent without it.
const JUDGED_WITHIN: Duration = Duration::from_secs(1);
/// The longest user name that is reported, in bytes.
const MAX_ACCOUNT: usize = 256;
/// Attempts that may wait for the agent.
const ATTEMPTS: usize = 4_096;
/// An attempt waits so long for others, unless they are a message full: a message of each would cost both sides more than
/// the requests do.
const GATHERED_FOR: Duration = Duration::from_millis(5);

pub struct Report {
    out: mpsc::Sender<FromServer>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<bool>>>,
    next: AtomicU64,
    attempts: Mutex<Attempts>,
    attempted: Notify,
}

/// What is to be told to the audit log. The agent takes it as fast as it can; a stranger's requests may come faster.
#[derive(Default)]
struct Attempts {
    list: VecDeque<Attempt>,
    /// How many found no room.
    lost: u64,
    /// When the first of them came.
    since: Option<Instant>,
}

impl Attempts {
    /// When they are to go out; `None`: there are none.
    fn due(&self) -> Option<Instant> {
        let wait = if self.list.len() < AT_ONCE { GATHERED_FOR } else { Duration::ZERO };
        self.since.map(|since| since + wait)
    }
}

/// Both ends of an accepted connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

impl Report {
    /// What comes out of `out` goes to the agent.
    pub fn new(out: mpsc::Sender<FromServer>) -> Report {
        Report {
            out,
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            attempts: Mutex::default(),
            attempted: Notify::new(),
        }
    }

    /// For the audit log. It goes out before whatever is reported after it.
    pub fn attempt(&self, attempt: Attempt) {
        let mut attempts = self.waiting_attempts();
        if attempts.list.len() < ATTEMPTS {
            attempts.list.push_back(attempt.bounded());
        } else {
            attempts.lost += 1;
        }
        let is_first = attempts.since.is_none();
        attempts.since.get_or_insert_with(Instant::now);
        // In between, whoever waits knows when.
        let tells = is_first || attempts.list.len() == AT_ONCE;
        drop(attempts);
        if tells {
            self.attempted.notify_one();
        }
    }

    /// Waits until there are some to send. Cancel-safe.
    pub async fn attempted(&self) {
        loop {
            let due = self.waiting_attempts().due();
            let Some(due) = due else {
                self.attempted.notified().await;
                continue;
            };
            tokio::select! {
                () = sleep_until(due) => return,
                () = self.attempted.notified() => {}
            }
        }
    }

    /// Messages of all that there are now.
    pub fn attempts(&self) -> impl Iterator<Item = FromServer> {
        let Attempts { mut list, mut lost, since: _ } = mem::take(&mut *self.waiting_attempts());
        std::iter::from_fn(move || {
            let count = list.len().min(AT_ONCE);
            let (attempts, lost) = (list.drain(..count).collect::<Vec<_>>(), mem::take(&mut lost));
            (!attempts.is_empty() || lost > 0).then_some(FromServer::Audit { attempts, lost })
        })
    }

    fn waiting_attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports a refused credential and waits until the agent has judged; whether the client is blocked now.
    pub async fn offence(&self, kind: Kind, ends: Ends, account: Option<&str>) -> bool {
        let waiting = Waiting { report: self, id: self.next.fetch_add(1, Ordering::Relaxed) };
        let (judge, judged) = oneshot::channel();
        self.waiting().insert(waiting.id, judge);
        let account = account.map(|name| name[..name.floor_char_boundary(MAX_ACCOUNT)].to_owned());
        let offence = Offence { id: waiting.id, kind, peer: ends.peer, local: ends.local, account };
        let asked = async {
            self.out.send(FromServer::Offence(offence)).await.ok()?;
            judged.await.ok()
        };
        match timeout(JUDGED_WITHIN, asked).await {
            Ok(answer) => answer.unwrap_or(false),
            Err(_) => {
                tracing::warn!("the agent has not judged an offence within a second; the client is answered without");
                false
            }
        }
    }

    /// The agent's answer to an offence; one that nobody waits for any more is passed over.
    pub fn judged(&self, id: u64, blocked: bool) {
        if let Some(judge) = self.waiting().remove(&id) {
            let _ = judge.send(blocked);
        }
    }

    pub async fn signed_in(&self, ends: Ends, account: &str) {
        let message = FromServer::SignedIn { peer: ends.peer, account: account.to_owned() };
        let _ = self.out.send_timeout(message, JUDGED_WITHIN).await;
    }

    pub async fn ready(&self) {
        let _ = self.out.send(FromServer::Ready).await;
    }

    /// No more sentences, and none longer, than one message has room for.
    pub async fn fetched(&self, mut failures: Vec<String>) {
        failures.truncate(16);
        failures.iter_mut().for_each(|why| why.truncate(why.floor_char_boundary(1024)));
        let _ = self.out.send(FromServer::Fetched { failures }).await;
    }

    pub async fn retired(&self) {
        let _ = self.out.send(FromServer::Retired).await;
    }

    /// A full link loses no count: the next snapshot has it too.
    pub fn metrics(&self, metrics: Metrics) {
        let _ = self.out.try_send(FromServer::Metrics(metrics));
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<bool>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the id when its request ends, also when the client goes away first.
struct Waiting<'a> {
    report: &'a Report,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.report.waiting().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::attempt::Endpoint;

    #[tokio::test]
    async fn an_offence_waits_for_its_answer_and_no_longer_than_a_second() {
        let (out, mut sent) = mpsc::channel(4);
        let report = Report::new(out);
        let ends = Ends { peer: "203.0.113.7:5000".parse().unwrap(), local: "192.0.2.1:443".parse().unwrap() };
        let name = "ä".repeat(200);
        let agent = async {
            let Some(FromServer::Offence(offence)) = sent.recv().await else { panic!() };
            assert_eq!(offence.account.unwrap().len(), 256);
            report.judged(offence.id + 1, false);
            report.judged(offence.id, true);
        };
        let (blocked, ()) = tokio::join!(report.offence(Kind::Login, ends, Some(&name)), agent);
        assert!(blocked);
        assert!(!report.offence(Kind::Token, ends, None).await);
        assert!(report.waiting().is_empty());
    }

    #[tokio::test]
    async fn attempts_wait_in_their_order_up_to_a_bound_and_the_others_are_counted() {
        let report = Report::new(mpsc::channel(1).0);
        assert_eq!(report.attempts().next(), None);
        let attempt = |number: usize| Attempt {
            endpoint: Endpoint::Verify,
            peer: "203.0.113.7".parse().unwrap(),
            subject: Some(number.to_string()),
            key_id: None,
            refused: None,
            request_id: None,
        };
        (0..ATTEMPTS + 7).for_each(|number| report.attempt(attempt(number)));
        report.attempted().await;
        let (mut all, mut all_lost) = (Vec::new(), 0);
        for message in report.attempts() {
            let FromServer::Audit { attempts, lost } = message else { panic!() };
            assert!(attempts.len() <= AT_ONCE);
            all.extend(attempts);
            all_lost += lost;
        }
        assert_eq!((all, all_lost), ((0..ATTEMPTS).map(attempt).collect::<Vec<_>>(), 7));
    }
}
