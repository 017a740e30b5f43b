//! Telling the audit log of what a command has done by itself: the agent writes it, and where none runs, the caller. What
//! cannot be told is warned of; the command is done all the same.

use super::{args::Global, ask};
use crate::{
    audit,
    config::Config,
    control::protocol::{Answer, Command, Noted},
    error::Failure,
    printable::printable,
};

/// A command that no agent takes part in.
pub fn done(
    global: &Global,
    config: &Config,
    name: audit::event::Name,
    subject: Option<&str>,
    refused: Option<&Failure>,
) {
    of_key(global, config, name, (subject, None), refused);
}

/// The same about a key that is known, by its name and id.
pub fn of_key(
    global: &Global,
    config: &Config,
    name: audit::event::Name,
    (subject, key_id): (Option<&str>, Option<String>),
    refused: Option<&Failure>,
) {
    let refused = refused.map(|failure| failure.message.clone());
    let noted = Noted { name, subject: subject.map(str::to_owned), key_id, refused };
    match ask::agent_if_any(global, Command::Note(noted.clone())) {
        Some(Ok(_)) => {}
        Some(Err(failure)) => warn(&failure.message),
        None => written(config, [audit::noted(&noted)]),
    }
}

/// A command that the agent would have carried out.
pub fn carried_out(config: &Config, command: &Command, answer: &Answer) {
    written(config, audit::carried_out(command, answer).events());
}

fn written(config: &Config, events: impl IntoIterator<Item = audit::event::Event>) {
    if let Err(error) = audit::write_now(config, events) {
        warn(&error.to_string());
    }
}

fn warn(why: &str) {
    eprintln!("edge: warning: the audit log could not be told of it: {}", printable(why));
}
