//! The last drops of each source, as the kernel samples them, for `edge why`. Samples, never counts. Pure, and bounded
//! whatever comes: the source that was quiet for longest is forgotten for a new one.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use edge_common::reason::Reason;

use crate::{
    block::Target,
    bounded::{Bounded, Families},
    clock::{Boot, Wall},
};

/// Sources of one family; a family's flood costs nothing of the other.
const SOURCES: usize = 16_384;
/// Samples of one source; the kernel takes one for each reason in ten seconds.
const EACH: usize = 8;
/// A source whose last drop is so long ago is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);

/// One packet that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub at: Boot,
    /// The same for people, as the clock said when the sample was read.
    pub time: Wall,
    /// `None`: what has no source that could be read.
    pub source: Option<IpAddr>,
    pub reason: Reason,
    /// The kernel's index of the interface that it came in by.
    pub interface: u32,
    /// The whole frame.
    pub bytes: u64,
}

#[derive(Debug)]
pub struct Drops(Families<Bounded<Target, Boot, VecDeque<Sample>>>);

impl Default for Drops {
    fn default() -> Drops {
        Drops::bounded(SOURCES)
    }
}

impl Drops {
    fn bounded(sources: usize) -> Drops {
        Drops(Families { four: Bounded::new(sources), six: Bounded::new(sources) })
    }

    pub fn note(&mut self, sample: Sample) {
        let Some(source) = sample.source.map(Target::of) else { return };
        let known = self.0.of(source).touch(source, sample.at);
        if known.len() == EACH {
            known.pop_front();
        }
        known.push_back(sample);
    }

    /// Those of a source, in the order in which they came.
    pub fn of(&self, source: IpAddr) -> impl Iterator<Item = &Sample> {
        let source = Target::of(source);
        self.0.at(source).look(source).into_iter().flatten()
    }

    pub fn sweep(&mut self, now: Boot) {
        for family in self.0.both() {
            family.drop_while(|last| last.plus(FORGOTTEN_AFTER) <= now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn sample(source: &str, at: u64) -> Sample {
        let source = Some(source.parse().unwrap());
        Sample { at: Boot(at), time: Wall(7), source, reason: Reason::Blocked, interface: 2, bytes: 60 }
    }

    fn times(drops: &Drops, source: &str) -> Vec<u64> {
        drops.of(source.parse().unwrap()).map(|sample| sample.at.0).collect()
    }

    #[test]
    fn of_each_source_the_last_few_are_kept() {
        let mut drops = Drops::default();
        (0..20).for_each(|at| drops.note(sample("203.0.113.7", at)));
        drops.note(sample("203.0.113.8", 20));
        drops.note(Sample { source: None, ..sample("::", 21) });
        assert_eq!(times(&drops, "203.0.113.7"), (12..20).collect::<Vec<_>>());
        assert_eq!(times(&drops, "::ffff:203.0.113.8"), [20]);
        assert_eq!(times(&drops, "203.0.113.9"), [0; 0]);
        drops.sweep(Boot(19).plus(FORGOTTEN_AFTER));
        assert_eq!((times(&drops, "203.0.113.7").len(), times(&drops, "203.0.113.8").len()), (0, 1));
    }

    #[test]
    fn a_million_sources_cost_no_more_than_the_bound_and_nothing_of_the_other_family() {
        let mut drops = Drops::bounded(100);
        drops.note(sample("2001:db8::7", 0));
        for number in 0..1_000_000 {
            let source = Some(IpAddr::V4(Ipv4Addr::from_bits(number)));
            drops.note(Sample { source, ..sample("::", u64::from(number)) });
        }
        assert_eq!((drops.0.four.len(), drops.0.six.len()), (100, 1));
        assert_eq!(times(&drops, "0.15.66.63").len(), 1, "the last of them");
        assert_eq!(times(&drops, "2001:db8::7"), [0]);
    }
}
