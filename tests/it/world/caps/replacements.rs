//! Program and tables replaced in place under the fastest flood that two senders give, with connections open through all of
//! it: no packet of who is blocked comes through, none of who is honest is lost, and no connection is counted twice or
//! forgotten. `EDGE_REPLACEMENTS` says how often.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use edge_tests::{
    agent::Edge,
    crowd::Crowd,
    endings::pair::{Listeners, Pair, opened, reset},
    flood::{Flood, Sink},
    net::{ATTACKER4, ATTACKER6, HOST4, HOST6, Lab, NEIGHBOUR4, NEIGHBOUR6},
    sockets::Opened,
    tap::Tap,
    wait_for,
};
use serde_json::Value;

use super::{
    super::{SOON, packets, times},
    capped, counted, current, mistakes, nothing_left,
};

const CAP: u32 = 1_000_000;
const CONNECTIONS: usize = 400;
/// How many of them go, and as many come, during each replacement.
const CHANGED: usize = 16;
const HONEST: [IpAddr; 2] = [NEIGHBOUR4, NEIGHBOUR6];

#[test]
fn replaced_in_place_under_a_flood_nothing_leaks_is_lost_or_miscounted() -> Result<()> {
    let replacements = times("EDGE_REPLACEMENTS", 10)?;
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 8)?;
    let mut edge = capped(&lab, CAP, |config| {
        config.set("filter", "block", "[\"198.51.100.0/24\", \"2001:db8:78::/48\"]");
    })?;
    edge.cli(&["block", &ATTACKER4.to_string(), &ATTACKER6.to_string()])?.good()?;
    let blocked = [ATTACKER4, ATTACKER6, "198.51.100.9".parse()?, "2001:db8:78:1::5".parse()?];
    let listeners = Listeners::new(&lab.host, [HOST4, HOST6], 64)?;
    let mut pairs = lab.client.within(|| listeners.open(&crowd.all(), CONNECTIONS))?;
    let (tap, sink) = (Tap::new(&lab)?, Sink::new(&lab)?);
    let flood = Flood::start(&lab, 2, &blocked, &HONEST)?;
    let begin = Instant::now();
    for number in 0..replacements {
        let before = packets(&edge, "blocked")?;
        pairs = replace(&lab, &crowd, &mut edge, number, &listeners, pairs).with_context(|| format!("{number}"))?;
        let opened = opened(&pairs)?;
        // Who ended a connection has done so before the other end knows.
        wait_for("exact counts, and more of the flood dropped", SOON, || {
            let status = edge.json(&["status"])?;
            let dropped = status["packets"]["by_reason"]["blocked"].as_u64() > Some(before);
            Ok((dropped && (are_all(&status, crowd.all().len()) || are_exact(&edge, &crowd.all(), &opened)?))
                .then_some(()))
        })
        .with_context(|| format!("replacement {number}: {}", edge.json(&["status"]).unwrap_or_default()))?;
        let leaked = tap.any_of(&blocked);
        ensure!(leaked.is_empty() && sink.of(&blocked) == 0, "replacement {number}: came through: {leaked:?}");
    }
    let (unwanted, lasted) = (flood.unwanted(), begin.elapsed());
    let honest = flood.end()?;
    wait_for("the last of the honest", SOON, || Ok((sink.of(&HONEST) >= honest).then_some(())))
        .with_context(|| format!("{honest} honest datagrams were sent, {} came", sink.of(&HONEST)))?;
    tap.missed_nothing()?;
    ensure!(tap.any_of(&blocked).is_empty() && sink.of(&HONEST) == honest);
    ensure!(mistakes(&lab)? == [0.0; 2], "{:?}", mistakes(&lab)?);
    let rate = unwanted as f64 / lasted.as_secs_f64();
    println!("{replacements} replacements in {lasted:.1?}: 0 of {unwanted} leaked ({rate:.0}/s), 0 of {honest} lost");

    counted(&edge, &crowd.all(), &opened(&pairs)?)?;
    pairs.iter_mut().try_for_each(Pair::talk)?;
    drop(pairs);
    nothing_left(&edge, &crowd.all())?;
    // What saw nothing would have seen it.
    edge.cli(&["unblock", &ATTACKER4.to_string()])?.good()?;
    let _flood = Flood::start(&lab, 1, &blocked, &HONEST)?;
    wait_for("the flood to be let in", SOON, || Ok(tap.passed(ATTACKER4).map(drop)))?;
    ensure!(tap.any_of(&blocked[1..]).is_empty());
    Ok(())
}

/// Whether these are all connections that are counted.
fn are_all(status: &Value, clients: usize) -> bool {
    let is = |pointer: &str, value: usize| status.pointer(pointer).and_then(Value::as_u64) == Some(value as u64);
    is("/connections/total", CONNECTIONS) && is("/connections/tracked_addresses", clients)
}

/// Connections of other namespaces are counted too while they last: then each address is asked for.
fn are_exact(edge: &Edge, clients: &[IpAddr], opened: &Opened) -> Result<bool> {
    let mut all = clients.iter();
    all.try_fold(true, |exact, client| Ok(exact && current(edge, *client)? == opened.get(client).copied().unwrap_or(0)))
}

/// Another program each time, tables of another size, and sometimes those of connections too; while some connections end
/// and others begin.
fn replace(
    lab: &Lab,
    crowd: &Crowd,
    edge: &mut Edge,
    number: usize,
    listeners: &Listeners,
    mut pairs: Vec<Pair>,
) -> Result<Vec<Pair>> {
    let fragments = if number.is_multiple_of(2) { "\"drop\"" } else { "\"pass\"" };
    let tracked = if number % 5 == 4 { "5_000" } else { "70_000" };
    edge.config.set("filter", "fragments", fragments).set("filter", "max_tracked", tracked);
    edge.config.set("filter", "max_blocked", &(500 + number % 1_000).to_string());
    edge.write_config()?;
    let gone: Vec<_> = pairs.drain(..CHANGED).collect();
    let new = thread::scope(|scope| {
        let others = scope.spawn(|| {
            lab.client.within(|| {
                gone.into_iter().try_for_each(|pair| reset(pair.client))?;
                listeners.open(&crowd.all(), CHANGED)
            })
        });
        let begin = Instant::now();
        edge.cli(&["reload"])?.good()?;
        ensure!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
        others.join().map_err(|_| anyhow::anyhow!("the connections panicked"))?
    })?;
    pairs.extend(new);
    Ok(pairs)
}
