//! What crosses the boundary between edge's kernel side and its agent, defined once: names of maps and programs, keys,
//! values, reasons, settings, the unit of time. No dependency, no allocation, no `unsafe`.
//!
//! A change of anything here that alters a layout or a meaning must raise [`names::ABI`].
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

pub mod address;
pub mod amend;
pub mod connection;
pub mod event;
pub mod flow;
pub mod names;
pub mod opening;
pub mod ports;
pub mod rate;
pub mod reason;
pub mod settings;
pub mod table;
pub mod time;
