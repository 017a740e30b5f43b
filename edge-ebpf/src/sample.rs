//! Samples of drops for the agent: the first of a source and reason, again after a while, and never more than a few a
//! jiffy, so that a flood pays next to nothing for them.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use edge_common::event::{A_JIFFY, AGAIN_AFTER_NS, Event, REMEMBERED, mark};
use edge_ebpf::judge::{Judgement, source};

use crate::{
    maps::{EVENTS, SAMPLED, SAMPLER, jiffies, settings},
    packet::Frame,
};

/// The times in `SAMPLED` are in units of 2^28 ns.
const UNIT: u32 = 28;

/// Called for what was dropped. Of a block only the first packet is notable, which its own count tells, so that a flood
/// from blocked sources pays nothing; anything else asks here each time.
#[inline(always)]
pub fn take(context: &XdpContext, judgement: &Judgement) {
    if judgement.notable {
        edge_sample(context.ctx, judgement.reason as u32, judgement.bytes);
    }
}

/// A function of its own, global to the kernel, so that the verifier walks it once (Linux 5.6).
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn edge_sample(context: *mut xdp_md, reason: u32, bytes: u64) -> u32 {
    let context = XdpContext::new(context);
    sample(&context, reason, bytes);
    0
}

#[inline(always)]
fn sample(context: &XdpContext, reason: u32, bytes: u64) {
    let source = source(&Frame(context));
    let mark = mark(source, reason);
    let Some(last) = SAMPLED.get_ptr_mut(mark as u32 & (REMEMBERED - 1)) else { return };
    let Some(settings) = settings() else { return };
    let jiffies = jiffies();
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
    // SAFETY: the context that the kernel handed to the program.
    let interface = unsafe { (*context.ctx).ingress_ifindex };
    send(Event { boot_ns, source, reason, interface, bytes });
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
fn send(event: Event) {
    match EVENTS.reserve(0) {
        Some(mut place) => {
            place.write(event);
            place.submit(0);
        }
        None => {
            if let Some(sampler) = SAMPLER.get_ptr_mut(0) {
                // SAFETY: this CPU's own value.
                unsafe { (*sampler).lost += 1 };
            }
        }
    }
}
