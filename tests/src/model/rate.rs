//! Rates: GCRA (ITU-T I.371), one number for each client. All arithmetic is exact.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ipnet::IpNet;

/// So much of the scaled time does one packet cost: a second holds `per_second` of them.
const COST: u128 = 1_000_000_000;

/// `burst` at once, refilled at `per_second`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub per_second: u64,
    pub burst: u64,
}

/// A limit and how far each client has used it up.
#[derive(Clone, Debug)]
pub struct Rates {
    pub limit: Limit,
    /// The prefix length that stands for one IPv6 client.
    pub ipv6_unit: u8,
    /// When the bucket of a client is full again, in nanoseconds times `per_second`: GCRA's theoretical arrival time.
    full_at: BTreeMap<IpNet, u128>,
}

impl Rates {
    pub fn new(limit: Limit, ipv6_unit: u8) -> Rates {
        Rates { limit, ipv6_unit, full_at: BTreeMap::new() }
    }

    /// Takes one packet of this client if the limit has room for it.
    pub fn admit(&mut self, source: IpAddr, now: Duration) -> bool {
        let client = client(source, self.ipv6_unit);
        let now = now.as_nanos() * u128::from(self.limit.per_second);
        let full_at = self.full_at.get(&client).copied().unwrap_or(0).max(now) + COST;
        let has_room = full_at - now <= u128::from(self.limit.burst) * COST;
        if has_room {
            self.full_at.insert(client, full_at);
        }
        has_room
    }
}

/// The same limit as somebody sees it who knows the time of each packet only between two bounds: what must be, and what
/// may be.
#[derive(Clone, Debug)]
pub struct Bounds {
    limit: Limit,
    ipv6_unit: u8,
    /// The earliest and the latest that a bucket can be full again, scaled as in [`Rates`].
    full_at: BTreeMap<IpNet, [u128; 2]>,
}

impl Bounds {
    pub fn new(limit: Limit, ipv6_unit: u8) -> Bounds {
        Bounds { limit, ipv6_unit, full_at: BTreeMap::new() }
    }

    /// Whether a packet may be admitted, and whether it may be refused, if it came between `earliest` and `latest`.
    pub fn may(&self, source: IpAddr, [earliest, latest]: [Duration; 2]) -> [bool; 2] {
        let [least, most] = self.between(source);
        let has_room = |full_at: u128, now: Duration| {
            let now = self.scaled(now);
            full_at.max(now) + COST - now <= u128::from(self.limit.burst) * COST
        };
        [has_room(least, latest), !has_room(most, earliest)]
    }

    /// A packet between `earliest` and `latest` was admitted.
    pub fn admitted(&mut self, source: IpAddr, [earliest, latest]: [Duration; 2]) {
        let [least, most] = self.between(source);
        let full_at = [least.max(self.scaled(earliest)) + COST, most.max(self.scaled(latest)) + COST];
        self.full_at.insert(client(source, self.ipv6_unit), full_at);
    }

    fn between(&self, source: IpAddr) -> [u128; 2] {
        self.full_at.get(&client(source, self.ipv6_unit)).copied().unwrap_or_default()
    }

    fn scaled(&self, time: Duration) -> u128 {
        time.as_nanos() * u128::from(self.limit.per_second)
    }
}

/// What shares one limit with this address.
fn client(source: IpAddr, ipv6_unit: u8) -> IpNet {
    match source {
        IpAddr::V4(_) => IpNet::from(source),
        IpAddr::V6(six) if six.is_unicast_link_local() => IpNet::from(source),
        IpAddr::V6(_) => IpNet::new(source, ipv6_unit).unwrap_or(IpNet::from(source)).trunc(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(rates: &mut Rates, source: &str, times: impl Iterator<Item = Duration>) -> usize {
        times.filter(|now| rates.admit(source.parse().unwrap(), *now)).count()
    }

    #[test]
    fn a_burst_at_once_then_the_rate() {
        let mut rates = Rates::new(Limit { per_second: 50, burst: 100 }, 64);
        let at_once = |_| Duration::from_secs(7);
        assert_eq!(admitted(&mut rates, "192.0.2.1", (0..1000).map(at_once)), 100);
        // Ten seconds of a packet each millisecond.
        let later = |n| Duration::from_secs(7) + Duration::from_millis(n);
        assert_eq!(admitted(&mut rates, "192.0.2.1", (1..=10_000).map(later)), 500);
        assert_eq!(admitted(&mut rates, "192.0.2.1", (0..1000).map(|_| Duration::from_secs(100))), 100);
    }

    #[test]
    fn clients_are_addresses_or_units() {
        let mut rates = Rates::new(Limit { per_second: 1, burst: 1 }, 64);
        let mut once = |source: &str| admitted(&mut rates, source, std::iter::once(Duration::from_secs(1))) == 1;
        assert!(once("192.0.2.1") && once("192.0.2.2") && !once("192.0.2.1"));
        assert!(once("2001:db8:0:1::1") && !once("2001:db8:0:1::2") && once("2001:db8:0:2::1"));
        assert!(once("fe80::1") && once("fe80::2") && once("febf::1") && once("febf::2") && !once("febf::2"));
        assert!(once("fec0::1") && !once("fec0::2"));
    }

    #[test]
    fn bounds_hold_whatever_the_time_between_them_was() {
        let limit = Limit { per_second: 100, burst: 3 };
        let source = "192.0.2.1".parse().unwrap();
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut rates, mut bounds) = (Rates::new(limit, 64), Bounds::new(limit, 64));
            let mut now = Duration::from_secs(9);
            for _ in 0..100 {
                now += Duration::from_micros(random.u64(..15_000));
                let between =
                    [now - Duration::from_micros(random.u64(..4000)), now + Duration::from_micros(random.u64(..4000))];
                let [may_pass, may_not] = bounds.may(source, between);
                let admitted = rates.admit(source, now);
                assert!(if admitted { may_pass } else { may_not }, "seed {seed}");
                if admitted {
                    bounds.admitted(source, between);
                }
            }
        }
    }

    #[test]
    fn the_highest_limit_holds_too() {
        let mut rates = Rates::new(Limit { per_second: 1_000_000_000, burst: 1_000_000_000 }, 128);
        assert_eq!(admitted(&mut rates, "::1", (0..1000).map(|_| Duration::MAX / 4)), 1000);
    }
}
