//! Per-CPU counters by reason and family: plain additions, summed when read.

use edge_common::reason::{Counters, Run};
use edge_ebpf::judge::Judgement;

use crate::maps::COUNTERS;

#[inline(always)]
pub fn add(run: Run, judgement: Judgement) {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else { return };
    // SAFETY: the map holds one value for each CPU, and a program is not preempted by itself on its CPU.
    let counters: &mut Counters = unsafe { &mut *counters };
    let tally = counters.tally_mut(run, judgement.reason, judgement.family);
    tally.packets += 1;
    tally.bytes += judgement.bytes;
}
