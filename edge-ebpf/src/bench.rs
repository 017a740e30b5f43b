//! Programs for `cargo xtask bench` alone. For `xdp`: the judge of `main.rs` over sources drawn at random, beside the same
//! judge over the kernel's own hash and trie. For `accept`: two ways to count connections. Never part of the binary `edge`.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

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
mod programs {
    use aya_ebpf::{
        bindings::xdp_action::{XDP_DROP, XDP_PASS},
        btf_maps::{HashMap, LpmTrie, lpm_trie::Key},
        helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns},
        macros::{btf_map, xdp},
        programs::XdpContext,
    };
    use edge_common::{
        address::{Addr4, Addr6},
        flow::Flow,
        ports::Exposure,
        reason::{Reason, Run},
        table::{Hits, Trust},
    };
    use edge_ebpf::{
        judge::{Block, Lists, Tables, judge},
        parse::Packet,
        upper::{Asked, Upper},
    };

    use crate::{
        count,
        maps::{Live, hit, settings},
        packet::Frame,
    };

    /// An end, and what was dropped since it was set.
    #[repr(C)]
    struct Blocked {
        end: u64,
        hits: Hits,
    }

    /// Addresses, as the obvious program would hold them.
    #[btf_map]
    static KERNEL_HASH: HashMap<u32, Blocked, 1> = HashMap::new();
    /// Prefixes and their ends.
    #[btf_map]
    static KERNEL_TRIE: LpmTrie<u64, u64, 1> = LpmTrie::new();
    #[btf_map]
    static KERNEL_TRUST: LpmTrie<u64, u64, 1> = LpmTrie::new();

    /// How many addresses are blocked: a power of two.
    const BLOCKED: u32 = 1 << 20;

    /// The `index`th blocked address: each below 2^20 another one, spread over 32.0.0.0/3.
    fn blocked(index: u32) -> u32 {
        0x2000_0000 | (index & (BLOCKED - 1)).wrapping_mul(0x9E37_79B1) >> 3
    }

    /// Addresses in 64.0.0.0/3 whose third byte is even: prefixes lie in /24 with an odd one.
    fn honest(random: u32) -> u32 {
        0x4000_0000 | (random >> 3) & !0x100
    }

    fn random() -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    /// An untagged IPv4 frame with another source.
    struct From<'a>(Frame<'a>, u32);

    impl Packet for From<'_> {
        #[inline(always)]
        fn u8(&self, at: usize) -> Option<u8> {
            self.0.u8(at)
        }
        #[inline(always)]
        fn u16(&self, at: usize) -> Option<u16> {
            self.0.u16(at)
        }
        #[inline(always)]
        fn u32(&self, at: usize) -> Option<u32> {
            let word = self.0.u32(at)?;
            Some(if at == 26 { self.1.to_be() } else { word })
        }
        #[inline(always)]
        fn u128(&self, at: usize) -> Option<(u64, u64)> {
            self.0.u128(at)
        }
        #[inline(always)]
        fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
            self.0.words(at)
        }
        #[inline(always)]
        fn upper(&self, asked: Asked) -> Option<Upper> {
            self.0.upper(asked)
        }
        #[inline(always)]
        fn completes(&self, at: usize, six: bool, upper: Upper) -> bool {
            self.0.completes(at, six, upper)
        }
        #[inline(always)]
        fn readable(&self) -> u64 {
            self.0.readable()
        }
        #[inline(always)]
        fn whole(&self) -> u64 {
            self.0.whole()
        }
    }

    /// The same lists in the kernel's own maps; all the rest is edge's.
    struct Kernel;

    impl Lists<Addr4> for Kernel {
        #[inline(always)]
        fn trust(&self, source: Addr4) -> Trust {
            KERNEL_TRUST.get(&Key::new(32, source.trie_data())).map_or(Trust::NONE, |bits| Trust::from_bits(*bits))
        }
        #[inline(always)]
        fn blocked(&self, source: Addr4, bytes: u64) -> Block {
            // SAFETY: a helper without arguments.
            let holds = |end: u64| end > unsafe { bpf_ktime_get_coarse_ns() };
            let Some(entry) = KERNEL_HASH.get_ptr_mut(source.bits()) else {
                let end = KERNEL_TRIE.get(&Key::new(32, source.trie_data()));
                return if end.copied().is_some_and(holds) { Block::Again } else { Block::None };
            };
            // SAFETY: a value of the map.
            if !holds(unsafe { (*entry).end }) {
                return Block::None;
            }
            // SAFETY: as above.
            hit(unsafe { &raw mut (*entry).hits }, bytes)
        }
        #[inline(always)]
        fn admits_syn(&self, source: Addr4) -> bool {
            Live.admits_syn(source)
        }
        #[inline(always)]
        fn admits_packet(&self, source: Addr4) -> bool {
            Live.admits_packet(source)
        }
        #[inline(always)]
        fn is_at_cap(&self, source: Addr4) -> bool {
            Live.is_at_cap(source)
        }
        #[inline(always)]
        fn note_opening(&self, source: Addr4, port: u16) {
            Live.note_opening(source, port);
        }
    }

    impl Lists<Addr6> for Kernel {
        fn trust(&self, _: Addr6) -> Trust {
            Trust::NONE
        }
        fn blocked(&self, _: Addr6, _: u64) -> Block {
            Block::None
        }
        fn admits_syn(&self, _: Addr6) -> bool {
            true
        }
        fn admits_packet(&self, _: Addr6) -> bool {
            true
        }
        fn is_at_cap(&self, _: Addr6) -> bool {
            false
        }
        fn note_opening(&self, _: Addr6, _: u16) {}
    }

    impl Tables for Kernel {
        fn drops_fragments(&self) -> bool {
            Live.drops_fragments()
        }
        fn limits_ports(&self) -> bool {
            Live.limits_ports()
        }
        fn limits_syns(&self) -> bool {
            Live.limits_syns()
        }
        fn limits_packets(&self) -> bool {
            Live.limits_packets()
        }
        fn caps_connections(&self) -> bool {
            Live.caps_connections()
        }
        fn caps(&self, port: u16) -> bool {
            Live.caps(port)
        }
        fn exposes(&self, what: Exposure) -> bool {
            Live.exposes(what)
        }
        fn answers(&self, flow: &Flow) -> bool {
            Live.answers(flow)
        }
    }

    #[inline(always)]
    fn act(context: &XdpContext, source: u32, tables: &impl Tables) -> u32 {
        let judgement = judge(&From(Frame(context), source), tables);
        count::add(Run::Real, judgement);
        if matches!(judgement.reason, Reason::Passed | Reason::Allowed) { XDP_PASS } else { XDP_DROP }
    }

    #[xdp(frags)]
    pub fn edge_hit(context: XdpContext) -> u32 {
        act(&context, blocked(random()), &Live)
    }

    #[xdp(frags)]
    pub fn edge_miss(context: XdpContext) -> u32 {
        act(&context, honest(random()), &Live)
    }

    #[xdp(frags)]
    pub fn kernel_hit(context: XdpContext) -> u32 {
        act(&context, blocked(random()), &Kernel)
    }

    #[xdp(frags)]
    pub fn kernel_miss(context: XdpContext) -> u32 {
        act(&context, honest(random()), &Kernel)
    }

    /// What drawing the number costs.
    #[xdp(frags)]
    pub fn random_only(_: XdpContext) -> u32 {
        if random() == 0 && settings().is_none() { XDP_DROP } else { XDP_PASS }
    }
}

/// Two ways to count connections: as the product does it, and off by a tracepoint.
#[cfg(target_arch = "bpf")]
mod counting {
    use aya_ebpf::{
        helpers::generated::bpf_get_socket_cookie,
        macros::{btf_tracepoint, sock_ops},
        programs::{BtfTracePointContext, SockOpsContext},
    };

    use crate::{
        connections::{self, edge_change},
        maps::OPEN,
    };

    /// `BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB`.
    const ESTABLISHED: u32 = 5;
    /// `TCP_CLOSE`.
    const CLOSE: i32 = 7;

    /// As `edge_count`.
    #[sock_ops]
    pub fn count_both(context: SockOpsContext) -> u32 {
        connections::note(&context);
        1
    }

    /// The same without asking the socket to tell its states.
    #[sock_ops]
    pub fn count_opened(context: SockOpsContext) -> u32 {
        if context.op() == ESTABLISHED {
            // Other programs may have asked for states: an edge that runs here.
            let before = context.cb_flags();
            connections::note(&context);
            let _ = context.set_cb_flags(before as i32);
        }
        1
    }

    #[btf_tracepoint]
    pub fn count_closed(context: BtfTracePointContext) -> i32 {
        if context.arg::<i32>(2) == CLOSE {
            let socket: *mut core::ffi::c_void = context.arg(0);
            // SAFETY: the tracepoint's socket (Linux 5.12 takes one).
            closed(unsafe { bpf_get_socket_cookie(socket) });
        }
        0
    }

    /// As the product does it.
    #[inline(always)]
    fn closed(cookie: u64) -> Option<()> {
        // SAFETY: a value of the map, read whole before it is removed; entries are written once.
        let counted = unsafe { OPEN.get_ptr(cookie)?.read_volatile() };
        OPEN.remove(cookie).ok()?;
        edge_change(counted.line, counted.tag, 0);
        Some(())
    }

    /// What it costs to be called.
    #[sock_ops]
    pub fn nothing_opened(_: SockOpsContext) -> u32 {
        1
    }

    #[btf_tracepoint]
    pub fn nothing_closed(_: BtfTracePointContext) -> i32 {
        0
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

#[cfg(not(target_arch = "bpf"))]
fn main() {}
