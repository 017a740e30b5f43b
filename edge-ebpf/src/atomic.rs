//! Atomic addition and compare-and-swap. rustc's BPF target has neither in `core::sync::atomic` (`atomic-cas: false`), so
//! each is one instruction of assembly: addition since Linux 3.18, what gives the former value since 5.12.

use core::arch::asm;

/// Adds `value` to the word at `place`, exactly, whatever other CPUs add to it.
///
/// # Safety
/// `place` must point into a map's value and be aligned to 8 bytes.
#[inline(always)]
pub unsafe fn add(place: *mut u64, value: u64) {
    // SAFETY: the caller's; the instruction reads and writes that one word.
    unsafe {
        asm!("lock *(u64 *)({place} + 0) += {value}", place = in(reg) place, value = in(reg) value, options(nostack))
    }
}

/// The same; gives what the word was.
///
/// # Safety
/// `place` must point into a map's value and be aligned to 8 bytes.
#[inline(always)]
pub unsafe fn fetch_add(place: *mut u64, value: u64) -> u64 {
    let mut was = value;
    // SAFETY: the caller's; the instruction reads and writes that one word.
    unsafe {
        asm!("{was} = atomic_fetch_add((u64 *)({place} + 0), {was})",
            place = in(reg) place, was = inout(reg) was, options(nostack))
    }
    was
}

/// Writes `new` where the word is `old`; whether it was.
///
/// # Safety
/// `place` must point into a map's value and be aligned to 8 bytes.
#[inline(always)]
pub unsafe fn swap(place: *mut u64, old: u64, new: u64) -> bool {
    let mut found = old;
    // SAFETY: the caller's; the instruction reads and writes that one word, and r0.
    unsafe {
        asm!("r0 = cmpxchg_64({place} + 0, r0, {new})",
            place = in(reg) place, new = in(reg) new, inout("r0") found, options(nostack))
    }
    found == old
}
