//! What is never blocked, and why. Protected is no pass: ports, caps and rates hold for it too.

use std::{collections::BTreeMap, net::IpAddr};

use edge_common::table::Trust;

use crate::{block::Target, config::Config, names::Named, netlink, ssh};

/// What the host's surroundings say, read afresh every few seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    pub own: Vec<IpAddr>,
    pub gateways: Vec<IpAddr>,
    pub resolvers: Vec<IpAddr>,
    pub ssh_peers: Vec<IpAddr>,
    pub trusted_proxies: Vec<Target>,
    pub named: Named,
}

impl Surroundings {
    /// As the kernel says now. What cannot be read stays as it was read last. `named`: what the config names.
    pub fn read(config: &Config, named: Named, last: Option<&Surroundings>) -> Surroundings {
        let or_last =
            |what: &str, read: Result<Vec<IpAddr>, netlink::NetlinkError>, of: fn(&Surroundings) -> &Vec<IpAddr>| {
                read.unwrap_or_else(|error| {
                    tracing::warn!("{what} cannot be read, so those read last stay protected: {error}");
                    last.map(of).cloned().unwrap_or_default()
                })
            };
        let proxies = config.server.as_ref().map(|server| server.trusted_proxies.clone()).unwrap_or_default();
        Surroundings {
            own: or_last("the host's own addresses", netlink::own_addresses(), |last| &last.own),
            gateways: or_last("default gateways", netlink::gateways(), |last| &last.gateways),
            resolvers: netlink::resolvers(),
            ssh_peers: or_last("peers of SSH sessions", ssh::peers(), |last| &last.ssh_peers),
            trusted_proxies: proxies.into_iter().map(Target::from).collect(),
            named,
        }
    }
}

/// Each protected prefix, with the reason.
pub struct Protected {
    surroundings: Surroundings,
    because: BTreeMap<Target, &'static str>,
}

impl Protected {
    pub fn new(surroundings: Surroundings) -> Protected {
        let mut protected = Protected { surroundings: Surroundings::default(), because: BTreeMap::new() };
        protected.take(surroundings);
        protected
    }

    /// What it was told last.
    pub fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// Whether anything changed.
    pub fn follow(&mut self, surroundings: Surroundings) -> bool {
        let changed = surroundings != self.surroundings;
        if changed {
            self.take(surroundings);
        }
        changed
    }

    fn take(&mut self, surroundings: Surroundings) {
        let mut because = BTreeMap::new();
        let single = |addresses: &[IpAddr]| addresses.iter().copied().map(Target::of).collect::<Vec<_>>();
        because.extend(surroundings.named.iter().map(|(address, what)| (Target::of(*address), *what)));
        let groups = [
            (single(&surroundings.ssh_peers), "an SSH session from it is open"),
            (single(&surroundings.resolvers), "it is a resolver of this host"),
            (single(&surroundings.gateways), "it is a default gateway of this host"),
            (surroundings.trusted_proxies.clone(), PROXY),
            (single(&surroundings.own), OWN),
            (loopback(), LOOPBACK),
        ];
        for (targets, why) in groups {
            because.extend(targets.into_iter().map(|target| (target, why)));
        }
        self.because = because;
        self.surroundings = surroundings;
    }

    /// Why a target, or something that covers it, is protected.
    pub fn why(&self, target: Target) -> Option<String> {
        self.because.iter().find(|(cover, _)| cover.net().contains(&target.net())).map(|(_, why)| (*why).to_owned())
    }

    pub fn all(&self) -> impl Iterator<Item = Target> {
        self.because.keys().copied()
    }

    pub fn is_own(&self, address: IpAddr) -> bool {
        self.because.iter().any(|(cover, why)| (*why == OWN || *why == LOOPBACK) && cover.covers(address))
    }

    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.surroundings.trusted_proxies.iter().any(|proxy| proxy.covers(address))
    }

    /// What the kernel is told.
    pub fn trust(&self, allowed: impl Iterator<Item = Target>) -> Vec<(Target, Trust)> {
        let protected = self.because.iter().map(|(target, why)| {
            let more = match *why {
                OWN | LOOPBACK => Trust::OWN,
                PROXY => Trust::PROXY,
                _ => Trust::NONE,
            };
            (*target, Trust::PROTECTED.with(more))
        });
        protected.chain(allowed.map(|target| (target, Trust::ALLOWED.with(Trust::PROTECTED)))).collect()
    }
}

const OWN: &str = "it is an address of this host";
const PROXY: &str = "it is a trusted proxy";
const LOOPBACK: &str = "it is loopback";

fn loopback() -> Vec<Target> {
    ["127.0.0.0/8", "::1"].iter().filter_map(|text| text.parse().ok()).collect()
}
