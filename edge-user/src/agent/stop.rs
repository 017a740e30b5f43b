//! The signals that the agent obeys. They are taken before anything else is done, so that one that comes during a start
//! ends it in good order too, or counts once it is ready.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Blame, Context, Failure};

/// Those that end it.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

/// The one that has it read its config again.
pub struct HangUp(Signal);

impl Stop {
    pub fn listen() -> Result<Stop, Failure> {
        Ok(Stop { terminate: received(SignalKind::terminate())?, interrupt: received(SignalKind::interrupt())? })
    }

    /// Returns when the agent is to end. Cancel-safe.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl HangUp {
    pub fn listen() -> Result<HangUp, Failure> {
        received(SignalKind::hangup()).map(HangUp)
    }

    /// Returns at each SIGHUP. Cancel-safe.
    pub async fn asked(&mut self) {
        // No stream of signals ends.
        let _ = self.0.recv().await;
    }
}

fn received(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).blame(Blame::System, || "signals cannot be received".to_owned())
}
