//! The counters that live as long as the agent, and the closed lists of their labels. Whoever counts holds a clone.

use std::time::Duration;

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

use crate::{block::Origin, clock::Wall, server::link::Kind};

/// Why a block went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// Its time was over.
    Expired,
    /// A person lifted it.
    Lifted,
}

impl Removed {
    pub const ALL: [Removed; 2] = [Removed::Expired, Removed::Lifted];

    pub const fn name(self) -> &'static str {
        match self {
            Removed::Expired => "expired",
            Removed::Lifted => "lifted",
        }
    }
}

/// How the kernel differed from what was decided, of what is put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// An interface that had lost the program.
    Detached,
    /// A link, a map or the program was not pinned any more.
    Unpinned,
    /// A connection that was counted and is gone, or that is open and was not counted.
    Connection,
    /// A block that was decided and not in the kernel, or the reverse.
    Block,
    /// Something of the allow list, of what is protected, or of how prefixes are found.
    Prefix,
    Settings,
}

impl Drift {
    pub const ALL: [Drift; 6] =
        [Drift::Detached, Drift::Unpinned, Drift::Connection, Drift::Block, Drift::Prefix, Drift::Settings];

    pub const fn name(self) -> &'static str {
        match self {
            Drift::Detached => "detached",
            Drift::Unpinned => "unpinned",
            Drift::Connection => "connection",
            Drift::Block => "block",
            Drift::Prefix => "prefix",
            Drift::Settings => "settings",
        }
    }
}

/// What could not be taken in because it came too fast, or was too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Offences that the server reported.
    Server,
    /// Events that the audit log had no room for, or the server no room to report.
    Audit,
    /// Samples of drops that found the kernel's ring buffer full.
    Ring,
    /// Connections that a full table had no room to count.
    Connections,
}

impl Lost {
    pub const ALL: [Lost; 4] = [Lost::Server, Lost::Audit, Lost::Ring, Lost::Connections];

    pub const fn name(self) -> &'static str {
        match self {
            Lost::Server => "server",
            Lost::Audit => "audit",
            Lost::Ring => "ring",
            Lost::Connections => "connections",
        }
    }
}

/// Counters that live as long as the agent. A clone counts into the same.
#[derive(Clone, Debug)]
pub struct Own {
    added: IntCounterVec,
    removed: IntCounterVec,
    repaired: IntCounterVec,
    offences: IntCounterVec,
    lost: IntCounterVec,
    latency: Histogram,
    reload_successful: IntGauge,
    reload_success: Gauge,
}

/// The upper ends of the latency's buckets in seconds. The promise is 1 ms.
const LATENCY: [f64; 12] =
    [0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0];

impl Own {
    /// An error is a fault of the names in here.
    pub fn new() -> Result<Own, prometheus::Error> {
        let latency = HistogramOpts::new(
            "edge_block_latency_seconds",
            "From an offence that reached the threshold being seen to the kernel's table being written.",
        );
        Ok(Own {
            added: listed(
                "edge_blocks_added_total",
                "Blocks that were added, by who asked for them.",
                "origin",
                Origin::ALL.map(Origin::name),
            )?,
            removed: listed(
                "edge_blocks_removed_total",
                "Blocks that went away, by cause.",
                "cause",
                Removed::ALL.map(Removed::name),
            )?,
            repaired: listed(
                "edge_drift_repaired_total",
                "What the kernel held otherwise than decided, or counted otherwise than is, and was put right, by kind.",
                "kind",
                Drift::ALL.map(Drift::name),
            )?,
            offences: listed(
                "edge_offences_total",
                "Refused credentials on connections to edge that the kernel has, of protected and of blocked clients too.",
                "kind",
                Kind::ALL.map(Kind::name),
            )?,
            lost: listed(
                "edge_events_lost_total",
                "Events that came faster than they could be taken in, and connections that found no room to be counted.",
                "source",
                Lost::ALL.map(Lost::name),
            )?,
            latency: Histogram::with_opts(latency.buckets(LATENCY.to_vec()))?,
            reload_successful: IntGauge::new(
                "edge_config_last_reload_successful",
                "Whether all of the config that was read last is in force.",
            )?,
            reload_success: Gauge::new(
                "edge_config_last_reload_success_timestamp_seconds",
                "When all of a config was put into force last.",
            )?,
        })
    }

    pub fn blocks_added(&self, origin: Origin, count: u64) {
        self.added.with_label_values(&[origin.name()]).inc_by(count);
    }

    pub fn blocks_removed(&self, cause: Removed, count: u64) {
        self.removed.with_label_values(&[cause.name()]).inc_by(count);
    }

    pub fn drift_repaired(&self, kind: Drift, count: u64) {
        self.repaired.with_label_values(&[kind.name()]).inc_by(count);
    }

    pub fn offence(&self, kind: Kind) {
        self.offences.with_label_values(&[kind.name()]).inc();
    }

    pub fn lost(&self, source: Lost, count: u64) {
        self.lost.with_label_values(&[source.name()]).inc_by(count);
    }

    pub fn block_latency(&self, latency: Duration) {
        self.latency.observe(latency.as_secs_f64());
    }

    /// A config was read, at a start too; whether all of it is in force.
    pub fn reloaded(&self, whole: bool, now: Wall) {
        self.reload_successful.set(whole.into());
        if whole {
            self.reload_success.set(now.0 as f64 / 1000.0);
        }
    }

    pub(super) fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        for counter in [&self.added, &self.removed, &self.repaired, &self.offences, &self.lost] {
            registry.register(Box::new(counter.clone()))?;
        }
        registry.register(Box::new(self.latency.clone()))?;
        registry.register(Box::new(self.reload_successful.clone()))?;
        registry.register(Box::new(self.reload_success.clone()))
    }
}

/// A counter by one label, with every value that the label can have at 0.
fn listed<const N: usize>(
    name: &str,
    help: &str,
    label: &str,
    values: [&str; N],
) -> Result<IntCounterVec, prometheus::Error> {
    let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
    for value in values {
        counter.with_label_values(&[value]);
    }
    Ok(counter)
}
