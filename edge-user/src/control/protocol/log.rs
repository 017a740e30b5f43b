//! The audit log, as whoever reads it asks for it: a part at a time, and where it is.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::clock::Wall;

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
