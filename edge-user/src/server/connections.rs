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

/// All connections by client, to close those of one, and to know when all have ended.
#[derive(Default)]
pub struct Connections {
    by_client: Mutex<HashMap<IpAddr, HashMap<u64, Held>>>,
    next: AtomicU64,
    left: Notify,
}

struct Held {
    end: Arc<Notify>,
    greeting: bool,
}

pub struct Entry<'a> {
    connections: &'a Connections,
    client: IpAddr,
    id: u64,
    pub end: Arc<Notify>,
    /// Of this client, this one included.
    pub handshakes: usize,
}

impl Connections {
    /// Ends the connections of these clients; an answer in flight is written first.
    pub fn close(&self, clients: IpNet) {
        for (client, held) in self.all().iter() {
            if clients.contains(client) {
                held.values().for_each(|held| held.end.notify_one());
            }
        }
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

    pub fn enter(&self, client: IpAddr) -> Entry<'_> {
        let (id, end) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::new(Notify::new()));
        let mut all = self.all();
        let of_client = all.entry(client).or_default();
        of_client.insert(id, Held { end: end.clone(), greeting: true });
        let handshakes = of_client.values().filter(|held| held.greeting).count();
        Entry { connections: self, client, id, end, handshakes }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<IpAddr, HashMap<u64, Held>>> {
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
