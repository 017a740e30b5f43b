//! `edge reload --confirm` and `--keep`: a mistake that locks the administrator out undoes itself, and neither a crash nor
//! somebody else's reload confirms it.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Result, ensure};
use edge_tests::{
    Output,
    agent::Edge,
    authority::certificate,
    client::{Client, connect, scrape},
    net::{HOST4, Lab, NEIGHBOUR4},
    wait_for,
};
use serde_json::{Value, json};

use super::{SOON, lifecycle::filter_only, served, time};

const SSH: SocketAddr = SocketAddr::new(HOST4, 22);
const REFUSES_AFTER: Duration = Duration::from_millis(700);

/// The administrator's own way in, which is open until the config closes it.
struct Lifeline<'lab> {
    lab: &'lab Lab,
    _service: TcpListener,
}

impl<'lab> Lifeline<'lab> {
    fn new(lab: &'lab Lab) -> Result<Lifeline<'lab>> {
        Ok(Lifeline { lab, _service: lab.host.within(|| Ok(TcpListener::bind(SSH)?))? })
    }

    fn is_open(&self) -> Result<bool> {
        let from: IpAddr = NEIGHBOUR4;
        Ok(connect(self.lab, from, SSH, REFUSES_AFTER)?.is_ok())
    }

    fn opens(&self) -> Result<()> {
        wait_for("the way in to be open again", SOON, || Ok(self.is_open()?.then_some(())))
    }
}

/// Forgets to expose the port of the administrator's service.
fn lock_out(edge: &mut Edge) -> Result<()> {
    edge.config.set("filter", "exposed_ports", "[\"443/tcp\"]");
    edge.write_config()?;
    Ok(())
}

fn state(edge: &Edge) -> Result<Value> {
    Ok(edge.json(&["status"])?["reload"].clone())
}

/// Whether the time that `edge reload --confirm` gave is over, however long the machine took until now.
fn is_over(done: &Value) -> Result<bool> {
    Ok(time(&done["reverts_at"])? <= jiff::Timestamp::now())
}

fn cli(edge: &Edge, args: &[&str]) -> Result<Output> {
    edge.cli(&[&["reload"], args].concat())
}

#[test]
fn who_locks_himself_out_is_let_in_again() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start_with(&lab, filter_only)?;
    let way = Lifeline::new(&lab)?;
    ensure!(way.is_open()?);
    let none = cli(&edge, &["--keep"])?;
    ensure!(none.code == 1 && none.stderr.contains("nothing is to be confirmed"), "{none:?}");
    lock_out(&mut edge)?;
    let done = edge.json(&["reload", "--confirm", "4s"])?;
    ensure!(done["last_result"] == "ok" && done["applied"] == json!(["filter.exposed_ports"]), "{done}");
    let now = state(&edge)?;
    ensure!(now["reverts_at"] == done["reverts_at"] || is_over(&done)?, "{done}, and then {now}");
    let is_open = way.is_open()?;
    ensure!(!is_open || is_over(&done)?, "it is not in force when the command returns");
    way.opens()?;
    ensure!(state(&edge)? == json!({"generation": 3, "last_result": "reverted"}), "{}", state(&edge)?);
    ensure!(edge.log().contains("nobody confirmed it in time"), "{}", edge.log());
    let told = edge.cli(&["audit"])?.good()?;
    ensure!(told.lines().any(|line| line.contains("reload") && line.contains("reverted")), "{told}");
    ensure!(scrape(&lab)?.value("edge_config_last_reload_successful", &[]) == Some(0.0));
    let late = cli(&edge, &["--keep"])?;
    ensure!(late.code == 1, "{late:?}");

    // The same, and somebody is still there.
    cli(&edge, &["--confirm", "3s"])?.good()?;
    let kept = edge.json(&["reload", "--keep"])?;
    ensure!(kept == json!({"generation": 4, "last_result": "ok"}), "{kept}");
    ensure!(!edge.path("edge.db-confirmed.json").exists());
    // Longer than it was on trial.
    let over = std::time::Instant::now() + Duration::from_secs(4);
    while std::time::Instant::now() < over {
        ensure!(!way.is_open()?, "it was kept, and reverted");
    }
    ensure!(state(&edge)? == json!({"generation": 4, "last_result": "ok"}));
    for wrong in
        [&["--confirm", "0s"][..], &["--confirm", "400d"], &["--confirm", "soon"], &["--confirm", "3s", "--keep"]]
    {
        ensure!(cli(&edge, wrong)?.code == 2, "{wrong:?}");
    }
    Ok(())
}

#[test]
fn neither_a_crash_nor_another_reload_confirms_it() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start_with(&lab, filter_only)?;
    let way = Lifeline::new(&lab)?;
    lock_out(&mut edge)?;
    cli(&edge, &["--confirm", "1h"])?.good()?;
    ensure!(!way.is_open()?);
    edge.kill()?;
    edge.run()?;
    way.opens()?;
    ensure!(state(&edge)? == json!({"generation": 1, "last_result": "reverted"}), "{}", state(&edge)?);
    ensure!(edge.log().contains("was never confirmed"), "{}", edge.log());
    // Nor a stop; and a second crash neither.
    ensure!(edge.stop()? == 0);
    edge.run()?;
    edge.kill()?;
    edge.run()?;
    way.opens()?;
    // What is not good stays out, and changes nothing of that.
    edge.config.set("filter", "max_blocked", "0");
    edge.write_config()?;
    ensure!(cli(&edge, &[])?.code == 2 && cli(&edge, &["--confirm", "1h"])?.code == 2);
    edge.config.set("filter", "max_blocked", "500");
    edge.write_config()?;
    edge.kill()?;
    edge.run()?;
    way.opens()?;
    // The next reload has it in force, for good.
    cli(&edge, &[])?.good()?;
    ensure!(!way.is_open()?);
    edge.kill()?;
    edge.run()?;
    ensure!(!way.is_open()? && state(&edge)? == json!({"generation": 1, "last_result": "ok"}));

    // As a hook that renews certificates does.
    edge.config.set("filter", "exposed_ports", "[]");
    edge.write_config()?;
    cli(&edge, &[])?.good()?;
    lock_out(&mut edge)?;
    let done = edge.json(&["reload", "--confirm", "4s"])?;
    edge.config.set("filter", "fragments", "\"drop\"");
    edge.write_config()?;
    let plain = cli(&edge, &[])?;
    let is_open = way.is_open()?;
    ensure!(plain.code == 0 && (plain.stderr.contains("--keep") && !is_open || is_over(&done)?), "{plain:?}");
    way.opens()?;
    ensure!(state(&edge)?["last_result"] == "reverted");
    // An edited file is meant for the next start, after a stop.
    edge.stop()?;
    edge.config.set("filter", "max_blocked", "600");
    edge.run()?;
    ensure!(!way.is_open()? && state(&edge)?["last_result"] == "ok");
    Ok(())
}

#[test]
fn the_server_is_as_it_was_whatever_the_files_say_by_then() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    let (cert, key) = (edge.path("cert.pem"), edge.path("key.pem"));
    let before = fs::read(&cert)?;
    certificate(&cert, &key)?;
    let renewed = fs::read(&cert)?;
    edge.config.set("server", "listen", &format!("[\"{HOST4}:443\", \"{HOST4}:8443\"]"));
    edge.write_config()?;
    cli(&edge, &["--confirm", "3s"])?.good()?;
    served(&client)?;
    fs::write(&cert, before)?;
    wait_for("the former certificate", SOON, || Ok((client.get("/health")?.status() == Some(200)).then_some(())))?;
    let other = SocketAddr::new(HOST4, 8443);
    ensure!(connect(&lab, NEIGHBOUR4, other, SOON)?.is_err(), "the new port is still open");
    ensure!(state(&edge)?["last_result"] == "reverted");
    // With certificate and key of one another again, all of it.
    fs::write(&cert, renewed)?;
    cli(&edge, &[])?.good()?;
    served(&client)?;
    ensure!(connect(&lab, NEIGHBOUR4, other, SOON)?.is_ok());
    Ok(())
}
