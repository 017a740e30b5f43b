//! What the agent tells the program `edge_amend`: to change the entry of a blocked prefix where it lies, so that no packet
//! which it counts meanwhile is lost. A trie takes a whole entry in place of another and no part of one.

use crate::table::Hits;

/// One change. It travels as words in place of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amendment {
    /// [`NetEntry::ends`](crate::table::NetEntry::ends) as they must be: a trie answers for what is not there with what
    /// covers it.
    pub from: u64,
    pub to: u64,
    /// Comes on top of what is counted.
    pub hits: Hits,
    /// The key's data; of IPv4 the first word.
    pub data: [u64; 2],
    pub prefix_len: u32,
    /// 4 or 6.
    pub family: u32,
}

impl Amendment {
    pub const WORDS: usize = 7;
    /// What the program returns when it is done, as `XDP_PASS`.
    pub const DONE: u32 = 2;

    pub const fn to_words(&self) -> [u64; Amendment::WORDS] {
        let Amendment { from, to, hits: Hits { packets, bytes }, data: [high, low], prefix_len, family } = *self;
        [from, to, packets, bytes, high, low, (prefix_len as u64) << 32 | family as u64]
    }

    #[inline(always)]
    pub const fn from_words(words: [u64; Amendment::WORDS]) -> Amendment {
        let [from, to, packets, bytes, high, low, kind] = words;
        Amendment {
            from,
            to,
            hits: Hits { packets, bytes },
            data: [high, low],
            prefix_len: (kind >> 32) as u32,
            family: kind as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_travels_as_it_is() {
        let hits = Hits { packets: 3, bytes: 4 };
        let amendment = Amendment { from: 1, to: 2, hits, data: [5, 6], prefix_len: 7, family: 6 };
        assert_eq!(amendment.to_words(), [1, 2, 3, 4, 5, 6, 7 << 32 | 6]);
        assert_eq!(Amendment::from_words(amendment.to_words()), amendment);
    }
}
