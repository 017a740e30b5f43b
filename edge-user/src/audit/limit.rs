//! How many lines a flood gets. Pure, and bounded whatever comes: of failures from one peer the first of an event in a
//! minute have a line each, and so has the first of each new subject; the rest are one line with their exact count. A
//! client that is forgotten for another one leaves its count behind.

use std::{
    collections::{HashSet, hash_map::RandomState},
    hash::BuildHasher,
    time::Duration,
};

use edge_common::reason::Reason;

use super::event::{Event, Name, Outcome};
use crate::{
    block::Target,
    bounded::Bounded,
    clock::{Boot, Now},
};

/// Floods of one family that are told apart; the one that was quiet for longest makes room.
const FLOODS: usize = 4_096;
/// Subjects whose first failure has a line, of one flood and of all.
const SUBJECTS: usize = 1_000;
const SUBJECTS_OF_ALL: usize = 65_536;
const MINUTE: Duration = Duration::from_secs(60);

/// Whose events are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// The client: of IPv6, its unit.
    Peer(Target),
    /// The user who gives commands.
    Uid(u32),
    /// Packets that were dropped for one reason, whoever sent them: a source can be forged.
    Dropped(u8),
    Nobody,
}

impl Who {
    pub fn dropped(reason: Reason) -> Who {
        Who::Dropped(reason as u8)
    }
}

type Key = (Who, Name, Outcome);

/// What of an event has lines of its own.
struct Bounds {
    first: u32,
    /// The rest is told after so long.
    told_after: Duration,
}

/// The agent looks once a second, and ten seconds are promised.
const OF_FAILURES: Bounds = Bounds { first: 30, told_after: Duration::from_millis(8_900) };
/// Programs look at regular times; what they see does not change by it.
const OF_LOOKS: Bounds = Bounds { first: 1, told_after: MINUTE };

/// `None`: each has its own line.
fn bounds(name: Name, outcome: Outcome) -> Option<&'static Bounds> {
    match outcome {
        _ if name.is_look() => Some(&OF_LOOKS),
        Outcome::Failure => Some(&OF_FAILURES),
        Outcome::Success => None,
    }
}

/// Whether not each has its own line.
pub fn is_limited(name: Name, outcome: Outcome) -> bool {
    bounds(name, outcome).is_some()
}

#[derive(Debug, Default)]
struct Flood {
    began: Option<Boot>,
    told: u32,
    subjects: HashSet<u64>,
    rest: Option<Rest>,
}

/// What had no line of its own.
#[derive(Debug)]
struct Rest {
    since: Boot,
    told_after: Duration,
    /// The last of them, without what differs between them.
    event: Event,
    count: u64,
}

pub struct Limiter {
    four: Bounded<Key, Boot, Flood>,
    six: Bounded<Key, Boot, Flood>,
    others: Bounded<Key, Boot, Flood>,
    subjects: usize,
    hasher: RandomState,
    /// Counts whose client was forgotten or whose minute is over.
    left: Vec<Rest>,
}

impl Default for Limiter {
    fn default() -> Limiter {
        Limiter::bounded(FLOODS)
    }
}

impl Limiter {
    fn bounded(floods: usize) -> Limiter {
        let table = || Bounded::new(floods);
        Limiter {
            four: table(),
            six: table(),
            others: table(),
            subjects: 0,
            hasher: RandomState::new(),
            left: Vec::new(),
        }
    }

    /// Gives the event back where it has a line of its own.
    pub fn take(&mut self, who: Who, name: Name, event: Event, now: Now) -> Option<Event> {
        let Some(bounds) = bounds(name, event.outcome) else { return Some(event) };
        let room = event.outcome == Outcome::Failure && self.subjects < SUBJECTS_OF_ALL;
        let subject = event.subject.as_deref().filter(|_| room).map(|subject| self.hasher.hash_one(subject));
        let flood = self.flood((who, name, event.outcome), now.boot);
        let is_new = subject.is_some_and(|subject| flood.subjects.len() < SUBJECTS && flood.subjects.insert(subject));
        let is_first = flood.told < bounds.first;
        flood.told += u32::from(is_first);
        let own = if is_first || is_new { Some(event) } else { flood.add(event, bounds.told_after, now.boot) };
        self.subjects += usize::from(is_new);
        own
    }

    /// What is to be told now, one line for each flood. What is quiet is forgotten.
    pub fn due(&mut self, now: Now) -> Vec<Event> {
        let mut due = std::mem::take(&mut self.left);
        for table in [&mut self.four, &mut self.six, &mut self.others] {
            for flood in table.values_mut() {
                due.extend(flood.rest.take_if(|rest| rest.since.plus(rest.told_after) <= now.boot));
            }
            while let Some((_, flood)) =
                table.pop_if(|last, flood| last.plus(MINUTE) <= now.boot && flood.rest.is_none())
            {
                self.subjects -= flood.subjects.len();
            }
        }
        due.into_iter().map(|rest| rest.told(now)).collect()
    }

    /// All that has not been told yet.
    pub fn all(&mut self, now: Now) -> Vec<Event> {
        let mut all = std::mem::take(&mut self.left);
        for table in [&mut self.four, &mut self.six, &mut self.others] {
            all.extend(table.values_mut().filter_map(|flood| flood.rest.take()));
        }
        all.into_iter().map(|rest| rest.told(now)).collect()
    }

    /// The flood of this key, a new one where its minute is over.
    fn flood(&mut self, key: Key, now: Boot) -> &mut Flood {
        let table = match key.0 {
            Who::Peer(target) if target.net().addr().is_ipv4() => &mut self.four,
            Who::Peer(_) => &mut self.six,
            Who::Uid(_) | Who::Dropped(_) | Who::Nobody => &mut self.others,
        };
        if table.is_full_for(key)
            && let Some((_, forgotten)) = table.pop_oldest()
        {
            self.subjects -= forgotten.subjects.len();
            self.left.extend(forgotten.rest);
        }
        let flood = table.touch(key, now);
        if flood.began.is_none_or(|began| began.plus(MINUTE) <= now) {
            let former = std::mem::replace(flood, Flood { began: Some(now), ..Flood::default() });
            self.subjects -= former.subjects.len();
            // Its time to be told comes as ever.
            flood.rest = former.rest;
        }
        flood
    }
}

impl Flood {
    /// It has no line of its own.
    fn add(&mut self, event: Event, told_after: Duration, now: Boot) -> Option<Event> {
        let event = Event { subject: None, request_id: None, key_id: None, ..event };
        match &mut self.rest {
            Some(rest) => {
                rest.count += event.count.unwrap_or(1);
                let reason = event.reason.filter(|reason| rest.event.reason.as_ref() == Some(reason));
                rest.event.peer = event.peer;
                rest.event.reason = reason;
            }
            None => self.rest = Some(Rest { since: now, told_after, count: event.count.unwrap_or(1), event }),
        }
        None
    }
}

impl Rest {
    fn told(self, now: Now) -> Event {
        let peer = if self.event.event == Name::Drop.text() { None } else { self.event.peer };
        Event { time: now.wall, peer, count: Some(self.count), ..self.event }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Wall;

    fn at(milliseconds: u64) -> Now {
        Now { boot: Boot(milliseconds * 1_000_000), wall: Wall(milliseconds as i64) }
    }

    fn peer(number: u32) -> Who {
        Who::Peer(Target::of(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into()))
    }

    fn failure(subject: &str) -> Event {
        Event {
            subject: Some(subject.to_owned()),
            reason: Some("invalid_credentials".to_owned()),
            peer: Some("10.0.0.1".parse().unwrap()),
            ..Event::new(Name::Login, Outcome::Failure, Wall(0))
        }
    }

    /// How many have a line of their own.
    fn lines(limiter: &mut Limiter, who: Who, subjects: impl Iterator<Item = String>, now: u64) -> usize {
        subjects.filter_map(|subject| limiter.take(who, Name::Login, failure(&subject), at(now))).count()
    }

    fn same(count: usize) -> impl Iterator<Item = String> {
        std::iter::repeat_n("root".to_owned(), count)
    }

    fn counts(events: &[Event]) -> Vec<Option<u64>> {
        events.iter().map(|event| event.count).collect()
    }

    #[test]
    fn of_200_failures_30_have_a_line_and_one_line_counts_the_rest_within_ten_seconds() {
        let mut limiter = Limiter::default();
        assert_eq!(lines(&mut limiter, peer(1), same(100), 0), 30);
        assert_eq!(lines(&mut limiter, peer(1), same(100), 3_000), 0);
        assert_eq!(limiter.due(at(8_899)), []);
        let told = limiter.due(at(8_900));
        assert_eq!(counts(&told), [Some(170)]);
        let expected = Event { subject: None, count: Some(170), time: Wall(8_900), ..failure("") };
        assert_eq!(told[0], expected);
        assert_eq!(limiter.due(at(20_000)), []);
        // Another event, another client, a success: none of them belongs to that flood.
        let refresh = Event::new(Name::Refresh, Outcome::Failure, Wall(0));
        assert!(limiter.take(peer(1), Name::Refresh, refresh, at(4)).is_some());
        assert_eq!(lines(&mut limiter, peer(2), same(1), 4), 1);
        for _ in 0..200 {
            let success = Event::new(Name::Login, Outcome::Success, Wall(0));
            assert!(limiter.take(peer(1), Name::Login, success, at(4)).is_some());
        }
    }

    #[test]
    fn a_minute_later_the_first_have_lines_again_and_no_count_is_lost() {
        let mut limiter = Limiter::default();
        assert_eq!(lines(&mut limiter, peer(1), same(30), 0), 30);
        assert_eq!(lines(&mut limiter, peer(1), same(5), 59_999), 0);
        assert_eq!(lines(&mut limiter, peer(1), same(31), 60_000), 30);
        assert_eq!(counts(&limiter.due(at(69_000))), [Some(6)]);
    }

    #[test]
    fn each_new_subject_has_a_line_up_to_a_thousand() {
        let mut limiter = Limiter::default();
        let names = |range: std::ops::Range<u32>| range.map(|number| format!("user{number}"));
        assert_eq!(lines(&mut limiter, peer(1), names(0..1_200), 0), 1_000);
        assert_eq!(lines(&mut limiter, peer(1), names(0..1_200), 1), 0);
        assert_eq!(counts(&limiter.all(at(2))), [Some(1_400)]);
        // Once it is quiet, nothing of it is left.
        assert_eq!(limiter.subjects, 1_000);
        limiter.due(at(70_000));
        assert_eq!((limiter.subjects, limiter.four.len()), (0, 0));
    }

    #[test]
    fn whoever_is_forgotten_leaves_its_count_behind() {
        let mut limiter = Limiter::bounded(10);
        assert_eq!(lines(&mut limiter, peer(0), same(35), 0), 30);
        for number in 1..2_000 {
            assert_eq!(lines(&mut limiter, peer(number), same(31), u64::from(number)), 30);
        }
        assert_eq!(limiter.four.len(), 10);
        let told: u64 = counts(&limiter.all(at(2_001))).into_iter().flatten().sum();
        assert_eq!(told, 5 + 1_999);
        assert!(limiter.subjects <= 10);
    }

    #[test]
    fn subjects_of_many_clients_are_bounded_too() {
        let mut limiter = Limiter::default();
        let flood = |limiter: &mut Limiter, who| lines(limiter, who, (0..1_000).map(|n| n.to_string()), 0);
        let all: usize = (0..100).map(|number| flood(&mut limiter, peer(number))).sum();
        assert!(limiter.subjects <= SUBJECTS_OF_ALL && all <= SUBJECTS_OF_ALL + 100 * 30, "{all}");
    }

    #[test]
    fn who_looks_again_and_again_has_a_line_a_minute_and_a_count() {
        let mut limiter = Limiter::default();
        let look = || Event::new(Name::Status, Outcome::Success, Wall(0));
        let own = (0..60).filter_map(|second| limiter.take(Who::Uid(0), Name::Status, look(), at(second * 1_000)));
        assert_eq!(own.count(), 1);
        assert_eq!(limiter.due(at(60_999)), []);
        assert_eq!(counts(&limiter.due(at(61_000))), [Some(59)]);
    }

    #[test]
    fn drops_are_bounded_by_reason_whoever_sent_them() {
        let mut limiter = Limiter::default();
        let mut take = |reason: Reason, number: u32| {
            let source = Some(std::net::Ipv4Addr::from_bits(number).into());
            let event = Event {
                peer: source,
                reason: Some(reason.name().to_owned()),
                ..Event::new(Name::Drop, Outcome::Failure, Wall(0))
            };
            limiter.take(Who::dropped(reason), Name::Drop, event, at(0)).is_some()
        };
        assert_eq!((0..5_000).filter(|number| take(Reason::PortClosed, *number)).count(), 30);
        assert!(take(Reason::Malformed, 1));
        let told = limiter.all(at(1));
        assert_eq!((counts(&told), told[0].peer), (vec![Some(4_970)], None));
        assert_eq!(told[0].reason.as_deref(), Some("port_closed"));
    }
}
