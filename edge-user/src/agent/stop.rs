//! The signals that end the agent. They are taken before anything else is done, so that one that comes during a start
//! ends it in good order too.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Blame, Context, Failure};

pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    pub fn listen() -> Result<Stop, Failure> {
        let of = |kind| signal(kind).blame(Blame::System, || "signals cannot be received".to_owned());
        Ok(Stop { terminate: of(SignalKind::terminate())?, interrupt: of(SignalKind::interrupt())? })
    }

    /// Returns when the agent is to end. Cancel-safe.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
