//! The documents of the interface, section 4: what `list`, `status`, `why` and `reload` answer.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    block::{Origin, Target},
    clock::Wall,
    parcel::{End, Row},
};

/// One row of `list`: one block of one origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub address: Target,
    pub origin: Origin,
    pub reason: String,
    pub created: Wall,
    pub expires: Option<Wall>,
    pub offence: u32,
    /// Dropped since the block was made, as the kernel counts now.
    pub packets: u64,
    pub bytes: u64,
}

impl Entry {
    pub fn of(row: &Row<'_>) -> Entry {
        let Row { target, about, hits } = *row;
        Entry {
            address: target,
            origin: about.origin,
            reason: about.reason.clone(),
            created: about.created.unwrap_or(Wall(0)),
            expires: if let End::At(expires) = about.end { Some(expires) } else { None },
            offence: about.offence,
            packets: hits.packets,
            bytes: hits.bytes,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: f64,
    pub dry_run: bool,
    /// What is filtered, as the kernel says now.
    pub interfaces: Vec<Interface>,
    /// What is to be filtered and is not.
    pub unfiltered: Vec<Unfiltered>,
    pub blocked: Blocked,
    pub enforced: Enforced,
    pub drift: u64,
    pub connections: ConnectionTotals,
    pub packets: Packets,
    pub store: Stores,
    /// That are served, in the order in which they are chosen.
    pub certificates: Vec<Certificate>,
    pub reload: Reload,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Of hosts and addresses; its subject where it has none.
    pub names: Vec<String>,
    /// Null: it is yet to be issued.
    pub expires: Option<Wall>,
    /// Null: it is from a file, or made by edge.
    pub acme: Option<Acme>,
}

/// How it stands with the authority that issues it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acme {
    pub directory: String,
    /// When another is asked for, if all is well; null: there is none yet.
    pub renews_at: Option<Wall>,
    /// In a row, since the last one was issued.
    pub failures: u32,
    pub last_error: Option<String>,
    /// When it is tried again, after a failure.
    pub retries_at: Option<Wall>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    /// `native` or `generic`.
    pub mode: String,
    /// The kernel's id of the program.
    pub program_id: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfiltered {
    pub name: String,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    pub total: u64,
    /// Single addresses.
    pub ipv4: u64,
    pub ipv6: u64,
    /// The rest.
    pub prefixes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    pub total: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionTotals {
    /// Addresses (IPv6: units) that have any.
    pub tracked_addresses: u64,
    pub total: u64,
    /// Of one address; null where none are capped, and then none are counted here.
    pub cap: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    pub passed: u64,
    pub dropped: u64,
    pub by_reason: BTreeMap<String, u64>,
}

/// Whether the stores, that of the agent and that of users and sessions, can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stores {
    pub ok: bool,
    /// One sentence for each that cannot.
    pub problems: Vec<String>,
}

impl Stores {
    pub fn with(problems: impl IntoIterator<Item = String>) -> Stores {
        let problems: Vec<String> = problems.into_iter().collect();
        Stores { ok: problems.is_empty(), problems }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// Counts what was applied, the start included.
    pub generation: u64,
    pub last_result: LastResult,
    /// When what is in force is reverted, unless it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverts_at: Option<Wall>,
}

/// How the last attempt to change the config ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LastResult {
    Ok,
    /// Not all of it is in force.
    Partial,
    /// Nothing was changed.
    Refused,
    /// What was confirmed last is in force again; the file says another.
    Reverted,
}

impl LastResult {
    pub const fn name(self) -> &'static str {
        match self {
            LastResult::Ok => "ok",
            LastResult::Partial => "partial",
            LastResult::Refused => "refused",
            LastResult::Reverted => "reverted",
        }
    }
}

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    #[serde(flatten)]
    pub now: Reload,
    /// The file that was read.
    pub config: PathBuf,
    /// Keys whose new values are in force.
    pub applied: Vec<String>,
    /// Sentences for the user: what it cost.
    pub warnings: Vec<String>,
}

impl Reloaded {
    /// In one line: `ok: filter.allow, filter.block`.
    pub fn told(&self) -> String {
        let applied = if self.applied.is_empty() { "nothing differs".to_owned() } else { self.applied.join(", ") };
        format!("{}: {applied}", self.now.last_result.name())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    pub address: IpAddr,
    /// `pass` or `drop`.
    pub verdict: String,
    /// A name of [`edge_common::reason::Reason`].
    pub reason: String,
    /// Everything passes; `reason` is what would hold.
    pub dry_run: bool,
    /// What is to be filtered and is not: there everything passes.
    #[serde(default)]
    pub unfiltered: Vec<Unfiltered>,
    pub allowed: bool,
    /// Whether and why it can never be blocked.
    pub protected: Option<String>,
    /// The block that holds now, the one that ends last where there are several.
    pub block: Option<Entry>,
    pub connections: Connections,
    pub rates: Rates,
    pub dropped: Dropped,
    /// Samples, no counts: the last packets of it that were dropped.
    pub drops: Vec<Drop>,
    pub offences: Vec<Offence>,
    /// Weighted failures within the window now, and how many lead to a block.
    pub score: u32,
    pub threshold: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Now, of its IPv6 unit.
    pub current: u64,
    /// Null where none holds for this address.
    pub cap: Option<u64>,
}

/// What an address may still send; null where it is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    pub syns: Option<Allowance>,
    pub packets: Option<Allowance>,
}

/// A rate as the kernel applies it to an address, and what is left of it now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    pub per_second: u64,
    pub burst: u64,
    /// So many pass at once.
    pub left: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Packets by reason.
    pub by_reason: BTreeMap<String, u64>,
}

/// One packet that was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    pub time: Wall,
    pub reason: String,
    /// The name of the interface that it came in by; its index where it is gone.
    pub interface: String,
    pub bytes: u64,
}

/// One piece of evidence, or one block of the past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offence {
    pub time: Wall,
    /// A name of [`crate::offense::Kind`].
    pub kind: String,
    /// The account that was tried, as given; `None` where no name came with it.
    pub subject: Option<String>,
}
