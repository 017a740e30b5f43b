//! What goes on with connections beside the agent's loop, on a thread of its own, so that no long command delays it: those
//! over their client's cap are closed as soon as the kernel side tells of them, and the counts are compared with the
//! kernel's sockets again and again.

use std::{
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use super::Agent;
use crate::{
    datapath::{self, Compared, Connections, Excesses},
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

/// Ends with this value.
#[derive(Debug)]
pub struct Watch {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(connections: Connections, own: Own) -> Result<Watch, Failure> {
        let (stop, stopped) = oneshot::channel();
        let work = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(async {
                match connections.excesses() {
                    Ok(excesses) => watch(connections, excesses, own, stopped).await,
                    Err(failure) => tracing::error!("connections over the cap stay open: {failure}"),
                }
            }),
            Err(error) => tracing::error!("connections over the cap stay open: no runtime: {error}"),
        };
        let thread = thread::Builder::new().name("edge-caps".to_owned()).spawn(work);
        let thread = thread.blame(Blame::System, || "no thread can be started".to_owned())?;
        Ok(Watch { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Agent {
    /// Of the tables in force; what watched those before has ended by then, since both read the same ring.
    pub(super) fn follow_connections(&mut self) {
        self.watch = None;
        let started = self
            .enforcer
            .counted()
            .and_then(|counted| counted.map(|connections| Watch::start(connections, self.own.clone())).transpose());
        match started {
            Ok(watch) => self.watch = watch,
            Err(failure) => {
                tracing::error!("connections over the cap stay open, and counts are not compared: {failure}")
            }
        }
    }
}

async fn watch(mut connections: Connections, mut excesses: Excesses, own: Own, mut stopped: oneshot::Receiver<()>) {
    let mut closing = Closing::default();
    let mut next = Instant::now() + COMPARE_SOON;
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => return,
            excess = excesses.take() => closing.close_all(&excess),
            () = sleep_until(next) => {
                let begun = Instant::now();
                let rest = if compare(&mut connections, &own) { COMPARE_SOON } else { COMPARE };
                next = Instant::now() + rest.max(begun.elapsed() * COMPARE_PART);
            }
        }
    }
}

/// Whether there are connections whose end only the next comparison sees.
fn compare(connections: &mut Connections, own: &Own) -> bool {
    match datapath::compare(connections) {
        Ok(Compared { entered: 0, left: 0, older }) => older > 0,
        Ok(Compared { entered, left, older }) => {
            own.drift_repaired(Drift::Connection, entered + left);
            tracing::warn!(
                "connections were counted otherwise than they are, which is put right: {entered} were not counted, {left} \
                 are not open"
            );
            older > 0
        }
        Err(failure) => {
            tracing::error!("the counts of connections cannot be compared: {failure}");
            false
        }
    }
}

/// The socket by which connections are closed, made when the first one is.
#[derive(Default)]
struct Closing {
    closer: Option<Closer>,
    /// Said once.
    told: bool,
}

impl Closing {
    fn close_all(&mut self, excess: &[Connection]) {
        for connection in excess {
            match self.close(connection) {
                Ok(Closed::Now | Closed::Before) => {}
                Ok(Closed::Never) => self.tell("this kernel cannot (CONFIG_INET_DIAG_DESTROY)"),
                Err(failure) => self.tell(&failure.message),
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

    fn tell(&mut self, why: &str) {
        if !std::mem::replace(&mut self.told, true) {
            tracing::error!("connections over the cap stay open, and are silent while their client is at it: {why}");
        }
    }
}
