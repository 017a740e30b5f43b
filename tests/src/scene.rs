//! States to judge packets in: what the configuration says, what is blocked and allowed. Each can be put before edge
//! ([`Setting::configure`]) and before the model ([`Scene::policy`]), and be drawn at random.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    agent::Config,
    model::{Block, Exposed, Limit, Policy, Rates},
};

/// What the configuration and the host say: it holds from one start of the agent to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub exposed: Vec<String>,
    pub drops_fragments: bool,
    pub syns: Option<Limit>,
    pub packets: Option<Limit>,
    pub ipv6_unit: u8,
    pub dry_run: bool,
    /// Default gateways: protected.
    pub gateways: Vec<IpAddr>,
    /// Trusted proxies: protected, and exempt from rates.
    pub proxies: Vec<IpNet>,
}

/// Which features a drawn setting may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    pub ports: bool,
    pub fragments: bool,
    pub rates: bool,
    pub dry_run: bool,
    pub proxies: bool,
}

/// A setting, and what is blocked and allowed at run time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scene {
    pub setting: Setting,
    pub blocked: Vec<IpNet>,
    pub allowed: Vec<IpNet>,
}

impl Default for Setting {
    fn default() -> Setting {
        Setting {
            exposed: Vec::new(),
            drops_fragments: false,
            syns: None,
            packets: None,
            ipv6_unit: 64,
            dry_run: false,
            gateways: Vec::new(),
            proxies: Vec::new(),
        }
    }
}

impl Setting {
    /// Draws one that has each of these features, more often than not.
    pub fn draw(features: Features, random: &mut Rng) -> Setting {
        let mut some = |is_wanted: bool| is_wanted && random.u8(..4) != 0;
        let [ports, syns, packets] = [features.ports, features.rates, features.rates].map(&mut some);
        let (drops_fragments, dry_run, proxies) = (some(features.fragments), features.dry_run, some(features.proxies));
        Setting {
            exposed: if ports { draw_exposed(random) } else { Vec::new() },
            drops_fragments,
            syns: syns.then(|| draw_limit(random)),
            packets: packets.then(|| draw_limit(random)),
            ipv6_unit: if features.rates { random.u8(32..65) } else { 64 },
            dry_run,
            gateways: GATEWAYS
                .iter()
                .filter_map(|text| text.parse().ok())
                .filter(|_| features.ports || random.bool())
                .collect(),
            proxies: PROXIES.iter().filter_map(|text| text.parse().ok()).filter(|_| proxies).collect(),
        }
    }

    /// Into the sections of the configuration, in place of another setting; what is a default is left out.
    pub fn configure(&self, config: &mut Config) {
        for key in ["exposed_ports", "fragments", "dry_run", "ipv6_unit"] {
            config.unset("filter", key);
        }
        config.without("filter.limits").unset("server", "trusted_proxies");
        let list = |words: Vec<String>| format!("{words:?}");
        if !self.exposed.is_empty() {
            config.set("filter", "exposed_ports", &list(self.exposed.clone()));
        }
        if self.drops_fragments {
            config.text("filter", "fragments", "drop");
        }
        if self.dry_run {
            config.set("filter", "dry_run", "true");
        }
        if self.ipv6_unit != 64 {
            config.set("filter", "ipv6_unit", &self.ipv6_unit.to_string());
        }
        for (key, limit) in [("syns", self.syns), ("packets", self.packets)] {
            if let Some(Limit { per_second, burst }) = limit {
                config.set("filter.limits", key, &format!("{{ per_second = {per_second}, burst = {burst} }}"));
            }
        }
        if !self.proxies.is_empty() {
            let proxies = self.proxies.iter().map(IpNet::to_string).collect();
            config.set("server", "trusted_proxies", &list(proxies));
        }
    }
}

impl Scene {
    /// The same as the model has it, on a host with these addresses and resolvers.
    pub fn policy(&self, own: &[IpAddr], resolvers: &[IpAddr]) -> Policy {
        let Scene { setting, blocked, allowed } = self;
        let single = |addresses: &[IpAddr]| addresses.iter().copied().map(IpNet::from).collect::<Vec<_>>();
        let mut policy = Policy {
            allowed: allowed.iter().copied().collect(),
            own: single(own).into_iter().chain(loopback()).collect(),
            protected: [single(&setting.gateways), single(resolvers), setting.proxies.clone()]
                .concat()
                .into_iter()
                .collect(),
            proxies: setting.proxies.iter().copied().collect(),
            exposed: Exposed::parse(setting.exposed.iter().map(String::as_str)).filter(|_| !setting.exposed.is_empty()),
            drops_fragments: setting.drops_fragments,
            syns: setting.syns.map(|limit| Rates::new(limit, setting.ipv6_unit)),
            packets: setting.packets.map(|limit| Rates::new(limit, setting.ipv6_unit)),
            dry_run: setting.dry_run,
            ..Policy::default()
        };
        for net in blocked {
            policy.blocked.insert(*net, Block::default());
        }
        policy
    }

    /// Draws what is blocked and allowed, so that much of it overlaps or lies side by side. Nothing is blocked by name
    /// that the setting protects or the draw allows: edge refuses that.
    pub fn draw(setting: &Setting, own: &[IpAddr], resolvers: &[IpAddr], random: &mut Rng) -> Scene {
        let (bases4, bases6) = ([(); 3].map(|()| random.u32(..)), [(); 3].map(|()| base6(random)));
        let net = |random: &mut Rng| match random.bool() {
            true => IpNet::V4(net4(bases4[random.usize(..3)], random)),
            false => IpNet::V6(net6(bases6[random.usize(..3)], random)),
        };
        let mut scene = Scene { setting: setting.clone(), ..Scene::default() };
        scene.allowed = (0..random.usize(..12)).map(|_| net(random)).collect();
        let policy = scene.policy(own, resolvers);
        let named =
            |net: &IpNet| [&policy.allowed, &policy.own, &policy.protected].iter().any(|nets| covers(nets, net));
        scene.blocked = (0..random.usize(1..300)).map(|_| net(random)).collect();
        scene.blocked.extend(own.iter().map(|address| widened(*address)).filter(|_| random.bool()));
        scene.blocked.retain(|net| !named(net));
        scene.blocked.sort();
        scene.blocked.dedup();
        scene
    }
}

/// On the lab's networks.
const GATEWAYS: [&str; 3] = ["10.77.0.9", "2001:db8:1::9", "2001:db8:1::a"];
const PROXIES: [&str; 3] = ["198.18.0.0/15", "192.0.2.44/32", "2001:db8:77::/48"];

fn draw_exposed(random: &mut Rng) -> Vec<String> {
    let mut words = vec![format!("{}/tcp", random.u16(1..))];
    for _ in 0..random.usize(..12) {
        words.push(match random.u8(..8) {
            0 => "esp".to_owned(),
            1 => "ah".to_owned(),
            2 => "gre".to_owned(),
            3 => format!("proto/{}", random.u8(..)),
            4 | 5 => format!("{}/tcp", random.u16(1..)),
            _ => format!("{}/udp", random.u16(1..)),
        });
    }
    words.sort();
    words.dedup();
    words
}

/// So that a few packets of one client reach it, and some of it comes back while a test runs.
fn draw_limit(random: &mut Rng) -> Limit {
    Limit { per_second: random.u64(1..200), burst: random.u64(1..8) }
}

fn covers(nets: &crate::model::Prefixes<()>, net: &IpNet) -> bool {
    nets.covering(net.addr()).any(|(cover, ())| cover.contains(net))
}

fn loopback() -> [IpNet; 2] {
    [IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)), IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST))]
}

/// A network around an address of this host, which stays served.
fn widened(own: IpAddr) -> IpNet {
    let length = if own.is_ipv4() { 24 } else { 48 };
    IpNet::new(own, length).unwrap_or(IpNet::from(own)).trunc()
}

fn net4(base: u32, random: &mut Rng) -> Ipv4Net {
    let address = base ^ random.u32(..).checked_shr(random.u32(8..36)).unwrap_or(0);
    let length = match random.u8(..10) {
        0..5 => 32,
        5..8 => random.u8(24..32),
        8 => random.u8(16..24),
        _ => random.u8(8..16),
    };
    Ipv4Net::new_assert(address.into(), length).trunc()
}

/// Of the global unicast addresses.
fn base6(random: &mut Rng) -> u128 {
    random.u128(..) >> 3 | 1 << 125
}

fn net6(base: u128, random: &mut Rng) -> Ipv6Net {
    let address = base ^ random.u128(..).checked_shr(random.u32(24..140)).unwrap_or(0);
    let length = match random.u8(..10) {
        0..3 => 128,
        3..6 => 64,
        6..8 => random.u8(33..64),
        8 => random.u8(65..128),
        _ => random.u8(24..33),
    };
    Ipv6Net::new_assert(address.into(), length).trunc()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_told_to_both_and_never_names_what_is_protected() {
        let setting = Setting { gateways: vec!["10.77.0.9".parse().unwrap()], ..Setting::default() };
        let own = ["10.77.0.1".parse().unwrap(), "2001:db8:1::1".parse().unwrap()];
        for seed in 0..50 {
            let scene = Scene::draw(&setting, &own, &[], &mut Rng::with_seed(seed));
            assert_eq!(scene, Scene::draw(&setting, &own, &[], &mut Rng::with_seed(seed)));
            let policy = scene.policy(&own, &[]);
            assert_eq!(policy.blocked.iter().count(), scene.blocked.len());
            assert!(scene.blocked.iter().all(|net| !covers(&policy.own, net) && !covers(&policy.allowed, net)));
        }
    }
}
