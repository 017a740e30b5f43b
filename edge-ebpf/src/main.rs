//! The programs of edge's kernel side and the action table: the only place that says which reason drops.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod amend;
#[cfg(target_arch = "bpf")]
mod atomic;
#[cfg(target_arch = "bpf")]
mod connections;
#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod find;
#[cfg(target_arch = "bpf")]
mod limit;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod openings;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod sample;
#[cfg(target_arch = "bpf")]
mod sent;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        Global,
        bindings::{
            sk_action,
            xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS},
        },
        helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns},
        macros::{classifier, sock_ops, stream_verdict, xdp},
        programs::{SkBuffContext, SockOpsContext, TcContext, XdpContext},
    };
    use aya_log_ebpf::trace;
    use edge_common::{
        amend::Amendment,
        reason::{Reason, Run},
        time::ClockSample,
    };
    use edge_ebpf::judge::judge;

    use crate::{amend, connections, count, maps, packet::Frame, sample, sent};

    /// 1: log each judgement through aya-log. Read-only once loaded, so that the verifier removes it when it is 0.
    #[unsafe(no_mangle)]
    static TRACE: Global<u8> = Global::new(0);

    /// Judges every packet of a filtered interface. `frags`: without it native mode refuses MTUs over a page
    /// (Linux 5.18).
    #[xdp(frags)]
    pub fn edge(context: XdpContext) -> u32 {
        let judgement = judge(&Frame(&context), &maps::Live);
        let run = if maps::is_dry_run() { Run::Dry } else { Run::Real };
        count::add(run, judgement);
        if TRACE.load() == 1 {
            let (reason, family) = (judgement.reason as u32, judgement.family as u32);
            trace!(&context, "reason {} family {} bytes {}", reason, family, judgement.bytes);
        }
        let action = action(judgement.reason);
        if action == XDP_DROP {
            sample::take(&context, &judgement);
        }
        match run {
            Run::Real => action,
            Run::Dry => XDP_PASS,
        }
    }

    /// Notes what is sent over UDP on its way out of a filtered interface. Judges nothing: the next program, or the
    /// stack, goes on (`TCX_NEXT`, which is `TC_ACT_UNSPEC`).
    #[classifier]
    pub fn edge_sent(context: TcContext) -> i32 {
        sent::note(&context);
        TC_ACT_UNSPEC
    }

    /// Counts connections, at the root of the cgroups. Says nothing of them: other programs and the kernel's defaults hold.
    #[sock_ops]
    pub fn edge_count(context: SockOpsContext) -> u32 {
        connections::note(&context);
        1
    }

    /// What a connection over its client's cap receives is dropped, before whoever accepted it can read it.
    #[stream_verdict]
    pub fn edge_silence(_: SkBuffContext) -> u32 {
        sk_action::SK_DROP
    }

    const TC_ACT_UNSPEC: i32 = -1;

    const fn action(reason: Reason) -> u32 {
        match reason {
            Reason::Passed => XDP_PASS,
            // The allow list always wins.
            Reason::Allowed => XDP_PASS,
            Reason::Blocked => XDP_DROP,
            Reason::ConnectionCap => XDP_DROP,
            // What is over a rate is shed, and comes to nothing else: a source can be forged.
            Reason::SynRate | Reason::PacketRate => XDP_DROP,
            Reason::PortClosed => XDP_DROP,
            // The network stack would drop it too; what cannot be judged is not handed on.
            Reason::Malformed => XDP_DROP,
            Reason::Fragment => XDP_DROP,
        }
    }

    /// Both clocks at one moment, for the agent to tell boot time from jiffies.
    #[xdp]
    pub fn edge_clock(_: XdpContext) -> u32 {
        // SAFETY: helpers without arguments or effects.
        let sample = unsafe { ClockSample { jiffies: bpf_jiffies64(), boot_ns: bpf_ktime_get_boot_ns() } };
        if let Some(place) = maps::CLOCK.get_ptr_mut(0) {
            // SAFETY: a value of this type in a map of one; only this program writes it.
            unsafe { place.write_volatile(sample) }
        }
        XDP_PASS
    }

    /// Changes an entry of a trie where it lies. Never attached: the packet is the agent's word.
    #[xdp]
    pub fn edge_amend(context: XdpContext) -> u32 {
        if amend::amend(&Frame(&context)) { Amendment::DONE } else { XDP_ABORTED }
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// On the host there is nothing to run; the binary exists so that the workspace builds as a whole.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
