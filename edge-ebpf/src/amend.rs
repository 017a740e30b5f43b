//! Changes of a blocked prefix's entry where it lies, for the agent: while it does, packets go on counting there.

use aya_ebpf::{btf_maps::lpm_trie::Key, helpers::generated::bpf_map_lookup_elem};
use edge_common::{amend::Amendment, table::NetEntry};

use crate::{
    atomic,
    maps::{NETS4, NETS6},
    packet::Frame,
};

/// Whether it is done: the entry is there, with the ends that it is said to have.
#[inline(always)]
pub fn amend(frame: &Frame<'_>) -> bool {
    let Some(amendment) = told(frame) else { return false };
    let Amendment { from, to, hits, data, prefix_len, family } = amendment;
    let (key4, key6) = (Key::new(prefix_len, data[0]), Key::new(prefix_len, data));
    // SAFETY: each trie is a map and the key of its type; what comes back is null or a value that lives until the
    // program ends (RCU).
    let entry = unsafe {
        if family == 4 {
            bpf_map_lookup_elem((&raw const NETS4).cast_mut().cast(), (&raw const key4).cast())
        } else {
            bpf_map_lookup_elem((&raw const NETS6).cast_mut().cast(), (&raw const key6).cast())
        }
    };
    let entry = entry.cast::<NetEntry>();
    // SAFETY: not null, so a value of this type; each is a word of it.
    !entry.is_null()
        && unsafe {
            let is_it = atomic::swap(&raw mut (*entry).ends, from, to);
            if is_it {
                atomic::add(&raw mut (*entry).hits.bytes, hits.bytes);
                atomic::add(&raw mut (*entry).hits.packets, hits.packets);
            }
            is_it
        }
}

#[inline(always)]
fn told(frame: &Frame<'_>) -> Option<Amendment> {
    let mut words = [0; Amendment::WORDS];
    for (at, word) in words.iter_mut().enumerate() {
        *word = frame.load(at * 8)?;
    }
    Some(Amendment::from_words(words))
}
