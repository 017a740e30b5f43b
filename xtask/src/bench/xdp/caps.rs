//! What a cap of connections costs an honest packet of TCP: the same edge with everything else on, once with a cap and once
//! without.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use edge_tests::{
    agent::Edge,
    bpf::Program,
    net::{HOST4, HOST6, Lab},
    packet::Packet,
};

use super::{PASSES, alternate, lists, program_id};

/// Nanoseconds more that an honest packet may take.
pub const GOAL: i64 = 15;

const ACK: u8 = 16;
const ROWS: [(&str, IpAddr, IpAddr); 2] =
    [("honest, IPv4, TCP", lists::HONEST4, HOST4), ("honest, IPv6, TCP", lists::HONEST6, HOST6)];

/// Nanoseconds with a cap, without one, and of a program that only returns.
pub fn measure() -> Result<Vec<(&'static str, [u32; 3])>> {
    let (with, without) = (Lab::new()?, Lab::new()?);
    let _running = (start(&with, true)?, start(&without, false)?);
    let measured = ROWS.iter().map(|(name, from, to)| {
        let programs = [
            Program::by_id(program_id(&with)?)?,
            Program::by_id(program_id(&without)?)?,
            Program::passing("return_only")?,
        ];
        let frame = Packet::new(*from).to(*to).tcp(443, ACK).bytes();
        Ok((*name, alternate(&programs, &frame, [PASSES; 3]).context(*name)?))
    });
    measured.collect()
}

fn start(lab: &Lab, caps: bool) -> Result<Edge> {
    Edge::start_with(lab, |config| {
        config.set("filter", "exposed_ports", "[\"443/tcp\", \"5001/udp\"]").text("filter", "fragments", "drop");
        config.set("filter.limits", "syns", "{ per_second = 1_000_000_000 }");
        config.set("filter.limits", "packets", "{ per_second = 1_000_000_000 }");
        if caps {
            config.set("filter", "capped_ports", "[443]").set("filter.limits", "connections", "100");
        }
    })
}
