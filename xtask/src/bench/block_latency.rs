//! `bench block-latency`: from the last 401 to the first dropped packet, as the client sees it (below zero where the
//! kernel drops before the 401, on its way already, is there). Beside it fail2ban at the
//! same failures: another edge that never blocks answers the same 401s, each is written to a log the moment it is there,
//! and fail2ban watches that log, with as many tries and nftables to block.

use std::{
    fs::{self, File},
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use edge_tests::{
    agent::Edge,
    net::{CLIENT_INTERFACE, Lab},
    run, wait_for,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Outcome, quantile};
use crate::probe::fail_until_cut;

const TRIES: usize = 5;
const ROUNDS: u8 = 100;
/// fail2ban takes half a second each.
const PEER_EVERY: u8 = 5;
const JAIL: &str = "edge-bench";
const FIRST_HOST: u8 = 100;

pub fn measure() -> Result<Outcome> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let peer_lab = Lab::new()?;
    let peer_edge = Edge::start_with(&peer_lab, |config| {
        config.set("learn", "threshold", "1_000_000");
    })?;
    let mut peer = Fail2ban::start(&peer_lab)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        ours.push(cut_off(&lab, &edge, address(round), || Ok(()))?);
        if round % PEER_EVERY == 0 {
            let address = address(round);
            theirs.push(cut_off(&peer_lab, &peer_edge, address, || peer.failure(address))?);
        }
    }
    let text = format!(
        "block-latency: last 401 to first dropped packet, {TRIES} failures each\n{}\n{}",
        line("edge", &ours),
        line("fail2ban", &theirs)
    );
    Ok(Outcome { text, json: json!({ "edge": document(&ours), "fail2ban": document(&theirs) }) })
}

/// Seconds.
fn cut_off(lab: &Lab, edge: &Edge, from: IpAddr, refused: impl FnMut() -> Result<()>) -> Result<f64> {
    lab.client.ip(&format!("address add {from}/24 dev {CLIENT_INTERFACE}"))?;
    let cut = fail_until_cut(lab, edge, from, TRIES, Duration::from_secs(20), refused)?;
    ensure!(cut.statuses.iter().all(|&status| status == 401), "{from} was answered {:?}, not 401", cut.statuses);
    Ok(cut.latency())
}

fn address(round: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, FIRST_HOST + round))
}

fn line(name: &str, seconds: &[f64]) -> String {
    let [p50, p99] = [0.5, 0.99].map(|part| quantile(seconds, part) * 1e3);
    format!("{name:10} p50 {p50:>10.3} ms   p99 {p99:>10.3} ms   of {}", seconds.len())
}

fn document(seconds: &[f64]) -> Value {
    json!({
        "count": seconds.len(), "p50_seconds": quantile(seconds, 0.5), "p99_seconds": quantile(seconds, 0.99),
    })
}

/// A fail2ban of its own in a lab's host, with a config, log and socket of its own.
struct Fail2ban {
    folder: TempDir,
    process: Child,
    log: File,
}

impl Fail2ban {
    fn start(lab: &Lab) -> Result<Fail2ban> {
        let folder = tempfile::tempdir()?;
        configure(folder.path())?;
        let log = File::options().append(true).open(folder.path().join("auth.log"))?;
        let mut command = lab.host.command("fail2ban-server");
        command.args(options(folder.path())).args(["-f", "start"]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut peer = Fail2ban { folder, process, log };
        wait_for("fail2ban to be ready", Duration::from_secs(20), || {
            ensure!(peer.process.try_wait()?.is_none(), "fail2ban ended: {}", peer.own_log());
            let mut status = Command::new("fail2ban-client");
            status.args(options(peer.folder.path())).args(["status", JAIL]);
            Ok((run(&mut status, b"")?.code == 0).then_some(()))
        })?;
        Ok(peer)
    }

    /// One more failed login.
    fn failure(&mut self, from: IpAddr) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let line = format!("{now:.3} {JAIL}: failed login from {from}\n");
        self.log.write_all(line.as_bytes()).context("cannot write the log that fail2ban watches")
    }

    fn own_log(&self) -> String {
        fs::read_to_string(self.folder.path().join("fail2ban.log")).unwrap_or_default()
    }
}

impl Drop for Fail2ban {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn options(folder: &Path) -> [PathBuf; 6] {
    let config = folder.join("config");
    ["-c".into(), config, "-s".into(), folder.join("socket"), "-p".into(), folder.join("pid")]
}

/// Debian's config, with one jail and nothing of this machine's.
fn configure(folder: &Path) -> Result<()> {
    let config = folder.join("config");
    run(Command::new("cp").args(["-r", "/etc/fail2ban"]).arg(&config), b"")?.good()?;
    fs::remove_dir_all(config.join("jail.d")).context("cannot leave out this machine's jails")?;
    let own_log = folder.join("fail2ban.log");
    let auth_log = folder.join("auth.log");
    File::create(&auth_log)?;
    let general = format!("[Definition]\nlogtarget = {}\ndbfile = None\n", own_log.display());
    let jail = format!(
        "[{JAIL}]\nenabled = true\nbackend = auto\nfilter = {JAIL}\nlogpath = {}\nmaxretry = {TRIES}\nfindtime = 600\n\
         bantime = 600\naction = nftables[type=allports, name={JAIL}, protocol=\"tcp,udp\"]\n",
        auth_log.display()
    );
    let filter = format!("[Definition]\nfailregex = {JAIL}: failed login from <HOST>$\ndatepattern = ^EPOCH\n");
    for (name, text) in [("fail2ban.local", general), ("jail.local", jail), ("filter.d/edge-bench.conf", filter)] {
        fs::write(config.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}
