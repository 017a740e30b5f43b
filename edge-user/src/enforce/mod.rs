//! The one writer of everything that is enforced.

use crate::{
    config::Config,
    control::protocol::{Answer, Request},
    error::Failure,
};

/// Executes a command without an agent, on its pinned maps and its store.
pub fn offline(_config: &Config, _request: &Request) -> Answer {
    Err(Failure::unreachable("no agent runs; start it with `edge run`"))
}
