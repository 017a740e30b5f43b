//! One cache-line table with its counts, written through a memory mapping. The layouts are `edge_common::table`'s.

use std::{
    mem::offset_of,
    sync::atomic::{AtomicU64, Ordering},
};

use edge_common::{
    address::{Addr4, Addr6},
    table::{Count, Entry4, Geometry, Hits, Line4, LineHost6, LineUnit6, Single},
    time::Until,
};

use super::{mapping::Mapping, spilled::Spilled};

/// What the table's entries are, and where their parts lie in a line of eight words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// [`Line4`]
    Four,
    /// [`LineUnit6`]
    Unit,
    /// [`LineHost6`]
    Host,
}

/// Words of a line.
const WORDS: usize = 8;

impl Layout {
    pub const fn slots(self) -> usize {
        match self {
            Layout::Four => Line4::SLOTS,
            Layout::Unit => LineUnit6::SLOTS,
            Layout::Host => LineHost6::SLOTS,
        }
    }

    const fn single(self) -> Single {
        match self {
            Layout::Four => Single::Four,
            Layout::Unit => Single::Unit,
            Layout::Host => Single::Host,
        }
    }

    /// The word with the count of a line's first slot; the others follow.
    const fn counts(self) -> usize {
        match self {
            Layout::Four => offset_of!(Line4, counts) / 8,
            Layout::Unit => offset_of!(LineUnit6, counts) / 8,
            Layout::Host => offset_of!(LineHost6, counts) / 8,
        }
    }

    /// The word with the end of a line's `slot`, and the shift within it.
    const fn end(self, slot: usize) -> (usize, u32) {
        let first = match self {
            Layout::Four => return (slot, 0),
            Layout::Unit => offset_of!(LineUnit6, untils) / 8,
            Layout::Host => offset_of!(LineHost6, untils) / 8,
        };
        (first + slot / 2, slot as u32 % 2 * u32::BITS)
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
    spilled: Spilled,
    used: usize,
    /// Of each line: how many entries whose first line it is lie in their second.
    overflown: Vec<u32>,
}

impl Table {
    /// Over maps of `lines` lines with nothing in them; else [`recall`](Self::recall) is to follow.
    pub fn new(layout: Layout, lines: u32, entries: Mapping, spilled: Spilled) -> Table {
        let geometry = Geometry { lines: u64::from(lines), ..Geometry::default() };
        Table { layout, geometry, lines: entries, spilled, used: 0, overflown: vec![0; lines as usize] }
    }

    /// Takes over what another process wrote.
    pub fn recall(&mut self, geometry: Geometry) {
        self.geometry = geometry;
        self.used = self.held();
        self.overflown.fill(0);
        for slot in 0..self.capacity() {
            if self.until_at(slot) != Until::EMPTY
                && let Some(near) = self.overflowed_from(self.key_at(slot), slot)
            {
                self.overflown[near] += 1;
                self.say_overflown(near);
            }
        }
    }

    pub fn set(&mut self, key: Key, until: Until) -> Result<(), NoRoom> {
        let slot = match self.look(key) {
            Found::Held(slot) => self.keep(key, slot),
            Found::Free(slot) => self.take(key, slot),
            Found::NoRoom => return Err(NoRoom),
        };
        let (line, within) = self.place(slot);
        match key {
            Key::Four(address) => {
                self.lines.store(line + within, Entry4::new(address, until).bits());
                return Ok(());
            }
            Key::Unit(unit) => self.lines.store(line + within, unit),
            Key::Host(address) => {
                self.lines.store(line + within, address.unit());
                self.lines.store(line + LineHost6::SLOTS + within, address.low());
            }
        }
        self.store_end(slot, until);
        Ok(())
    }

    /// The end goes first, so that no reader sees half an entry in force.
    pub fn clear(&mut self, key: Key) {
        let Some(slot) = self.find(key) else { return };
        self.store_end(slot, Until::EMPTY);
        let (line, within) = self.place(slot);
        self.lines.store(line + within, 0);
        if self.layout == Layout::Host {
            self.lines.store(line + LineHost6::SLOTS + within, 0);
        }
        self.count_anew(slot);
        if let Some(near) = self.overflowed_from(key, slot) {
            self.overflown[near] = self.overflown[near].saturating_sub(1);
            if self.overflown[near] == 0 {
                self.lines.clear_bits(self.first_count(near), Count::OVERFLOWN);
            }
        }
        self.used = self.used.saturating_sub(1);
    }

    pub fn until(&self, key: Key) -> Option<Until> {
        self.find(key).map(|slot| self.until_at(slot))
    }

    pub fn hits(&self, key: Key) -> Option<Hits> {
        self.find(key).map(|slot| self.hits_at(slot))
    }

    pub fn add_hits(&mut self, key: Key, hits: Hits) {
        let Some(slot) = self.find(key) else { return };
        let word = self.count_word(slot);
        match Count::of(hits) {
            Some(count) => self.lines.add(word, count.bits()),
            None => {
                self.spilled.add(self.layout.single().spill(slot as u32), hits);
                self.lines.set_bits(word, Count::SPILLED);
            }
        }
    }

    /// Every entry that the kernel finds: one in its second line only where the first says so.
    pub fn entries(&self) -> impl Iterator<Item = (Key, Until)> {
        let held = (0..self.capacity()).filter(|slot| self.until_at(*slot) != Until::EMPTY);
        held.map(|slot| (slot, self.key_at(slot)))
            .filter(|(slot, key)| {
                self.overflowed_from(*key, *slot)
                    .is_none_or(|near| self.count_at(self.first_count(near)).is_overflown())
            })
            .map(|(slot, key)| (key, self.until_at(slot)))
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
        let ends = [0, 1, 2, 3].map(|slot| self.layout.end(slot));
        let ends = &ends[..self.layout.slots()];
        let of_line = |line: &[AtomicU64]| {
            ends.iter().filter(|(word, shift)| (line[*word].load(Ordering::Relaxed) >> shift) as u32 != 0).count()
        };
        self.lines.words().chunks_exact(WORDS).map(of_line).sum()
    }

    pub fn capacity(&self) -> usize {
        self.geometry.lines as usize * self.layout.slots()
    }

    /// Has the processor fetch the line that [`set`](Self::set) will look into.
    pub fn fetch(&self, key: Key) {
        let [near, _] = self.lines_of(key);
        std::hint::black_box(self.lines.load(near * WORDS));
    }

    fn find(&self, key: Key) -> Option<usize> {
        match self.look(key) {
            Found::Held(slot) => Some(slot),
            Found::Free(_) | Found::NoRoom => None,
        }
    }

    /// The key's slot, else a free one in the first of its two lines that has one: the kernel looks into the second only
    /// where the first says that it must.
    fn look(&self, key: Key) -> Found {
        let [near, far] = self.lines_of(key);
        let (held, free) = self.look_into(near, key);
        if let Some(slot) = held {
            return Found::Held(slot);
        }
        let (held, further) =
            if free.is_none() || self.overflown[near] > 0 { self.look_into(far, key) } else { (None, None) };
        match (held, free.or(further)) {
            (Some(slot), _) => Found::Held(slot),
            (None, Some(slot)) => Found::Free(slot),
            (None, None) => Found::NoRoom,
        }
    }

    /// The key's slot in this line, and the first free one.
    fn look_into(&self, line: usize, key: Key) -> (Option<usize>, Option<usize>) {
        let mut free = None;
        for slot in line * self.layout.slots()..(line + 1) * self.layout.slots() {
            if self.until_at(slot) == Until::EMPTY {
                free = free.or(Some(slot));
            } else if self.key_at(slot) == key {
                return (Some(slot), free);
            }
        }
        (None, free)
    }

    /// A slot that holds the key already.
    fn keep(&self, key: Key, slot: usize) -> usize {
        if let Some(near) = self.overflowed_from(key, slot) {
            self.say_overflown(near);
        }
        slot
    }

    /// A free slot. The first line says that it lies in the second before it does.
    fn take(&mut self, key: Key, slot: usize) -> usize {
        self.count_anew(slot);
        if let Some(near) = self.overflowed_from(key, slot) {
            self.overflown[near] += 1;
            self.say_overflown(near);
        }
        self.used += 1;
        slot
    }

    /// What packets that are judged at this moment count for the former entry is cleared away when the slot is taken again.
    fn count_anew(&mut self, slot: usize) {
        let word = self.count_word(slot);
        if self.count_at(word).is_spilled() {
            self.spilled.forget(self.layout.single().spill(slot as u32));
        }
        self.lines.clear_bits(word, !Count::OVERFLOWN);
    }

    fn say_overflown(&self, line: usize) {
        self.lines.set_bits(self.first_count(line), Count::OVERFLOWN);
    }

    /// The word of the count of a line's first slot, which has the line's flag too.
    fn first_count(&self, line: usize) -> usize {
        line * WORDS + self.layout.counts()
    }

    fn count_at(&self, word: usize) -> Count {
        Count::from_bits(self.lines.load(word))
    }

    /// The first line of a key, where its slot is in the second.
    fn overflowed_from(&self, key: Key, slot: usize) -> Option<usize> {
        let [near, _] = self.lines_of(key);
        (slot / self.layout.slots() != near).then_some(near)
    }

    /// The first word of the slot's line, and which of its slots it is.
    fn place(&self, slot: usize) -> (usize, usize) {
        let slots = self.layout.slots();
        (slot / slots * WORDS, slot % slots)
    }

    fn count_word(&self, slot: usize) -> usize {
        let (line, within) = self.place(slot);
        line + self.layout.counts() + within
    }

    /// Ends share words, which only this owner writes.
    fn store_end(&self, slot: usize, until: Until) {
        let (line, within) = self.place(slot);
        let (word, shift) = self.layout.end(within);
        let others = self.lines.load(line + word) & !(u64::from(u32::MAX) << shift);
        self.lines.store(line + word, others | u64::from(until.bits()) << shift);
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
        let (line, within) = self.place(slot);
        let word = self.lines.load(line + within);
        match self.layout {
            Layout::Four => Key::Four(Entry4::from_bits(word).address()),
            Layout::Unit => Key::Unit(word),
            Layout::Host => Key::Host(Addr6::from_halves(word, self.lines.load(line + LineHost6::SLOTS + within))),
        }
    }

    fn until_at(&self, slot: usize) -> Until {
        let (line, within) = self.place(slot);
        let (word, shift) = self.layout.end(within);
        Until::from_bits((self.lines.load(line + word) >> shift) as u32)
    }

    /// Both parts of it, read anew where the kernel moved one to the other meanwhile.
    fn hits_at(&self, slot: usize) -> Hits {
        let word = self.count_word(slot);
        let mut count = self.count_at(word);
        while count.is_spilled() {
            let beside = self.spilled.get(self.layout.single().spill(slot as u32));
            let after = self.count_at(word);
            let (before, here) = (count.hits(), after.hits());
            if here.packets >= before.packets {
                return Hits { packets: here.packets + beside.packets, bytes: here.bytes + beside.bytes };
            }
            count = after;
        }
        count.hits()
    }
}

enum Found {
    Held(usize),
    Free(usize),
    NoRoom,
}
