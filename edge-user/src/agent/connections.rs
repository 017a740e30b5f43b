//! What goes on with connections beside the agent's loop, on threads of their own, so that no long command delays it: those
//! over their client's cap are closed as soon as the kernel side tells of them, and the counts are compared with the
//! kernel's sockets again and again, which takes longer than an excess may stay open.

use std::{
    mem,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, sync::oneshot};

use super::Agent;
use crate::{
    datapath::{Compared, Comparison, Connections, Excesses},
    error::{Blame, Context, Failure},
    metrics::{Drift, Own},
    netlink::{Closed, Closer, Connection},
};

/// Between two comparisons at least.
const COMPARE: Duration = Duration::from_secs(5);
/// The same while connections are counted whose end nothing else sees.
const COMPARE_SOON: Duration = Duration::from_millis(500);
/// A comparison that takes long comes rarely: this part of the time at most.
const COMPARE_PART: u32 = 100;
/// The same while ends are seen by nothing else: a client must not be held at its cap by what it closed long ago.
const COMPARE_SOON_PART: u32 = 10;

/// Ends with this value.
#[derive(Debug)]
pub struct Watch {
    /// Each ends its thread by being dropped.
    stop: Option<(oneshot::Sender<()>, Sender<()>)>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    fn start(connections: Connections, own: Own) -> Result<Watch, Failure> {
        let what = || "connections over the cap cannot be closed: no thread can be started".to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().blame(Blame::System, what)?;
        let within = runtime.enter();
        let excesses = connections.excesses()?;
        drop(within);
        let ((stop_closing, closing_stopped), (stop_comparing, comparing_stopped)) = (oneshot::channel(), channel());
        let mut watch = Watch { stop: Some((stop_closing, stop_comparing)), threads: Vec::new() };
        let started = thread::Builder::new().name("edge-excess".to_owned());
        let closing = started.spawn(move || close_excess(&runtime, excesses, closing_stopped));
        watch.threads.push(closing.blame(Blame::System, what)?);
        let started = thread::Builder::new().name("edge-compare".to_owned());
        let comparing = started.spawn(move || compare_on(connections, &own, &comparing_stopped));
        watch.threads.push(comparing.blame(Blame::System, what)?);
        Ok(watch)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Agent {
    /// Of the tables in force; what watched those before has ended by then, since both read the same ring.
    pub(super) fn follow_connections(&mut self) -> Result<(), Failure> {
        self.watch = None;
        if let Some(connections) = self.enforcer.counted()? {
            self.watch = Some(Watch::start(connections, self.own.clone())?);
        }
        Ok(())
    }
}

fn close_excess(runtime: &Runtime, mut excesses: Excesses, mut stopped: oneshot::Receiver<()>) {
    let mut closing = Closing::default();
    runtime.block_on(async {
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                excess = excesses.take() => closing.close_all(&excess),
            }
        }
    });
}

fn compare_on(mut connections: Connections, own: &Own, stopped: &Receiver<()>) {
    let (mut comparison, mut closing) = (Comparison::default(), Closing::default());
    let mut audible = connections.audible();
    let mut rest = COMPARE_SOON;
    while stopped.recv_timeout(rest) == Err(RecvTimeoutError::Timeout) {
        let begun = Instant::now();
        let compared = comparison.compare(&mut connections).unwrap_or_else(|failure| {
            tracing::error!("the counts of connections cannot be compared: {failure}");
            Compared::default()
        });
        tell(&compared, own);
        let now = connections.audible();
        let more = now.saturating_sub(mem::replace(&mut audible, now));
        if more > 0 {
            tracing::error!("{more} connections over the cap found no room among the muted, and may be served");
        }
        closing.close_all(&compared.excess);
        let (least, part) =
            if compared.older > 0 { (COMPARE_SOON, COMPARE_SOON_PART) } else { (COMPARE, COMPARE_PART) };
        rest = least.max(begun.elapsed() * part);
    }
}

fn tell(compared: &Compared, own: &Own) {
    let Compared { entered, left, corrected, .. } = compared;
    if compared.repairs() > 0 {
        own.drift_repaired(Drift::Connection, compared.repairs());
        tracing::warn!(
            "connections were counted otherwise than they are, which is put right: {entered} were not counted, {left} are \
             not open, and counts were off by {corrected}"
        );
    }
}

/// The socket by which connections are closed, made when the first one is.
#[derive(Default)]
struct Closing {
    closer: Option<Closer>,
    /// What was said last of why it cannot be done.
    told: Option<String>,
}

impl Closing {
    fn close_all(&mut self, excess: &[Connection]) {
        for connection in excess {
            match self.close(connection) {
                Ok(Closed::Now | Closed::Before) => {}
                Ok(Closed::Never) => self.tell("this kernel cannot (CONFIG_INET_DIAG_DESTROY)".to_owned()),
                Err(failure) => {
                    self.closer = None;
                    self.tell(failure.message);
                }
            }
        }
    }

    fn close(&mut self, connection: &Connection) -> Result<Closed, Failure> {
        let what = || "a connection over the cap cannot be closed".to_owned();
        let closer = match &mut self.closer {
            Some(closer) => closer,
            none => none.insert(Closer::open().blame(Blame::System, what)?),
        };
        closer.close(connection).blame(Blame::System, what)
    }

    fn tell(&mut self, why: String) {
        if self.told.as_ref() != Some(&why) {
            tracing::error!("connections over the cap stay open, and what they receive is dropped: {why}");
            self.told = Some(why);
        }
    }
}
