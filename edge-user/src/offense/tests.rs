//! The learner against a model that is slow and obvious, and its single rules.

use proptest::prelude::*;

use super::*;
use crate::config::Weights;

const MINUTE: Duration = Duration::from_secs(60);

fn policy() -> Learn {
    Learn {
        threshold: 5,
        window: 10 * MINUTE,
        block_for: 15 * MINUTE,
        factor: 4,
        block_for_max: 24 * 60 * MINUTE,
        forget_after: 30 * 24 * 60 * MINUTE,
        weights: Weights { login: 1, token: 1, key: 1 },
    }
}

fn learner() -> Learner {
    Learner::new(policy(), 64)
}

fn at(since: Duration) -> Now {
    Now { boot: Boot(1_000_000_000).plus(since), wall: Wall(1_767_323_045_000).plus(since) }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn fail(learner: &mut Learner, peer: &str, account: &str, since: Duration) -> Option<Decision> {
    learner.failure(Kind::Login, ip(peer), Some(account), at(since))
}

/// Fails until blocked, one a second.
fn offend(learner: &mut Learner, peer: &str, from: Duration) -> (u32, Decision) {
    (1..)
        .find_map(|n| {
            let decision = fail(learner, peer, "alice", from + Duration::from_secs(u64::from(n)))?;
            Some((n, decision))
        })
        .unwrap()
}

#[test]
fn the_threshold_blocks_and_not_one_before_it() {
    let mut learner = learner();
    let (failures, decision) = offend(&mut learner, "203.0.113.7", Duration::ZERO);
    assert_eq!(failures, 5);
    assert_eq!(decision.client.to_string(), "203.0.113.7/32");
    assert_eq!(decision.number, 1);
    assert_eq!(decision.duration, 15 * MINUTE);
    assert_eq!(decision.evidence, "5 failed logins within 10m");
}

#[test]
fn failures_spread_wider_than_the_window_never_block() {
    let mut learner = learner();
    for n in 0..100 {
        assert_eq!(fail(&mut learner, "203.0.113.7", "alice", n * 2 * MINUTE + n * MINUTE / 2), None);
    }
}

#[test]
fn each_offence_blocks_longer_up_to_the_longest() {
    let mut learner = learner();
    let mut from = Duration::ZERO;
    let expected = [15 * MINUTE, 60 * MINUTE, 240 * MINUTE, 960 * MINUTE, 1440 * MINUTE, 1440 * MINUTE];
    for (index, expected) in expected.into_iter().enumerate() {
        let (_, decision) = offend(&mut learner, "203.0.113.7", from);
        assert_eq!((decision.number as usize, decision.duration), (index + 1, expected));
        from += expected + MINUTE;
    }
}

#[test]
fn what_was_on_its_way_when_the_block_fell_is_no_second_offence() {
    let mut learner = learner();
    offend(&mut learner, "203.0.113.7", Duration::ZERO);
    for _ in 0..50 {
        assert_eq!(fail(&mut learner, "203.0.113.7", "alice", Duration::from_secs(6)), None);
    }
    assert_eq!(learner.evidence(ip("203.0.113.7"), at(Duration::from_secs(6))).score, 0);
}

#[test]
fn long_quiet_makes_the_next_offence_the_first() {
    let client = "203.0.113.7".parse().unwrap();
    let quiet = policy().forget_after;
    for (after, number) in [(quiet - MINUTE, 4), (quiet + MINUTE, 1)] {
        let mut learner = learner();
        learner.restore(History { client, number: 3, ended: at(Duration::ZERO).wall });
        let (_, decision) = offend(&mut learner, "203.0.113.7", after);
        assert_eq!(decision.number, number);
    }
}

#[test]
fn a_good_login_takes_back_its_own_name_and_no_other() {
    let mut learner = learner();
    for n in 0..4 {
        fail(&mut learner, "203.0.113.7", ["alice", "bob"][n % 2], Duration::ZERO);
        fail(&mut learner, "203.0.113.8", "alice", Duration::ZERO);
    }
    learner.success(ip("203.0.113.7"), "alice");
    learner.success(ip("203.0.113.7"), "mallory");
    assert_eq!(learner.evidence(ip("203.0.113.7"), at(MINUTE)).score, 2);
    assert_eq!(learner.evidence(ip("203.0.113.8"), at(MINUTE)).score, 4);
    learner.success(ip("203.0.113.7"), "bob");
    assert_eq!(learner.clients.four.len(), 1);
}

#[test]
fn names_that_differ_only_at_their_end_are_not_one() {
    let mut learner = learner();
    let long = "a".repeat(200);
    fail(&mut learner, "203.0.113.7", &long, Duration::ZERO);
    learner.success(ip("203.0.113.7"), &format!("{long}b"));
    assert_eq!(learner.evidence(ip("203.0.113.7"), at(MINUTE)).score, 1);
    learner.success(ip("203.0.113.7"), &long);
    assert_eq!(learner.evidence(ip("203.0.113.7"), at(MINUTE)).score, 0);
}

#[test]
fn an_ipv6_client_is_its_unit_and_a_mapped_address_is_ipv4() {
    let mut learner = learner();
    for n in 1..5 {
        assert_eq!(fail(&mut learner, &format!("2001:db8:1:2::{n}"), "alice", Duration::ZERO), None);
        assert_eq!(fail(&mut learner, "::ffff:203.0.113.7", "alice", Duration::ZERO), None);
    }
    let six = fail(&mut learner, "2001:db8:1:2:ffff::", "bob", Duration::ZERO).unwrap();
    assert_eq!(six.client.to_string(), "2001:db8:1:2::/64");
    let four = fail(&mut learner, "203.0.113.7", "bob", Duration::ZERO).unwrap();
    assert_eq!(four.client.to_string(), "203.0.113.7/32");
}

#[test]
fn what_no_client_can_have_is_never_learned() {
    let mut learner = learner();
    for peer in ["0.0.0.0", "127.0.0.1", "127.9.9.9", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"] {
        for peer in [peer.to_owned(), ip(peer).to_string()] {
            for _ in 0..10 {
                assert_eq!(fail(&mut learner, &peer, "alice", Duration::ZERO), None, "{peer}");
            }
        }
    }
    assert_eq!(fail(&mut learner, "::ffff:127.0.0.1", "alice", Duration::ZERO), None);
    assert_eq!((learner.clients.four.len(), learner.clients.six.len()), (0, 0));
}

#[test]
fn weights_count_and_zero_counts_for_nothing() {
    let weights = Weights { login: 2, token: 0, key: 1 };
    let mut learner = Learner::new(Learn { weights, ..policy() }, 64);
    for _ in 0..100 {
        assert_eq!(learner.failure(Kind::Token, ip("203.0.113.7"), None, at(Duration::ZERO)), None);
    }
    let (failures, decision) = offend(&mut learner, "203.0.113.7", Duration::ZERO);
    assert_eq!((failures, decision.evidence.as_str()), (3, "3 failed logins within 10m"));
}

#[test]
fn both_kinds_are_told() {
    let mut learner = learner();
    let peer = ip("203.0.113.7");
    for _ in 0..4 {
        assert_eq!(learner.failure(Kind::Login, peer, Some("alice"), at(Duration::ZERO)), None);
    }
    let decision = learner.failure(Kind::Token, peer, None, at(Duration::ZERO)).unwrap();
    assert_eq!(decision.evidence, "4 failed logins and 1 refused token within 10m");
}

#[test]
fn a_pardon_forgets_the_client_and_a_pardoned_network_all_inside() {
    for lifted in ["203.0.113.7", "203.0.113.0/24", "0.0.0.0/0"] {
        let mut learner = learner();
        offend(&mut learner, "203.0.113.7", Duration::ZERO);
        offend(&mut learner, "198.51.100.1", Duration::ZERO);
        learner.pardon(&[lifted.parse().unwrap()].into_iter().collect());
        let (_, decision) = offend(&mut learner, "203.0.113.7", MINUTE);
        assert_eq!(decision.number, 1, "{lifted}");
        let other = learner.evidence(ip("198.51.100.1"), at(MINUTE)).history;
        assert_eq!(other.is_none(), lifted == "0.0.0.0/0");
    }
}

#[test]
fn the_evidence_tells_times_kinds_names_and_history() {
    let mut learner = learner();
    fail(&mut learner, "203.0.113.7", "alice", Duration::ZERO);
    let client = "203.0.113.7".parse().unwrap();
    let history = History { client, number: 2, ended: at(Duration::ZERO).wall };
    learner.restore(history);
    let evidence = learner.evidence(ip("203.0.113.7"), at(MINUTE));
    let recent = vec![(at(Duration::ZERO).wall, Kind::Login, Some("alice".to_owned()))];
    assert_eq!(evidence, Evidence { score: 1, threshold: 5, recent, history: Some(history) });
    assert_eq!(learner.evidence(ip("203.0.113.7"), at(10 * MINUTE)).score, 0);
}

#[test]
fn one_client_too_many_drops_the_one_quiet_longest_of_its_own_family() {
    let mut learner = Learner::bounded(policy(), 64, 2);
    fail(&mut learner, "2001:db8::1", "alice", Duration::ZERO);
    fail(&mut learner, "203.0.113.1", "alice", Duration::ZERO);
    fail(&mut learner, "203.0.113.2", "alice", Duration::from_secs(1));
    fail(&mut learner, "203.0.113.1", "alice", Duration::from_secs(2));
    fail(&mut learner, "203.0.113.3", "alice", Duration::from_secs(3));
    let score = |peer| learner.evidence(ip(peer), at(MINUTE)).score;
    assert_eq!(["203.0.113.1", "203.0.113.2", "203.0.113.3", "2001:db8::1"].map(score), [2, 0, 1, 1]);
}

#[test]
fn a_sweep_leaves_nothing_that_is_old() {
    let mut learner = learner();
    fail(&mut learner, "203.0.113.1", "alice", Duration::ZERO);
    fail(&mut learner, "203.0.113.2", "alice", MINUTE);
    offend(&mut learner, "2001:db8::1", Duration::ZERO);
    learner.sweep(at(10 * MINUTE));
    assert_eq!((learner.clients.four.len(), learner.past.six.len()), (1, 1));
    learner.sweep(at(policy().forget_after + 16 * MINUTE));
    assert_eq!((learner.clients.four.len(), learner.past.six.len()), (0, 0));
}

#[derive(Clone, Debug)]
enum Step {
    Failure { kind: Kind, peer: u8, account: u8 },
    Success { peer: u8, account: u8 },
    Pardon { peer: u8 },
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let kind = prop_oneof![Just(Kind::Login), Just(Kind::Token)];
    let step = prop_oneof![
        12 => (kind, 0u8..3, 0u8..3).prop_map(|(kind, peer, account)| Step::Failure { kind, peer, account }),
        2 => (0u8..3, 0u8..3).prop_map(|(peer, account)| Step::Success { peer, account }),
        1 => (0u8..3).prop_map(|peer| Step::Pardon { peer }),
        1 => Just(Step::Sweep),
    ];
    proptest::collection::vec((0u64..120, step), 0..200)
}

/// What the rules say, kept as plain lists.
#[derive(Default)]
struct Model {
    failures: Vec<(u8, u8, Kind, Boot)>,
    blocks: Vec<(u8, u32, Boot, Wall)>,
}

impl Model {
    fn failure(&mut self, policy: &Learn, kind: Kind, peer: u8, account: u8, now: Now) -> Option<(u32, Duration)> {
        let last = self.blocks.iter().rev().find(|block| block.0 == peer).copied();
        if weight_of(policy, kind) == 0 || last.is_some_and(|block| now.boot < block.2) {
            return None;
        }
        self.failures.push((peer, account, kind, now.boot));
        self.failures.retain(|failure| failure.3.plus(policy.window) > now.boot);
        let score: u32 = self.failures.iter().filter(|f| f.0 == peer).map(|f| weight_of(policy, f.2)).sum();
        if score < policy.threshold {
            return None;
        }
        self.failures.retain(|failure| failure.0 != peer);
        let number = last.filter(|block| now.wall < block.3.plus(policy.forget_after)).map_or(1, |block| block.1 + 1);
        let grown = (1..number).try_fold(policy.block_for, |length, _| length.checked_mul(policy.factor));
        let length = grown.unwrap_or(Duration::MAX).min(policy.block_for_max);
        self.blocks.push((peer, number, now.boot.plus(length), now.wall.plus(length)));
        Some((number, length))
    }
}

proptest! {
    #[test]
    fn the_learner_decides_as_the_rules_say(
        steps in steps(),
        threshold in 1u32..8,
        login in 0u32..4,
        token in 0u32..4,
        factor in 1u32..5,
        window in 1u64..600,
        forget in 1u64..4000,
        six in any::<bool>(),
    ) {
        let policy = Learn {
            threshold,
            factor,
            window: Duration::from_secs(window),
            forget_after: Duration::from_secs(forget),
            block_for: Duration::from_secs(60),
            block_for_max: Duration::from_secs(1000),
            weights: Weights { login, token, key: 1 },
        };
        let address = |peer: u8| ip(&if six { format!("2001:db8:0:{peer}::1") } else { format!("198.51.100.{peer}") });
        let (mut learner, mut model) = (Learner::new(policy.clone(), 64), Model::default());
        let mut since = Duration::ZERO;
        for (pause, step) in steps {
            since += Duration::from_secs(pause);
            let now = at(since);
            match step {
                Step::Failure { kind, peer, account } => {
                    let got = learner.failure(kind, address(peer), Some(&account.to_string()), now);
                    let expected = model.failure(&policy, kind, peer, account, now);
                    prop_assert_eq!(got.map(|decision| (decision.number, decision.duration)), expected);
                }
                Step::Success { peer, account } => {
                    learner.success(address(peer), &account.to_string());
                    model.failures.retain(|failure| (failure.0, failure.1) != (peer, account));
                }
                Step::Pardon { peer } => {
                    learner.pardon(&[Target::client(address(peer), 64)].into_iter().collect());
                    model.failures.retain(|failure| failure.0 != peer);
                    model.blocks.retain(|block| block.0 != peer);
                }
                Step::Sweep => learner.sweep(now),
            }
            for peer in 0..3 {
                let evidence = learner.evidence(address(peer), now);
                prop_assert!(evidence.recent.len() < threshold as usize);
                prop_assert!(evidence.score < threshold);
            }
        }
    }

    #[test]
    fn never_more_clients_than_the_limit(peers in proptest::collection::vec(any::<u32>(), 0..200), limit in 1usize..20) {
        let mut learner = Learner::bounded(policy(), 64, limit);
        for (n, peer) in peers.into_iter().enumerate() {
            learner.failure(Kind::Login, IpAddr::V4(peer.into()), None, at(Duration::from_secs(n as u64)));
            prop_assert!(learner.clients.four.len() <= limit);
        }
    }
}
