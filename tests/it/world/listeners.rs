//! Listening sockets that come and go by a reload, and whom it meets: nobody is refused or let go for it, also where it is
//! refused itself.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use anyhow::{Result, anyhow, ensure};
use edge_tests::{
    agent::Edge,
    client::{Client, Seen, connect, scrape},
    net::{ATTACKER4, ATTACKER6, HOST4, HOST6, Lab, NEIGHBOUR4, NEIGHBOUR6},
    run, wait_for,
};
use serde_json::json;

use super::{
    SOON,
    renew::{applied, reload},
    served,
};

#[test]
fn listeners_come_and_go() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let (four, six) = (Client::new(&lab, &edge, NEIGHBOUR4), Client::new(&lab, &edge, NEIGHBOUR6));
    let is_open = |address: &str| -> Result<bool> { Ok(connect(&lab, NEIGHBOUR4, address.parse()?, SOON)?.is_ok()) };
    // A part, the whole, and a part again.
    for listen in [format!("[\"{HOST4}:443\", \"{HOST4}:8443\"]"), "[\"0.0.0.0:443\"]".to_owned()] {
        edge.config.set("server", "listen", &listen);
        ensure!(applied(&edge)? == json!(["server.listen"]));
        served(&four)?;
        ensure!(six.get("/health")?.status().is_none(), "{listen} serves IPv6");
        ensure!(is_open(&format!("{HOST4}:8443"))? == listen.contains("8443"), "{listen}");
    }
    edge.config.set("server", "listen", &format!("[\"{HOST4}:443\", \"[::]:443\"]"));
    reload(&edge)?.good()?;
    served(&four)?;
    served(&six)?;
    // Port and metrics that somebody else has are refused, together, and nothing is changed.
    let taken = lab.host.within(|| Ok(TcpListener::bind(SocketAddr::new(HOST4, 9000))?))?;
    let good = edge.config.clone();
    edge.config.set("server", "listen", &format!("[\"{HOST4}:443\", \"{HOST4}:9000\"]"));
    edge.config.text("metrics", "listen", format!("{HOST4}:9000")).set("filter", "fragments", "\"drop\"");
    let refused = reload(&edge)?;
    ensure!(refused.code == 1 && refused.stderr.contains("nothing was changed"), "{refused:?}");
    ensure!(refused.stderr.contains("server.listen") && refused.stderr.contains("metrics.listen"), "{refused:?}");
    served(&six)?;
    drop(taken);
    edge.config = good;
    edge.config.text("metrics", "listen", "0.0.0.0:9464");
    ensure!(applied(&edge)? == json!(["metrics.listen"]));
    scrape(&lab)?;
    edge.config.text("metrics", "listen", "127.0.0.1:9465");
    reload(&edge)?.good()?;
    ensure!(scrape(&lab).is_err(), "the metrics are still served where they were");
    // No server, and one again.
    edge.config.text("metrics", "listen", "127.0.0.1:9464");
    let with = edge.config.clone();
    edge.config.without("server").without("auth");
    ensure!(applied(&edge)? == json!(["server", "metrics.listen"]));
    ensure!(matches!(four.get("/health")?, Seen::Failed(_)));
    scrape(&lab)?;
    edge.config = with;
    ensure!(applied(&edge)? == json!(["server"]));
    served(&four)?;
    ensure!(edge.stop()? == 0);
    Ok(())
}

#[test]
fn a_reload_that_is_refused_lets_nobody_go() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    edge.config.set("server", "listen", "[\"0.0.0.0:443\"]");
    edge.run()?;
    let good = edge.config.clone();
    let _taken = lab.host.within(|| Ok(TcpListener::bind(SocketAddr::new(HOST4, 9000))?))?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    let (over, visits) = (AtomicBool::new(false), AtomicU64::new(0));
    let comes_again = || -> Result<()> {
        while !over.load(Ordering::Relaxed) {
            served(&client)?;
            visits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let mut refusals = || -> Result<()> {
        // The address as such is more than a part of all, and would take those who come.
        for (listen, metrics, interfaces) in [
            (format!("\"{HOST4}:443\", \"{HOST4}:9000\""), "127.0.0.1:9464".to_owned(), "edge-h"),
            (format!("\"{HOST4}:443\""), format!("{HOST4}:9000"), "edge-h"),
            (format!("\"{HOST4}:443\""), "127.0.0.1:9465".to_owned(), "none"),
        ] {
            edge.config = good.clone();
            edge.config.set("server", "listen", &format!("[{listen}]")).text("metrics", "listen", metrics);
            edge.config.set("filter", "interfaces", &format!("[\"{interfaces}\"]"));
            let refused = reload(&edge)?;
            ensure!(refused.code == 1 && refused.stderr.contains("nothing was changed"), "{refused:?}");
            let before = visits.load(Ordering::Relaxed);
            wait_for("a visit", SOON, || Ok((visits.load(Ordering::Relaxed) > before + 1).then_some(())))?;
        }
        edge.config = good.clone();
        edge.config.set("server", "listen", &format!("[\"{HOST4}:443\"]"));
        ensure!(applied(&edge)? == json!(["server.listen"]));
        Ok(())
    };
    thread::scope(|scope| {
        let visitor = scope.spawn(comes_again);
        let done = refusals();
        over.store(true, Ordering::Relaxed);
        visitor.join().map_err(|_| anyhow!("a client panicked"))??;
        done
    })?;
    scrape(&lab)?;
    served(&client)
}

#[test]
fn who_waits_at_a_listener_that_goes_away_is_served() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let listen = format!("\"{HOST4}:443\", \"[{HOST6}]:443\"");
    edge.config.set("server", "max_handshakes", "2");
    edge.config.set("server", "listen", &format!("[{listen}, \"{HOST4}:8443\"]"));
    edge.run()?;
    // They have all turns, so that of the two who come now one is in the server's hand and the other in the backlog.
    let greets_never = |from| super::connect(&lab, from, SocketAddr::new(HOST6, 443));
    let turns = [greets_never(ATTACKER6)?, greets_never(NEIGHBOUR6)?];
    let lab = &lab;
    let waits = |from: IpAddr| {
        let mut curl = lab.client.command("curl");
        curl.args(["--silent", "--insecure", "--max-time", "20", "--interface", &from.to_string()]);
        curl.args(["--output", "/dev/null", "--write-out", "%{http_code}", &format!("https://{HOST4}:8443/health")]);
        run(&mut curl, b"")
    };
    thread::scope(|scope| {
        let waiting = [ATTACKER4, NEIGHBOUR4].map(|from| scope.spawn(move || waits(from)));
        wait_for("them to have come", SOON, || {
            let mut ss = lab.client.command("ss");
            ss.args(["--no-header", "--tcp", "state", "established", "dport = :8443"]);
            Ok((run(&mut ss, b"")?.good()?.lines().count() == 2).then_some(()))
        })?;
        edge.config.set("server", "listen", &format!("[{listen}]"));
        reload(&edge)?.good()?;
        drop(turns);
        for one in waiting {
            let output = one.join().map_err(|_| anyhow!("a client panicked"))??;
            ensure!(output.stdout == "200", "{output:?}\n{}", edge.log());
        }
        Ok(())
    })
}
