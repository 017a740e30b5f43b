//! What was open before the agent, and what opens and closes while it is away or its tables are made anew.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
};

use anyhow::{Result, bail, ensure};
use edge_tests::{
    crowd::Crowd,
    endings::pair::{Listeners, Pair, allow_descriptors, hear_end, opened, reset},
    net::{HOST4, HOST6, Lab},
    places::set,
    sockets::Opened,
    wait_for,
};

use super::{SOON, capped, counted, current, mistakes, nothing_left};

const CAP: u32 = 1_000_000;

#[test]
fn ten_thousand_open_before_the_start_are_counted_and_counted_off() -> Result<()> {
    const COUNT: usize = 10_000;
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 8)?;
    allow_descriptors(COUNT as u64 * 3 / 2 + 1_000)?;
    set(&lab.host, "core/somaxconn", "20000")?;
    // As long as the setting allows.
    let listeners = Listeners::new(&lab.host, [HOST4, HOST6], -1)?;
    let (accepted, queued) = lab.client.within(|| {
        let dial = |from: IpAddr| listeners.dial(SocketAddr::new(from, 0));
        let dialled = crowd.all().into_iter().cycle().take(COUNT).map(dial).collect::<Result<Vec<_>>>()?;
        // The other half waits in the queues.
        listeners.accept_some(dialled, COUNT / 2)
    })?;
    let edge = capped(&lab, CAP, |_| {})?;
    for client in crowd.all() {
        // Ready is who has counted them.
        ensure!(current(&edge, client)? == COUNT as u64 / 16, "{client} has {}", current(&edge, client)?);
    }
    let others = Listeners::new(&lab.host, [HOST4, HOST6], -1)?;
    let after = lab.client.within(|| others.open(&crowd.all(), 160))?;
    counted(&edge, &crowd.all(), &crowd.all().into_iter().map(|client| (client, COUNT as u64 / 16 + 10)).collect())?;
    drop((listeners, accepted, queued, after));
    nothing_left(&edge, &crowd.all())?;
    ensure!(mistakes(&lab)? == [0.0; 2]);
    Ok(())
}

#[test]
fn an_agent_killed_and_started_again_under_load_counts_exactly() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 4)?;
    let mut edge = capped(&lab, CAP, |_| {})?;
    let held = under_load(&lab, &crowd, |load| {
        for _ in 0..3 {
            load.goes_on()?;
            edge.kill()?;
            load.goes_on()?;
            edge.run()?;
        }
        Ok(())
    })?;
    counted(&edge, &crowd.all(), &opened(&held)?)?;
    drop(held);
    nothing_left(&edge, &crowd.all())?;
    ensure!(mistakes(&lab)? == [0.0; 2], "{:?}", mistakes(&lab)?);
    Ok(())
}

#[test]
fn a_reload_that_makes_the_tables_anew_under_load_counts_exactly() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 4)?;
    let mut edge = capped(&lab, CAP, |_| {})?;
    for (max_tracked, unit) in [("5_000", 64), ("5_000", 56), ("70_000", 64)] {
        let held = under_load(&lab, &crowd, |load| {
            load.goes_on()?;
            edge.config.set("filter", "max_tracked", max_tracked).set("filter", "ipv6_unit", &unit.to_string());
            edge.write_config()?;
            edge.cli(&["reload"])?.good()?;
            load.goes_on()
        })?;
        counted(&edge, &crowd.all(), &by_unit(&opened(&held)?, unit))?;
        drop(held);
        nothing_left(&edge, &crowd.all())?;
        ensure!(mistakes(&lab)? == [0.0; 2], "{:?}", mistakes(&lab)?);
    }
    Ok(())
}

/// What each address shares with those of its unit.
fn by_unit(opened: &Opened, unit: u8) -> Opened {
    let network = |address: &IpAddr| match address {
        IpAddr::V4(_) => *address,
        IpAddr::V6(six) => IpAddr::V6((six.to_bits() >> (128 - unit) << (128 - unit)).into()),
    };
    let sum =
        |client| opened.iter().filter(|(other, _)| network(other) == network(client)).map(|(_, count)| count).sum();
    opened.keys().map(|client| (*client, sum(client))).collect()
}

/// Connections that are opened and closed all the while.
struct Load {
    ends: AtomicBool,
    turns: AtomicU64,
}

impl Load {
    /// Once a thousand more were opened.
    fn goes_on(&self) -> Result<()> {
        let aim = self.turns.load(Relaxed) + 1_000;
        wait_for("connections to come and go", SOON, || {
            ensure!(!self.ends.load(Relaxed), "they have ended");
            Ok((self.turns.load(Relaxed) >= aim).then_some(()))
        })
    }

    fn bear(&self, lab: &Lab, crowd: &Crowd, listeners: &Listeners) -> Result<Vec<Pair>> {
        const HELD: usize = 400;
        lab.client.within(|| {
            let (mut held, mut clients) = (VecDeque::new(), crowd.all().into_iter().cycle());
            while !self.ends.load(Relaxed) {
                let Some(client) = clients.next() else { bail!("nobody") };
                held.extend(listeners.open(&[client], 1)?);
                let turn = self.turns.fetch_add(1, Relaxed);
                if held.len() > HELD {
                    // Old ones and young ones, each way.
                    let pair = if turn.is_multiple_of(3) { held.pop_back() } else { held.pop_front() };
                    pair.map_or(Ok(()), |pair| end(pair, turn))?;
                }
            }
            Ok(held.into())
        })
    }
}

fn end(mut pair: Pair, turn: u64) -> Result<()> {
    match turn % 4 {
        0 => reset(pair.client),
        1 => reset(pair.server),
        2 => {
            drop(pair.client);
            hear_end(&mut pair.server)
        }
        _ => {
            drop(pair.server);
            hear_end(&mut pair.client)
        }
    }
}

/// Does something while connections come and go; gives those that are open at the end.
fn under_load(lab: &Lab, crowd: &Crowd, work: impl FnOnce(&Load) -> Result<()>) -> Result<Vec<Pair>> {
    let listeners = Listeners::new(&lab.host, [HOST4, HOST6], 4_096)?;
    let load = Load { ends: AtomicBool::new(false), turns: AtomicU64::new(0) };
    thread::scope(|scope| {
        let bearer = scope.spawn(|| {
            let held = load.bear(lab, crowd, &listeners);
            load.ends.store(true, Relaxed);
            held
        });
        let worked = work(&load);
        load.ends.store(true, Relaxed);
        let held = bearer.join().unwrap_or_else(|_| bail!("the load panicked"))?;
        worked.map(|()| held)
    })
}
