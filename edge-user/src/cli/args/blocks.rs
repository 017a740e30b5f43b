//! The words of the commands about what is blocked and allowed.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, ValueEnum};

use crate::{
    block::{Origin, Target},
    config, lists,
};

#[derive(Clone, Debug, Args)]
pub struct Block {
    /// Addresses and CIDRs; `-` reads them from standard input, one a line
    #[arg(required = true, value_name = "ADDR")]
    pub addresses: Vec<Address>,
    /// How long, as 90s, 15m, 4h, 7d, 2w; without it, or negative: until lifted
    #[arg(long = "for", value_name = "DURATION", allow_hyphen_values = true)]
    pub length: Option<Length>,
    /// Why, for `edge list` and `edge why`
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Who asks: manual, fail2ban, crowdsec, feed or log
    #[arg(long, default_value = "manual", value_parser = claimed_origin)]
    pub origin: Origin,
    /// Take networks wider than /8, or /32 for IPv6; protected addresses in them stay served
    #[arg(long)]
    pub force: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Import {
    /// The list; `-` reads standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How long, as 90s, 15m, 4h, 7d, 2w; negative: until lifted; without it: as the list says, else until lifted
    #[arg(long = "for", value_name = "DURATION", allow_hyphen_values = true)]
    pub length: Option<Length>,
    /// Who asks: manual, fail2ban, crowdsec, feed or log; without it: as the list says, else manual
    #[arg(long, value_parser = claimed_origin)]
    pub origin: Option<Origin>,
    /// Why, for `edge list` and `edge why`; without it: as the list says, else which file it was
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// How the list is written
    #[arg(long, value_enum, default_value_t)]
    pub format: lists::Format,
    /// Take networks wider than /8, or /32 for IPv6; protected addresses in them stay served
    #[arg(long)]
    pub force: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Export {
    /// Only blocks of this origin
    #[arg(long, value_parser = origin)]
    pub origin: Option<Origin>,
    /// How it is written; with -o json it is one array
    #[arg(long, value_enum, default_value_t)]
    pub format: Exported,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Exported {
    /// All that is known of a block, an object a line
    #[default]
    Jsonl,
    /// An address or CIDR a line, and nothing more
    Plain,
}

#[derive(Clone, Debug, Args)]
pub struct Unblock {
    /// Addresses and CIDRs as they were blocked; `-` reads them from standard input, one a line
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "ADDR")]
    pub addresses: Vec<Address>,
    /// All of them
    #[arg(long)]
    pub all: bool,
    /// Only blocks of this origin
    #[arg(long, value_parser = origin)]
    pub origin: Option<Origin>,
}

#[derive(Clone, Debug, Args)]
pub struct List {
    /// Only blocks of this origin
    #[arg(long, value_parser = origin)]
    pub origin: Option<Origin>,
    /// At most so many; without it all of them
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

#[derive(Clone, Debug, Args)]
pub struct Why {
    #[arg(value_name = "ADDR")]
    pub address: Target,
}

#[derive(Clone, Debug, Args)]
pub struct Addresses {
    /// Addresses and CIDRs; `-` reads them from standard input, one a line
    #[arg(required = true, value_name = "ADDR")]
    pub addresses: Vec<Address>,
}

/// What stands for an address on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// `-`
    StandardInput,
    Of(Target),
}

impl FromStr for Address {
    type Err = crate::block::NotATarget;

    fn from_str(text: &str) -> Result<Address, Self::Err> {
        if text == "-" { Ok(Address::StandardInput) } else { text.parse().map(Address::Of) }
    }
}

/// How long a block lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    UntilLifted,
    For(Duration),
}

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Length, String> {
        if let Some(number) = text.strip_prefix('-') {
            // fail2ban's `bantime = -1` comes as `-1s`, or as it is.
            let digits = number.strip_suffix(['s', 'm', 'h', 'd', 'w']).unwrap_or(number);
            if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Ok(Length::UntilLifted);
            }
        }
        match config::duration::parse(text)? {
            Duration::ZERO => Err("no time at all; write how long, or leave --for out".to_owned()),
            length => Ok(Length::For(length)),
        }
    }
}

fn origin(name: &str) -> Result<Origin, String> {
    Origin::named(name).ok_or_else(|| unknown_origin(&Origin::ALL))
}

/// What a person or a program may claim to be: the rest is for what edge finds itself.
fn claimed_origin(name: &str) -> Result<Origin, String> {
    let claimed = [Origin::Manual, Origin::Fail2ban, Origin::Crowdsec, Origin::Feed, Origin::Log];
    Origin::named(name).filter(|origin| claimed.contains(origin)).ok_or_else(|| unknown_origin(&claimed))
}

fn unknown_origin(known: &[Origin]) -> String {
    format!("write one of {}", known.iter().map(|origin| origin.name()).collect::<Vec<_>>().join(", "))
}
