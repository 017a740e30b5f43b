//! What edge's kernel side does with a packet: [`parse`] finds its source, [`judge`] finds the reason for its verdict.
//! Both are plain Rust over two traits, so that they compile for the host, where they are tested.
//!
//! The programs themselves, the maps and the action table are in the binary (`main.rs`).
#![no_std]
#![forbid(unsafe_code)]

pub mod judge;
pub mod parse;
pub mod upper;
