//! Getting a command executed: by the agent over its socket, or, where the interface says so and no agent is there,
//! on what it left pinned.

use std::{
    io::{ErrorKind, IsTerminal, Read},
    path::PathBuf,
};

use super::{
    args::{Address, Global},
    note,
    output::Complaint,
};
use crate::{
    agent,
    block::Target,
    config::{Config, ConfigErrors, DEFAULT_FILE, DEFAULT_SOCKET, Overrides},
    control::{
        client::{self, Silence},
        protocol::{Answer, Command, Reply, Request},
    },
    enforce,
    error::{Blame, Failure},
};

/// Executed by the agent alone.
pub fn agent(global: &Global, command: Command) -> Result<Reply, Complaint> {
    let request = Request { command, caller: client::caller() };
    match client::call(&socket(global)?, &request) {
        Ok(answer) => Ok(answer?),
        Err(Silence::Absent(failure)) => Err(elsewhere(global).unwrap_or(failure).into()),
        Err(Silence::Failed(failure)) => Err(failure.into()),
    }
}

/// Where one runs all the same, as far as the caller can see its pins.
fn elsewhere(global: &Global) -> Option<Failure> {
    let (config, _) = Config::load_partly(&config_file(global), true, &["filter.pin_path"]).ok()?;
    enforce::silent_agent(&config, &socket(global).ok()?)
}

/// Told to the agent; `None`: none is there.
pub fn agent_if_any(global: &Global, command: Command) -> Option<Result<Reply, Failure>> {
    let request = Request { command, caller: client::caller() };
    let path = match socket(global) {
        Ok(path) => path,
        Err(failure) => return Some(Err(failure)),
    };
    match client::call(&path, &request) {
        Ok(answer) => Some(answer),
        Err(Silence::Absent(_)) => None,
        Err(Silence::Failed(failure)) => Some(Err(failure)),
    }
}

/// Executed by the agent, else on its pinned maps and its store.
pub fn agent_or_pins(global: &Global, command: Command) -> Result<Reply, Complaint> {
    agent_or(global, command, |command| config_for(global, command))
}

/// The same with what [`config_for`] gave, and what was refused told apart from what may have been done.
pub fn answer_by(global: &Global, config: &Config, command: Command) -> Result<Answer, Failure> {
    let request = Request { command, caller: client::caller() };
    match client::call(&socket(global)?, &request) {
        Ok(answer) => Ok(answer),
        Err(Silence::Absent(_)) => {
            let answer = enforce::offline(config, &request);
            note::carried_out(config, &request.command, &answer);
            Ok(answer)
        }
        // Nothing was sent.
        Err(Silence::Failed(failure)) if matches!(failure.blame, Blame::Forbidden | Blame::Usage) => Ok(Err(failure)),
        Err(Silence::Failed(failure)) => Err(failure),
    }
}

/// The same as [`agent_or_pins`] with what [`config_for`] gave.
pub fn agent_or_pins_by(global: &Global, config: &Config, command: Command) -> Result<Reply, Complaint> {
    agent_or(global, command, |_| Ok(config.clone()))
}

fn agent_or(
    global: &Global,
    command: Command,
    config: impl FnOnce(&Command) -> Result<Config, Complaint>,
) -> Result<Reply, Complaint> {
    let request = Request { command, caller: client::caller() };
    match client::call(&socket(global)?, &request) {
        Ok(answer) => Ok(answer?),
        Err(Silence::Absent(_)) => {
            let config = config(&request.command)?;
            let answer = enforce::offline(&config, &request);
            note::carried_out(&config, &request.command, &answer);
            if answer.is_ok() && matches!(request.command, Command::List { .. } | Command::Why { .. }) {
                eprintln!("edge: no agent runs; this is what it left in the kernel and in its store");
            }
            Ok(answer?)
        }
        Err(Silence::Failed(failure)) => Err(failure.into()),
    }
}

/// What a command needs of the config without an agent. Whom the allow list names must be known before anything is
/// blocked or allowed.
pub fn config_for(global: &Global, command: &Command) -> Result<Config, Complaint> {
    let needed: &[&str] = match command {
        Command::Unload => &["filter.pin_path"],
        _ => &["filter.pin_path", "filter.allow", "server.trusted_proxies", "store.path"],
    };
    let file = config_file(global);
    // After a crash in a trial the kernel and the next start go by that, whatever the file says.
    if let Some(config) = agent::confirmed(&file, &without_interfaces()) {
        eprintln!("edge: {} was never confirmed; the config that was confirmed last counts", file.display());
        return Ok(config);
    }
    let (config, wrong) = Config::load_partly(&file, global.config.is_none(), needed)?;
    if !wrong.is_empty() {
        let keys: Vec<&str> = wrong.iter().map(|problem| problem.key.as_str()).filter(|key| !key.is_empty()).collect();
        let named = if keys.is_empty() { String::new() } else { format!(" ({})", keys.join(", ")) };
        eprintln!("edge: {} is not good{named}, which does not matter here; see `edge check`", config.file.display());
    }
    Ok(config)
}

/// The config, or the defaults where there is none and none is named.
pub fn config_or_default(global: &Global) -> Result<Config, ConfigErrors> {
    let file = config_file(global);
    if global.config.is_none() {
        Config::load_optional(&file, &without_interfaces())
    } else {
        Config::load(&file, &without_interfaces())
    }
}

/// What commands need of the config that start nothing.
pub fn without_interfaces() -> Overrides {
    Overrides { interfaces_optional: true, ..Overrides::default() }
}

pub fn config_file(global: &Global) -> PathBuf {
    global.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE))
}

/// The one named, else that of the config, else the default.
pub fn socket(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(socket) = &global.socket {
        return Ok(socket.clone());
    }
    let file = config_file(global);
    match Config::socket_in(&file) {
        Ok(socket) => Ok(socket),
        Err(_) if global.config.is_none() => Ok(PathBuf::from(DEFAULT_SOCKET)),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let message = format!("{} cannot be read: {error}; name the agent's socket with --socket", file.display());
            Err(Failure::forbidden(message))
        }
        Err(error) => Err(Failure::usage(format!("{} cannot be read: {error}; name another --config", file.display()))),
    }
}

/// The addresses named, and those of standard input where `-` stands among them.
pub fn targets(addresses: &[Address]) -> Result<Vec<Target>, Failure> {
    let mut targets = Vec::new();
    let mut input_read = false;
    for address in addresses {
        match address {
            Address::Of(target) => targets.push(*target),
            Address::StandardInput if input_read => {}
            Address::StandardInput => {
                targets.extend(targets_of(&standard_input()?)?);
                input_read = true;
            }
        }
    }
    Ok(targets)
}

fn standard_input() -> Result<String, Failure> {
    let mut input = std::io::stdin();
    if input.is_terminal() {
        eprintln!("edge: reading addresses, one a line; Ctrl-D ends them");
    }
    let mut text = String::new();
    match input.read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => {
            Err(Failure::usage(format!("standard input cannot be read: {error}; give addresses, one a line")))
        }
    }
}

/// One a line; empty lines and what follows `#` say nothing.
fn targets_of(text: &str) -> Result<Vec<Target>, Failure> {
    let line = |(number, line): (usize, &str)| {
        let typed = line.split('#').next().unwrap_or_default().trim();
        let failed = |error| Failure::usage(format!("standard input, line {}: {error}", number + 1));
        (!typed.is_empty()).then(|| typed.parse().map_err(failed))
    };
    text.lines().enumerate().filter_map(line).collect()
}

/// The agent's answer was of another kind than the question.
pub fn mismatched() -> Complaint {
    another_answer().into()
}

pub fn another_answer() -> Failure {
    Failure::bug("the agent answered another question than was asked; restart it with this version of edge")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn standard_input_is_one_address_a_line() {
        let targets = targets_of("203.0.113.7\n\n# scanners\n 2001:db8::/32 # all\r\n").unwrap();
        assert_eq!(targets.iter().map(ToString::to_string).collect::<Vec<_>>(), ["203.0.113.7/32", "2001:db8::/32"]);
        let failure = targets_of("203.0.113.7\nnonsense\n").unwrap_err();
        assert_eq!(failure.blame.exit_code(), 2);
        assert!(failure.message.contains("line 2: `nonsense`"), "{}", failure.message);
    }

    #[test]
    fn the_socket_is_the_named_one_else_that_of_the_config() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("edge.toml");
        std::fs::write(&file, "[admin]\nsocket = \"/run/other.sock\"\n").unwrap();
        let global = Global { config: Some(file), ..Global::default() };
        assert_eq!(socket(&global).unwrap(), Path::new("/run/other.sock"));
        let named = Global { socket: Some(PathBuf::from("/s")), ..global.clone() };
        assert_eq!(socket(&named).unwrap(), Path::new("/s"));
        let missing = Global { config: Some(directory.path().join("none")), ..Global::default() };
        assert_eq!(socket(&missing).unwrap_err().blame.exit_code(), 2);
    }
}
