//! Who is to blame for a failure. It fixes the exit code (interface, section 1) and travels over the admin socket.

use serde::{Deserialize, Serialize};

/// Who can mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The words of the command, or the config: exit code 2.
    Usage,
    /// A rule of edge, or a state of the system, forbids it: exit code 1.
    Refused,
    /// The kernel or the machine failed: exit code 1.
    System,
    /// Nobody answers, or not yet: exit code 3.
    Unreachable,
    /// The caller lacks the right: exit code 4.
    Forbidden,
    /// A fault of edge itself: exit code 1.
    Bug,
}

impl Blame {
    pub const fn exit_code(self) -> u8 {
        match self {
            Blame::Refused | Blame::System | Blame::Bug => 1,
            Blame::Usage => 2,
            Blame::Unreachable => 3,
            Blame::Forbidden => 4,
        }
    }
}

/// A failure as the user sees it: one clear sentence that says what was wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub blame: Blame,
    pub message: String,
}

impl Failure {
    pub fn new(blame: Blame, message: impl Into<String>) -> Failure {
        Failure { blame, message: message.into() }
    }

    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Blame::Usage, message)
    }

    pub fn refused(message: impl Into<String>) -> Failure {
        Failure::new(Blame::Refused, message)
    }

    pub fn system(message: impl Into<String>) -> Failure {
        Failure::new(Blame::System, message)
    }

    pub fn unreachable(message: impl Into<String>) -> Failure {
        Failure::new(Blame::Unreachable, message)
    }

    pub fn forbidden(message: impl Into<String>) -> Failure {
        Failure::new(Blame::Forbidden, message)
    }

    pub fn bug(message: impl Into<String>) -> Failure {
        Failure::new(Blame::Bug, message)
    }
}

/// Prefixes a failure with what was being done, keeping its blame.
pub trait Context<T> {
    fn blame(self, blame: Blame, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: std::fmt::Display> Context<T> for Result<T, E> {
    fn blame(self, blame: Blame, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(blame, format!("{}: {error}", what())))
    }
}
