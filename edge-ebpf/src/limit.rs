//! Rates in the kernel: one source's cell, changed by compare-and-swap, so that the limit is exact over all CPUs.

use core::ptr::read_volatile;

use edge_common::rate::{Cell, ENTRIES, Limit, LineRates, Place};

use crate::{
    atomic,
    maps::{PACKET_RATES, SYN_RATES, jiffies, settings},
};

/// Attempts before a packet is refused: only the CPUs that judge this very source at this moment contend.
const ATTEMPTS: u32 = 8;

/// What is limited.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Limited {
    Syns = 0,
    Packets = 1,
}

/// Takes one packet from what the source may send now. A line without a free cell lets it pass: to forget somebody
/// else's state, or to refuse a stranger for it, would be worse.
///
/// A source that is known and that no other CPU judges at this moment is done with here; the rest is a call.
#[inline(always)]
pub fn admits(what: Limited, rates: Option<*mut LineRates>, limit: &Limit, place: Place) -> bool {
    let Some(line) = rates else { return true };
    for slot in 0..ENTRIES {
        // SAFETY: a cell of a line of the map.
        let place_of_cell = unsafe { (&raw mut (*line).cells[slot as usize]).cast::<u64>() };
        // SAFETY: as above.
        let cell = Cell::from_bits(unsafe { read_volatile(place_of_cell) });
        if cell.tag() == place.tag && cell != Cell::EMPTY {
            let Some(next) = limit.admit(cell, place.tag, limit.now(jiffies())) else { return false };
            // SAFETY: as above.
            if unsafe { atomic::swap(place_of_cell, cell.bits(), next.bits()) } {
                return true;
            }
            break;
        }
    }
    edge_admits(what as u32, place.line, place.tag) == 1
}

/// A function of its own, global to the kernel, so that the verifier walks it once (Linux 5.6).
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn edge_admits(what: u32, line: u32, tag: u32) -> u32 {
    let Some(settings) = settings() else { return 1 };
    let (rates, limit) = if what == Limited::Syns as u32 {
        (SYN_RATES.get_ptr_mut(line), &settings.syns)
    } else {
        (PACKET_RATES.get_ptr_mut(line), &settings.packets)
    };
    let Some(rates) = rates else { return 1 };
    // SAFETY: a value of a map, of this type; other CPUs change it only through compare-and-swap of whole cells.
    u32::from(take(unsafe { &mut *rates }, limit, tag, limit.now(jiffies())))
}

#[inline(always)]
fn take(line: &mut LineRates, limit: &Limit, tag: u32, now: u64) -> bool {
    for _ in 0..ATTEMPTS {
        let Some((slot, held)) = find(line, limit, tag, now) else { return true };
        let known = if held.tag() == tag { held } else { Cell::EMPTY };
        let Some(next) = limit.admit(known, tag, now) else { return false };
        let cell = (&raw mut line.cells[(slot & (ENTRIES - 1)) as usize]).cast::<u64>();
        // SAFETY: a cell of a line of the map.
        if unsafe { atomic::swap(cell, held.bits(), next.bits()) } {
            return true;
        }
    }
    false
}

/// The source's cell, else the first that says nothing.
#[inline(always)]
fn find(line: &LineRates, limit: &Limit, tag: u32, now: u64) -> Option<(u32, Cell)> {
    let mut free = None;
    for slot in 0..ENTRIES {
        // SAFETY: within the line.
        let cell = Cell::from_bits(unsafe { read_volatile((&raw const line.cells[slot as usize]).cast()) });
        if cell.tag() == tag && cell != Cell::EMPTY {
            return Some((slot, cell));
        }
        if free.is_none() && (cell == Cell::EMPTY || limit.ahead(cell, now) == 0) {
            free = Some((slot, cell));
        }
    }
    free
}
