//! What the server counts. The agent exposes it; every combination is there from the start, at 0.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    auth::{Endpoint, Outcome},
    link::Metrics,
};

#[derive(Default)]
pub struct Counters {
    auth: [[AtomicU64; Outcome::ALL.len()]; Endpoint::ALL.len()],
    handshakes: [AtomicU64; Handshake::ALL.len()],
}

/// How a TLS handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    Success,
    Failure,
    Timeout,
    /// Not begun: too many of this client are in flight, or it has more connections than its cap.
    Refused,
}

impl Handshake {
    pub const ALL: [Handshake; 4] = [Handshake::Success, Handshake::Failure, Handshake::Timeout, Handshake::Refused];

    const fn name(self) -> &'static str {
        match self {
            Handshake::Success => "success",
            Handshake::Failure => "failure",
            Handshake::Timeout => "timeout",
            Handshake::Refused => "refused",
        }
    }
}

/// What a server says that has counted nothing yet: every series it can ever say.
pub fn none() -> Metrics {
    Counters::default().snapshot()
}

impl Counters {
    pub fn auth(&self, endpoint: Endpoint, outcome: Outcome) {
        self.auth[endpoint as usize][outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn handshake(&self, result: Handshake) {
        self.handshakes[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> Metrics {
        let mut metrics = Metrics::default();
        for endpoint in Endpoint::ALL.into_iter().filter(|endpoint| endpoint.under_auth()) {
            for outcome in Outcome::ALL {
                let count = self.auth[endpoint as usize][outcome as usize].load(Ordering::Relaxed);
                metrics.auth_requests.push((endpoint.name().to_owned(), outcome.name().to_owned(), count));
            }
        }
        for result in Handshake::ALL {
            let count = self.handshakes[result as usize].load(Ordering::Relaxed);
            metrics.tls_handshakes.push((result.name().to_owned(), count));
        }
        metrics
    }
}
