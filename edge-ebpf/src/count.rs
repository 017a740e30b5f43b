//! Per-CPU counters by reason and family: plain additions, summed when read.

use edge_ebpf::judge::Judgement;

use crate::maps::COUNTERS;

#[inline(always)]
pub fn add(judgement: Judgement) {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else { return };
    // SAFETY: the map holds one value for each CPU, and a program is not preempted by itself on its CPU; both indices
    // are enums that the array is sized by.
    unsafe {
        let tally = &raw mut (*counters).by[judgement.reason as usize][judgement.family as usize];
        (*tally).packets += 1;
        (*tally).bytes += judgement.bytes;
    }
}
