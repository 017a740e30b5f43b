//! The words of the command line, defined once for parsing, help and completions.

mod accounts;
mod blocks;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum, builder::Resettable};

pub use self::{
    accounts::{Key, Secret, Session, Token, User},
    blocks::{Address, Addresses, Block, Export, Exported, Import, Length, List, Unblock, Why},
};
use crate::config::{self, DEFAULT_FILE, DEFAULT_SOCKET};

/// Drops blocked clients inside the kernel and learns from failed logins whom to block.
#[derive(Clone, Debug, Parser)]
#[command(name = "edge", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Examples:
  edge run                           the agent, in the foreground
  edge block 203.0.113.7 --for 4h    drop what comes from this address
  edge why 203.0.113.7               what bears on it, and whether it passes
  edge list -o json                  what is blocked now, for a program")]
pub struct CommandLine {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    #[arg(long, global = true, env = "EDGE_CONFIG", value_name = "FILE", help = format!("The config [default: {DEFAULT_FILE}]"))]
    pub config: Option<PathBuf>,
    #[arg(long, global = true, env = "EDGE_SOCKET", value_name = "PATH", help = format!("The agent's admin socket [default: the config's, else {DEFAULT_SOCKET}]"))]
    pub socket: Option<PathBuf>,
    /// Text for people, or one JSON document for programs
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// More log; twice for all of it
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Less log; twice for errors alone
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub quiet: u8,
}

/// What the words say. A variable that is set to nothing is as good as not set.
pub fn parse(words: &[OsString]) -> Result<CommandLine, clap::Error> {
    let mut command = CommandLine::command();
    for (argument, variable) in [("config", "EDGE_CONFIG"), ("socket", "EDGE_SOCKET")] {
        if std::env::var_os(variable).is_some_and(|value| value.is_empty()) {
            command = command.mut_arg(argument, |argument| argument.env(Resettable::Reset));
        }
    }
    let mut matches = command.try_get_matches_from_mut(words)?;
    CommandLine::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the agent in the foreground
    #[command(after_help = "Examples:
  edge run
  edge run --interface eth0 --config ./edge.toml")]
    Run(Run),
    /// Check the config and the files it names
    #[command(after_help = "Examples:
  edge check
  edge check --config ./edge.toml -o json")]
    Check,
    /// Say what can work on this machine, and how to mend what cannot
    #[command(after_help = "Examples:
  edge doctor
  edge doctor -o json")]
    Doctor,
    /// Block addresses and networks
    #[command(
        visible_alias = "ban",
        after_help = "Examples:
  edge block 203.0.113.7 --for 4h --reason 'scans us'
  edge block 198.51.100.0/24 2001:db8::/48
  edge block - --for 1d < addresses.txt"
    )]
    Block(Block),
    /// Lift blocks
    #[command(
        visible_alias = "unban",
        override_usage = "edge unblock [OPTIONS] <ADDR>...\n       edge unblock [OPTIONS] --all",
        after_help = "Examples:
  edge unblock 203.0.113.7
  edge unblock --all --origin auth"
    )]
    Unblock(Unblock),
    /// Block all of a list of addresses and networks, or nothing of it
    #[command(after_help = "Examples:
  edge import drop.txt --for 7d --origin feed
  edge import blocks.json
  curl -s https://www.spamhaus.org/drop/drop_v4.json | edge import -

What is protected is left out and named. A list in which any line is wrong changes nothing.")]
    Import(Import),
    /// Print all that is blocked, as `edge import` reads it
    #[command(after_help = "Examples:
  edge export > blocks.json
  edge export --origin auth -o json
  edge export --format plain > addresses.txt")]
    Export(Export),
    /// List what is blocked now
    #[command(after_help = "Examples:
  edge list
  edge list --origin auth --limit 20
  edge list -o json")]
    List(List),
    /// Say whether an address passes, and why
    #[command(after_help = "Examples:
  edge why 203.0.113.7
  edge why 2001:db8::7 -o json

The exit code is 0 if its traffic passes, 1 if it is dropped.")]
    Why(Why),
    /// Let addresses and networks always pass
    #[command(after_help = "Examples:
  edge allow 192.0.2.10
  edge allow 192.0.2.0/24 2001:db8:1::/48")]
    Allow(Addresses),
    /// Take addresses and networks off the allow list
    #[command(after_help = "Examples:
  edge disallow 192.0.2.10")]
    Disallow(Addresses),
    /// Show one screen about the agent
    #[command(after_help = "Examples:
  edge status
  edge status -o json")]
    Status,
    /// Show the audit log: who signed in or tried to, who changed what, what was blocked
    #[command(after_help = "Examples:
  edge audit --since 1h
  edge audit --follow
  edge audit -o json

With --follow and -o json each event is an object in a line of its own.")]
    Audit(Audit),
    /// Let the agent read its config again: all of it is put into force, or nothing
    #[command(after_help = "Examples:
  edge check && edge reload
  edge reload --confirm 60s     # then, if you can still get in: edge reload --keep
  edge reload -o json

A SIGHUP to the agent does the same. The exit code is 2 if the config is not good, 1 if the agent cannot put it into
force. With --confirm it is in force when the command returns, and reverted after that time unless `edge reload --keep`
comes; until then another reload replaces it, and confirms nothing.")]
    Reload(Reload),
    /// Detach and unpin everything, agent running or not
    #[command(after_help = "Examples:
  edge unload")]
    Unload,
    /// Add, change and list the users who may log in
    #[command(
        subcommand,
        after_help = "Examples:
  edge user add alice --role admin
  edge user import users.csv
  edge user list"
    )]
    User(User),
    /// Make, list, replace and end the keys of programs
    #[command(
        subcommand,
        after_help = "Examples:
  edge key create --name ci --role deploy --for 90d
  edge key list"
    )]
    Key(Key),
    /// Make and replace signing secrets
    #[command(
        subcommand,
        after_help = "Examples:
  edge secret generate > /etc/edge/secrets/jwt
  edge secret rotate"
    )]
    Secret(Secret),
    /// List and end sessions
    #[command(
        subcommand,
        after_help = "Examples:
  edge session list --user alice
  edge session end 3f9a27c16b08d54e"
    )]
    Session(Session),
    /// End everything that was issued
    #[command(
        subcommand,
        after_help = "Examples:
  edge token revoke-all"
    )]
    Token(Token),
    /// Write blocks, allow list, offences and users to a file
    #[command(after_help = "Examples:
  edge backup /var/backups/edge
  edge backup edge-$(date +%F)
  edge backup - | gpg -c > edge.gpg

The file is open to its owner alone (it holds the hashes of passwords), and one that is there is replaced by a whole one
or stays. It works with and without the agent.")]
    Backup(BackupFile),
    /// Put what `edge backup` wrote in place of blocks, allow list, offences and users
    #[command(after_help = "Examples:
  edge restore /var/backups/edge

All of it is restored, or nothing. What has ended meanwhile and what is protected is left out. Every session and every
token that was issued until then is ended. A store that cannot be read is made anew.")]
    Restore(RestoreFile),
    /// Print the completions of a shell
    #[command(after_help = "Examples:
  edge completions bash > /usr/share/bash-completion/completions/edge
  edge completions zsh > ~/.zfunc/_edge")]
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Copy, Debug, Args)]
pub struct Reload {
    /// Go back after this time, unless `edge reload --keep` comes before
    #[arg(long, value_name = "DURATION", value_parser = trial, conflicts_with = "keep")]
    pub confirm: Option<Duration>,
    /// Confirm what was reloaded with --confirm
    #[arg(long)]
    pub keep: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Filter this interface in place of those of the config; may be given again
    #[arg(long = "interface", value_name = "NAME", value_parser = interface)]
    pub interfaces: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct RestoreFile {
    /// The backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub struct BackupFile {
    /// The backup; `-` writes it to standard output
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub struct Audit {
    /// Only what happened within this time, as 90s, 15m, 4h, 7d, 2w
    #[arg(long, value_name = "DURATION", value_parser = crate::config::duration::parse)]
    pub since: Option<Duration>,
    /// Go on with what happens from now on
    #[arg(long)]
    pub follow: bool,
}

/// Who has not come by then does not.
const LONGEST_TRIAL: Duration = Duration::from_secs(7 * 86_400);

fn trial(text: &str) -> Result<Duration, String> {
    match config::duration::parse(text)? {
        Duration::ZERO => Err("no time to confirm it in; write how long, or leave --confirm out".to_owned()),
        within if within > LONGEST_TRIAL => {
            Err("longer than a week; a reload without --confirm is for good".to_owned())
        }
        within => Ok(within),
    }
}

fn interface(name: &str) -> Result<String, String> {
    config::interface_name(name).map(|()| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<CommandLine, clap::Error> {
        CommandLine::try_parse_from(words.split_whitespace())
    }

    #[test]
    fn the_definition_holds_together_and_every_command_has_examples() {
        CommandLine::command().debug_assert();
        fn walk(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{}", command.get_name());
            command.get_subcommands().for_each(walk);
        }
        walk(&CommandLine::command());
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for words in ["edge -o json --socket /s list", "edge list -o json --socket /s", "edge list -ojson --socket=/s"]
        {
            let global = parse(words).unwrap().global;
            assert_eq!(global.output, Format::Json, "{words}");
            assert_eq!(global.socket, Some(PathBuf::from("/s")), "{words}");
        }
        assert_eq!(parse("edge -vv status").unwrap().global.verbose, 2);
        assert_eq!(parse("edge status -q").unwrap().global.quiet, 1);
    }

    #[test]
    fn aliases_and_lengths() {
        let block = |words: &str| match parse(words).unwrap().command {
            Command::Block(block) => block,
            other => panic!("{other:?}"),
        };
        assert_eq!(block("edge ban 203.0.113.7 --for -1s --origin fail2ban").length, Some(Length::UntilLifted));
        assert_eq!(block("edge block - --for -1").length, Some(Length::UntilLifted));
        assert_eq!(block("edge block - --for=600s").length, Some(Length::For(Duration::from_secs(600))));
        assert_eq!(block("edge block 203.0.113.7").length, None);
        assert!(matches!(parse("edge unban 203.0.113.7").unwrap().command, Command::Unblock(_)));
        assert!(matches!(parse("edge unblock --all --origin auth").unwrap().command, Command::Unblock(_)));
    }

    #[test]
    fn what_is_none_is_refused_and_named() {
        for (words, named) in [
            ("edge block 10.0.0.300", "10.0.0.300"),
            ("edge why nonsense", "nonsense"),
            ("edge block 10.0.0.1 --for 5", "5"),
            ("edge block 10.0.0.1 --for 0s", "0s"),
            ("edge block 10.0.0.1 --for -x", "-x"),
            ("edge block 10.0.0.1 --origin auth", "auth"),
            ("edge run --interface a/b", "a/b"),
            ("edge unblock 10.0.0.1 --all", "--all"),
            ("edge unblock", "ADDR"),
            ("edge unblock", "edge unblock [OPTIONS] --all"),
            ("edge block", "ADDR"),
            ("edge reload --confirm 8d", "longer than a week"),
            ("edge frobnicate", "frobnicate"),
        ] {
            let error = parse(words).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{words}");
            assert!(error.to_string().contains(named), "{words}: {error}");
        }
    }
}
