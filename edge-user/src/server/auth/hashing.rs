//! How many passwords are hashed at once. A hash takes 19 MiB and a CPU for some 20 ms, so there is room for a few;
//! no client can fill the queue alone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::block::Target;

const WAITING_OF_ONE: u32 = 4;
const WAITING_OF_ALL: u32 = 64;
const WAITS_FOR: Duration = Duration::from_secs(5);

pub struct Hashing {
    permits: Arc<Semaphore>,
    waiting: Mutex<HashMap<Target, u32>>,
}

/// Too many are waiting already, or it took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl Hashing {
    pub fn new(in_flight: usize) -> Hashing {
        Hashing { permits: Arc::new(Semaphore::new(in_flight.clamp(1, 1024))), waiting: Mutex::default() }
    }

    /// The right to hash one password, held while it is hashed.
    pub async fn turn(&self, client: Target) -> Result<OwnedSemaphorePermit, Busy> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let _place = self.place(client).ok_or(Busy)?;
        match timeout(WAITS_FOR, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
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
