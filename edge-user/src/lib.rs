//! edge: drops blocked clients inside the kernel and learns from its own auth endpoints whom to block.
//!
//! A guided tour, along the ways that six things travel:
//!
//! - a **packet**: `edge-ebpf` judges it by tables that [`datapath`] fills;
//! - a **failed login**: [`server`] (the unprivileged child) → its link → [`agent`] → [`offense`] decides → [`enforce`]
//!   writes → the next packet drops;
//! - **`edge block`**: [`cli`] → [`control`] → the same [`enforce`];
//! - a **start**: [`config`] reads, [`store`] remembers, [`netlink`], [`ssh`] and [`names`] tell what is protected,
//!   [`datapath`] builds the tables and swaps the program in place;
//! - an **event of the audit log**: [`server`], a command or the kernel → `agent` → [`audit`], whose thread writes it;
//! - a **reload**: `agent` reads the config again, `config` tells what differs, [`enforce`] does as at a start.
//!
//! Only [`datapath`] imports aya. One task owns [`enforce`] and with it every map.

pub mod agent;
pub mod audit;
mod backup;
pub mod batch;
pub mod block;
mod bounded;
mod capability;
mod cgroup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod datapath;
mod drops;
pub mod enforce;
pub mod error;
pub mod fetch;
mod frame;
mod inventory;
mod keep;
mod lists;
pub mod logging;
pub mod metrics;
pub mod names;
pub mod netlink;
pub mod offense;
mod parcel;
mod printable;
pub mod server;
pub mod ssh;
pub mod store;
pub mod targets;
