//! The admin socket: the words that the CLI and the agent exchange, and both ends of it.

pub mod client;
pub(crate) mod handed;
mod peer;
pub mod protocol;
pub mod server;
mod silent;
mod socket;
