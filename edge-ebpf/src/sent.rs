//! What this host sends over UDP, noted on its way out, so that an answer is told from new traffic. Attached only where
//! ports are limited.

use aya_ebpf::{helpers::generated::bpf_jiffies64, programs::TcContext};
use edge_common::{flow::Flow, ports::Exposure};
use edge_ebpf::{
    judge::Tables,
    parse::{Frame, Packet, parse},
    upper::sent,
};

use crate::maps::{FLOWS, Live, settings};

/// A flow is written again when what is noted of it is older.
const FRESH_NS: u64 = 1_000_000_000;

struct Outgoing<'a>(&'a TcContext);

impl Packet for Outgoing<'_> {
    #[inline(always)]
    fn u8(&self, at: usize) -> Option<u8> {
        self.0.load(at).ok()
    }

    #[inline(always)]
    fn u16(&self, at: usize) -> Option<u16> {
        self.0.load(at).ok()
    }

    #[inline(always)]
    fn u32(&self, at: usize) -> Option<u32> {
        self.0.load(at).ok()
    }

    #[inline(always)]
    fn u128(&self, at: usize) -> Option<(u64, u64)> {
        let [hi, lo]: [u64; 2] = self.0.load(at).ok()?;
        Some((hi, lo))
    }

    #[inline(always)]
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        self.0.load(at).ok()
    }

    #[inline(always)]
    fn readable(&self) -> u64 {
        u64::from(self.0.len())
    }

    #[inline(always)]
    fn whole(&self) -> u64 {
        u64::from(self.0.len())
    }
}

#[inline(always)]
pub fn note(context: &TcContext) {
    let packet = Outgoing(context);
    let whole = packet.whole();
    let sent = match parse(&packet) {
        Frame::V4(datagram) => sent(&packet, &datagram, datagram.end.unwrap_or(whole)),
        Frame::V6(datagram) => sent(&packet, &datagram, datagram.end.unwrap_or(whole)),
        Frame::Other | Frame::Malformed(_) => None,
    };
    let Some((flow, local_port)) = sent else { return };
    // What comes to an exposed port passes without having been asked for.
    if !Live.exposes(Exposure::udp(local_port)) {
        write(&flow);
    }
}

#[inline(always)]
fn write(flow: &Flow) {
    let Some(settings) = settings() else { return };
    // SAFETY: a helper without arguments, which the verifier turns into a load.
    let now = settings.clock.boot_ns(unsafe { bpf_jiffies64() });
    if let Some(last) = FLOWS.get_ptr(flow) {
        // SAFETY: a word of a map's value.
        if now.wrapping_sub(unsafe { last.read_volatile() }) < FRESH_NS {
            return;
        }
    }
    // A full table drops the flow that was used least recently; nothing else can fail here.
    let _ = FLOWS.insert(flow, now, 0);
}
