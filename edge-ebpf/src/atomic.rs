//! Atomic addition. rustc's BPF target has no `fetch_add` in `core::sync::atomic` (`atomic-cas: false`), so it is one
//! instruction of assembly, which every kernel since 3.18 knows.

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
