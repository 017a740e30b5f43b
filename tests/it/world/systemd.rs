//! What edge tells its service manager and what that keeps for it: readiness, reloads, the watchdog, and the listening
//! sockets, so that nobody is refused while no agent runs.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use super::{SOON, lifecycle::filter_only, served};
use anyhow::{Result, anyhow, ensure};
use edge_tests::{
    agent::Edge,
    client::{Client, connect},
    manager::{Halted, Manager},
    net::{HOST4, HOST6, Lab, NEIGHBOUR4},
    wait_for,
};

fn hears(manager: &mut Manager, what: &str, condition: impl Fn(&Manager) -> bool) -> Result<()> {
    wait_for(what, SOON, || {
        manager.hear()?;
        Ok(condition(manager).then_some(()))
    })
}

#[test]
fn what_comes_while_no_agent_runs_is_answered_by_the_next() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let mut manager = Manager::of(&mut edge, None)?;
    edge.run()?;
    manager.hear()?;
    let (four, six) = (format!("listen-{HOST4}-443"), format!("listen-[{HOST6}]-443").replace(['[', ']', ':'], "-"));
    ensure!(manager.names() == [four.as_str(), six.as_str()], "{:?}", manager.names());
    ensure!(manager.count("READY=1") == 1 && manager.heard.iter().any(|one| one.contains("STATUS=filters edge-h")));
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    for _ in 0..3 {
        edge.kill()?;
        let (asked, connected) = thread::scope(|scope| {
            let asking = scope.spawn(|| client.get("/health"));
            // It waits in the backlog by then.
            let to = SocketAddr::new(HOST4, 443);
            let connected = connect(&lab, NEIGHBOUR4, to, SOON);
            manager.hand_over(&mut edge)?;
            edge.run()?;
            let asked = asking.join().map_err(|_| anyhow!("a client panicked"))??;
            anyhow::Ok((asked, connected?))
        })?;
        ensure!(asked.status() == Some(200), "{asked:?}\n{}", edge.log());
        ensure!(connected.is_ok(), "{connected:?}");
        ensure!(edge.log().contains(&format!("{HOST4}:443 is taken over")), "{}", edge.log());
    }
    manager.hear()?;
    ensure!(manager.names() == [four.as_str(), six.as_str()], "{:?}", manager.names());

    // What is listened on no more is kept no more, by a reload and by a start.
    edge.config.set("server", "listen", &format!("[\"{HOST4}:8443\"]"));
    edge.write_config()?;
    edge.cli(&["reload"])?.good()?;
    manager.hear()?;
    let other = format!("listen-{HOST4}-8443");
    ensure!(manager.names() == [other.as_str()], "{:?}", manager.names());
    edge.stop()?;
    edge.config.set("server", "listen", &format!("[\"{HOST4}:443\"]"));
    manager.hand_over(&mut edge)?;
    edge.run()?;
    served(&client)?;
    manager.hear()?;
    ensure!(manager.names() == [four.as_str()], "{:?}", manager.names());
    let refused = connect(&lab, NEIGHBOUR4, SocketAddr::new(HOST4, 8443), SOON)?;
    ensure!(refused.is_err(), "nobody reads what comes there");
    Ok(())
}

#[test]
fn reloads_and_the_end_are_told() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    filter_only(&mut edge.config);
    let mut manager = Manager::of(&mut edge, None)?;
    edge.run()?;
    hears(&mut manager, "ready", |manager| manager.count("READY=1") == 1)?;
    for (number, limit) in ["0", "500"].into_iter().enumerate() {
        edge.config.set("filter", "max_blocked", limit);
        edge.write_config()?;
        let code = edge.cli(&["reload"])?.code;
        ensure!((code == 0) == (limit == "500"));
        hears(&mut manager, "ready again", |manager| manager.count("READY=1") == number + 2)?;
        ensure!(manager.count("RELOADING=1") == number + 1);
    }
    let reloading = manager.heard.iter().find(|message| message.starts_with("RELOADING=1"));
    ensure!(reloading.is_some_and(|message| message.contains("\nMONOTONIC_USEC=")), "{reloading:?}");
    ensure!(manager.heard.last().is_some_and(|last| last.contains("last reload ok")), "{:?}", manager.heard);
    ensure!(edge.stop()? == 0);
    manager.hear()?;
    ensure!(manager.count("STOPPING=1") == 1 && manager.stored.is_empty());
    Ok(())
}

#[test]
fn a_loop_that_hangs_is_noticed_and_no_other() -> Result<()> {
    const PERIOD: Duration = Duration::from_secs(2);
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    filter_only(&mut edge.config);
    let mut manager = Manager::of(&mut edge, Some(PERIOD))?;
    edge.run()?;
    for count in 1..=5 {
        let begun = Instant::now();
        hears(&mut manager, "a sign of life", |manager| manager.count("WATCHDOG=1") >= count)?;
        ensure!(begun.elapsed() < PERIOD, "{:?} without a sign of life", begun.elapsed());
    }
    // The loop alone: the thread that tells goes on, and says once more at most what it saw before.
    let halted = Halted::new(edge.pid()?)?;
    manager.hear()?;
    let before = manager.count("WATCHDOG=1");
    let begun = Instant::now();
    while begun.elapsed() < 2 * PERIOD {
        manager.hear()?;
        ensure!(manager.count("WATCHDOG=1") <= before + 1, "it is told alive after {:?}", begun.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
    drop(halted);
    hears(&mut manager, "another", |manager| manager.count("WATCHDOG=1") > before + 1)
}
