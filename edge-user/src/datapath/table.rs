//! One cache-line table and its hits, written through memory mappings. The layouts are `edge_common::table`'s.

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

pub struct Table {
    pub layout: Layout,
    pub geometry: Geometry,
    pub lines: Mapping,
    pub hits: Mapping,
}

impl Table {
    pub fn set(&self, key: Key, until: Until) -> Result<(), NoRoom> {
        let slot = self.find(key).or_else(|| self.free(key)).ok_or(NoRoom)?;
        let fresh = self.find(key).is_none();
        if fresh {
            self.hits.store(slot * 2, 0);
            self.hits.store(slot * 2 + 1, 0);
        }
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
    pub fn clear(&self, key: Key) {
        let Some(slot) = self.find(key) else { return };
        let at = slot * self.layout.words();
        for word in (0..self.layout.words().min(3)).rev() {
            self.lines.store(at + word, 0);
        }
    }

    pub fn until(&self, key: Key) -> Option<Until> {
        self.find(key).map(|slot| self.until_at(slot))
    }

    pub fn hits(&self, key: Key) -> Option<Hits> {
        let slot = self.find(key)?;
        Some(Hits { packets: self.hits.load(slot * 2), bytes: self.hits.load(slot * 2 + 1) })
    }

    pub fn add_hits(&self, key: Key, hits: Hits) {
        if let Some(slot) = self.find(key) {
            self.hits.add(slot * 2, hits.packets);
            self.hits.add(slot * 2 + 1, hits.bytes);
        }
    }

    /// Every entry that is not empty.
    pub fn entries(&self) -> impl Iterator<Item = (Key, Until)> {
        (0..self.geometry.lines as usize * self.layout.slots())
            .map(|slot| (self.key_at(slot), self.until_at(slot)))
            .filter(|(_, until)| *until != Until::EMPTY)
    }

    fn find(&self, key: Key) -> Option<usize> {
        self.slots_of(key).find(|slot| self.key_at(*slot) == key && self.until_at(*slot) != Until::EMPTY)
    }

    /// A free slot in the emptier of the two lines.
    fn free(&self, key: Key) -> Option<usize> {
        let per_line = self.layout.slots();
        let empty = |slot: &usize| self.until_at(*slot) == Until::EMPTY;
        let slots: Vec<usize> = self.slots_of(key).collect();
        let (first, second) = slots.split_at(per_line);
        let room = |line: &[usize]| line.iter().filter(|slot| empty(slot)).count();
        let line = if room(first) >= room(second) { first } else { second };
        line.iter().copied().find(|slot| empty(slot))
    }

    fn slots_of(&self, key: Key) -> impl Iterator<Item = usize> + use<> {
        let hashed = match key {
            Key::Four(address) => u64::from(address.bits()),
            Key::Unit(unit) => unit,
            Key::Host(address) => self.geometry.fold(address),
        };
        let per_line = self.layout.slots();
        let lines = self.geometry.candidates(hashed);
        lines.into_iter().flat_map(move |line| (0..per_line).map(move |slot| line as usize * per_line + slot))
    }

    fn key_at(&self, slot: usize) -> Key {
        let at = slot * self.layout.words();
        match self.layout {
            Layout::Four => Key::Four(Entry4::from_bits(self.lines.load(at)).address()),
            Layout::Unit => Key::Unit(self.lines.load(at)),
            Layout::Host => Key::Host(Addr6::from_halves(self.lines.load(at), self.lines.load(at + 1))),
        }
    }

    fn until_at(&self, slot: usize) -> Until {
        let at = slot * self.layout.words();
        match self.layout {
            Layout::Four => Entry4::from_bits(self.lines.load(at)).until(),
            Layout::Unit => Until::from_bits(self.lines.load(at + 1) as u32),
            Layout::Host => Until::from_bits(self.lines.load(at + 2) as u32),
        }
    }
}
