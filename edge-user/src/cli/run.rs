//! `edge run`: the agent, in the foreground.

use serde_json::json;

use super::{
    args::{Global, Run},
    ask,
    output::{Complaint, Outcome},
};
use crate::{agent, config::Overrides, logging::Logging};

pub fn run(global: &Global, arguments: &Run) -> Result<Outcome, Complaint> {
    let overrides = Overrides {
        interfaces: arguments.interfaces.clone(),
        socket: global.socket.clone(),
        loudness: i16::from(global.verbose) - i16::from(global.quiet),
        ..Overrides::default()
    };
    let (config, reverted, note) = agent::first_config(&ask::config_file(global), &overrides)?;
    Logging::of(&config.log).start();
    if let Some(note) = note {
        tracing::error!("{note}");
    }
    for warning in &config.warnings {
        tracing::warn!("{}", warning.told(&config.file));
    }
    agent::run(config, overrides, reverted)?;
    Ok(Outcome::new(json!({"ended": true}), String::new()))
}
