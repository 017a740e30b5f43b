//! The signals of the agent: those that end it, and SIGHUP, which does not. They are taken before anything else is done,
//! so that one that comes during a start ends it in good order too.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Blame, Context, Failure};

pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Stop {
    pub fn listen() -> Result<Stop, Failure> {
        let of = |kind| signal(kind).blame(Blame::System, || "signals cannot be received".to_owned());
        Ok(Stop {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            hangup: of(SignalKind::hangup())?,
        })
    }

    /// Returns when the agent is to end. Cancel-safe.
    pub async fn asked(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    tracing::warn!("SIGHUP changes nothing: the config is read at a start only; restart edge to apply it");
                }
            }
        }
    }
}
