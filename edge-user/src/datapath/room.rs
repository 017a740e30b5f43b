//! How many slots the tables of single targets have. IPv4 has room for all that may be blocked from the start; memory for as
//! many of IPv6 is taken when they come: the tables are built anew, larger, beside those in force. What finds no room
//! before goes to the trie, so nothing is absent or refused meanwhile.

use crate::{
    config,
    targets::{Kind, Targets},
};

/// How many IPv6 targets have tables of their own: /64 networks and addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Singles6 {
    pub units: u64,
    pub hosts: u64,
}

impl Singles6 {
    pub fn of(targets: &Targets) -> Singles6 {
        Singles6 { units: targets.nets6_of(64) as u64, hosts: targets.counts().of(Kind::Host6) as u64 }
    }

    pub fn plus(self, other: Singles6) -> Singles6 {
        Singles6 { units: self.units + other.units, hosts: self.hosts + other.hosts }
    }
}

/// Slots of each table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    pub four: u64,
    pub units: u64,
    pub hosts: u64,
}

impl Slots {
    /// `held`: what they are to have room for at least, of what the config lets come.
    pub fn of(filter: &config::Filter, held: Singles6) -> Slots {
        let (blocked, prefixes) = (u64::from(filter.max_blocked), u64::from(filter.max_prefixes));
        Slots {
            four: roomy(blocked),
            units: enough((blocked / 2).min(roomy(prefixes)), held.units, prefixes),
            hosts: enough(blocked / 8, held.hosts, blocked),
        }
    }
}

/// Of a million IPv4 addresses some 50,000 lie in their second line then, and 4,000 find both full and become prefixes. Lines
/// of three slots (/64) or two (IPv6 addresses) are full sooner: one in 100 and one in 50.
fn roomy(entries: u64) -> u64 {
    2 * entries
}

/// Whether so many entries find no room too often.
pub fn is_crowded(slots: u64, entries: u64) -> bool {
    slots < roomy(entries)
}

/// Whether more than should be found no room: with an unlucky seed, addresses that lie at regular distances share lines (of
/// one in five seeds an eighth of such a list finds no room). Another seed helps.
pub fn is_unlucky(in_table: u64, in_trie: u64) -> bool {
    in_trie > SOME && in_trie > (in_table + in_trie) / 25
}

/// Fewer in a trie are not worth to build tables for.
const SOME: u64 = 256;

/// Twice what is held where the usual share does not do, so that growing is rare; never more than may come.
fn enough(usual: u64, held: u64, most: u64) -> u64 {
    if is_crowded(usual, held) { roomy((2 * held).min(most).max(held)) } else { usual }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides};

    fn filter(text: &str) -> config::Filter {
        let text = format!("[filter]\ninterfaces = [\"lo\"]\n{text}");
        Config::parse("e.toml".as_ref(), &text, &Overrides::default()).unwrap().filter
    }

    fn hosts(hosts: u64) -> Singles6 {
        Singles6 { hosts, units: 0 }
    }

    #[test]
    fn ipv6_takes_its_room_when_it_comes() {
        let usual = filter("");
        let slots = |held| Slots::of(&usual, held);
        assert_eq!(slots(hosts(0)), Slots { four: 2_000_000, units: 262_144, hosts: 125_000 });
        assert_eq!(slots(hosts(62_500)).hosts, 125_000);
        assert_eq!(slots(hosts(62_501)).hosts, 250_004);
        assert_eq!((slots(hosts(600_000)).hosts, slots(hosts(1_000_000)).hosts), (2_000_000, 2_000_000));
        let many = filter("max_prefixes = 2_000_000");
        let units = |units| Slots::of(&many, Singles6 { units, hosts: 0 }).units;
        assert_eq!((units(0), units(1_000_000), units(2_000_000)), (500_000, 4_000_000, 4_000_000));
    }

    #[test]
    fn what_has_grown_is_not_crowded() {
        let filter = filter("");
        for held in [1, 1_000, 62_501, 500_000, 999_999, 1_000_000] {
            let Slots { units, hosts: slots, .. } =
                Slots::of(&filter, Singles6 { units: 131_072.min(held), hosts: held });
            assert!(!is_crowded(slots, held) && !is_crowded(units, 131_072.min(held)), "{held}");
        }
        assert!(is_crowded(Slots::of(&filter, hosts(0)).hosts, 62_501));
    }

    #[test]
    fn what_finds_no_room_by_chance_is_no_bad_luck() {
        // Of IPv4 addresses one in 250, of IPv6 addresses one in 50.
        assert!(!is_unlucky(996_000, 4_000) && !is_unlucky(98_000, 2_000) && !is_unlucky(0, 256));
        assert!(is_unlucky(26_383, 3_617) && is_unlucky(900_000, 100_000) && is_unlucky(0, 257));
    }

    #[test]
    fn what_has_a_table_is_counted() {
        let names = ["2001:db8::1", "2001:db8::/64", "2001:db8::/63", "2001:db8::/65", "192.0.2.1", "2001:db8::/128"];
        let targets: Targets = names.iter().map(|name| name.parse::<crate::block::Target>().unwrap()).collect();
        let doubled = Singles6::of(&targets).plus(Singles6::of(&targets));
        assert_eq!(doubled, Singles6 { units: 2, hosts: 4 });
    }
}
