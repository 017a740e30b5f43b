//! Two agents on one host, each with interfaces and pins of its own: neither knows of the other.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use edge_tests::{
    agent::Edge,
    client::Wire,
    net::{ATTACKER4, Lab, NEIGHBOUR4},
    wait_for,
};
use serde_json::json;

use super::{
    SOON,
    interfaces::{SECOND, second_pair},
    lifecycle::{filter_only, nothing_left},
    packets,
};

#[test]
fn two_agents_with_pins_of_their_own_filter_side_by_side() -> Result<()> {
    let lab = Lab::new()?;
    second_pair(&lab)?;
    let mut first = Edge::start_with(&lab, filter_only)?;
    let mut second = Edge::bare(&lab)?;
    filter_only(&mut second.config);
    let pins = lab.pin_path().with_file_name(format!("{}-second", lab.name));
    second.config.text("metrics", "listen", "127.0.0.1:9465").text("filter", "pin_path", &pins);
    second.config.set("filter", "interfaces", &json!([SECOND.0]).to_string());
    second.run()?;
    first.cli(&["block", &ATTACKER4.to_string()])?.good()?;
    second.cli(&["block", &NEIGHBOUR4.to_string()])?.good()?;

    let wires = [Wire::new(&lab)?, Wire::between(&lab, SECOND.1, SECOND.0)?];
    let send = |wire: &Wire, from: IpAddr| wire.send(&wire.datagram(from, 0, b"x")?);
    let dropped = |edge: &Edge, count: u64| {
        wait_for("drops to be counted", SOON, || Ok((packets(edge, "blocked")? == count).then_some(())))
    };
    for wire in &wires {
        send(wire, ATTACKER4)?;
        send(wire, NEIGHBOUR4)?;
    }
    dropped(&first, 1)?;
    dropped(&second, 1)?;

    // One crashes and starts again, one is unloaded: the other does not notice.
    second.kill()?;
    send(&wires[1], NEIGHBOUR4)?;
    second.run()?;
    dropped(&second, 2)?;
    first.cli(&["unload"])?.good()?;
    first.wait()?;
    nothing_left(&lab)?;
    send(&wires[1], NEIGHBOUR4)?;
    dropped(&second, 3)?;
    ensure!(lab.host.xdp_program(SECOND.0)?.is_some() && pins.exists());
    second.cli(&["unload"])?.good()?;
    ensure!(lab.host.xdp_program(SECOND.0)?.is_none() && !pins.exists());
    Ok(())
}
