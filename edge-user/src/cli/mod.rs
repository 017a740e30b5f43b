//! The command line: parses, asks the agent (or goes on without it where the interface says so), prints.
//! One file for each command or small group; each gives an `Outcome`, which is printed here alone.

pub mod args;
mod ask;
mod audit;
mod backup;
mod block;
mod check;
mod doctor;
mod export;
mod hint;
mod import;
mod key;
mod list;
mod note;
mod output;
mod password;
mod progress;
mod reload;
mod restore;
mod run;
mod secret;
mod session;
mod status;
mod unload;
mod user;
mod why;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, error::ErrorKind};
use serde_json::json;

use self::{
    args::{Command, CommandLine, Format},
    output::{Complaint, Outcome},
};
use crate::error::Failure;

/// The whole program, but for the server.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let (format, outcome) = match args::parse(&words) {
        Ok(line) => (line.global.output, hint::hinted(&line.global, execute(&line))),
        Err(error) => match misused(&words, error) {
            Ok(code) => return code,
            Err(failure) => (Format::Json, Err(failure.into())),
        },
    };
    ExitCode::from(output::print(format, outcome))
}

fn execute(line: &CommandLine) -> Result<Outcome, Complaint> {
    let global = &line.global;
    match &line.command {
        Command::Run(arguments) => run::run(global, arguments),
        Command::Check => check::check(global),
        Command::Doctor => doctor::doctor(global),
        Command::Block(arguments) => block::block(global, arguments),
        Command::Unblock(arguments) => block::unblock(global, arguments),
        Command::Allow(arguments) => block::allow(global, arguments),
        Command::Disallow(arguments) => block::disallow(global, arguments),
        Command::Import(arguments) => import::import(global, arguments),
        Command::Backup(arguments) => backup::backup(global, arguments),
        Command::Restore(arguments) => restore::restore(global, arguments),
        Command::Export(arguments) => export::export(global, arguments),
        Command::List(arguments) => list::list(global, arguments),
        Command::Why(arguments) => why::why(global, arguments),
        Command::Status => status::status(global),
        Command::Audit(arguments) => audit::audit(global, arguments),
        Command::Reload(arguments) => reload::reload(global, arguments),
        Command::Unload => unload::unload(global),
        Command::User(command) => user::user(global, command),
        Command::Key(command) => key::key(global, command),
        Command::Secret(command) => secret::secret(global, command),
        Command::Session(command) => session::session(global, command),
        Command::Token(command) => session::token(global, *command),
        Command::Completions { shell } => Ok(completions(*shell)),
    }
}

/// Help and versions go out as clap prints them, and so do mistakes, but as JSON where JSON was asked for.
fn misused(words: &[OsString], error: clap::Error) -> Result<ExitCode, Failure> {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !asked_for && wants_json(words) {
        let text = error.to_string();
        let message = text
            .trim_start_matches("error: ")
            .lines()
            .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
        let message: Vec<&str> = message.map(str::trim).filter(|line| !line.is_empty()).collect();
        return Err(Failure::usage(message.join("; ")));
    }
    // A closed pipe is nobody's fault.
    drop(error.print());
    Ok(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)))
}

fn wants_json(words: &[OsString]) -> bool {
    let text: Vec<String> = words.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let joined = ["-ojson", "-o=json", "--output=json"];
    text.iter().any(|word| joined.contains(&word.as_str()))
        || text.windows(2).any(|pair| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json")
}

fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "edge", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    Outcome::new(json!({"shell": shell.to_string(), "script": script}), script.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn a_mistake_is_json_where_json_was_asked_for() {
        for line in
            ["edge -o json block 10.0.0.300", "edge block 10.0.0.300 --output=json", "edge block 10.0.0.300 -ojson"]
        {
            let words = words(line);
            let error = args::parse(&words).unwrap_err();
            let failure = misused(&words, error).unwrap_err();
            assert_eq!(failure.blame.exit_code(), 2);
            assert!(failure.message.contains("10.0.0.300"), "{}", failure.message);
            assert!(!failure.message.contains('\n'));
        }
        assert!(!wants_json(&words("edge list -o text")));
    }

    #[test]
    fn completions_are_there_for_every_shell() {
        use clap::ValueEnum;
        for shell in clap_complete::Shell::value_variants() {
            assert!(completions(*shell).text.contains("edge"), "{shell}");
        }
    }
}
