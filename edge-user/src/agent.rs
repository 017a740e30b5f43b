//! The agent: puts the parts together and runs them.

use crate::{config::Config, error::Failure};

/// Runs until a signal or `unload` ends it.
pub fn run(_config: Config) -> Result<(), Failure> {
    Err(Failure::bug("this build has no agent; build edge from its main branch"))
}
