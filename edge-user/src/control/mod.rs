//! The admin socket: the words that the CLI and the agent exchange, and both ends of it.

pub mod client;
pub mod protocol;
pub mod server;
