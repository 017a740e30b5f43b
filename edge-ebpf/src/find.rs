//! Looking for a key in its two lines of a cache-line table, and counting a drop there.

use core::ptr::read_volatile;

use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::Array};
use edge_common::{
    address::{Addr4, Addr6},
    table::{Count, Hits, Line4, LineHost6, LineUnit6, Single},
    time::Until,
};
use edge_ebpf::judge::Block;

use crate::{
    atomic,
    maps::{MAPPED, SPILLED},
};

/// An entry that was found.
pub struct Found {
    pub until: Until,
    count: *mut Count,
    /// The slot's key in `SPILLED`.
    spill: u64,
}

/// A line of a table. Entries are written whole, or key before end: the end is none while the key is not whole.
pub trait Line {
    type Key: Copy;
    const SLOTS: usize;
    const SINGLE: Single;
    /// The end of the entry, if it is the key's and not an empty slot.
    fn until(line: *const Self, slot: usize, key: Self::Key) -> Option<Until>;
    fn count(line: *mut Self, slot: usize) -> *mut Count;
}

#[inline(always)]
pub fn find<L: Line>(table: &Array<L, 1, MAPPED>, candidates: [u32; 2], key: L::Key) -> Option<Found> {
    let [near, far] = candidates;
    let line = table.get_ptr_mut(near)?;
    if let Some(found) = look(line, near, key) {
        return Some(found);
    }
    // SAFETY: every line has a first slot.
    if !unsafe { read_volatile(L::count(line, 0)) }.is_overflown() {
        return None;
    }
    look(table.get_ptr_mut(far)?, far, key)
}

#[inline(always)]
fn look<L: Line>(line: *mut L, index: u32, key: L::Key) -> Option<Found> {
    for slot in 0..L::SLOTS {
        if let Some(until) = L::until(line, slot, key) {
            let spill = L::SINGLE.spill(index * L::SLOTS as u32 + slot as u32);
            return Some(Found { until, count: L::count(line, slot), spill });
        }
    }
    None
}

impl Line for Line4 {
    type Key = Addr4;
    const SLOTS: usize = Line4::SLOTS;
    const SINGLE: Single = Single::Four;

    #[inline(always)]
    fn until(line: *const Line4, slot: usize, key: Addr4) -> Option<Until> {
        // SAFETY: the slot is within the line.
        let entry = unsafe { read_volatile(&raw const (*line).entries[slot]) };
        // An empty slot reads as 0.0.0.0 with the end that never holds.
        (entry.is_of(key) && entry.until() != Until::EMPTY).then_some(entry.until())
    }

    #[inline(always)]
    fn count(line: *mut Line4, slot: usize) -> *mut Count {
        // SAFETY: the slot is within the line.
        unsafe { &raw mut (*line).counts[slot] }
    }
}

impl Line for LineUnit6 {
    /// The /64.
    type Key = u64;
    const SLOTS: usize = LineUnit6::SLOTS;
    const SINGLE: Single = Single::Unit;

    #[inline(always)]
    fn until(line: *const LineUnit6, slot: usize, key: u64) -> Option<Until> {
        // SAFETY: the slot is within the line.
        if unsafe { read_volatile(&raw const (*line).units[slot]) } != key {
            return None;
        }
        // SAFETY: the slot is within the line.
        held(unsafe { read_volatile(&raw const (*line).untils[slot]) })
    }

    #[inline(always)]
    fn count(line: *mut LineUnit6, slot: usize) -> *mut Count {
        // SAFETY: the slot is within the line.
        unsafe { &raw mut (*line).counts[slot] }
    }
}

impl Line for LineHost6 {
    type Key = Addr6;
    const SLOTS: usize = LineHost6::SLOTS;
    const SINGLE: Single = Single::Host;

    #[inline(always)]
    fn until(line: *const LineHost6, slot: usize, key: Addr6) -> Option<Until> {
        // SAFETY: the slot is within the line.
        let [unit, low] =
            unsafe { [&raw const (*line).units[slot], &raw const (*line).lows[slot]].map(|half| read_volatile(half)) };
        if low != key.low() || unit != key.unit() {
            return None;
        }
        // SAFETY: the slot is within the line.
        held(unsafe { read_volatile(&raw const (*line).untils[slot]) })
    }

    #[inline(always)]
    fn count(line: *mut LineHost6, slot: usize) -> *mut Count {
        // SAFETY: the slot is within the line.
        unsafe { &raw mut (*line).counts[slot] }
    }
}

#[inline(always)]
fn held(until: u32) -> Option<Until> {
    if until == 0 { None } else { Some(Until::from_bits(until)) }
}

impl Found {
    /// Counts a packet for the entry, exactly, whatever other CPUs count.
    #[inline(always)]
    pub fn hit(&self, bytes: u64) -> Block {
        // SAFETY: a word of a line, aligned as lines are.
        let was = Count::from_bits(unsafe { atomic::fetch_add(self.count.cast(), Count::packet(bytes)) });
        if was.is_half_full() {
            spill(self.count, self.spill);
        }
        if was.is_new() { Block::First } else { Block::Again }
    }
}

/// Moves a count out of its line. Where another CPU counts meanwhile, the next packet tries again; where `SPILLED` has no
/// room the count begins anew, for there is none left in the word either.
#[cold]
#[inline(never)]
fn spill(count: *mut Count, key: u64) {
    if SPILLED.get_ptr(key).is_none() {
        // Another CPU may be first.
        let _ = SPILLED.insert(key, Hits::default(), u64::from(BPF_NOEXIST));
    }
    // SAFETY: a word of a line, aligned as lines are.
    let full = unsafe { read_volatile(count) };
    // SAFETY: as above.
    if !full.is_half_full() || !unsafe { atomic::swap(count.cast(), full.bits(), full.emptied()) } {
        return;
    }
    if let Some(place) = SPILLED.get_ptr_mut(key) {
        let hits = full.hits();
        // SAFETY: a value of a map, aligned as its type is.
        unsafe {
            atomic::add(&raw mut (*place).bytes, hits.bytes);
            atomic::add(&raw mut (*place).packets, hits.packets);
        }
    }
}
