//! The bytes of a packet in the kernel: every load is checked against the end of the first buffer, as the verifier
//! wants it.

use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_sock, xdp_md},
    helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use edge_ebpf::{
    parse::Packet,
    upper::{Asked, Upper, look, look_past_no_extension},
};

/// An IP header begins at 22 at the latest, and has at most 60 bytes; the masks say so to the verifier.
const AT_BITS: u32 = 31;
const HEADER_BITS: u32 = 63;

/// [`look`] as a function of its own: global to the kernel, so that the verifier walks it once (Linux 5.6). A call costs
/// about 12 ns where the kernel guards returns, so what needs no walk is inlined.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn edge_upper(context: *mut xdp_md, at: u32, header: u32, end: u32, six: u32) -> u64 {
    let context = XdpContext::new(context);
    let asked = Asked { at: at & AT_BITS, header: header & HEADER_BITS, end, six: six == 1 };
    look(&Frame(&context), asked).map_or(Upper::LOST, Upper::to_bits)
}

pub struct Frame<'a>(pub &'a XdpContext);

impl Frame<'_> {
    #[inline(always)]
    pub fn load<T: Copy>(&self, at: usize) -> Option<T> {
        let place = self.0.data() + at;
        if place + size_of::<T>() > self.0.data_end() {
            return None;
        }
        // SAFETY: the bounds were checked the line before; T is an integer, of which any bytes are valid. Headers lie at
        // odd multiples of two, which BPF loads on every CPU that the kernel's JIT serves here do not mind, while
        // `read_unaligned` would load byte by byte.
        Some(unsafe { (place as *const T).read_volatile() })
    }
}

impl Packet for Frame<'_> {
    #[inline(always)]
    fn u8(&self, at: usize) -> Option<u8> {
        self.load(at)
    }

    #[inline(always)]
    fn u16(&self, at: usize) -> Option<u16> {
        self.load(at)
    }

    #[inline(always)]
    fn u32(&self, at: usize) -> Option<u32> {
        self.load(at)
    }

    #[inline(always)]
    fn u128(&self, at: usize) -> Option<(u64, u64)> {
        let [hi, lo]: [u64; 2] = [self.load(at)?, self.load(at + 8)?];
        Some((hi, lo))
    }

    #[inline(always)]
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        let place = self.0.data() + at;
        if place + N * size_of::<u32>() > self.0.data_end() {
            return None;
        }
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            // SAFETY: as in `load`, for all of them at once.
            *word = unsafe { (place as *const u32).add(index).read_volatile() };
        }
        Some(words)
    }

    #[inline(always)]
    fn upper(&self, asked: Asked) -> Option<Upper> {
        if let Some(found) = look_past_no_extension(self, asked) {
            return found;
        }
        let Asked { at, header, end, six } = asked;
        Upper::from_bits(edge_upper(self.0.ctx, at, header, end, u32::from(six)))
    }

    #[inline(always)]
    fn completes(&self, at: usize, six: bool, upper: Upper) -> bool {
        let ports = u32::from(upper.source_port) | u32::from(upper.port) << 16;
        edge_completes(self.0.ctx, at as u32, u32::from(six), ports) == 1
    }

    #[inline(always)]
    fn readable(&self) -> u64 {
        (self.0.data_end() - self.0.data()) as u64
    }

    #[inline(always)]
    fn whole(&self) -> u64 {
        // SAFETY: the context is the one that the kernel handed to the program.
        unsafe { bpf_xdp_get_buff_len(self.0.as_ptr().cast()) }
    }
}

/// `TCP_NEW_SYN_RECV`: a request. A connection that TCP Fast Open made early is counted already.
const HALF_OPEN: u32 = 12;
/// `TCP_LISTEN`: what arrives there without a request completes a handshake if it carries a SYN cookie.
const LISTENS: u32 = 10;
const TCP_HEADER: u32 = 20;

/// A function of its own, global to the kernel, so that the verifier walks it once (Linux 5.6). What belongs to another
/// network namespace, or is translated on its way, is not found here, and completes nothing.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn edge_completes(context: *mut xdp_md, at: u32, six: u32, ports: u32) -> u32 {
    let context = XdpContext::new(context);
    let frame = Frame(&context);
    u32::from(completes(&frame, (at & AT_BITS) as usize, six == 1, ports).unwrap_or(false))
}

#[inline(always)]
fn completes(frame: &Frame, at: usize, six: bool, ports: u32) -> Option<bool> {
    // Words of `bpf_sock_tuple`: addresses and ports as they lie in the packet.
    let (mut tuple, length) = if six {
        let [s0, s1, s2, s3, d0, d1, d2, d3] = frame.words::<8>(at + 8)?;
        ([s0, s1, s2, s3, d0, d1, d2, d3, ports], 36)
    } else {
        let [source, destination] = frame.words::<2>(at + 12)?;
        ([source, destination, ports, 0, 0, 0, 0, 0, 0], 12)
    };
    // SAFETY: the context that the kernel handed over; the tuple is as long as is said; -1 is this device's namespace
    // (Linux 5.2).
    let socket = unsafe { bpf_skc_lookup_tcp(frame.0.as_ptr(), (&raw mut tuple).cast(), length, u64::MAX, 0) };
    if socket.is_null() {
        return None;
    }
    // SAFETY: not null; held until it is released.
    let state = unsafe { (&raw const (*socket).state).read_volatile() };
    let cookie = if state == LISTENS { carries_cookie(frame, socket, at, six) } else { None };
    // SAFETY: taken above.
    unsafe { bpf_sk_release(socket.cast()) };
    Some(state == HALF_OPEN || cookie == Some(true))
}

/// Whether a packet to a listener has acknowledged a SYN cookie (RFC 4987) of this host. Not every packet to a listener does:
/// where addresses are translated, the connection is another's. Behind IPv6 extension headers, which connections hardly
/// have, it is taken to.
#[inline(always)]
fn carries_cookie(frame: &Frame, socket: *mut bpf_sock, at: usize, six: bool) -> Option<bool> {
    if six && frame.u8(at + 6)? != Upper::TCP {
        return Some(true);
    }
    let mut network = [0u32; 10];
    let (length, tcp_at) = if six {
        network = frame.words::<10>(at)?;
        (40, at + 40)
    } else {
        let fixed = frame.words::<5>(at)?;
        network[..5].copy_from_slice(&fixed);
        (20, at + usize::from(frame.u8(at)? & 15) * 4)
    };
    let mut tcp = frame.words::<5>(tcp_at)?;
    // SAFETY: the socket is held; both headers are as long as is said.
    let checked = unsafe {
        bpf_tcp_check_syncookie(socket.cast(), (&raw mut network).cast(), length, (&raw mut tcp).cast(), TCP_HEADER)
    };
    Some(checked == 0)
}
