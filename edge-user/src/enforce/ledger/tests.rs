//! The ledger, batches and all, beside a model that keeps every block alone.

use proptest::prelude::*;

use super::*;
use crate::{clock::Wall, targets::Targets};

fn block(target: &str, origin: Origin, until: Option<u64>) -> Block {
    terms(origin, until).block(target.parse().unwrap())
}

fn terms(origin: Origin, until: Option<u64>) -> Terms {
    Terms {
        origin,
        reason: String::new(),
        created: Wall(0),
        until: until.map(Boot),
        expires: until.map(|_| Wall(0)),
        offence: 1,
    }
}

fn batch(targets: &[&str], origin: Origin, until: Option<u64>) -> Batch {
    Batch::new(terms(origin, until), targets.iter().map(|text| text.parse::<Target>().unwrap()).collect())
}

fn at(boot: u64) -> Now {
    Now { boot: Boot(boot), wall: Wall(0) }
}

fn counts(ledger: &Ledger) -> (usize, usize) {
    (ledger.counts().singles(), ledger.counts().prefixes())
}

fn holding(ledger: &Ledger, address: &str, now: u64) -> Option<String> {
    ledger.holding(address.parse().unwrap(), at(now)).map(|block| block.target.to_string())
}

#[test]
fn of_several_ends_the_latest_holds_until_it_is_lifted() {
    let mut ledger = Ledger::default();
    let target = "203.0.113.7".parse().unwrap();
    ledger.put(block("203.0.113.7", Origin::Auth, Some(1 << 32)));
    ledger.put(block("203.0.113.7", Origin::Manual, None));
    assert_eq!(ledger.wanted(target), Some(Until::NEVER));
    assert!(ledger.remove(target, Origin::Manual).is_some());
    assert_eq!(ledger.wanted(target), Some(Until::at(1 << 32)));
    assert!(ledger.remove(target, Origin::Auth).is_some());
    assert_eq!((ledger.wanted(target), counts(&ledger)), (None, (0, 0)));
}

#[test]
fn a_replaced_block_leaves_no_end_behind() {
    let mut ledger = Ledger::default();
    ledger.put(block("203.0.113.7", Origin::Manual, Some(10)));
    ledger.put(block("203.0.113.7", Origin::Manual, Some(10)));
    assert_eq!(ledger.ended(at(10)).len(), 1);
    let former = ledger.put(block("203.0.113.7", Origin::Manual, Some(20)));
    assert_eq!(former, Some(Former::Alone(block("203.0.113.7", Origin::Manual, Some(10)))));
    assert_eq!(ledger.ended(at(19)), []);
    ledger.put(block("203.0.113.7", Origin::Manual, None));
    assert_eq!(ledger.ended(at(u64::MAX)), []);
    assert_eq!(counts(&ledger), (1, 0));
}

#[test]
fn the_cover_that_ends_last_is_the_one_that_holds() {
    let mut ledger = Ledger::default();
    ledger.put(block("203.0.113.7", Origin::Auth, Some(10)));
    ledger.put(block("203.0.113.0/24", Origin::Manual, Some(20)));
    ledger.add(batch(&["203.0.112.0/20", "198.51.100.7"], Origin::Feed, Some(30)));
    assert_eq!(holding(&ledger, "203.0.113.7", 5).as_deref(), Some("203.0.112.0/20"));
    assert_eq!(holding(&ledger, "::ffff:198.51.100.7", 15).as_deref(), Some("198.51.100.7/32"));
    assert_eq!(holding(&ledger, "203.0.113.7", 30), None);
    assert_eq!(holding(&ledger, "203.0.128.7", 5), None);
    ledger.remove("203.0.112.0/20".parse().unwrap(), Origin::Feed);
    assert_eq!(holding(&ledger, "::ffff:203.0.113.7", 15).as_deref(), Some("203.0.113.0/24"));
    assert_eq!(counts(&ledger), (2, 1));
}

#[test]
fn what_a_batch_has_of_its_origin_is_in_no_other_place() {
    let mut ledger = Ledger::default();
    ledger.put(block("203.0.113.1", Origin::Feed, None));
    ledger.put(block("203.0.113.1", Origin::Manual, None));
    let (first, displaced) = ledger.add(batch(&["203.0.113.1", "203.0.113.2"], Origin::Feed, Some(10)));
    assert_eq!(displaced.blocks, [block("203.0.113.1", Origin::Feed, None)]);
    let (second, displaced) = ledger.add(batch(&["203.0.113.2", "203.0.113.3"], Origin::Feed, Some(20)));
    assert_eq!(displaced.members, [(first, vec![1])]);
    assert_eq!((ledger.iter().count(), counts(&ledger)), (4, (3, 0)));
    let former = ledger.put(block("203.0.113.3", Origin::Feed, None));
    assert_eq!(former, Some(Former::In(second)));
    assert_eq!(ledger.forget_empty(), []);
    assert_eq!(ledger.remove("203.0.113.2".parse().unwrap(), Origin::Feed), Some(Former::In(second)));
    assert_eq!(ledger.forget_empty(), [second]);
    assert_eq!((ledger.ended_batches(at(9)), ledger.ended_batches(at(10))), (vec![], vec![first]));
    assert_eq!(ledger.take(first).unwrap().left().total(), 1);
    assert_eq!(counts(&ledger), (2, 0));
}

#[test]
fn what_is_over_and_not_swept_is_not_counted() {
    let mut ledger = Ledger::default();
    ledger.put(block("203.0.113.1", Origin::Auth, Some(10)));
    ledger.put(block("203.0.113.1", Origin::Manual, None));
    ledger.put(block("203.0.113.2", Origin::Auth, Some(10)));
    assert_eq!(ledger.counts_now(at(9)).total(), 2);
    assert_eq!(ledger.counts_now(at(10)).total(), 1);
    ledger.add(batch(&["203.0.113.2", "203.0.113.3"], Origin::Feed, Some(12)));
    assert_eq!(ledger.counts_now(at(11)).total(), 3);
    assert_eq!(ledger.counts_now(at(12)).total(), 1);
    assert_eq!(ledger.counts().total(), 3);
}

/// What a step does: which targets (bits of a number), for which origin, until when.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, Origin, u8),
    PutAndBack(u8, Origin, u8),
    Remove(u8, Origin),
    Add(u16, Origin, u8),
    AddAndBack(u16, Origin, u8),
    Sweep(u8),
}

fn target(number: u8) -> Target {
    let names = [
        "10.0.0.0/8",
        "10.0.0.0",
        "10.0.0.0/24",
        "10.0.0.1",
        "2001:db8::/32",
        "2001:db8::",
        "2001:db8::/64",
        "10.0.1.0",
    ];
    names[usize::from(number) % names.len()].parse().unwrap()
}

fn targets(bits: u16) -> Targets {
    (0..8).filter(|number| bits >> number & 1 == 1).map(target).collect()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let origin = || prop_oneof![Just(Origin::Manual), Just(Origin::Feed)];
    let one = prop_oneof![
        (0u8..8, origin(), 1u8..40).prop_map(|(one, origin, end)| Step::Put(one, origin, end)),
        (0u8..8, origin(), 1u8..40).prop_map(|(one, origin, end)| Step::PutAndBack(one, origin, end)),
        (0u8..8, origin()).prop_map(|(one, origin)| Step::Remove(one, origin)),
        (0u16..256, origin(), 1u8..40).prop_map(|(many, origin, end)| Step::Add(many, origin, end)),
        (0u16..256, origin(), 1u8..40).prop_map(|(many, origin, end)| Step::AddAndBack(many, origin, end)),
        (0u8..40).prop_map(Step::Sweep),
    ];
    proptest::collection::vec(one, 0..40)
}

/// In the kernel's units, so that no two ends are rounded to one.
fn time(units: u8) -> u64 {
    u64::from(units) << 28
}

type Model = BTreeMap<(Target, Origin), Block>;

fn apply(ledger: &mut Ledger, model: &mut Model, step: &Step) {
    match *step {
        Step::Put(one, origin, end) => {
            let block = terms(origin, Some(time(end))).block(target(one));
            ledger.put(block.clone());
            model.insert((block.target, origin), block);
        }
        Step::PutAndBack(one, origin, end) => {
            let block = terms(origin, Some(time(end))).block(target(one));
            let former = ledger.put(block);
            ledger.put_back(target(one), origin, former);
        }
        Step::Remove(one, origin) => {
            let gone = ledger.remove(target(one), origin).is_some();
            assert_eq!(gone, model.remove(&(target(one), origin)).is_some());
        }
        Step::Add(many, origin, end) => {
            let terms = terms(origin, Some(time(end)));
            let fresh = ledger.fresh(&targets(many));
            let before = ledger.counts();
            ledger.add(Batch::new(terms.clone(), targets(many)));
            assert_eq!(ledger.counts(), before.plus(fresh));
            model.extend(targets(many).iter().map(|(_, target)| ((target, origin), terms.block(target))));
        }
        Step::AddAndBack(many, origin, end) => {
            let (id, displaced) = ledger.add(Batch::new(terms(origin, Some(time(end))), targets(many)));
            ledger.take_back(id, displaced);
        }
        Step::Sweep(now) => {
            let now = at(time(now));
            ledger.ended(now).into_iter().for_each(|(target, origin)| drop(ledger.remove(target, origin)));
            ledger.ended_batches(now).into_iter().for_each(|id| drop(ledger.take(id)));
            model.retain(|_, block| block.until.is_none_or(|end| end > now.boot));
            ledger.forget_empty();
        }
    }
}

proptest! {
    #[test]
    fn batches_are_no_different_from_blocks_alone(steps in steps(), now in 0u8..40) {
        let (mut ledger, mut model) = (Ledger::default(), Model::new());
        for step in &steps {
            apply(&mut ledger, &mut model, step);
            // What batches know of themselves is asked for in between, so that a change has to renew it.
            prop_assert_eq!(ledger.inventory(), ledger.wanted_all().collect());
        }
        let all: Vec<Block> = ledger.iter().map(Standing::block).collect();
        prop_assert_eq!(&all, &model.values().cloned().collect::<Vec<_>>());
        prop_assert_eq!(ledger.counts(), ledger.counted());
        prop_assert_eq!(ledger.counts_now(at(time(now))), counted(ledger.holding_now(at(time(now)))));
        let everything = targets(255);
        for (asked, wanted) in ledger.wanted_each(&everything) {
            prop_assert_eq!(wanted, ledger.wanted(asked));
            let latest = model.values().filter(|block| block.target == asked).map(|block| block.until).max();
            prop_assert_eq!(wanted, latest.flatten().map(|end| Until::at(end.0)));
            prop_assert_eq!(ledger.contains(asked), wanted.is_some());
        }
        let wanted: Vec<(Target, Until)> = ledger.wanted_all().collect();
        let each = ledger.wanted_each(&everything).filter_map(|(target, end)| Some((target, end?)));
        prop_assert_eq!(wanted, each.collect::<Vec<_>>());
    }
}
