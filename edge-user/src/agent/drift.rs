//! What the kernel holds against what was decided, again and again. What somebody else changed is undone whole: the tables
//! are built anew from the model beside those in force, and swapped, so that nothing of it stays, wherever it was.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use super::Agent;
use crate::{
    datapath::{Difference, Singles6},
    metrics::Drift,
};

/// From the end of one comparison to the next, so that a change is undone within 5 s.
const AFTER: Duration = Duration::from_secs(4);
/// A comparison that takes long comes rarely: one part in so many of a CPU at most.
const PART: u32 = 60;

/// When the next comparison is due, and when the next of everything: settings and ports take no time.
#[derive(Debug)]
pub struct Comparison {
    pub next: Instant,
    whole: Instant,
}

impl Default for Comparison {
    fn default() -> Comparison {
        let next = Instant::now() + AFTER;
        Comparison { next, whole: next }
    }
}

/// What this thread has had of a CPU: on a busy machine a comparison waits, and is no dearer for it.
fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

impl Agent {
    pub(super) fn compare(&mut self) {
        let (begun, used) = (Instant::now(), used());
        let is_whole = begun >= self.comparison.whole;
        let difference = if is_whole { self.enforcer.differs() } else { self.enforcer.settings_differ() };
        if let Some(difference) = difference {
            self.undo(difference);
        }
        let (now, took) = (Instant::now(), self::used().saturating_sub(used));
        if is_whole {
            tracing::debug!("compared with the kernel in {took:?} of a CPU");
            self.comparison.whole = now + AFTER.max(took * PART);
        }
        self.comparison.next = now + AFTER;
    }

    fn undo(&mut self, difference: Difference) {
        let (kind, what, count) = match difference {
            Difference::Blocks { wanted, found } => (
                Drift::Block,
                format!("{found} blocks are in the kernel, {wanted} were decided"),
                self.enforcer.drift(),
            ),
            Difference::Prefixes => {
                (Drift::Prefix, "the allow list, what is protected, or how prefixes are found".to_owned(), 1)
            }
            Difference::Settings => (Drift::Settings, "settings or ports".to_owned(), 1),
        };
        match self.build_anew(Singles6::default()) {
            Ok(()) => {
                self.own.drift_repaired(kind, count.max(1));
                tracing::warn!("the kernel's tables were changed from outside ({what}); they were built anew");
            }
            Err(failure) => tracing::error!(
                "the kernel's tables were changed from outside ({what}) and cannot be built anew, which is tried again: \
                 {failure}"
            ),
        }
    }
}
