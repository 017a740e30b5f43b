//! Samples of drops for the agent: the first of a source and reason, again after a while, and never more than a few a
//! jiffy, so that a flood pays next to nothing for them.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_jiffies64, programs::XdpContext};
use edge_common::event::{A_JIFFY, AGAIN_AFTER_NS, Event, REMEMBERED, mark};
use edge_ebpf::judge::Judgement;

use crate::maps::{EVENTS, SAMPLED, SAMPLER, settings};

/// The times in `SAMPLED` are in units of 2^28 ns.
const UNIT: u32 = 28;

#[inline(always)]
pub fn take(context: &XdpContext, judgement: &Judgement) {
    let mark = mark(judgement.source, judgement.reason as u32);
    let Some(last) = SAMPLED.get_ptr_mut(mark as u32 & (REMEMBERED - 1)) else { return };
    let Some(settings) = settings() else { return };
    // SAFETY: a helper without arguments, which the verifier turns into a load.
    let jiffies = unsafe { bpf_jiffies64() };
    let boot_ns = settings.clock.boot_ns(jiffies);
    let unit = (boot_ns >> UNIT) as u32;
    // SAFETY: a word of a map; a race of two CPUs costs one sample too many.
    let remembered = unsafe { last.read_volatile() };
    if (remembered ^ mark) >> 32 == 0 && unit.wrapping_sub(remembered as u32) < (AGAIN_AFTER_NS >> UNIT) as u32 {
        return;
    }
    if !within_jiffy(jiffies) {
        return;
    }
    // SAFETY: as above.
    unsafe { last.write_volatile(mark >> 32 << 32 | u64::from(unit)) };
    send(context, judgement, boot_ns);
}

/// Whether this CPU may take another sample in this jiffy.
#[inline(always)]
fn within_jiffy(jiffies: u64) -> bool {
    let Some(sampler) = SAMPLER.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own value.
    unsafe {
        if (*sampler).jiffy != jiffies {
            (*sampler).jiffy = jiffies;
            (*sampler).taken = 0;
        }
        (*sampler).taken += 1;
        (*sampler).taken <= A_JIFFY
    }
}

#[inline(always)]
fn send(context: &XdpContext, judgement: &Judgement, boot_ns: u64) {
    let Some(mut place) = EVENTS.reserve(0) else {
        if let Some(sampler) = SAMPLER.get_ptr_mut(0) {
            // SAFETY: this CPU's own value.
            unsafe { (*sampler).lost += 1 };
        }
        return;
    };
    // SAFETY: the context that the kernel handed to the program.
    let interface = unsafe { (*context.as_ptr().cast::<aya_ebpf::bindings::xdp_md>()).ingress_ifindex };
    place.write(Event {
        boot_ns,
        source: judgement.source,
        reason: judgement.reason as u32,
        interface,
        bytes: judgement.bytes,
    });
    place.submit(0);
}
