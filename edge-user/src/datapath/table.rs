//! One cache-line table and its hits, written through memory mappings. The layouts are `edge_common::table`'s.

use std::sync::atomic::Ordering;

use edge_common::{
    address::{Addr4, Addr6},
    table::{Entry4, Geometry, Hits},
    time::Until,
};

use super::mapping::Mapping;

/// What the table's entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Eight IPv4 addresses a line, one word each.
    Four,
    /// Four IPv6 /64 a line, two words each.
    Unit,
    /// Two IPv6 addresses a line, four words each.
    Host,
}

impl Layout {
    pub const fn words(self) -> usize {
        match self {
            Layout::Four => 1,
            Layout::Unit => 2,
            Layout::Host => 4,
        }
    }

    pub const fn slots(self) -> usize {
        8 / self.words()
    }

    /// Which word of an entry has its end.
    const fn word_of_end(self) -> usize {
        match self {
            Layout::Four => 0,
            Layout::Unit => 1,
            Layout::Host => 2,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Four(Addr4),
    Unit(u64),
    Host(Addr6),
}

/// Both lines of the key are full.
#[derive(Debug, PartialEq, Eq)]
pub struct NoRoom;

/// Written by its one owner, who therefore knows how many entries there are.
pub struct Table {
    pub layout: Layout,
    pub geometry: Geometry,
    lines: Mapping,
    hits: Mapping,
    used: usize,
    /// A bit for each slot that held an entry before: its hits are another's.
    spent: Vec<u64>,
}

impl Table {
    /// Over maps of `lines` lines with nothing in them; else [`recall`](Self::recall) is to follow.
    pub fn new(layout: Layout, lines: u32, entries: Mapping, hits: Mapping) -> Table {
        let geometry = Geometry { lines: u64::from(lines), ..Geometry::default() };
        let spent = vec![0; (lines as usize * layout.slots()).div_ceil(64)];
        Table { layout, geometry, lines: entries, hits, used: 0, spent }
    }

    /// Takes over what another process wrote.
    pub fn recall(&mut self, geometry: Geometry) {
        self.geometry = geometry;
        self.used = self.held();
        self.spent.fill(u64::MAX);
    }

    pub fn set(&mut self, key: Key, until: Until) -> Result<(), NoRoom> {
        let slot = match self.look(key) {
            Found::Held(slot) => slot,
            Found::Free(slot) => self.take(slot),
            Found::NoRoom => return Err(NoRoom),
        };
        let at = slot * self.layout.words();
        match key {
            Key::Four(address) => self.lines.store(at, Entry4::new(address, until).bits()),
            Key::Unit(unit) => {
                self.lines.store(at, unit);
                self.lines.store(at + 1, u64::from(until.bits()));
            }
            Key::Host(address) => {
                self.lines.store(at, address.unit());
                self.lines.store(at + 1, address.low());
                self.lines.store(at + 2, u64::from(until.bits()));
            }
        }
        Ok(())
    }

    /// The end goes first, so that no reader sees half an entry in force.
    pub fn clear(&mut self, key: Key) {
        let Some(slot) = self.find(key) else { return };
        let at = slot * self.layout.words();
        for word in (0..self.layout.words().min(3)).rev() {
            self.lines.store(at + word, 0);
        }
        self.used -= 1;
        self.spent[slot / 64] |= 1 << (slot % 64);
    }

    pub fn until(&self, key: Key) -> Option<Until> {
        self.find(key).map(|slot| self.until_at(slot))
    }

    pub fn hits(&self, key: Key) -> Option<Hits> {
        self.find(key).map(|slot| self.hits_at(slot))
    }

    pub fn add_hits(&self, key: Key, hits: Hits) {
        if let Some(slot) = self.find(key) {
            self.hits.add(slot * 2, hits.packets);
            self.hits.add(slot * 2 + 1, hits.bytes);
        }
    }

    /// Every entry that is not empty.
    pub fn entries(&self) -> impl Iterator<Item = (Key, Until)> {
        (0..self.capacity())
            .map(|slot| (self.key_at(slot), self.until_at(slot)))
            .filter(|(_, until)| *until != Until::EMPTY)
    }

    /// Every entry that counted a packet.
    pub fn counted(&self) -> impl Iterator<Item = (Key, Hits)> {
        let counted = (0..self.capacity()).map(|slot| (slot, self.hits_at(slot)));
        let counted = counted.filter(|(slot, hits)| hits.packets > 0 && self.until_at(*slot) != Until::EMPTY);
        counted.map(|(slot, hits)| (self.key_at(slot), hits))
    }

    /// How many entries there should be, by what was written.
    pub fn used(&self) -> usize {
        self.used
    }

    /// How many entries there are, by the map itself.
    pub fn held(&self) -> usize {
        let words = self.lines.words().chunks_exact(self.layout.words());
        words.filter(|entry| entry[self.layout.word_of_end()].load(Ordering::Relaxed) as u32 != 0).count()
    }

    pub fn capacity(&self) -> usize {
        self.geometry.lines as usize * self.layout.slots()
    }

    /// Has the processor fetch the lines that [`set`](Self::set) will look into.
    pub fn fetch(&self, key: Key) {
        for line in self.lines_of(key) {
            std::hint::black_box(self.lines.load(line * 8));
        }
    }

    fn find(&self, key: Key) -> Option<usize> {
        match self.look(key) {
            Found::Held(slot) => Some(slot),
            Found::Free(_) | Found::NoRoom => None,
        }
    }

    /// The key's slot, else a free one in the emptier of its two lines.
    fn look(&self, key: Key) -> Found {
        let mut best = None;
        for line in self.lines_of(key) {
            let (mut free, mut first) = (0, None);
            for slot in line * self.layout.slots()..(line + 1) * self.layout.slots() {
                if self.until_at(slot) == Until::EMPTY {
                    free += 1;
                    first.get_or_insert(slot);
                } else if self.key_at(slot) == key {
                    return Found::Held(slot);
                }
            }
            if best.is_none_or(|(most, _)| free > most) {
                best = first.map(|slot| (free, slot)).or(best);
            }
        }
        best.map_or(Found::NoRoom, |(_, slot)| Found::Free(slot))
    }

    /// A free slot, whose hits begin anew.
    fn take(&mut self, slot: usize) -> usize {
        if self.spent[slot / 64] >> (slot % 64) & 1 == 1 {
            self.hits.store(slot * 2, 0);
            self.hits.store(slot * 2 + 1, 0);
        }
        self.used += 1;
        slot
    }

    fn lines_of(&self, key: Key) -> [usize; 2] {
        let hashed = match key {
            Key::Four(address) => u64::from(address.bits()),
            Key::Unit(unit) => unit,
            Key::Host(address) => self.geometry.fold(address),
        };
        self.geometry.candidates(hashed).map(|line| line as usize)
    }

    fn key_at(&self, slot: usize) -> Key {
        let at = slot * self.layout.words();
        match self.layout {
            Layout::Four => Key::Four(Entry4::from_bits(self.lines.load(at)).address()),
            Layout::Unit => Key::Unit(self.lines.load(at)),
            Layout::Host => Key::Host(Addr6::from_halves(self.lines.load(at), self.lines.load(at + 1))),
        }
    }

    /// The low half of its word in every layout.
    fn until_at(&self, slot: usize) -> Until {
        Until::from_bits(self.lines.load(slot * self.layout.words() + self.layout.word_of_end()) as u32)
    }

    fn hits_at(&self, slot: usize) -> Hits {
        Hits { packets: self.hits.load(slot * 2), bytes: self.hits.load(slot * 2 + 1) }
    }
}

enum Found {
    Held(usize),
    Free(usize),
    NoRoom,
}
