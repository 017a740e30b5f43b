//! What commands say beside their names.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Answer, Reply};
use crate::{
    audit::event::Name,
    backup::State,
    block::{Origin, Target},
    error::Failure,
    parcel::Parcel,
};

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
