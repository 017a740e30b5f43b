//! What was decided, as an operator would keep it on paper: who is blocked by whom until when, and who is allowed. Slow and
//! obvious, and written from the documents; it shares nothing with edge. Ends are known as well as a caller can know them:
//! between two readings of the clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::Result;
use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};

/// How long the kernel may go on with a block that is over.
const LATE: Duration = Duration::from_secs(1);
/// How far what a document says may lie from what was measured here: both round to milliseconds.
const ROUNDED: Duration = Duration::from_millis(5);

/// Time since the boot, suspends included.
pub fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME)?.into())
}

/// Between two readings of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between(pub Duration, pub Duration);

impl Between {
    /// Until `work` is done.
    pub fn of<T>(work: impl FnOnce() -> Result<T>) -> Result<(Between, T)> {
        let begun = now()?;
        let done = work()?;
        Ok((Between(begun, now()?), done))
    }

    pub fn plus(self, length: Duration) -> Between {
        Between(self.0 + length, self.1 + length)
    }
}

/// When a block ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    UntilLifted,
    At(Between),
    /// Judged by edge; for how long is not decided here.
    Learned,
}

/// Whether something holds, as far as the clocks tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holds {
    No,
    Perhaps,
    Yes,
}

impl End {
    fn holds(self, now: Between, late: Duration) -> Holds {
        match self {
            End::UntilLifted | End::Learned => Holds::Yes,
            End::At(Between(earliest, _)) if now.1 < earliest.saturating_sub(ROUNDED) => Holds::Yes,
            End::At(Between(_, latest)) if now.0 > latest + late => Holds::No,
            End::At(_) => Holds::Perhaps,
        }
    }

    /// Whether an end that is so far off, as of `now`, can be this one.
    pub fn is(self, left: Option<Duration>, now: Between) -> bool {
        match (self, left) {
            (End::UntilLifted, None) | (End::Learned, Some(_)) => true,
            (End::At(Between(earliest, latest)), Some(left)) => {
                now.1 + left + ROUNDED >= earliest && now.0 + left <= latest + ROUNDED
            }
            _ => false,
        }
    }
}

/// A block's name: what is blocked, and its origin.
pub type Name = (IpNet, &'static str);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    pub blocks: BTreeMap<Name, End>,
    pub allowed: BTreeSet<IpNet>,
    /// What the config in force names.
    pub named: BTreeSet<IpNet>,
    /// Never blocked, whoever says so.
    pub protected: Vec<IpNet>,
}

impl Decisions {
    /// Whether naming it is refused.
    pub fn never_blocked(&self, target: IpNet) -> bool {
        self.allowed.iter().chain(&self.protected).any(|cover| cover.contains(&target))
    }

    /// All of them, or none where one of them is protected; whether it was done.
    pub fn block(&mut self, targets: &[IpNet], origin: &'static str, end: End) -> bool {
        if targets.iter().any(|target| self.never_blocked(*target)) {
            return false;
        }
        self.blocks.extend(targets.iter().map(|target| ((*target, origin), end)));
        true
    }

    /// All but those that are protected.
    pub fn import(&mut self, targets: &[IpNet], origin: &'static str, end: End) {
        let good: Vec<IpNet> = targets.iter().copied().filter(|target| !self.never_blocked(*target)).collect();
        self.blocks.extend(good.into_iter().map(|target| ((target, origin), end)));
    }

    /// Of one origin or of all; `None`: every target. Without an agent what the config names stays.
    pub fn unblock(&mut self, targets: Option<&[IpNet]>, origin: Option<&str>, agent: bool) {
        let is_meant = |(target, by): &Name| {
            targets.is_none_or(|targets| targets.contains(target))
                && origin.is_none_or(|origin| origin == *by)
                && (agent || *by != "config")
        };
        self.blocks.retain(|name, _| !is_meant(name));
    }

    /// Without an agent nobody knows that what the config names was lifted, but by the kernel.
    pub fn without_agent(&mut self) {
        let lasts = |target: &IpNet| {
            self.blocks.iter().any(|((blocked, _), end)| blocked == target && *end == End::UntilLifted)
        };
        let named: Vec<IpNet> = self.named.iter().filter(|target| lasts(target)).copied().collect();
        self.blocks.extend(named.into_iter().map(|target| ((target, "config"), End::UntilLifted)));
    }

    /// A config comes into force: what it names is blocked until it names it no more, and stays so when it is allowed
    /// meanwhile.
    pub fn configure(&mut self) {
        self.blocks.retain(|(_, origin), _| *origin != "config");
        let is_protected = |target: &&IpNet| self.protected.iter().any(|cover| cover.contains(*target));
        let named: Vec<IpNet> = self.named.iter().filter(|target| !is_protected(target)).copied().collect();
        self.blocks.extend(named.into_iter().map(|target| ((target, "config"), End::UntilLifted)));
    }

    /// Whether a packet of this source is dropped.
    pub fn drops(&self, source: IpAddr, now: Between) -> Holds {
        let covers = |net: &&IpNet| net.contains(&source);
        if self.allowed.iter().chain(&self.protected).any(|net| covers(&net)) {
            return Holds::No;
        }
        let blocks = self.blocks.iter().filter(|((target, _), _)| target.contains(&source));
        blocks.map(|(_, end)| end.holds(now, LATE)).max().unwrap_or(Holds::No)
    }

    /// Whether a list of this moment has it.
    pub fn lists(&self, name: &Name, now: Between) -> Holds {
        self.blocks.get(name).map_or(Holds::No, |end| end.holds(now, ROUNDED))
    }

    /// When nothing is in doubt any more.
    pub fn settled(&self, longest: Duration) -> Option<Duration> {
        let latest =
            |end: &End| if let End::At(Between(_, latest)) = end { Some(*latest + LATE + ROUNDED) } else { None };
        let now = now().ok()?;
        self.blocks.values().filter_map(latest).filter(|latest| *latest < now + longest).max()
    }

    /// What is over is on paper no more.
    pub fn sweep(&mut self, now: Between) {
        self.blocks.retain(|_, end| end.holds(now, LATE) != Holds::No);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn at(seconds: u64) -> Between {
        Between(Duration::from_secs(seconds), Duration::from_secs(seconds))
    }

    #[test]
    fn one_that_is_protected_refuses_all_of_a_block_and_is_left_out_of_an_import() {
        let mut decisions = Decisions { protected: vec![net("10.0.0.1/32")], ..Decisions::default() };
        let both = [net("10.0.0.1/32"), net("10.0.0.2/32")];
        assert!(!decisions.block(&both, "manual", End::UntilLifted) && decisions.blocks.is_empty());
        decisions.import(&both, "feed", End::UntilLifted);
        assert_eq!(decisions.blocks.len(), 1);
        assert!(decisions.block(&[net("10.0.0.0/24")], "manual", End::UntilLifted), "it only covers one");
        assert_eq!(decisions.drops("10.0.0.1".parse().unwrap(), at(1)), Holds::No);
        assert_eq!(decisions.drops("10.0.0.3".parse().unwrap(), at(1)), Holds::Yes);
    }

    #[test]
    fn an_end_is_in_doubt_for_a_second_and_no_longer() {
        let mut decisions = Decisions::default();
        assert!(decisions.block(&[net("10.0.0.2/32")], "manual", End::At(at(10))));
        let drops = |seconds| decisions.drops("10.0.0.2".parse().unwrap(), at(seconds));
        assert_eq!([9, 10, 11, 12].map(drops), [Holds::Yes, Holds::Perhaps, Holds::Perhaps, Holds::No]);
        assert!(End::At(at(10)).is(Some(Duration::from_secs(4)), at(6)));
        assert!(!End::At(at(10)).is(Some(Duration::from_secs(5)), at(6)) && !End::At(at(10)).is(None, at(6)));
    }
}
