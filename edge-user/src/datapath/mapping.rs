//! A memory-mapped BPF array (`BPF_F_MMAPABLE`, Linux 5.5), seen as words. aya has no call for it.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

pub struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
    bytes: NonZeroUsize,
    /// What its one writer wrote, where that is told from what others did.
    written: Option<Box<[AtomicU64]>>,
}

// SAFETY: the words are atomics in memory that stays mapped as long as the value lives.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the `words` words that the array's values are.
    pub fn new(map: BorrowedFd<'_>, words: usize) -> io::Result<Mapping> {
        let bytes = NonZeroUsize::new((words * 8).next_multiple_of(4096)).unwrap_or(NonZeroUsize::MIN);
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start =
            unsafe { mmap(None, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, map, 0) }?;
        Ok(Mapping { start: start.cast(), words, bytes, written: None })
    }

    /// From here on what is there counts as written, and only what is stored through this value.
    pub fn remembering(mut self) -> Mapping {
        let there = self.words().iter().map(|word| AtomicU64::new(word.load(Ordering::Relaxed)));
        self.written = Some(there.collect());
        self
    }

    /// Whether nobody else wrote, as far as that is remembered.
    pub fn is_as_written(&self) -> bool {
        let Some(written) = &self.written else { return true };
        let same = |(there, written): (&AtomicU64, &AtomicU64)| {
            there.load(Ordering::Relaxed) == written.load(Ordering::Relaxed)
        };
        self.words().iter().zip(written).all(same)
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `words` words of a live mapping, aligned to a page.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// What was written, where that is remembered.
    pub fn load(&self, index: usize) -> u64 {
        let words = self.written.as_deref().unwrap_or(self.words());
        words.get(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    pub fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.written.as_ref().and_then(|written| written.get(index)) {
            word.store(value, Ordering::Relaxed);
        }
        if let Some(word) = self.words().get(index) {
            word.store(value, Ordering::Release);
        }
    }

    pub fn set_bits(&self, index: usize, bits: u64) {
        if let Some(word) = self.words().get(index) {
            word.fetch_or(bits, Ordering::AcqRel);
        }
    }

    pub fn clear_bits(&self, index: usize, bits: u64) {
        if let Some(word) = self.words().get(index) {
            word.fetch_and(!bits, Ordering::AcqRel);
        }
    }

    pub fn add(&self, index: usize, value: u64) {
        if let Some(word) = self.words().get(index) {
            word.fetch_add(value, Ordering::AcqRel);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nothing outlives. A failure would leave it mapped, no more.
        let _ = unsafe { munmap(self.start.cast(), self.bytes.get()) };
    }
}
