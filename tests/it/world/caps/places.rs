//! The cap of an address holds wherever this host's interfaces lead: over two of them together, and in namespaces behind it.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use edge_tests::{
    crowd::Crowd,
    net::{HOST_INTERFACE, HOST4, Lab},
    places::{Behind, GUEST4, GUEST6, Guest, SECOND_HOST_INTERFACE, SECOND4, add_second_interface},
};

use super::{cap::story, capped, listen, mistakes, nothing_left};

#[test]
fn two_interfaces_count_together() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 1)?;
    add_second_interface(&lab)?;
    let edge = capped(&lab, 5, |config| {
        config.set("filter", "interfaces", &format!("[\"{HOST_INTERFACE}\", \"{SECOND_HOST_INTERFACE}\"]"));
    })?;
    let listeners = [listen(&lab.host, (HOST4, 0))?, listen(&lab.host, (SECOND4, 0))?];
    story(&lab, &edge, &[crowd.four(0)], &listeners)?;
    ensure!(mistakes(&lab)? == [0.0; 2]);
    Ok(())
}

#[test]
fn a_namespace_behind_a_veth_is_capped_too() -> Result<()> {
    behind(Behind::Veth)
}

#[test]
fn a_namespace_behind_a_bridge_is_capped_too() -> Result<()> {
    behind(Behind::Bridge)
}

fn behind(behind: Behind) -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 1)?;
    let guest = Guest::new(&lab, behind)?;
    let edge = capped(&lab, 5, |_| {})?;
    let within = |address: IpAddr| listen(&guest.namespace, (address, 0));
    // Some of an address are of the host, and some of what is behind it.
    story(&lab, &edge, &[crowd.four(0)], &[within(GUEST4)?, listen(&lab.host, (HOST4, 0))?])?;
    story(&lab, &edge, &[crowd.six(0)], &[within(GUEST6)?])?;
    nothing_left(&edge, &crowd.all())?;
    ensure!(mistakes(&lab)? == [0.0; 2]);
    Ok(())
}
