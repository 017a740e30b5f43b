//! Looks all the while how many connections a port of the guarded host has established.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use edge_tests::{
    net::Lab,
    sockets::{ESTABLISHED, Sockets},
};

use super::CAP;

#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub most: u64,
    /// The longest stretch with more than the cap, from the first look to the last that found them.
    pub over_for: Duration,
}

pub struct Watch {
    ends: Arc<AtomicBool>,
    now: Arc<Mutex<u64>>,
    thread: JoinHandle<Result<(Seen, u64)>>,
}

impl Watch {
    pub fn start(lab: &Lab, port: u16) -> Result<Watch> {
        let (ends, now) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0)));
        let sockets = Sockets::of(&lab.host)?;
        let thread = thread::spawn({
            let (ends, now) = (ends.clone(), now.clone());
            move || look(sockets, port, &ends, &now)
        });
        Ok(Watch { ends, now, thread })
    }

    /// As the last look found.
    pub fn now(&self) -> Result<u64> {
        ensure!(!self.thread.is_finished(), "the watch has ended");
        Ok(*self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn stop(self) -> Result<Seen> {
        self.ends.store(true, Relaxed);
        let Ok(seen) = self.thread.join() else { bail!("the watch panicked") };
        let (seen, looks) = seen?;
        ensure!(looks > 1, "there were {looks} looks");
        Ok(seen)
    }
}

fn look(mut sockets: Sockets, port: u16, ends: &AtomicBool, now: &Mutex<u64>) -> Result<(Seen, u64)> {
    let (mut seen, mut since, mut looks) = (Seen::default(), None, 0);
    while !ends.load(Relaxed) {
        let all = sockets.at(&[port])?;
        let count = all.iter().filter(|socket| socket.state == ESTABLISHED).count() as u64;
        *now.lock().unwrap_or_else(PoisonError::into_inner) = count;
        seen.most = seen.most.max(count);
        since = (count > CAP).then(|| since.unwrap_or_else(Instant::now));
        seen.over_for = seen.over_for.max(since.map_or(Duration::ZERO, |since: Instant| since.elapsed()));
        looks += 1;
    }
    Ok((seen, looks))
}
