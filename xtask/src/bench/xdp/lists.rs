//! The lists that are blocked in `bench xdp`: a million addresses, 100,000 prefixes, and IPv6 networks. The programs in
//! `edge-ebpf/src/bench.rs` draw their sources by the same formulas.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::Result;
use edge_tests::agent::Edge;

/// Sources of the hot rows: far from the host's own networks, as an attacker's are, so that nothing of the host's trust lies
/// beside them.
pub const BLOCKED4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
pub const HONEST4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 8));
pub const BLOCKED6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2a0a, 0x66, 1, 0, 0, 0, 0, 7));
pub const HONEST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2a0a, 0x66, 2, 0, 0, 0, 0, 8));

pub const ADDRESSES: u32 = 1 << 20;
pub const PREFIXES: u32 = 100_000;
const UNITS6: u32 = 100_000;

/// Spread over 32.0.0.0/3, each another one.
pub fn address(index: u32) -> u32 {
    0x2000_0000 | index.wrapping_mul(0x9E37_79B1) >> 3
}

/// Spread over 64.0.0.0/3, in /24 networks whose third byte is odd: honest sources have an even one.
pub fn prefix(index: u32) -> (u32, u8) {
    let length = 24 + (index % 5) as u8;
    let bits = 0x4000_0100 | index.wrapping_mul(0x85EB_CA6B) >> 3;
    (bits & (u32::MAX << (32 - length)), length)
}

/// Blocks all of them.
pub fn fill(edge: &Edge) -> Result<()> {
    let mut list = String::with_capacity(20 << 20);
    for index in 0..ADDRESSES {
        writeln!(list, "{}", Ipv4Addr::from(address(index)))?;
    }
    for index in 0..PREFIXES {
        let (bits, length) = prefix(index);
        writeln!(list, "{}/{length}", Ipv4Addr::from(bits))?;
    }
    for index in 0..UNITS6 {
        let unit = 0x2a00_0000_0000_0000u64 | u64::from(index.wrapping_mul(0x9E37_79B1)) << 16;
        writeln!(list, "{}/64", Ipv6Addr::from(u128::from(unit) << 64))?;
    }
    edge.cli_with(&["import", "-"], list.as_bytes())?.good().map(drop)
}
