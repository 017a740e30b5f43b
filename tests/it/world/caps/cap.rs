//! A cap of five: five pass, the sixth is refused while the five go on, and each that closes admits one.

use std::net::{IpAddr, TcpListener};

use anyhow::{Result, ensure};
use edge_tests::{
    agent::Edge,
    crowd::Crowd,
    endings::pair::Pair,
    net::{CLIENT_INTERFACE, HOST4, HOST6, Lab},
    wait_for,
};

use super::{SOON, capped, connections, current, listen, mistakes, nothing_left, open, refused, why};

pub const CAP: u64 = 5;

/// The connections are of these addresses, which share a count, and to these listeners, in turn.
pub fn story(lab: &Lab, edge: &Edge, from: &[IpAddr], listeners: &[TcpListener]) -> Result<()> {
    let mut turns = from.iter().cycle().zip(listeners.iter().cycle());
    let mut next = || turns.next().map_or_else(|| anyhow::bail!("nobody"), |(from, to)| open(lab, *from, to));
    let mut five = (0..CAP).map(|_| next()).collect::<Result<Vec<Pair>>>()?;
    for address in from {
        ensure!(connections(edge, *address)? == (CAP, Some(CAP)), "{}", why(edge, *address)?);
        for listener in listeners {
            refused(lab, edge, *address, listener)?;
            five.iter_mut().try_for_each(Pair::talk)?;
        }
    }
    for _ in 0..2 {
        drop(five.pop());
        wait_for("one fewer", SOON, || Ok((current(edge, from[0])? == CAP - 1).then_some(())))?;
        five.push(next()?);
        ensure!(connections(edge, from[0])? == (CAP, Some(CAP)));
        refused(lab, edge, from[0], &listeners[0])?;
        five.iter_mut().try_for_each(Pair::talk)?;
    }
    drop(five);
    nothing_left(edge, from)
}

#[test]
fn five_of_an_ipv4_address_pass_and_no_sixth() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 2)?;
    let edge = capped(&lab, 5, |_| {})?;
    let listener = listen(&lab.host, (HOST4, 0))?;
    let neighbour = open(&lab, crowd.four(1), &listener)?;
    story(&lab, &edge, &[crowd.four(0)], &[listener.try_clone()?])?;
    ensure!(current(&edge, crowd.four(1))? == 1);
    drop(neighbour);
    nothing_left(&edge, &crowd.all())?;
    ensure!(mistakes(&lab)? == [0.0; 2]);
    Ok(())
}

#[test]
fn an_ipv6_client_is_its_64_and_its_neighbour_another() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 2)?;
    let second = crowd.six_second(0, 2);
    lab.client.ip(&format!("address add {second}/128 dev {CLIENT_INTERFACE} nodad"))?;
    let edge = capped(&lab, 5, |_| {})?;
    let listener = listen(&lab.host, (HOST6, 0))?;
    story(&lab, &edge, &[crowd.six(0), second], &[listener.try_clone()?])?;

    let five = (0..CAP).map(|_| open(&lab, second, &listener)).collect::<Result<Vec<Pair>>>()?;
    refused(&lab, &edge, crowd.six(0), &listener)?;
    let neighbours = (0..CAP).map(|_| open(&lab, crowd.six(1), &listener)).collect::<Result<Vec<Pair>>>()?;
    refused(&lab, &edge, crowd.six(1), &listener)?;
    drop((five, neighbours));
    nothing_left(&edge, &crowd.all())?;
    ensure!(mistakes(&lab)? == [0.0; 2]);
    Ok(())
}

#[test]
fn an_ipv4_client_is_the_same_to_a_listener_of_both_families() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 1)?;
    let edge = capped(&lab, 5, |_| {})?;
    let both = listen(&lab.host, ("::".parse()?, 0))?;
    let port = both.local_addr()?.port();
    let from = crowd.four(0);
    let mut five = Vec::new();
    for _ in 0..CAP {
        let client = super::attempt(&lab, from, (HOST4, port).into())??;
        five.push((client, both.accept()?));
    }
    ensure!(connections(&edge, from)? == (CAP, Some(CAP)), "{}", why(&edge, from)?);
    ensure!(super::attempt(&lab, from, (HOST4, port).into())?.is_err(), "a sixth passes");
    drop(five);
    nothing_left(&edge, &[from])
}
