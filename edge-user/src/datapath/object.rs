//! The object that is built into the binary: planned by the config, loaded, pinned.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SchedClassifier, Xdp},
};
use edge_common::{
    names,
    ports::Exposure,
    rate::{Limit, RateGeometry},
    reason::Counters,
    settings::switch,
    table::{Line4, LineHost6, LineUnit6},
};

use super::{
    connections,
    generation::check_pin,
    room::{Singles6, Slots},
    trace,
};
use crate::{
    config,
    error::{Blame, Context, Failure},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/edge"));

/// What the config makes of the kernel side: how large the tables are, and what is switched on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub lines4: u32,
    pub unit_lines6: u32,
    pub host_lines6: u32,
    /// Of each family, addresses included that find no room in their table; a trie takes room as it is needed.
    pub nets: u32,
    /// 1 where the rate is not limited.
    pub syn_lines: u32,
    pub packet_lines: u32,
    /// What this host sent over UDP, where ports are limited.
    pub flows: u32,
    pub dry_run: bool,
    pub drop_fragments: bool,
    /// Empty: all are exposed.
    pub exposed: Vec<Exposure>,
    pub limits: config::Limits,
    /// Empty: all.
    pub capped_ports: Vec<u16>,
    pub max_tracked: u32,
    pub ipv6_unit: u8,
}

impl Plan {
    /// With room for so many IPv6 targets at least. A trie takes what finds no room in its table besides its prefixes; it
    /// takes memory for what is in it alone.
    pub fn of(filter: &config::Filter, held: Singles6) -> Plan {
        let lines = |slots: u64, a_line: usize| (slots.div_ceil(a_line as u64) as u32).max(64);
        let Slots { four, units, hosts } = Slots::of(filter, held);
        let rate_lines = |rate: Option<config::Rate>| {
            if rate.is_some() { 1 << RateGeometry::lines_log2_for(filter.max_tracked) } else { 1 }
        };
        Plan {
            lines4: lines(four, Line4::SLOTS),
            unit_lines6: lines(units, LineUnit6::SLOTS),
            host_lines6: lines(hosts, LineHost6::SLOTS),
            nets: filter.max_prefixes.saturating_add(filter.max_blocked),
            syn_lines: rate_lines(filter.limits.syns),
            packet_lines: rate_lines(filter.limits.packets),
            flows: if filter.exposed_ports.is_empty() { 1 } else { FLOWS },
            dry_run: filter.dry_run,
            drop_fragments: filter.drop_fragments,
            exposed: filter.exposed_ports.iter().map(|exposed| exposed.exposure).collect(),
            limits: filter.limits,
            capped_ports: filter.capped_ports.clone(),
            max_tracked: filter.max_tracked,
            ipv6_unit: filter.ipv6_unit,
        }
    }

    /// Whether what is sent over UDP has to be noted.
    pub fn limits_ports(&self) -> bool {
        !self.exposed.is_empty()
    }

    /// Lines of clients' counts, and connections; 1 each where none are capped.
    pub fn counted(&self) -> (u32, u32) {
        match self.limits.connections {
            Some(_) => (1 << self.rate_lines_log2(), self.max_tracked.saturating_mul(2).max(LEAST_OPEN)),
            None => (1, 1),
        }
    }

    pub fn rate_lines_log2(&self) -> u64 {
        u64::from(RateGeometry::lines_log2_for(self.max_tracked))
    }

    /// What of an IPv6 address stands for its client.
    pub fn unit_mask(&self) -> [u64; 2] {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.ipv6_unit)).unwrap_or(0);
        [(mask >> 64) as u64, mask as u64]
    }

    pub fn syns(&self, tick_ns: u64) -> Option<Limit> {
        self.limits.syns.map(|rate| limit(rate, tick_ns))
    }

    pub fn packets(&self, tick_ns: u64) -> Option<Limit> {
        self.limits.packets.map(|rate| limit(rate, tick_ns))
    }

    fn switches(&self) -> [(&'static str, bool); 7] {
        [
            (switch::TRACE, trace::wanted()),
            (switch::DRY_RUN, self.dry_run),
            (switch::DROP_FRAGMENTS, self.drop_fragments),
            (switch::PORTS, self.limits_ports()),
            (switch::SYNS, self.limits.syns.is_some()),
            (switch::PACKETS, self.limits.packets.is_some()),
            (switch::CONNECTIONS, self.limits.connections.is_some()),
        ]
    }

    fn entries(&self, name: &str) -> Option<u32> {
        match name {
            names::BLOCKED4 => Some(self.lines4),
            names::UNITS6 => Some(self.unit_lines6),
            names::HOSTS6 => Some(self.host_lines6),
            names::SPILLED => Some(SPILLED),
            names::NETS4 | names::NETS6 => Some(self.nets),
            names::TRUST4 | names::TRUST6 => Some(TRUSTED),
            names::SYN_RATES => Some(self.syn_lines),
            names::PACKET_RATES => Some(self.packet_lines),
            names::FLOWS => Some(self.flows),
            names::CONNECTED => Some(self.counted().0),
            names::OPEN | names::SILENCED => Some(self.counted().1),
            _ => None,
        }
    }
}

fn limit(rate: config::Rate, tick_ns: u64) -> Limit {
    Limit::new(u64::from(rate.per_second), u64::from(rate.burst), tick_ns)
}

/// UDP conversations that this host began and that may still be answered.
const FLOWS: u32 = 65_536;

/// Connections that can be counted at once, however few addresses are tracked. Room is taken as it is needed.
const LEAST_OPEN: u32 = 65_536;

/// Addresses with more than eight million dropped packets, or a quarter of a terabyte. Room is taken as it is needed.
const SPILLED: u32 = 262_144;

/// Allowed, protected and own prefixes of one family.
pub const TRUSTED: u32 = 65_536;

/// Loads the object as planned. Of `adopted` maps those that are pinned there are used; counters that are not adopted
/// begin anew.
pub fn load(pin_path: &Path, plan: &Plan, adopted: &[(&'static str, PathBuf)]) -> Result<Ebpf, Failure> {
    let counters = pin_path.join(names::COUNTERS);
    let counted = adopted.iter().any(|(name, _)| *name == names::COUNTERS);
    if !counted || check_pin(&counters, size_of::<Counters>() as u32).is_err() {
        // Scrapers know resets. What is not there need not go.
        let _ = fs::remove_file(&counters);
    }
    let mut loader = EbpfLoader::new();
    loader.map_pin_path(names::COUNTERS, counters);
    for (name, path) in adopted {
        loader.map_pin_path(name, path);
    }
    for name in names::MAPS {
        if let Some(entries) = plan.entries(name) {
            loader.map_max_entries(name, entries);
        }
    }
    let switches = plan.switches().map(|(name, on)| (name, u8::from(on)));
    for (name, on) in &switches {
        loader.override_global(name, on, true);
    }
    let mut object = loader.load(OBJECT).map_err(|error| not_loaded(&chain(&error), permission(&error)))?;
    for name in [names::PROGRAM, names::CLOCK_PROGRAM, names::AMEND_PROGRAM] {
        program(&mut object, name)?.load().map_err(|error| program_not_loaded(&error))?;
    }
    if plan.limits_ports() {
        egress(&mut object)?.load().map_err(|error| program_not_loaded(&error))?;
    }
    if plan.limits.connections.is_some() {
        connections::load(&mut object).map_err(|error| program_not_loaded(&error))?;
    }
    if trace::wanted() {
        trace::start(&mut object);
    }
    Ok(object)
}

fn permission(error: &aya::EbpfError) -> bool {
    matches!(error, aya::EbpfError::MapError(aya::maps::MapError::CreateError { io_error, .. })
        if io_error.raw_os_error() == Some(libc::EPERM))
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn program_not_loaded(error: &ProgramError) -> Failure {
    let denied = matches!(error, ProgramError::LoadError { io_error, .. }
        if io_error.raw_os_error() == Some(libc::EPERM));
    not_loaded(&chain(error), denied)
}

fn not_loaded(error: &str, denied: bool) -> Failure {
    tracing::debug!("{error}");
    let line = error.lines().next().unwrap_or(error);
    if denied {
        Failure::forbidden(format!(
            "the kernel does not let this process load programs ({line}); run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        ))
    } else {
        Failure::system(format!("the kernel did not take the program: {line}; `edge doctor` says what it lacks"))
    }
}

pub fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, Failure> {
    let missing = || Failure::bug(format!("the object has no XDP program {name}"));
    object.program_mut(name).ok_or_else(missing)?.try_into().map_err(|_| missing())
}

/// The program that notes what is sent; loaded only where ports are limited.
pub fn egress(object: &mut Ebpf) -> Result<&mut SchedClassifier, Failure> {
    let missing = || Failure::bug("the object has no egress program".to_owned());
    object.program_mut(names::EGRESS_PROGRAM).ok_or_else(missing)?.try_into().map_err(|_| missing())
}

/// Pins everything, in a directory that is made for it.
pub fn pin(object: &mut Ebpf, directory: &Path) -> Result<(), Failure> {
    fs::create_dir(directory).blame(Blame::System, || nowhere(directory))?;
    pin_missing(object, directory).map(drop)
}

/// Pins every map and the loaded programs, as far as they are not; gives how many were not.
pub fn pin_missing(object: &mut Ebpf, directory: &Path) -> Result<u64, Failure> {
    let what = || nowhere(directory);
    fs::create_dir_all(directory).blame(Blame::System, what)?;
    let mut missing = 0;
    for name in names::MAPS {
        let map = object.map(name).ok_or_else(|| Failure::bug(format!("the object has no map {name}")))?;
        // Counters outlive generations.
        let above = directory.parent().filter(|_| name == names::COUNTERS);
        let pin = above.unwrap_or(directory).join(name);
        if !pin.exists() {
            map.pin(pin).blame(Blame::System, what)?;
            missing += 1;
        }
    }
    for name in [names::PROGRAM, names::AMEND_PROGRAM] {
        let pin = directory.join(name);
        if !pin.exists() {
            program(object, name)?.pin(pin).blame(Blame::System, what)?;
            missing += 1;
        }
    }
    let (pin, egress) = (directory.join(names::EGRESS_PROGRAM), egress(object)?);
    if egress.fd().is_ok() && !pin.exists() {
        egress.pin(pin).blame(Blame::System, what)?;
        missing += 1;
    }
    Ok(missing)
}

fn nowhere(directory: &Path) -> String {
    format!("nothing can be pinned in {}", directory.display())
}
