//! Commands and their answers, as frames: one [`Request`] from the CLI, one [`Answer`] back, then the connection ends. The documents are those of the interface,
//! section 4.

mod document;
mod log;
mod request;

use std::{
    io::{self, ErrorKind},
    net::IpAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use self::{
    document::{
        Acme, Allowance, Blocked, Certificate, ConnectionTotals, Connections, Drop, Dropped, Enforced, Entry,
        Interface, LastResult, Offence, Packets, Rates, Reload, Reloaded, Status, Stores, Unfiltered, Why,
    },
    log::{AuditAt, AuditInJournal, AuditPart, Handed},
    request::{BlockRequest, ImportRequest, Noted, RestoreRequest, Rotate, UnblockRequest},
};
use crate::{
    backup::State,
    block::{Origin, Target},
    config::{ConfigErrors, duration},
    datapath::Unloaded,
    error::Failure,
    parcel::{self, Parcel},
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
