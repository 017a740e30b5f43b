//! Far ends whose SYN passed a filter of this edge and that are not established yet, so that connections of other network
//! namespaces that came another way are told from those that came through here.
//!
//! A line that has no room forgets the oldest, and says so: until that one cannot be established any more, whoever is not
//! found there may have come through here, and is taken to have. So a flood of SYNs is no way round a cap.

/// Far ends a line.
const ENDS: usize = 7;

/// Where a far end is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    pub line: u32,
    pub tag: u64,
}

impl Opening {
    /// 4 MiB: 3,000 SYNs a second that come to nothing find room.
    pub const LINES_LOG2: u32 = 16;
    /// Of the whole table.
    pub const WORDS: usize = (ENDS + 1) << Self::LINES_LOG2;

    /// Of an address in halves and a port in host order; `seed` is odd.
    #[inline(always)]
    pub const fn of([high, low]: [u64; 2], port: u16, seed: u64) -> Opening {
        let mixed = (high ^ port as u64).wrapping_mul(seed);
        let mixed = (mixed ^ (mixed >> 32) ^ low).wrapping_mul(seed | 0x9E37_79B9_0000_0001);
        let mixed = mixed ^ (mixed >> 29);
        Opening {
            line: (mixed >> (64 - Self::LINES_LOG2)) as u32,
            tag: mixed << Noted::TIME_BITS >> Noted::TIME_BITS | 1,
        }
    }
}

/// A far end's tag in the upper 40 bits and when its SYN passed in the lower 24; zero: nobody's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Noted(u64);

impl Noted {
    pub const NONE: Noted = Noted(0);
    const TIME_BITS: u32 = 24;
    /// 2^30 ns, 1.07 s.
    const UNIT_LOG2: u32 = 30;
    /// A SYN cookie is good for two minutes (`MAX_SYNCOOKIE_AGE`, Linux 3.13), a request for less.
    const LIFE: u64 = 128;

    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Noted {
        Noted(bits)
    }

    #[inline(always)]
    pub const fn bits(self) -> u64 {
        self.0
    }

    #[inline(always)]
    const fn new(tag: u64, boot_ns: u64) -> Noted {
        let time = (boot_ns >> Self::UNIT_LOG2) & ((1 << Self::TIME_BITS) - 1);
        Noted(tag << Self::TIME_BITS | time)
    }

    /// When something happens that is no far end's.
    #[inline(always)]
    pub const fn now(boot_ns: u64) -> Noted {
        Noted::new(1, boot_ns)
    }

    #[inline(always)]
    const fn is_of(self, tag: u64) -> bool {
        self.0 >> Self::TIME_BITS == tag
    }

    /// In units; what is nobody's is older than all.
    #[inline(always)]
    const fn age(self, boot_ns: u64) -> u64 {
        if self.0 == 0 {
            return u64::MAX;
        }
        (boot_ns >> Self::UNIT_LOG2).wrapping_sub(self.0) & ((1 << Self::TIME_BITS) - 1)
    }
}

/// A line of far ends: all that a look-up touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct LineOpening {
    pub ends: [Noted; ENDS],
    /// When the line last forgot one that may yet be established.
    pub forgot: Noted,
}

/// One word of a line, to be swapped for another as long as it is still what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    pub slot: usize,
    pub from: Noted,
    pub to: Noted,
    /// What `forgot` is to be, where one is lost that may yet be established.
    pub forgot: Option<Noted>,
}

/// What a line knows of a far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Its SYN passed here: noted in this slot, as this word.
    Noted(usize, Noted),
    /// The line forgot some.
    Perhaps,
    Never,
}

impl Known {
    pub const fn came_by(self) -> bool {
        !matches!(self, Known::Never)
    }
}

impl LineOpening {
    pub const ENDS: usize = ENDS;

    /// The word of a line that says when it forgot one.
    pub const FORGOT: usize = ENDS;

    /// Into its own place, else into the oldest's.
    #[inline(always)]
    pub fn note(&self, tag: u64, boot_ns: u64) -> Note {
        let to = Noted::new(tag, boot_ns);
        let (mut slot, mut oldest) = (0, 0);
        for at in 0..ENDS {
            let end = self.ends[at];
            if end.is_of(tag) {
                return Note { slot: at, from: end, to, forgot: None };
            }
            let age = end.age(boot_ns);
            if age > oldest {
                (slot, oldest) = (at, age);
            }
        }
        let forgot = if oldest < Noted::LIFE { Some(Noted::now(boot_ns)) } else { None };
        Note { slot, from: self.ends[slot], to, forgot }
    }

    #[inline(always)]
    pub fn find(&self, tag: u64, boot_ns: u64) -> Known {
        for at in 0..ENDS {
            if self.ends[at].is_of(tag) {
                return Known::Noted(at, self.ends[at]);
            }
        }
        if self.forgot.age(boot_ns) < Noted::LIFE { Known::Perhaps } else { Known::Never }
    }
}

const _: () = assert!(size_of::<LineOpening>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1 << Noted::UNIT_LOG2;

    fn note(line: &mut LineOpening, tag: u64, boot_ns: u64) -> bool {
        let note = line.note(tag, boot_ns);
        assert_eq!(line.ends[note.slot], note.from);
        line.ends[note.slot] = note.to;
        line.forgot = note.forgot.unwrap_or(line.forgot);
        note.forgot.is_some()
    }

    #[test]
    fn far_ends_that_differ_have_other_tags() {
        let seed = 0x1234_5678_9abc_def1;
        let of = |low: u64, port| Opening::of([0, 0xffff_0000_0000 | low], port, seed);
        let all = [of(1, 1), of(1, 3), of(2, 1), of(2, 3), Opening::of([1, 1], 1, seed)];
        for (at, one) in all.iter().enumerate() {
            assert!(one.tag != 0 && one.tag < 1 << 40 && one.line < 1 << Opening::LINES_LOG2);
            assert!(all.iter().skip(at + 1).all(|other| other != one));
        }
    }

    #[test]
    fn whoever_was_noted_is_found_and_no_other() {
        let mut line = LineOpening::default();
        for tag in 1..=ENDS as u64 {
            assert_eq!(line.find(tag, SECOND), Known::Never);
            assert!(!note(&mut line, tag, SECOND));
            assert!(matches!(line.find(tag, SECOND), Known::Noted(..)));
        }
        assert!(!note(&mut line, 3, 2 * SECOND), "its SYN again");
        assert!((1..=ENDS as u64).all(|tag| matches!(line.find(tag, SECOND), Known::Noted(..))));
        assert_eq!(line.find(9, SECOND), Known::Never);
    }

    #[test]
    fn a_full_line_forgets_the_oldest_and_says_so_while_that_one_may_be_established() {
        let mut line = LineOpening::default();
        for tag in 1..=ENDS as u64 {
            note(&mut line, tag, tag * SECOND);
        }
        assert!(note(&mut line, 9, 10 * SECOND));
        assert!([1, 50].iter().all(|tag| line.find(*tag, 10 * SECOND) == Known::Perhaps));
        assert!((2..=9).filter(|tag| *tag != 8).all(|tag| matches!(line.find(tag, 10 * SECOND), Known::Noted(..))));
        assert_eq!(line.find(1, (10 + Noted::LIFE) * SECOND), Known::Never);
        assert!(!note(&mut line, 10, (10 + Noted::LIFE) * SECOND), "what is too old to be established is no loss");
    }

    #[test]
    fn ages_wrap() {
        let last = ((1 << Noted::TIME_BITS) - 1) * SECOND;
        assert_eq!(Noted::new(5, last).age(last + 3 * SECOND), 3);
    }
}
