//! How many passwords are hashed at once, and at whose cost. A hash takes 19 MiB and a CPU for some 20 ms, so there is room
//! for a few; no client can fill the queue alone; and whoever only asks goes before.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

use crate::block::Target;

const WAITING_OF_ONE: u32 = 4;
const WAITING_OF_ALL: u32 = 64;
const WAITS_FOR: Duration = Duration::from_secs(5);
/// How far threads that hash give way to all others (nice(2)): to a tenth of the share.
const NICE: libc::c_int = 10;

pub struct Hashing {
    permits: Arc<Semaphore>,
    waiting: Mutex<HashMap<Target, u32>>,
}

/// Too many are waiting already, or it took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// The right to hash one password.
#[derive(Debug)]
pub struct Turn(OwnedSemaphorePermit);

/// The work came to no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished;

impl Turn {
    /// On a thread of its own: a pool's would go on as slowly with what comes next, since nobody here may hasten again.
    pub async fn hash<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Unfinished> {
        let (Turn(permit), (tell, told)) = (self, oneshot::channel());
        let run = move || {
            give_way();
            let done = work();
            drop(permit);
            // Nobody listens where the client has gone.
            let _ = tell.send(done);
        };
        std::thread::Builder::new().name("hash".to_owned()).spawn(run).map_err(|_| Unfinished)?;
        told.await.map_err(|_| Unfinished)
    }
}

fn give_way() {
    // SAFETY: numbers only. On Linux 0 is the calling thread; a failure leaves its share as it is.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

impl Hashing {
    pub fn new(in_flight: usize) -> Hashing {
        Hashing { permits: Arc::new(Semaphore::new(in_flight.clamp(1, 1024))), waiting: Mutex::default() }
    }

    pub async fn turn(&self, client: Target) -> Result<Turn, Busy> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Ok(Turn(permit));
        }
        let _place = self.place(client).ok_or(Busy)?;
        match timeout(WAITS_FOR, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Turn(permit)),
            Ok(Err(_)) | Err(_) => Err(Busy),
        }
    }

    fn place(&self, client: Target) -> Option<Place<'_>> {
        let mut waiting = self.waiting();
        if waiting.values().sum::<u32>() >= WAITING_OF_ALL {
            return None;
        }
        let count = waiting.entry(client).or_default();
        if *count >= WAITING_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Place { hashing: self, client })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Target, u32>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that waits.
struct Place<'a> {
    hashing: &'a Hashing,
    client: Target,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.hashing.waiting();
        if let Some(count) = waiting.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_hashes_gives_way_and_holds_its_turn() {
        let hashing = Arc::new(Hashing::new(1));
        let client = Target::client("192.0.2.1".parse().unwrap(), 64);
        let (turn, other) = (hashing.turn(client).await.unwrap(), hashing.clone());
        // SAFETY: numbers only; 0 is the calling thread.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = nice();
        let work = move || (nice(), other.permits.available_permits());
        assert_eq!(turn.hash(work).await, Ok((before.max(NICE), 0)));
        assert_eq!(nice(), before);
        let turn = hashing.turn(client).await.unwrap();
        assert_eq!(turn.hash(|| panic!("a hash that fails")).await, Err::<(), _>(Unfinished));
        assert!(hashing.turn(client).await.is_ok());
    }

    #[tokio::test]
    async fn one_client_waits_at_most_four_times() {
        let hashing = Hashing::new(1);
        let client = |text: &str| Target::client(text.parse().unwrap(), 64);
        let first = hashing.turn(client("192.0.2.1")).await.unwrap();
        let places: Vec<_> = (0..4).map(|_| hashing.place(client("2001:db8::1")).unwrap()).collect();
        assert_eq!(hashing.turn(client("2001:db8::2")).await.unwrap_err(), Busy);
        assert!(hashing.place(client("192.0.2.2")).is_some());
        drop((places, first));
        assert!(hashing.turn(client("2001:db8::2")).await.is_ok());
        assert!(hashing.waiting().is_empty());
    }
}
