//! The bytes of a packet in the kernel: every load is checked against the end of the first buffer, as the verifier
//! wants it.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_xdp_get_buff_len, programs::XdpContext};
use edge_ebpf::parse::Packet;

pub struct Frame<'a>(pub &'a XdpContext);

impl Frame<'_> {
    #[inline(always)]
    fn load<T: Copy>(&self, at: usize) -> Option<T> {
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
    fn readable(&self) -> u64 {
        (self.0.data_end() - self.0.data()) as u64
    }

    #[inline(always)]
    fn whole(&self) -> u64 {
        // SAFETY: the context is the one that the kernel handed to the program.
        unsafe { bpf_xdp_get_buff_len(self.0.as_ptr().cast()) }
    }
}
