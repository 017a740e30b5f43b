//! A client that sends its headers slowly over as many connections as it can get: it gets no more than its cap, from edge's own
//! server and from an nginx beside it, and everybody else is served all the while.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use edge_tests::{
    agent::Edge,
    crowd::Crowd,
    net::{HOST4, Lab},
    slow::{Attack, Nginx, ask},
    sockets::Sockets,
    wait_for,
};

use super::{SOON, current, mistakes, nothing_left};

/// As in the shipped configuration.
const CAP: u64 = 100;

#[test]
fn a_slow_attack_is_held_at_the_cap_and_others_are_served() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 2)?;
    let edge = Edge::start_with(&lab, |config| {
        config.set("filter.limits", "connections", &CAP.to_string());
    })?;
    let _nginx = Nginx::start(&lab)?;
    let (attacker, honest) = (crowd.four(0), crowd.four(1));
    let mut sockets = Sockets::of(&lab.host)?;
    for (at, url) in [
        (SocketAddr::new(HOST4, 443), format!("https://{HOST4}/health")),
        (Nginx::ADDRESS, format!("http://{}/", Nginx::ADDRESS)),
    ] {
        let mut attack = Attack::start(&lab, attacker, &url, 1_000)?;
        wait_for("the attack to be at its cap", SOON, || {
            attack.goes_on()?;
            Ok((current(&edge, attacker)? == CAP).then_some(()))
        })?;
        for number in 0..20 {
            let answer = ask(&lab, honest, &url, Duration::from_secs(5))?;
            ensure!(answer.is_some(), "{honest} is not served by {url}, try {number}");
            let opened = sockets.opened(&[at.port()])?.get(&attacker).copied().unwrap_or(0);
            ensure!(opened <= CAP && current(&edge, attacker)? <= CAP, "{attacker} has {opened} connections to {url}");
            attack.goes_on()?;
        }
        drop(attack);
        nothing_left(&edge, &crowd.all())?;
    }
    ensure!(mistakes(&lab)? == [0.0; 2], "{:?}", mistakes(&lab)?);
    Ok(())
}
