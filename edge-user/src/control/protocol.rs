//! Commands and their answers, as frames: one [`Request`] from the CLI, one [`Answer`] back, then the connection ends. The documents are those of the interface,
//! section 4.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    audit::event::Name,
    backup::State,
    block::{Origin, Target},
    clock::Wall,
    config::{ConfigErrors, duration},
    datapath::Unloaded,
    error::Failure,
    parcel::{self, End, Parcel, Row},
    printable::quotable,
};

/// The largest frame either side accepts.
pub const MAX_FRAME: usize = 256 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub command: Command,
    /// The caller's own address, where it came over SSH: a block that hits it is warned of.
    pub caller: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    Status,
    Block(BlockRequest),
    Import(ImportRequest),
    Unblock(UnblockRequest),
    /// All that is blocked, to be imported again.
    Export {
        origin: Option<Origin>,
    },
    /// All that a backup holds of the agent, for the file that is named.
    Backup {
        file: String,
    },
    Restore(RestoreRequest),
    List {
        origin: Option<Origin>,
        limit: Option<usize>,
    },
    Why {
        address: IpAddr,
    },
    Allow {
        targets: Vec<Target>,
    },
    Disallow {
        targets: Vec<Target>,
    },
    /// A part of the audit log.
    Audit(AuditPart),
    /// What the caller has done by itself.
    Note(Noted),
    /// Read the config again and put into force what differs.
    Reload {
        /// After so long it is reverted, unless it is kept.
        confirm: Option<Duration>,
    },
    /// Confirm what was reloaded.
    Keep,
    Rotate(Rotate),
    /// Detach and unpin everything, then end.
    Unload,
}

impl Command {
    /// What it changes, in one line for the log; `None`: it only looks.
    pub fn change(&self) -> Option<String> {
        let change = match self {
            Command::Status
            | Command::List { .. }
            | Command::Export { .. }
            | Command::Backup { .. }
            | Command::Why { .. }
            | Command::Audit(_)
            | Command::Rotate(Rotate { take_up: false, .. })
            | Command::Note(_) => return None,
            Command::Block(BlockRequest { targets, for_seconds, reason, origin, force }) => {
                let length =
                    for_seconds.map_or_else(|| "until lifted".to_owned(), |seconds| format!("for {seconds} s"));
                let reason = reason.as_deref().map(|reason| format!(", reason `{}`", quotable(reason)));
                let force = if *force { ", by force" } else { "" };
                format!("block {} {length}, origin {origin}{force}{}", few(targets), reason.unwrap_or_default())
            }
            Command::Import(ImportRequest { source, count, force, .. }) => {
                let force = if *force { ", by force" } else { "" };
                format!("import {count} addresses and networks from `{}`{force}", quotable(source))
            }
            Command::Restore(RestoreRequest { source, .. }) => format!("restore `{}`", quotable(source)),
            Command::Unblock(UnblockRequest { targets, origin }) => {
                let targets = targets.as_deref().map_or_else(|| "everything".to_owned(), few);
                let origin = origin.map(|origin| format!(" of origin {origin}"));
                format!("unblock {targets}{}", origin.unwrap_or_default())
            }
            Command::Allow { targets } => format!("allow {}", few(targets)),
            Command::Disallow { targets } => format!("disallow {}", few(targets)),
            Command::Reload { confirm: None } => "reload".to_owned(),
            Command::Reload { confirm: Some(within) } => {
                format!("reload, to be confirmed within {}", duration::text(*within))
            }
            Command::Keep => "reload --keep".to_owned(),
            Command::Rotate(Rotate { take_up: true, .. }) => "secret rotate".to_owned(),
            Command::Unload => "unload".to_owned(),
        };
        Some(change)
    }
}

impl Command {
    /// What travels beside it.
    pub fn beside(&self) -> io::Result<Option<OwnedFd>> {
        match self {
            Command::Import(import) => import.parcel.seal().map(Some),
            Command::Restore(restore) => parcel::sealed(&restore.state.encode()?).map(Some),
            _ => Ok(None),
        }
    }

    pub fn announces(&self) -> bool {
        matches!(self, Command::Import(_) | Command::Restore(_))
    }

    /// What it announces has travelled beside it.
    pub fn with(self, handed: OwnedFd) -> io::Result<Command> {
        match self {
            Command::Import(import) => Ok(Command::Import(ImportRequest { parcel: Parcel::open(handed)?, ..import })),
            Command::Restore(restore) => Ok(Command::Restore(RestoreRequest { state: state(handed)?, ..restore })),
            other => Ok(other),
        }
    }
}

impl Reply {
    /// What travels beside it.
    pub fn beside(&self) -> io::Result<Option<Arc<OwnedFd>>> {
        match self {
            Reply::Listed(parcel) => parcel.seal().map(Arc::new).map(Some),
            Reply::State(state) => parcel::sealed(&state.encode()?).map(Arc::new).map(Some),
            Reply::Restored(restored) => parcel::sealed(&restored.before.encode()?).map(Arc::new).map(Some),
            Reply::Audit(AuditAt { file: Handed(file), .. }) => Ok(file.clone()),
            _ => Ok(None),
        }
    }

    /// What has travelled beside it.
    pub fn with(self, handed: Option<OwnedFd>) -> io::Result<Reply> {
        match self {
            Reply::Listed(_) => Ok(Reply::Listed(Parcel::open(handed.ok_or(ErrorKind::InvalidData)?)?)),
            Reply::State(_) => Ok(Reply::State(state(handed.ok_or(ErrorKind::InvalidData)?)?)),
            Reply::Restored(restored) => {
                let before = state(handed.ok_or(ErrorKind::InvalidData)?)?;
                Ok(Reply::Restored(Box::new(Restored { before, ..*restored })))
            }
            Reply::Audit(at) => Ok(Reply::Audit(AuditAt { file: Handed(handed.map(Arc::new)), ..at })),
            other => Ok(other),
        }
    }
}

fn state(handed: OwnedFd) -> io::Result<State> {
    State::decode(&parcel::unsealed(handed)?).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// The first of them, and how many more.
fn few(targets: &[Target]) -> String {
    const NAMED: usize = 4;
    let named: Vec<String> = targets.iter().take(NAMED).map(ToString::to_string).collect();
    let more = targets.len().saturating_sub(NAMED);
    named.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRequest {
    pub targets: Vec<Target>,
    /// `None`: until lifted.
    pub for_seconds: Option<u64>,
    pub reason: Option<String>,
    pub origin: Origin,
    /// Lifts only the rule of widths.
    pub force: bool,
}

/// Its addresses travel beside it, as a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRequest {
    /// For the log: where they come from, and how many there are.
    pub source: String,
    pub count: u64,
    /// Lifts only the rule of widths.
    pub force: bool,
    #[serde(skip)]
    pub parcel: Parcel,
}

/// Its state travels beside it, as a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// The file that it comes from.
    pub source: String,
    /// Kept with what is restored, so that whoever has the other half knows whether this one is in force.
    pub id: String,
    #[serde(skip)]
    pub state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnblockRequest {
    /// `None`: all of them.
    pub targets: Option<Vec<Target>>,
    /// `None`: of every origin.
    pub origin: Option<Origin>,
}

/// A new signing secret, which the caller writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotate {
    /// Where the caller's config has the secret.
    pub file: PathBuf,
    /// It is written and is to be put into force; else only whether it could be.
    pub take_up: bool,
}

/// One of the commands that need no agent, as its audit log is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    pub name: Name,
    pub subject: Option<String>,
    pub key_id: Option<String>,
    /// Why it was refused; `None`: it was done.
    pub refused: Option<String>,
}

impl Noted {
    /// Whatever the agent does itself it notes itself.
    pub fn accepted(&self) -> Answer {
        match self.name.text() {
            "backup" | "restore" => Ok(Reply::Noted),
            name if ["user.", "key.", "secret.", "session.", "token."].iter().any(|of| name.starts_with(of)) => {
                Ok(Reply::Noted)
            }
            _ => Err(Failure::usage(format!("{} is not noted for others", self.name.text()))),
        }
    }
}

/// Of the audit log, one after the other, since one descriptor travels at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditPart {
    /// The file before the one that is written now.
    Former,
    /// The file that is written now.
    Current,
    /// What these users wrote to the journal, for a caller who may not read it.
    Journal { writers: Vec<u32>, since: Option<Wall>, follow: bool },
}

/// Where the audit log is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditAt {
    pub path: PathBuf,
    /// It is in the journal as well, or was.
    pub journal: Option<AuditInJournal>,
    /// The part that was asked for, open for reading; empty where there is no such file.
    #[serde(skip)]
    pub file: Handed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditInJournal {
    /// It is written there now.
    pub now: bool,
    /// Of the agent.
    pub uid: u32,
    /// Whose members give commands without an agent, too.
    pub group: String,
}

/// A file that travels beside an answer.
#[derive(Clone, Debug, Default)]
pub struct Handed(pub Option<Arc<OwnedFd>>);

impl PartialEq for Handed {
    fn eq(&self, other: &Handed) -> bool {
        self.0.as_ref().map(AsRawFd::as_raw_fd) == other.0.as_ref().map(AsRawFd::as_raw_fd)
    }
}

impl Eq for Handed {}

pub type Answer = Result<Reply, Failure>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Status(Box<Status>),
    /// `list` and `export`: it travels beside the answer, as a descriptor.
    Listed(#[serde(skip)] Parcel),
    /// `backup`: it travels beside the answer, as a descriptor.
    State(#[serde(skip)] State),
    Restored(Box<Restored>),
    Why(Box<Why>),
    /// A command that changes something: one outcome for each target, in the order given.
    Changed(Changed),
    Imported(Box<Imported>),
    Reloaded(Reloaded),
    /// What was reloaded is confirmed.
    Kept(Reload),
    /// The config is not good, or cannot be put into force: nothing was changed.
    Refused(ConfigErrors),
    Audit(AuditAt),
    Noted,
    /// What `unload` took away.
    Unloaded(Unloaded),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Targets that were changed (blocked, lifted, allowed, disallowed).
    pub changed: Vec<Target>,
    /// How many more were changed and are not named, where all of them were meant.
    #[serde(default)]
    pub more: u64,
    /// Targets that already were as asked for.
    pub unchanged: Vec<Target>,
    /// Sentences for the user, as that the block hits the caller's own address.
    pub warnings: Vec<String>,
}

impl Changed {
    /// How many were changed.
    pub fn count(&self) -> u64 {
        self.changed.len() as u64 + self.more
    }
}

/// What became of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// How many different addresses and networks are in force now.
    pub imported: u64,
    pub addresses: u64,
    pub prefixes: u64,
    /// The first of those that are protected and stay served, and how many there are.
    pub left_out: Vec<LeftOut>,
    pub left_out_total: u64,
    /// How many had ended already.
    pub ended: u64,
    pub warnings: Vec<String>,
}

impl Imported {
    /// A sentence for each that is named, and one for the others.
    pub fn told_left_out(&self) -> Vec<String> {
        let named = self.left_out.iter();
        let mut told: Vec<String> =
            named.map(|one| format!("{} is protected and left out: {}", one.address, one.reason)).collect();
        let more = self.left_out_total.saturating_sub(self.left_out.len() as u64);
        if more > 0 {
            told.push(format!("{more} more are protected and left out"));
        }
        told
    }
}

/// What became of a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The blocks.
    #[serde(flatten)]
    pub imported: Imported,
    pub allowed: u64,
    pub offences: u64,
    /// What was in force until then. It travels beside the answer.
    #[serde(skip)]
    pub before: State,
}

/// One that is protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    pub address: Target,
    pub reason: String,
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_line() {
        let targets: Vec<Target> = (0..6).map(|n| format!("203.0.113.{n}").parse().unwrap()).collect();
        let block = BlockRequest {
            targets,
            for_seconds: Some(3_600),
            reason: Some("seen\nin the log".to_owned()),
            origin: Origin::Manual,
            force: false,
        };
        let expected = "block 203.0.113.0/32, 203.0.113.1/32, 203.0.113.2/32, 203.0.113.3/32 and 2 more for 3600 s, \
                        origin manual, reason `seen\u{fffd}in the log`";
        assert_eq!(Command::Block(block).change().as_deref(), Some(expected));
        let all = UnblockRequest { targets: None, origin: Some(Origin::Auth) };
        assert_eq!(Command::Unblock(all).change().as_deref(), Some("unblock everything of origin auth"));
        assert_eq!(Command::Status.change(), None);
    }
}
