//! Whose SYN passed a filter: noted by the judge of packets, asked and taken back when a connection is established.

use core::ptr::read_volatile;

use edge_common::opening::{Known, LineOpening, Note, Noted, Opening};

use crate::{
    atomic,
    maps::{OPENING, jiffies, settings},
};

/// Attempts before a line is said to have forgotten one: only CPUs that note into it at this moment contend.
const ATTEMPTS: u32 = 4;

/// Notes that a SYN of this far end passed here.
#[inline(always)]
pub fn note(halves: [u64; 2], port: u16) {
    let Some(settings) = settings() else { return };
    let Opening { line, tag } = Opening::of(halves, port, settings.rates.seed_a);
    edge_note_opening(line, tag);
}

/// Whether a connection that is established came through here, as far as anybody knows. It is asked once.
#[inline(always)]
pub fn take(halves: [u64; 2], port: u16) -> bool {
    let Some(settings) = settings() else { return false };
    let Opening { line, tag } = Opening::of(halves, port, settings.rates.seed_a);
    edge_take_opening(line, tag) == 1
}

/// A function of its own, global to the kernel, so that the verifier walks it once (Linux 5.6).
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn edge_note_opening(line: u32, tag: u64) -> u32 {
    let (Some(settings), Some(line)) = (settings(), OPENING.get_ptr_mut(line)) else { return 0 };
    let now = settings.clock.boot_ns(jiffies());
    for _ in 0..ATTEMPTS {
        let Note { slot, from, to, forgot } = read(line).note(tag, now);
        if let Some(forgot) = forgot {
            forget(line, forgot);
        }
        if swap(line, slot, from, to) {
            return 1;
        }
    }
    forget(line, Noted::now(now));
    0
}

/// A function of its own, global to the kernel, so that the verifier walks it once (Linux 5.6).
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn edge_take_opening(line: u32, tag: u64) -> u32 {
    let (Some(settings), Some(line)) = (settings(), OPENING.get_ptr_mut(line)) else { return 0 };
    let known = read(line).find(tag, settings.clock.boot_ns(jiffies()));
    if let Known::Noted(slot, noted) = known {
        swap(line, slot, noted, Noted::NONE);
    }
    u32::from(known.came_by())
}

#[inline(always)]
fn swap(line: *mut LineOpening, slot: usize, from: Noted, to: Noted) -> bool {
    if slot >= LineOpening::ENDS {
        return false;
    }
    // SAFETY: a word of a line of the map, aligned as lines are.
    unsafe { atomic::swap((&raw mut (*line).ends[slot]).cast(), from.bits(), to.bits()) }
}

#[inline(always)]
fn forget(line: *mut LineOpening, when: Noted) {
    // SAFETY: a word of a line of the map, written whole; of two CPUs that write it both mean now.
    unsafe { (&raw mut (*line).forgot).cast::<u64>().write_volatile(when.bits()) };
}

/// Word by word, each whole.
#[inline(always)]
fn read(line: *const LineOpening) -> LineOpening {
    let mut copy = LineOpening::default();
    for slot in 0..LineOpening::ENDS {
        // SAFETY: within the line.
        copy.ends[slot] = Noted::from_bits(unsafe { read_volatile((&raw const (*line).ends[slot]).cast()) });
    }
    // SAFETY: as above.
    copy.forgot = Noted::from_bits(unsafe { read_volatile((&raw const (*line).forgot).cast()) });
    copy
}
