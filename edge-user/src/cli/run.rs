//! `edge run`: the agent, in the foreground.

use serde_json::json;

use super::{
    args::{Global, Run},
    ask, log,
    output::{Complaint, Outcome},
};
use crate::{
    agent,
    config::{Config, Overrides},
};

pub fn run(global: &Global, arguments: &Run) -> Result<Outcome, Complaint> {
    let overrides =
        Overrides { interfaces: arguments.interfaces.clone(), socket: global.socket.clone(), ..Overrides::default() };
    let config = Config::load_with_files(&ask::config_file(global), &overrides)?;
    log::start(config.log.format, i16::from(global.verbose) - i16::from(global.quiet));
    agent::run(config)?;
    Ok(Outcome::new(json!({"ended": true}), String::new()))
}
