//! The words of the commands about users, keys, secrets and sessions.

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;

use crate::config::duration;

#[derive(Clone, Debug, Subcommand)]
pub enum User {
    /// Add a user; the password is asked for, or the first line of standard input
    #[command(after_help = "Examples:
  edge user add alice --role admin
  edge user add bob < password.txt")]
    Add {
        name: String,
        /// A role of the user; may be given again
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
    },
    /// Set the roles of a user: these and no others
    #[command(after_help = "Examples:
  edge user role alice admin chat
  edge user role alice")]
    Role {
        name: String,
        #[arg(value_name = "ROLE")]
        roles: Vec<String>,
    },
    /// List the users
    #[command(after_help = "Examples:
  edge user list -o json")]
    List,
    /// Set a password, which ends the user's sessions
    #[command(after_help = "Examples:
  edge user passwd alice")]
    Passwd { name: String },
    /// Let a user log in no more, which ends the user's sessions
    #[command(after_help = "Examples:
  edge user disable alice")]
    Disable { name: String },
    /// Let a disabled user log in again
    #[command(after_help = "Examples:
  edge user enable alice")]
    Enable { name: String },
    /// Remove a user
    #[command(after_help = "Examples:
  edge user remove alice")]
    Remove { name: String },
    /// Add all users of a list with their hashes of bcrypt or argon2id, or none of them
    #[command(after_help = "Examples:
  edge user import users.csv

Each line is `username,password_hash[,roles]`; several roles stand in quotes, or with spaces between. A hash of bcrypt is
replaced by one of argon2id when its user signs in. A list in which any line is wrong changes nothing.")]
    Import {
        /// The list
        #[arg(value_name = "FILE.csv")]
        file: PathBuf,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum Secret {
    /// Print 256 random bits in base64url: 43 letters, one line
    #[command(after_help = "Examples:
  edge secret generate > /etc/edge/secrets/jwt")]
    Generate,
    /// Put a new secret in place of the one that signs, which verifies on until its tokens have ended
    #[command(after_help = "Examples:
  edge secret rotate

The new one is in the file that auth.secret_file names, and in force when the command returns.")]
    Rotate,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Key {
    /// Make a key and print it, this once
    #[command(after_help = "Examples:
  edge key create --name ci --role deploy --for 90d
  edge key create --name billing --internal > /etc/billing/edge-key

A key counts in the header X-API-Key or as bearer, an internal one in X-Internal-API-Key alone.")]
    Create {
        /// What the key is called; its caller is key:NAME
        #[arg(long, value_name = "NAME")]
        name: String,
        /// A role of the key; may be given again
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// How long it is good, as 12h, 30d, 52w; without it until it is revoked
        #[arg(long = "for", value_name = "DURATION", value_parser = some_time)]
        length: Option<Duration>,
        /// For services of one's own, which may ask what a token is and revoke it
        #[arg(long)]
        internal: bool,
    },
    /// List the keys
    #[command(after_help = "Examples:
  edge key list -o json")]
    List,
    /// Put a new key in the place of one, with the same roles and the same end, and print it, this once
    #[command(after_help = "Examples:
  edge key rotate ci
  edge key rotate ci --overlap 0s")]
    Rotate {
        name: String,
        /// How long the old key works on; 0s ends it at once
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration::parse)]
        overlap: Duration,
    },
    /// End a key, those it replaced, and the tokens issued with them
    #[command(after_help = "Examples:
  edge key revoke ci")]
    Revoke { name: String },
}

#[derive(Clone, Debug, Subcommand)]
pub enum Session {
    /// List the sessions that go on
    #[command(after_help = "Examples:
  edge session list
  edge session list --user alice -o json")]
    List {
        /// Only those of this user
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// End a session and its tokens
    #[command(after_help = "Examples:
  edge session end 3f9a27c16b08d54e")]
    End {
        /// As `edge session list` has it
        id: String,
    },
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Token {
    /// End every session and every token; users and keys stay
    #[command(after_help = "Examples:
  edge token revoke-all")]
    RevokeAll,
}

fn some_time(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        Duration::ZERO => Err("no time at all; write how long, or leave --for out".to_owned()),
        length => Ok(length),
    }
}
