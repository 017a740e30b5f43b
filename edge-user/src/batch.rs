//! Many blocks that came together: all but the target is said once, and what is lifted is marked.

use std::{cell::OnceCell, net::IpAddr};

use edge_common::time::Until;

use crate::{
    block::{Block, Origin, Target},
    clock::{Boot, Now, Wall},
    inventory::Inventory,
    targets::{Counts, Lengths, Marks, Targets},
};

/// What a clock that is corrected gently may be off, in milliseconds.
const SLEW_MS: u64 = 1_000;

/// All that a block is but its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub origin: Origin,
    pub reason: String,
    pub created: Wall,
    /// As in [`Block`].
    pub until: Option<Boot>,
    pub expires: Option<Wall>,
    pub offence: u32,
}

impl Terms {
    pub fn block(&self, target: Target) -> Block {
        let Terms { origin, reason, created, until, expires, offence } = self.clone();
        Block { target, origin, reason, created, until, expires, offence }
    }

    pub fn of(block: &Block) -> Terms {
        let Block { target: _, origin, reason, created, until, expires, offence } = block.clone();
        Terms { origin, reason, created, until, expires, offence }
    }

    /// With times that the wall clock will say, where it has jumped since they were noted: what the kernel enforces goes
    /// by boot time.
    pub fn by_clock(self, now: Now) -> Terms {
        let (Some(until), Some(expires)) = (self.until, self.expires) else { return self };
        let due = now.wall.plus(until.since(now.boot));
        let off = due.0.saturating_sub(expires.0);
        if off.unsigned_abs() <= SLEW_MS {
            return self;
        }
        Terms { created: Wall(self.created.0.saturating_add(off)), expires: Some(due), ..self }
    }

    /// The end that the kernel should hold.
    pub fn end(&self) -> Until {
        self.until.map_or(Until::NEVER, |end| Until::at(end.0))
    }

    pub fn hold(&self, now: Now) -> bool {
        self.until.is_none_or(|end| end > now.boot)
    }
}

/// One for each import, while any of it is left.
#[derive(Clone, Debug)]
pub struct Batch {
    pub terms: Terms,
    targets: Targets,
    lifted: Marks,
    left: Counts,
    lengths: Lengths,
    /// Of what is left, once it was asked for.
    inventory: OnceCell<Inventory>,
}

/// Names a batch in ledger and store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub i64);

impl Batch {
    pub fn new(terms: Terms, targets: Targets) -> Batch {
        let (lifted, left, lengths) = (Marks::of(&targets), targets.counts(), Lengths::of(&targets));
        Batch { terms, targets, lifted, left, lengths, inventory: OnceCell::new() }
    }

    /// All that it came with.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }

    /// How many are left.
    pub fn left(&self) -> Counts {
        self.left
    }

    pub fn is_left(&self, position: usize) -> bool {
        !self.lifted.has(position)
    }

    pub fn holds(&self, target: Target) -> bool {
        self.targets.position(target).is_some_and(|position| self.is_left(position))
    }

    /// What the kernel should hold of it.
    pub fn inventory(&self) -> Inventory {
        let end = self.terms.end();
        *self.inventory.get_or_init(|| self.iter().map(|target| (target, end)).collect())
    }

    /// What is left, in order.
    pub fn iter(&self) -> impl Iterator<Item = Target> + '_ {
        self.targets.iter().filter(|(position, _)| self.is_left(*position)).map(|(_, target)| target)
    }

    /// What is left, as a set of its own.
    pub fn rest(&self) -> Targets {
        self.targets.without(&self.lifted)
    }

    /// Whether it was there.
    pub fn lift(&mut self, target: Target) -> bool {
        self.targets.position(target).is_some_and(|position| self.lift_at(position))
    }

    pub fn lift_at(&mut self, position: usize) -> bool {
        let was_there = self.lifted.mark(position);
        if was_there {
            self.left.subtract(self.targets.kind_at(position));
            self.inventory.take();
        }
        was_there
    }

    /// Takes back what [`lift`](Self::lift) did.
    pub fn restore(&mut self, target: Target) {
        if let Some(position) = self.targets.position(target) {
            self.restore_at(position);
        }
    }

    pub fn restore_at(&mut self, position: usize) {
        if self.lifted.has(position) {
            self.lifted.unmark(position);
            self.left.add(self.targets.kind_at(position));
            self.inventory.take();
        }
    }

    /// Those that cover an address, wider ones first.
    pub fn covering(&self, address: IpAddr) -> impl Iterator<Item = Target> + '_ {
        self.lengths.covering(Target::of(address)).filter(|target| self.holds(*target))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_follow_a_wall_clock_that_jumps_and_the_length_stays() {
        let hour = Duration::from_secs(3_600);
        let now = Now { boot: Boot(1_000_000_000_000), wall: Wall(1_767_323_045_000) };
        let terms = Terms {
            origin: Origin::Manual,
            reason: String::new(),
            created: now.wall,
            until: Some(now.boot.plus(hour)),
            expires: Some(now.wall.plus(hour)),
            offence: 1,
        };
        let slewed = Now { wall: now.wall.plus(Duration::from_millis(900)), ..now };
        assert_eq!(terms.clone().by_clock(slewed), terms);
        let years = Duration::from_secs(10 * 365 * 24 * 3_600);
        for wall in [now.wall.plus(years), now.wall.minus(years)] {
            let shown = terms.clone().by_clock(Now { wall, ..now });
            assert_eq!((shown.created, shown.expires, shown.until), (wall, Some(wall.plus(hour)), terms.until));
        }
        let lasting = Terms { until: None, expires: None, ..terms };
        assert_eq!(lasting.clone().by_clock(Now { wall: Wall(0), ..now }), lasting);
    }
}
