//! Tells the service manager that the agent's loop goes round (`WatchdogSec=`), from a thread of its own: a loop that waits
//! for a slow disk is not one that hangs, and cannot say so itself.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::systemd;
use crate::error::{Blame, Context, Failure};

pub struct Watchdog {
    beats: Arc<AtomicU64>,
    /// `None`: nobody watches.
    tick: Option<Interval>,
}

impl Watchdog {
    /// Watches the thread that calls it, if the manager asks for that. To be called within the runtime.
    pub fn start() -> Result<Watchdog, Failure> {
        let beats = Arc::new(AtomicU64::new(0));
        let Some(period) = sd_notify::watchdog_enabled().filter(|period| !period.is_zero()) else {
            return Ok(Watchdog { beats, tick: None });
        };
        let (counted, watched) = (beats.clone(), nix::unistd::gettid().as_raw());
        thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watch(&counted, watched, period / 2))
            .blame(Blame::System, || "the watchdog cannot be started".to_owned())?;
        let mut tick = interval(period / 8);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Watchdog { beats, tick: Some(tick) })
    }

    /// The loop goes round.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns when the loop has to go round. Cancel-safe.
    pub async fn due(&mut self) {
        match &mut self.tick {
            Some(tick) => drop(tick.tick().await),
            None => std::future::pending().await,
        }
    }
}

/// Until the process ends.
fn watch(beats: &AtomicU64, watched: i32, every: Duration) {
    let mut before = None;
    loop {
        let now = Some(beats.load(Ordering::Relaxed));
        if now != before || waits_for_disk(watched) {
            systemd::alive();
        }
        before = now;
        thread::sleep(every);
    }
}

/// Whether the thread is in a sleep that nothing interrupts, as all who wait for a disk are (proc(5), `stat`).
fn waits_for_disk(thread: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    // The name before it may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
}
