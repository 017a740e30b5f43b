//! Who is connected: which connections to close when a client is blocked, how many of one are in their handshake, when
//! nobody comes in any more, and when the last has ended.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use ipnet::IpNet;
use tokio::sync::Notify;

use crate::block::Target;

/// All connections by client (an IPv6 client is a prefix), to close those of one, and to know when all have ended.
#[derive(Default)]
pub struct Connections {
    by_client: Mutex<HashMap<Target, HashMap<u64, Held>>>,
    next: AtomicU64,
    /// How many listeners let in.
    doors: AtomicUsize,
    /// Somebody left, or a door was closed.
    left: Notify,
}

struct Held {
    address: IpAddr,
    end: Arc<Notify>,
    greeting: bool,
}

pub struct Entry {
    connections: Arc<Connections>,
    client: Target,
    id: u64,
    pub end: Arc<Notify>,
    /// Of this client, this one included.
    pub handshakes: usize,
}

/// Through which connections come in. Whoever came is entered before it closes.
pub struct Door(Arc<Connections>);

impl Drop for Door {
    fn drop(&mut self) {
        self.0.doors.fetch_sub(1, Ordering::SeqCst);
        self.0.left.notify_waiters();
    }
}

impl Connections {
    pub fn open_door(self: &Arc<Self>) -> Door {
        self.doors.fetch_add(1, Ordering::SeqCst);
        Door(self.clone())
    }

    /// Ends the connections of these addresses; an answer in flight is written first.
    pub fn close(&self, addresses: IpNet) {
        let all = self.all();
        let blocked = all.values().flat_map(HashMap::values).filter(|held| addresses.contains(&held.address));
        blocked.for_each(|held| held.end.notify_one());
    }

    /// Ends all, and returns when they have.
    pub async fn drain(&self) {
        self.all().values().flat_map(HashMap::values).for_each(|held| held.end.notify_one());
        self.until(|| self.all().is_empty()).await;
    }

    /// Returns when nobody comes in any more.
    pub async fn closed(&self) {
        self.until(|| self.doors.load(Ordering::SeqCst) == 0).await;
    }

    /// Returns when nobody comes in any more and the last has left.
    pub async fn finished(&self) {
        self.until(|| self.doors.load(Ordering::SeqCst) == 0 && self.all().is_empty()).await;
    }

    async fn until(&self, reached: impl Fn() -> bool) {
        loop {
            let left = self.left.notified();
            if reached() {
                return;
            }
            left.await;
        }
    }

    pub fn enter(self: &Arc<Self>, address: IpAddr, client: Target) -> Entry {
        let (id, end) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::new(Notify::new()));
        let mut all = self.all();
        let of_client = all.entry(client).or_default();
        of_client.insert(id, Held { address, end: end.clone(), greeting: true });
        let handshakes = of_client.values().filter(|held| held.greeting).count();
        Entry { connections: self.clone(), client, id, end, handshakes }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Target, HashMap<u64, Held>>> {
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    pub fn greeted(&self) {
        if let Some(held) = self.connections.all().get_mut(&self.client).and_then(|held| held.get_mut(&self.id)) {
            held.greeting = false;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut all = self.connections.all();
        if let Some(held) = all.get_mut(&self.client) {
            held.remove(&self.id);
            if held.is_empty() {
                all.remove(&self.client);
            }
        }
        drop(all);
        self.connections.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_s_handshakes_are_one_client_s_and_a_block_closes_what_it_names() {
        let connections = Arc::new(Connections::default());
        let enter = |text: &str| {
            let address = text.parse().unwrap();
            connections.enter(address, Target::client(address, 64))
        };
        let (first, second, other) = (enter("2001:db8::1"), enter("2001:db8::2"), enter("2001:db8:0:1::1"));
        assert_eq!([first.handshakes, second.handshakes, other.handshakes], [1, 2, 1]);
        first.greeted();
        assert_eq!(enter("2001:db8::3").handshakes, 2);
        connections.close("2001:db8::2/128".parse().unwrap());
        let told = |entry: &Entry| {
            let mut notified = std::pin::pin!(entry.end.notified());
            notified.as_mut().enable()
        };
        assert_eq!([told(&first), told(&second), told(&other)], [false, true, false]);
        connections.close("2001:db8::/48".parse().unwrap());
        assert_eq!([told(&first), told(&second), told(&other)], [true, true, true]);
        drop((first, second, other));
        assert!(connections.all().is_empty());
    }

    #[tokio::test]
    async fn the_end_comes_when_every_door_is_closed_and_everybody_has_left() {
        let connections = Arc::new(Connections::default());
        let address = "192.0.2.1".parse().unwrap();
        let (first, second) = (connections.open_door(), connections.open_door());
        let entry = connections.enter(address, Target::client(address, 64));
        let mut finished = waits(connections.clone());
        drop(first);
        assert!(!finished.is_finished());
        let closes = async { drop(second) };
        tokio::join!(biased; connections.closed(), closes);
        assert!(!finished.is_finished());
        drop(entry);
        (&mut finished).await.unwrap();
    }

    fn waits(connections: Arc<Connections>) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move { connections.finished().await })
    }
}
