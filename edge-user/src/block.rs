//! What can be blocked, who asked for it, and a block as it is remembered and listed.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::clock::{Boot, Wall};

/// An address or a prefix, in its one normal form: no host bits, an IPv4-mapped IPv6 address as its IPv4 address.
/// Written with its prefix length always (`203.0.113.7/32`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target(IpNet);

impl Target {
    pub fn of(address: IpAddr) -> Target {
        Target(IpNet::from(address.to_canonical()))
    }

    pub fn net(self) -> IpNet {
        self.0
    }

    /// Whether it is one address and no network.
    pub fn is_single(self) -> bool {
        self.0.prefix_len() == self.0.max_prefix_len()
    }

    /// The widest network of its family that is blocked without a second thought.
    pub fn widest(self) -> u8 {
        if self.0.max_prefix_len() == 32 { 8 } else { 32 }
    }

    pub fn is_wide(self) -> bool {
        self.0.prefix_len() < self.widest()
    }

    pub fn covers(self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// The client that stands behind an address: the address itself for IPv4, its prefix of `ipv6_unit` for IPv6. All of
    /// a link shares `fe80::/64`, so a link-local address stands for itself.
    pub fn client(address: IpAddr, ipv6_unit: u8) -> Target {
        match address.to_canonical() {
            IpAddr::V4(four) => Target(IpNet::V4(Ipv4Net::from(four))),
            IpAddr::V6(six) if six.is_unicast_link_local() => Target(IpNet::V6(Ipv6Net::from(six))),
            IpAddr::V6(six) => {
                Target(IpNet::V6(Ipv6Net::new(six, ipv6_unit.min(128)).unwrap_or(Ipv6Net::from(six)).trunc()))
            }
        }
    }
}

impl From<IpNet> for Target {
    fn from(net: IpNet) -> Target {
        let net = net.trunc();
        if let IpNet::V6(six) = net
            && six.prefix_len() >= 96
            && let Some(four) = mapped(six.addr())
        {
            return Target(IpNet::V4(Ipv4Net::new(four, six.prefix_len() - 96).unwrap_or(Ipv4Net::from(four)).trunc()));
        }
        Target(net)
    }
}

fn mapped(address: Ipv6Addr) -> Option<Ipv4Addr> {
    address.to_ipv4_mapped()
}

/// Not an address and not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address and no CIDR; write 203.0.113.7, 203.0.113.0/24, 2001:db8::7 or 2001:db8::/32")]
pub struct NotATarget(pub String);

impl FromStr for Target {
    type Err = NotATarget;

    fn from_str(text: &str) -> Result<Target, NotATarget> {
        let refused = || NotATarget(text.chars().filter(|c| !c.is_control()).take(80).collect());
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Target::from(net));
        }
        text.parse::<IpAddr>().map(Target::of).map_err(|_| refused())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Target {
    type Error = NotATarget;

    fn try_from(text: String) -> Result<Target, NotATarget> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> String {
        target.to_string()
    }
}

/// Who asked for a block. The closed list of the interface, section 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Manual,
    Auth,
    Gateway,
    Log,
    Rate,
    Crowdsec,
    Fail2ban,
    Feed,
    Config,
}

impl Origin {
    pub const ALL: [Origin; 9] = [
        Origin::Manual,
        Origin::Auth,
        Origin::Gateway,
        Origin::Log,
        Origin::Rate,
        Origin::Crowdsec,
        Origin::Fail2ban,
        Origin::Feed,
        Origin::Config,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Origin::Manual => "manual",
            Origin::Auth => "auth",
            Origin::Gateway => "gateway",
            Origin::Log => "log",
            Origin::Rate => "rate",
            Origin::Crowdsec => "crowdsec",
            Origin::Fail2ban => "fail2ban",
            Origin::Feed => "feed",
            Origin::Config => "config",
        }
    }

    pub fn named(name: &str) -> Option<Origin> {
        Origin::ALL.into_iter().find(|origin| origin.name() == name)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One block: one entry for each target and origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub target: Target,
    pub origin: Origin,
    pub reason: String,
    pub created: Wall,
    /// The end in boot time, which the kernel enforces; `None`: until lifted.
    pub until: Option<Boot>,
    /// The same end for people.
    pub expires: Option<Wall>,
    /// Which offence of this client led to it; 1 where nothing is counted.
    pub offence: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    #[test]
    fn a_target_has_one_normal_form() {
        assert_eq!(target("203.0.113.7").to_string(), "203.0.113.7/32");
        assert_eq!(target("203.0.113.7/24").to_string(), "203.0.113.0/24");
        assert_eq!(target("2001:DB8::7").to_string(), "2001:db8::7/128");
        assert_eq!(target("::ffff:203.0.113.7"), target("203.0.113.7"));
        assert_eq!(target("::ffff:203.0.113.0/120"), target("203.0.113.0/24"));
        assert_eq!(target("::/0").to_string(), "::/0");
    }

    #[test]
    fn what_is_none_is_named_in_the_error() {
        for text in ["", "10.0.0", "10.0.0.0/33", "::1/129", "example.org", "10.0.0.1 ", "1.2.3.4\u{1b}[2J"] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains("is no address"), "{error}");
            assert!(!error.contains('\u{1b}'));
        }
    }

    #[test]
    fn a_client_is_an_address_or_a_unit() {
        let client = |text: &str, unit| Target::client(text.parse().unwrap(), unit).to_string();
        assert_eq!(client("203.0.113.7", 64), "203.0.113.7/32");
        assert_eq!(client("2001:db8:1:2:3:4:5:6", 64), "2001:db8:1:2::/64");
        assert_eq!(client("2001:db8:1:2:3:4:5:6", 56), "2001:db8:1::/56");
        assert_eq!(client("::ffff:203.0.113.7", 64), "203.0.113.7/32");
        assert_eq!(client("fe80::1:2", 64), "fe80::1:2/128");
    }
}
