//! The bytes of a packet in the kernel: every load is checked against the end of the first buffer, as the verifier
//! wants it.

use aya_ebpf::{EbpfContext, bindings::xdp_md, helpers::generated::bpf_xdp_get_buff_len, programs::XdpContext};
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
    fn readable(&self) -> u64 {
        (self.0.data_end() - self.0.data()) as u64
    }

    #[inline(always)]
    fn whole(&self) -> u64 {
        // SAFETY: the context is the one that the kernel handed to the program.
        unsafe { bpf_xdp_get_buff_len(self.0.as_ptr().cast()) }
    }
}
