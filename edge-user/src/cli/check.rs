//! `edge check`: the config and the files it names, every problem at once. Opens no port, touches no map.

use serde_json::json;

use super::{
    args::Global,
    ask,
    output::{Complaint, Outcome},
};
use crate::config::{Config, Overrides};

pub fn check(global: &Global) -> Result<Outcome, Complaint> {
    let file = ask::config_file(global);
    let config = Config::load_with_files(&file, &Overrides::default())?;
    let warnings = warnings(&config);
    let document = json!({"ok": true, "file": file, "problems": [], "warnings": warnings});
    Ok(Outcome { warnings, ..Outcome::new(document, format!("{}: no problem found", file.display())) })
}

fn warnings(config: &Config) -> Vec<String> {
    let group = &config.admin.group;
    match nix::unistd::Group::from_name(group) {
        Ok(None) => vec![format!("there is no group {group}: the admin socket will be open to the agent's user alone")],
        _ => Vec::new(),
    }
}
