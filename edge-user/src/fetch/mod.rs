//! Outgoing HTTPS. The server may not connect to anybody, for the agent takes its word about its connections; so a process
//! of its own asks for it: `edge fetcher`, the same unprivileged user, which may connect and do nothing else (`process`).
//! The agent starts one beside each server that needs it, and hands the server the other end of its link. The server
//! asks by a [`Fetch`]; `client` is what speaks HTTP.

mod client;
mod handle;
mod process;
mod protocol;

pub use client::may_ask;
pub use handle::{Fetch, FetchError, Limits, hand_over};
pub use process::{PLAIN_HTTP, main};
