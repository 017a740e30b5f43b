//! Who is connected: which connections to close when a client is blocked, how many of one are in their handshake, and
//! when the last has ended.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
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
    left: Notify,
}

struct Held {
    address: IpAddr,
    end: Arc<Notify>,
    greeting: bool,
}

pub struct Entry<'a> {
    connections: &'a Connections,
    client: Target,
    id: u64,
    pub end: Arc<Notify>,
    /// Of this client, this one included.
    pub handshakes: usize,
}

impl Connections {
    /// Ends the connections of these addresses; an answer in flight is written first.
    pub fn close(&self, addresses: IpNet) {
        let all = self.all();
        let blocked = all.values().flat_map(HashMap::values).filter(|held| addresses.contains(&held.address));
        blocked.for_each(|held| held.end.notify_one());
    }

    /// Ends all, and returns when they have.
    pub async fn drain(&self) {
        self.all().values().flat_map(HashMap::values).for_each(|held| held.end.notify_one());
        loop {
            let left = self.left.notified();
            if self.all().is_empty() {
                return;
            }
            left.await;
        }
    }

    pub fn enter(&self, address: IpAddr, client: Target) -> Entry<'_> {
        let (id, end) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::new(Notify::new()));
        let mut all = self.all();
        let of_client = all.entry(client).or_default();
        of_client.insert(id, Held { address, end: end.clone(), greeting: true });
        let handshakes = of_client.values().filter(|held| held.greeting).count();
        Entry { connections: self, client, id, end, handshakes }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Target, HashMap<u64, Held>>> {
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry<'_> {
    pub fn greeted(&self) {
        if let Some(held) = self.connections.all().get_mut(&self.client).and_then(|held| held.get_mut(&self.id)) {
            held.greeting = false;
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut all = self.connections.all();
        if let Some(held) = all.get_mut(&self.client) {
            held.remove(&self.id);
            if held.is_empty() {
                all.remove(&self.client);
            }
        }
        self.connections.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_s_handshakes_are_one_client_s_and_a_block_closes_what_it_names() {
        let connections = Connections::default();
        let enter = |text: &str| {
            let address = text.parse().unwrap();
            connections.enter(address, Target::client(address, 64))
        };
        let (first, second, other) = (enter("2001:db8::1"), enter("2001:db8::2"), enter("2001:db8:0:1::1"));
        assert_eq!([first.handshakes, second.handshakes, other.handshakes], [1, 2, 1]);
        first.greeted();
        assert_eq!(enter("2001:db8::3").handshakes, 2);
        connections.close("2001:db8::2/128".parse().unwrap());
        let told = |entry: &Entry<'_>| {
            let mut notified = std::pin::pin!(entry.end.notified());
            notified.as_mut().enable()
        };
        assert_eq!([told(&first), told(&second), told(&other)], [false, true, false]);
        connections.close("2001:db8::/48".parse().unwrap());
        assert_eq!([told(&first), told(&second), told(&other)], [true, true, true]);
        drop((first, second, other));
        assert!(connections.all().is_empty());
    }
}
