//! Which operation comes next.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use edge_common::names;
use edge_tests::{
    decisions::Decisions,
    net::{ATTACKER4, ATTACKER6, NEIGHBOUR4, NEIGHBOUR6},
};
use fastrand::Rng;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Those that a command may name.
pub const ORIGINS: [&str; 5] = ["manual", "fail2ban", "crowdsec", "feed", "log"];
/// No block of a command is in doubt for longer than this.
pub const LONG: Duration = Duration::from_secs(10);
/// Of a list that is kept as a whole.
const MANY: usize = 300;

/// What a command does with blocks and the allow list.
#[derive(Clone, Debug)]
pub enum Command {
    Block { targets: Vec<IpNet>, seconds: Option<u64>, origin: &'static str },
    Import { targets: Vec<IpNet>, seconds: Option<u64>, origin: &'static str },
    Unblock { targets: Vec<IpNet>, origin: Option<&'static str> },
    UnblockAll { origin: &'static str },
    Allow(Vec<IpNet>),
    Disallow(Vec<IpNet>),
}

#[derive(Clone, Debug)]
pub enum Operation {
    Command(Command),
    /// Five wrong passwords.
    Learn(IpAddr),
    /// The config names these from now on.
    Reload(Vec<IpNet>),
    Restart {
        kill: bool,
    },
    /// The agent ends, and commands go on without it.
    Leave {
        kill: bool,
    },
    /// The agent is killed while it is told something.
    Cut(Command),
    /// Somebody empties a table of the kernel.
    Wipe(&'static str),
}

impl Operation {
    pub fn name(&self) -> &'static str {
        match self {
            Operation::Command(Command::Block { .. }) => "block",
            Operation::Command(Command::Import { .. }) => "import",
            Operation::Command(Command::Unblock { .. }) => "unblock",
            Operation::Command(Command::UnblockAll { .. }) => "unblock --all",
            Operation::Command(Command::Allow(_)) => "allow",
            Operation::Command(Command::Disallow(_)) => "disallow",
            Operation::Learn(_) => "learned",
            Operation::Reload(_) => "reload",
            Operation::Restart { .. } => "restart",
            Operation::Leave { .. } => "without an agent",
            Operation::Cut(_) => "killed during a command",
            Operation::Wipe(_) => "tampered with",
        }
    }
}

pub fn operation(decisions: &Decisions, random: &mut Rng) -> Operation {
    match random.u32(..1000) {
        0..940 => Operation::Command(command(decisions, random)),
        940..955 => {
            Operation::Learn(random.choice([ATTACKER4, ATTACKER6, NEIGHBOUR4, NEIGHBOUR6]).unwrap_or(ATTACKER4))
        }
        955..970 => Operation::Reload(nets(random, 3)),
        970..977 => Operation::Restart { kill: random.bool() },
        977..984 => Operation::Leave { kill: random.bool() },
        984..996 => Operation::Cut(command(decisions, random)),
        _ => {
            let tables = [names::BLOCKED4, names::NETS4, names::NETS6, names::TRUST4, names::SETTINGS, names::NARROW4];
            Operation::Wipe(random.choice(tables).unwrap_or(names::BLOCKED4))
        }
    }
}

fn command(decisions: &Decisions, random: &mut Rng) -> Command {
    let origin = random.choice(ORIGINS).unwrap_or("manual");
    match random.u32(..100) {
        0..45 => Command::Block { targets: nets(random, 4), seconds: length(random), origin },
        45..55 => {
            let targets = if random.bool() { many(random) } else { nets(random, 40) };
            Command::Import { targets, seconds: length(random), origin }
        }
        55..85 => {
            let origin = if random.bool() { Some(origin) } else { None };
            Command::Unblock {
                targets: known_or_not(decisions.blocks.keys().map(|(target, _)| target), random),
                origin,
            }
        }
        85..88 => Command::UnblockAll { origin },
        88..92 => Command::Allow(nets(random, 2)),
        _ => Command::Disallow(known_or_not(decisions.allowed.iter(), random)),
    }
}

fn length(random: &mut Rng) -> Option<u64> {
    match random.u32(..4) {
        0 => None,
        1 => Some(random.u64(1..4)),
        _ => Some(random.u64(600..100_000)),
    }
}

/// Some of these, or any.
fn known_or_not<'a>(known: impl Iterator<Item = &'a IpNet>, random: &mut Rng) -> Vec<IpNet> {
    let count = random.usize(1..5);
    let known: Vec<IpNet> = known.copied().collect();
    if known.is_empty() || random.u32(..5) == 0 {
        return nets(random, count);
    }
    (0..count).filter_map(|_| random.choice(&known).copied()).collect()
}

fn nets(random: &mut Rng, at_most: usize) -> Vec<IpNet> {
    (0..random.usize(1..=at_most)).map(|_| net(random)).collect()
}

/// Mostly one address.
fn net(random: &mut Rng) -> IpNet {
    let source = match random.u32(..3) {
        0 => random.choice(fours()).map(IpAddr::from),
        1 => random.choice(sixes()).map(IpAddr::from),
        _ => random.choice(others()).map(IpAddr::from),
    };
    let cut = match source.unwrap_or(ATTACKER4) {
        IpAddr::V4(four) => {
            Ipv4Net::new(four, random.choice([32, 32, 32, 31, 30, 28, 25]).unwrap_or(32)).map(IpNet::V4)
        }
        IpAddr::V6(six) => Ipv6Net::new(six, random.choice([128, 128, 128, 127, 64, 63]).unwrap_or(128)).map(IpNet::V6),
    };
    cut.map_or(IpNet::from(ATTACKER4), |net| net.trunc())
}

fn many(random: &mut Rng) -> Vec<IpNet> {
    let mut all: Vec<Ipv4Addr> = others().collect();
    random.shuffle(&mut all);
    all.into_iter().take(MANY).map(|four| IpNet::from(IpAddr::from(four))).collect()
}

/// Every address of which something is decided.
pub fn sources() -> impl Iterator<Item = IpAddr> {
    fours().map(IpAddr::from).chain(sixes().map(IpAddr::from)).chain(others().map(IpAddr::from))
}

/// The clients' network; the first address of it is the host's own.
fn fours() -> impl ExactSizeIterator<Item = Ipv4Addr> {
    (2..40u8).map(|last| Ipv4Addr::new(10, 77, 0, last))
}

fn sixes() -> impl ExactSizeIterator<Item = Ipv6Addr> {
    (0..24u16).map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0x66, n / 6, 0, 0, 0, 2 + n % 6))
}

/// Elsewhere.
fn others() -> impl ExactSizeIterator<Item = Ipv4Addr> {
    (0..512u32).map(|n| Ipv4Addr::from_bits(0xc612_0000 + n))
}
