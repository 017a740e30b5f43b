//! Many addresses and prefixes in as few bytes as they have: a sorted set without doubles in which each member has a
//! position, and marks by position. How a set goes to the agent and into the store is [`encoding`]'s.

pub mod encoding;

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::block::Target;

/// What a target is, in the order of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Host4,
    Host6,
    Net4,
    Net6,
}

impl Kind {
    pub fn of(target: Target) -> Kind {
        match (target.net(), target.is_single()) {
            (IpNet::V4(_), true) => Kind::Host4,
            (IpNet::V6(_), true) => Kind::Host6,
            (IpNet::V4(_), false) => Kind::Net4,
            (IpNet::V6(_), false) => Kind::Net6,
        }
    }
}

/// How many there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([usize; 4]);

impl Counts {
    pub fn of(self, kind: Kind) -> usize {
        self.0[kind as usize]
    }

    /// Addresses.
    pub fn singles(self) -> usize {
        self.of(Kind::Host4) + self.of(Kind::Host6)
    }

    /// Networks.
    pub fn prefixes(self) -> usize {
        self.of(Kind::Net4) + self.of(Kind::Net6)
    }

    pub fn total(self) -> usize {
        self.0.iter().sum()
    }

    pub fn add(&mut self, kind: Kind) {
        self.0[kind as usize] += 1;
    }

    pub fn subtract(&mut self, kind: Kind) {
        self.0[kind as usize] -= 1;
    }

    pub fn plus(self, other: Counts) -> Counts {
        Counts(std::array::from_fn(|kind| self.0[kind] + other.0[kind]))
    }

    pub fn minus(self, other: Counts) -> Counts {
        Counts(std::array::from_fn(|kind| self.0[kind] - other.0[kind]))
    }
}

impl FromIterator<Kind> for Counts {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Counts {
        let mut counts = Counts::default();
        kinds.into_iter().for_each(|kind| counts.add(kind));
        counts
    }
}

/// A target in the words that the lists are of.
#[derive(Clone, Copy)]
enum Packed {
    Host4(u32),
    Host6(u128),
    Net4((u32, u8)),
    Net6((u128, u8)),
}

impl From<Target> for Packed {
    fn from(target: Target) -> Packed {
        match target.net() {
            IpNet::V4(net) if target.is_single() => Packed::Host4(net.addr().to_bits()),
            IpNet::V6(net) if target.is_single() => Packed::Host6(net.addr().to_bits()),
            IpNet::V4(net) => Packed::Net4((net.addr().to_bits(), net.prefix_len())),
            IpNet::V6(net) => Packed::Net6((net.addr().to_bits(), net.prefix_len())),
        }
    }
}

fn net4((bits, length): (u32, u8)) -> Target {
    let address = Ipv4Addr::from_bits(bits);
    Target::from(IpNet::V4(Ipv4Net::new(address, length).unwrap_or(Ipv4Net::from(address))))
}

fn net6((bits, length): (u128, u8)) -> Target {
    let address = Ipv6Addr::from_bits(bits);
    Target::from(IpNet::V6(Ipv6Net::new(address, length).unwrap_or(Ipv6Net::from(address))))
}

/// The set. Positions count through hosts of IPv4, hosts of IPv6, networks of IPv4, networks of IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    hosts4: Vec<u32>,
    hosts6: Vec<u128>,
    nets4: Vec<(u32, u8)>,
    nets6: Vec<(u128, u8)>,
}

impl Targets {
    /// Adds one; to be followed by [`sorted`](Self::sorted).
    pub fn push(&mut self, target: Target) {
        match Packed::from(target) {
            Packed::Host4(host) => self.hosts4.push(host),
            Packed::Host6(host) => self.hosts6.push(host),
            Packed::Net4(net) => self.nets4.push(net),
            Packed::Net6(net) => self.nets6.push(net),
        }
    }

    /// The same as [`push`](Self::push) for what a long list is mostly of.
    pub fn push_host4(&mut self, bits: u32) {
        self.hosts4.push(bits);
    }

    /// In order and without doubles, as every other call wants it.
    pub fn sorted(mut self) -> Targets {
        in_order(&mut self.hosts4);
        in_order(&mut self.hosts6);
        in_order(&mut self.nets4);
        in_order(&mut self.nets6);
        self
    }

    /// All that any of them has.
    pub fn union<'a>(sets: impl Iterator<Item = &'a Targets>) -> Targets {
        let mut all = Targets::default();
        for set in sets {
            all.hosts4.extend(&set.hosts4);
            all.hosts6.extend(&set.hosts6);
            all.nets4.extend(&set.nets4);
            all.nets6.extend(&set.nets6);
        }
        all.sorted()
    }

    pub fn len(&self) -> usize {
        self.counts().total()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn counts(&self) -> Counts {
        Counts([self.hosts4.len(), self.hosts6.len(), self.nets4.len(), self.nets6.len()])
    }

    /// How many IPv6 networks have this length.
    pub fn nets6_of(&self, length: u8) -> usize {
        self.nets6.iter().filter(|net| net.1 == length).count()
    }

    /// Every member with its position, in the order of [`Target`]: by address, wider networks before what they contain.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Target)> + '_ {
        let [hosts4, hosts6, nets4, nets6] = self.bases();
        let four = merged(&self.hosts4, &self.nets4).map(move |found| match found {
            Merged::Host(at) => (hosts4 + at, Target::of(Ipv4Addr::from_bits(self.hosts4[at]).into())),
            Merged::Net(at) => (nets4 + at, net4(self.nets4[at])),
        });
        let six = merged(&self.hosts6, &self.nets6).map(move |found| match found {
            Merged::Host(at) => (hosts6 + at, Target::of(Ipv6Addr::from_bits(self.hosts6[at]).into())),
            Merged::Net(at) => (nets6 + at, net6(self.nets6[at])),
        });
        four.chain(six)
    }

    /// The member at a position.
    pub fn at(&self, position: usize) -> Option<Target> {
        let [_, hosts6, nets4, nets6] = self.bases();
        match self.kind_at(position) {
            Kind::Host4 => self.hosts4.get(position).map(|bits| Target::of(Ipv4Addr::from_bits(*bits).into())),
            Kind::Host6 => self.hosts6.get(position - hosts6).map(|bits| Target::of(Ipv6Addr::from_bits(*bits).into())),
            Kind::Net4 => self.nets4.get(position - nets4).copied().map(net4),
            Kind::Net6 => self.nets6.get(position - nets6).copied().map(net6),
        }
    }

    /// Where a target stands, if it is a member.
    pub fn position(&self, target: Target) -> Option<usize> {
        let [hosts4, hosts6, nets4, nets6] = self.bases();
        match Packed::from(target) {
            Packed::Host4(host) => self.hosts4.binary_search(&host).ok().map(|at| hosts4 + at),
            Packed::Host6(host) => self.hosts6.binary_search(&host).ok().map(|at| hosts6 + at),
            Packed::Net4(net) => self.nets4.binary_search(&net).ok().map(|at| nets4 + at),
            Packed::Net6(net) => self.nets6.binary_search(&net).ok().map(|at| nets6 + at),
        }
    }

    /// The networks among them.
    pub fn nets(&self) -> impl Iterator<Item = Target> + '_ {
        self.nets4.iter().copied().map(net4).chain(self.nets6.iter().copied().map(net6))
    }

    /// The position of each member that lies within `cover`, or is it.
    pub fn each_inside(&self, cover: Target, mut found: impl FnMut(usize)) {
        let [hosts4, hosts6, nets4, nets6] = self.bases();
        match cover.net() {
            IpNet::V4(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                within(&self.hosts4, |host| *host < first, |host| *host <= last, |at| found(hosts4 + at));
                let before = |other: &(u32, u8)| *other < (first, net.prefix_len());
                within(&self.nets4, before, |other| other.0 <= last, |at| found(nets4 + at));
            }
            IpNet::V6(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                within(&self.hosts6, |host| *host < first, |host| *host <= last, |at| found(hosts6 + at));
                let before = |other: &(u128, u8)| *other < (first, net.prefix_len());
                within(&self.nets6, before, |other| other.0 <= last, |at| found(nets6 + at));
            }
        }
    }

    pub fn finder(&self) -> Finder<'_> {
        Finder { targets: self, bases: self.bases(), near: [0; 4] }
    }

    pub fn kind_at(&self, position: usize) -> Kind {
        let [_, hosts6, nets4, nets6] = self.bases();
        match position {
            at if at < hosts6 => Kind::Host4,
            at if at < nets4 => Kind::Host6,
            at if at < nets6 => Kind::Net4,
            _ => Kind::Net6,
        }
    }

    /// The positions of every target that both have: here, then there.
    pub fn each_common(&self, other: &Targets, mut found: impl FnMut(usize, usize)) {
        let (here, there) = (self.bases(), other.bases());
        common(&self.hosts4, &other.hosts4, |a, b| found(here[0] + a, there[0] + b));
        common(&self.hosts6, &other.hosts6, |a, b| found(here[1] + a, there[1] + b));
        common(&self.nets4, &other.nets4, |a, b| found(here[2] + a, there[2] + b));
        common(&self.nets6, &other.nets6, |a, b| found(here[3] + a, there[3] + b));
    }

    /// Those whose position is not marked.
    pub fn without(&self, marks: &Marks) -> Targets {
        let [hosts4, hosts6, nets4, nets6] = self.bases();
        Targets {
            hosts4: unmarked(&self.hosts4, hosts4, marks),
            hosts6: unmarked(&self.hosts6, hosts6, marks),
            nets4: unmarked(&self.nets4, nets4, marks),
            nets6: unmarked(&self.nets6, nets6, marks),
        }
    }

    /// How many of each kind are not marked.
    pub fn count_without(&self, marks: &Marks) -> Counts {
        let ends = self.bases().into_iter().skip(1).chain([self.len()]);
        let ranges = self.bases().into_iter().zip(ends);
        let mut left = Counts::default();
        for (count, (start, end)) in left.0.iter_mut().zip(ranges) {
            *count = end - start - marks.count(start, end);
        }
        left
    }

    fn bases(&self) -> [usize; 4] {
        let hosts = self.hosts4.len() + self.hosts6.len();
        [0, self.hosts4.len(), hosts, hosts + self.nets4.len()]
    }
}

impl FromIterator<Target> for Targets {
    fn from_iter<I: IntoIterator<Item = Target>>(members: I) -> Targets {
        let mut targets = Targets::default();
        members.into_iter().for_each(|target| targets.push(target));
        targets.sorted()
    }
}

/// Which lengths the networks of a set have, of IPv4 and of IPv6: what may cover a target is one of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lengths([Vec<u8>; 2]);

impl Lengths {
    pub fn of(targets: &Targets) -> Lengths {
        let mut lengths =
            [targets.nets4.iter().map(|net| net.1).collect(), targets.nets6.iter().map(|net| net.1).collect()];
        lengths.iter_mut().for_each(in_order);
        Lengths(lengths)
    }

    /// What would cover a target if it were a member, the target itself too; wider ones first.
    pub fn covering(&self, target: Target) -> impl Iterator<Item = Target> + '_ {
        let net = target.net();
        let lengths = &self.0[usize::from(net.addr().is_ipv6())];
        let wider = lengths.iter().copied().take_while(move |length| *length < net.prefix_len());
        let covers = wider.filter_map(move |length| IpNet::new(net.addr(), length).ok()).map(Target::from);
        covers.chain([target])
    }
}

/// Finds members that are asked for in order, each from where the last was.
pub struct Finder<'a> {
    targets: &'a Targets,
    bases: [usize; 4],
    near: [usize; 4],
}

impl Finder<'_> {
    pub fn find(&mut self, target: Target) -> Option<usize> {
        let (kind, found) = match Packed::from(target) {
            Packed::Host4(host) => (0, seek(&self.targets.hosts4, &mut self.near[0], &host)),
            Packed::Host6(host) => (1, seek(&self.targets.hosts6, &mut self.near[1], &host)),
            Packed::Net4(net) => (2, seek(&self.targets.nets4, &mut self.near[2], &net)),
            Packed::Net6(net) => (3, seek(&self.targets.nets6, &mut self.near[3], &net)),
        };
        found.map(|at| self.bases[kind] + at)
    }
}

/// A bit for each member of a set, by position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(Vec<u64>);

impl Marks {
    pub fn of(targets: &Targets) -> Marks {
        Marks(vec![0; targets.len().div_ceil(64)])
    }

    pub fn has(&self, position: usize) -> bool {
        self.0.get(position / 64).is_some_and(|word| word >> (position % 64) & 1 == 1)
    }

    /// Whether it was not marked before.
    pub fn mark(&mut self, position: usize) -> bool {
        let fresh = !self.has(position);
        if let Some(word) = self.0.get_mut(position / 64) {
            *word |= 1 << (position % 64);
        }
        fresh
    }

    pub fn unmark(&mut self, position: usize) {
        if let Some(word) = self.0.get_mut(position / 64) {
            *word &= !(1 << (position % 64));
        }
    }

    fn count(&self, start: usize, end: usize) -> usize {
        let below = |end: usize| -> usize {
            let whole: usize = self.0.iter().take(end / 64).map(|word| word.count_ones() as usize).sum();
            let rest = self.0.get(end / 64).map_or(0, |word| (word & ((1 << (end % 64)) - 1)).count_ones());
            whole + rest as usize
        };
        below(end) - below(start)
    }
}

fn in_order<T: Ord>(list: &mut Vec<T>) {
    list.sort_unstable();
    list.dedup();
}

fn unmarked<T: Copy>(list: &[T], base: usize, marks: &Marks) -> Vec<T> {
    list.iter().enumerate().filter(|(at, _)| !marks.has(base + at)).map(|(_, one)| *one).collect()
}

/// Where those lie that are not before something and not after it.
fn within<T>(sorted: &[T], before: impl Fn(&T) -> bool, not_after: impl Fn(&T) -> bool, found: impl FnMut(usize)) {
    let first = sorted.partition_point(before);
    let count = sorted[first..].partition_point(not_after);
    (first..first + count).for_each(found);
}

enum Merged {
    Host(usize),
    Net(usize),
}

/// Both lists in one order: a network before an address of the same bits.
fn merged<A: Ord>(hosts: &[A], nets: &[(A, u8)]) -> impl Iterator<Item = Merged> {
    let (mut host, mut net) = (0, 0);
    std::iter::from_fn(move || match (hosts.get(host), nets.get(net)) {
        (None, None) => None,
        (Some(address), Some((network, _))) if network <= address => step(&mut net).map(Merged::Net),
        (None, Some(_)) => step(&mut net).map(Merged::Net),
        (Some(_), _) => step(&mut host).map(Merged::Host),
    })
}

fn step(at: &mut usize) -> Option<usize> {
    *at += 1;
    Some(*at - 1)
}

/// Looks for each of the shorter list in the longer one.
fn common<T: Ord>(here: &[T], there: &[T], mut found: impl FnMut(usize, usize)) {
    let (short, long) = if here.len() <= there.len() { (here, there) } else { (there, here) };
    let mut near = 0;
    for (at, one) in short.iter().enumerate() {
        match seek(long, &mut near, one) {
            Some(other) if here.len() <= there.len() => found(at, other),
            Some(other) => found(other, at),
            None => {}
        }
    }
}

/// Where `wanted` stands in a sorted list: the search goes on from `near` in growing steps, and begins anew for one that
/// lies before it.
fn seek<T: Ord>(sorted: &[T], near: &mut usize, wanted: &T) -> Option<usize> {
    let is_past = near.checked_sub(1).and_then(|before| sorted.get(before)).is_some_and(|before| before >= wanted);
    if is_past {
        *near = 0;
    }
    let rest = sorted.get(*near..).unwrap_or_default();
    let mut bound = 1;
    while rest.get(bound - 1).is_some_and(|one| one < wanted) {
        bound *= 2;
    }
    let window = &rest[bound / 2..bound.min(rest.len())];
    *near += bound / 2 + window.partition_point(|one| one < wanted);
    (sorted.get(*near) == Some(wanted)).then_some(*near)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    #[test]
    fn members_stand_in_the_order_of_targets_without_doubles() {
        let names =
            ["203.0.113.7", "2001:db8::/32", "10.0.0.0", "10.0.0.0/8", "2001:db8::1", "203.0.113.7/32", "10.0.0.0/24"];
        let targets: Targets = names.iter().map(|name| target(name)).collect();
        let mut expected: Vec<Target> = names.iter().map(|name| target(name)).collect();
        expected.sort();
        expected.dedup();
        assert_eq!(targets.iter().map(|(_, target)| target).collect::<Vec<_>>(), expected);
        assert_eq!((targets.counts().singles(), targets.counts().prefixes(), targets.len()), (3, 3, 6));
        assert_eq!(Lengths::of(&targets), Lengths([vec![8, 24], vec![32]]));
        for (position, member) in targets.iter() {
            assert_eq!(targets.position(member), Some(position));
            assert_eq!((targets.kind_at(position), targets.at(position)), (Kind::of(member), Some(member)));
        }
        assert_eq!(targets.position(target("10.0.0.0/9")), None);
    }

    #[test]
    fn what_may_cover_a_target_is_of_the_lengths_that_there_are() {
        let lengths = Lengths::of(&["10.0.0.0/8", "10.0.0.0/24", "::/0"].iter().map(|name| target(name)).collect());
        let covering = |name| lengths.covering(target(name)).map(|cover| cover.to_string()).collect::<Vec<_>>();
        assert_eq!(covering("10.1.2.3"), ["10.0.0.0/8", "10.1.2.0/24", "10.1.2.3/32"]);
        assert_eq!(covering("10.1.0.0/16"), ["10.0.0.0/8", "10.1.0.0/16"]);
        assert_eq!(covering("2001:db8::/32"), ["::/0", "2001:db8::/32"]);
    }

    #[test]
    fn what_is_marked_is_left_out_and_not_counted() {
        let targets: Targets = (0..200u32).map(|n| Target::of(Ipv4Addr::from_bits(n).into())).collect();
        let mut marks = Marks::of(&targets);
        assert!(marks.mark(0) && marks.mark(130) && !marks.mark(130) && marks.mark(199));
        marks.unmark(199);
        assert_eq!(targets.count_without(&marks).of(Kind::Host4), 198);
        let left = targets.without(&marks);
        assert_eq!((left.len(), left.position(target("0.0.0.130"))), (198, None));
    }

    fn any_target() -> impl Strategy<Value = Target> {
        let four = (0u32..64, 24u8..=32).prop_map(|(bits, length)| net4((bits, length)));
        let six = (0u128..64, 120u8..=128).prop_map(|(bits, length)| net6((bits, length)));
        prop_oneof![four, six]
    }

    proptest! {
        #[test]
        fn what_lies_inside_is_found(
            members in proptest::collection::vec(any_target(), 0..60),
            cover in any_target(),
        ) {
            let targets: Targets = members.iter().copied().collect();
            let mut inside = Vec::new();
            targets.each_inside(cover, |position| inside.push(position));
            inside.sort_unstable();
            let covered = targets.iter().filter(|(_, target)| cover.net().contains(&target.net()));
            let mut expected: Vec<usize> = covered.map(|(position, _)| position).collect();
            expected.sort_unstable();
            prop_assert_eq!(inside, expected);
        }

        #[test]
        fn looking_in_order_or_not_finds_what_is_there(
            members in proptest::collection::vec(any_target(), 0..60),
            asked in proptest::collection::vec(any_target(), 0..60),
        ) {
            let targets: Targets = members.iter().copied().collect();
            let mut finder = targets.finder();
            for one in &asked {
                prop_assert_eq!(finder.find(*one), targets.position(*one));
                prop_assert_eq!(targets.position(*one).is_some(), members.contains(one));
            }
            let other: Targets = asked.iter().copied().collect();
            let mut both = Vec::new();
            targets.each_common(&other, |here, there| both.push((here, there)));
            let expected: Vec<(usize, usize)> =
                targets.iter().filter_map(|(here, one)| Some((here, other.position(one)?))).collect();
            both.sort_unstable();
            let mut expected = expected;
            expected.sort_unstable();
            prop_assert_eq!(both, expected);
        }
    }
}
