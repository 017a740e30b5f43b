//! What a table's entries counted beyond what their own words hold.

use aya::{
    Pod,
    maps::{HashMap, MapData},
};
use edge_common::table::Hits;

/// [`Hits`] as aya wants to have it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct PodHits(Hits);

// SAFETY: two words of 64 bits, no padding.
unsafe impl Pod for PodHits {}

/// Keys are `Single::spill`'s.
pub struct Spilled(HashMap<MapData, u64, PodHits>);

impl Spilled {
    pub fn new(map: HashMap<MapData, u64, PodHits>) -> Spilled {
        Spilled(map)
    }

    /// Nothing, where the kernel had no room for it.
    pub fn get(&self, key: u64) -> Hits {
        self.0.get(&key, 0).map_or(Hits::default(), |hits| hits.0)
    }

    /// The entry must not count into it at the same time. Where there is no room the counts begin anew.
    pub fn add(&mut self, key: u64, hits: Hits) {
        let Hits { packets, bytes } = self.get(key);
        let sum = Hits { packets: packets + hits.packets, bytes: bytes + hits.bytes };
        if let Err(error) = self.0.insert(key, PodHits(sum), 0) {
            tracing::debug!("no room for an entry's earlier counts: {error}");
        }
    }

    pub fn forget(&mut self, key: u64) {
        // What is not there need not go.
        let _ = self.0.remove(&key);
    }
}
