//! A wall clock that jumps, and boots: what is blocked ends when it was to end. The time of day is that of edge's own
//! processes alone (libfaketime); boot time and everybody else's clock stay as they are.

use std::{
    fs,
    io::Write,
    net::IpAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    client::{Client, Seen},
    net::{ATTACKER4, ATTACKER6, Lab, NEIGHBOUR4},
    wait_for,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{SOON, length, lifecycle::filter_only, time};

const JUMPS: [&str; 3] = ["+3650d", "-3650d", "+0d"];
const HOUR: i64 = 3_600;

/// An edge that filters alone, so that no certificate is too old, and sees the time of day that a file says.
fn edge_with_clock(lab: &Lab) -> Result<Edge> {
    let mut edge = Edge::new(lab)?;
    filter_only(&mut edge.config);
    let variables = [
        // `$LIB` is the loader's.
        ("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1".to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", edge.path("clock").display().to_string()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
    ];
    edge.environment = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
    set_clock(&edge, "+0d")?;
    Ok(edge)
}

/// As `+3650d`, or `@1970-01-01 00:01:00`, from when on it goes on from there.
fn set_clock(edge: &Edge, to: &str) -> Result<()> {
    let new = edge.path("clock.new");
    fs::write(&new, format!("{to}\n"))?;
    Ok(fs::rename(new, edge.path("clock"))?)
}

/// By edge's clock.
fn now(edge: &Edge) -> Result<Timestamp> {
    let mut date = Command::new("date");
    date.args(["-u", "+%Y-%m-%dT%H:%M:%S.000Z"]).envs(edge.environment.iter().map(|(name, value)| (name, value)));
    let text = edge_tests::run(&mut date, b"")?.good()?;
    time(&Value::from(text.trim()))
}

fn is_blocked(lab: &Lab, edge: &Edge, address: IpAddr) -> Result<bool> {
    if address.is_ipv6() {
        // Whose neighbour discovery is dropped too, so that what a client sees depends on what it knew before.
        return Ok(edge.json_any(&["why", &address.to_string()])?.1["verdict"] == "drop");
    }
    // Nobody listens: who is not blocked is refused at once.
    let seen = Client::new(lab, edge, address).request("/health", &["--connect-timeout", "1.5"])?;
    Ok(seen == Seen::Timeout)
}

/// Seconds until the one block ends by edge's clock; that it is an hour's is checked.
fn left(edge: &Edge) -> Result<i64> {
    let list = edge.json(&["list"])?;
    let entry = list.get(0).with_context(|| format!("nothing is blocked:\n{}", edge.log()))?;
    ensure!((length(entry)? - HOUR as f64).abs() < 1.0, "{entry}");
    Ok(time(&entry["expires"])?.duration_since(now(edge)?).as_secs())
}

fn about_an_hour_is_left(edge: &Edge) -> Result<()> {
    let left = left(edge)?;
    ensure!((HOUR - 100..=HOUR + 1).contains(&left), "{left} s are left");
    Ok(())
}

#[test]
fn a_jump_of_ten_years_changes_no_block_whether_the_agent_runs_or_not() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = edge_with_clock(&lab)?;
    edge.run()?;
    let before = now(&edge)?;
    set_clock(&edge, "+3650d")?;
    ensure!(now(&edge)?.duration_since(before) > SignedDuration::from_hours(24 * 3649), "the clock does not jump");
    set_clock(&edge, "+0d")?;
    edge.cli(&["block", "10.77.0.2", "--for", "1h"])?.good()?;
    for jump in JUMPS {
        set_clock(&edge, jump)?;
        // Swept since: another block has ended meanwhile, in its time.
        edge.cli(&["block", "10.77.0.3", "--for", "1s"])?.good()?;
        wait_for("a short block to end", SOON, || Ok((!is_blocked(&lab, &edge, NEIGHBOUR4)?).then_some(())))?;
        wait_for("it to be swept", SOON, || {
            Ok((edge.json(&["list"])?.as_array().map(Vec::len) == Some(1)).then_some(()))
        })?;
        ensure!(is_blocked(&lab, &edge, ATTACKER4)?, "{jump}");
        about_an_hour_is_left(&edge).context(jump)?;
    }
    for jump in JUMPS {
        edge.kill()?;
        set_clock(&edge, jump)?;
        about_an_hour_is_left(&edge).context(jump)?;
        edge.cli(&["block", "2001:db8:66::2", "--for", "1h"])?.good()?;
        ensure!(is_blocked(&lab, &edge, ATTACKER4)? && is_blocked(&lab, &edge, ATTACKER6)?, "{jump}, no agent");
        edge.run()?;
        ensure!(is_blocked(&lab, &edge, ATTACKER4)? && is_blocked(&lab, &edge, ATTACKER6)?, "{jump}, started");
        edge.cli(&["unblock", "2001:db8:66::2"])?.good()?;
        about_an_hour_is_left(&edge).context(jump)?;
    }
    // A backup has the ends by the clock as it is.
    let file = edge.path("a").display().to_string();
    set_clock(&edge, "+3650d")?;
    edge.cli(&["backup", &file])?.good()?;
    edge.cli(&["unblock", "--all"])?.good()?;
    edge.cli(&["restore", &file])?.good()?;
    about_an_hour_is_left(&edge)?;
    ensure!(is_blocked(&lab, &edge, ATTACKER4)?);
    Ok(())
}

/// A boot: its id is another one for all that looks from this mount namespace, and nothing is pinned.
#[derive(Debug)]
struct Boot {
    holder: Child,
}

impl Boot {
    fn begin(edge: &mut Edge, number: u32) -> Result<Boot> {
        let id = edge.path(&format!("boot-{number}"));
        fs::write(&id, format!("00000000-0000-4000-8000-{number:012}\n"))?;
        let mount = format!("mount --bind {} {BOOT_ID} && exec cat", id.display());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "sh", "-c", &mount]);
        let holder = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let boot = Boot { holder };
        let seen = PathBuf::from(format!("/proc/{}/root{BOOT_ID}", boot.holder.id()));
        wait_for("the boot's id", SOON, || Ok((fs::read(&seen).ok() == fs::read(&id).ok()).then_some(())))?;
        edge.mounts = Some(PathBuf::from(format!("/proc/{}/ns/mnt", boot.holder.id())));
        Ok(boot)
    }
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl Drop for Boot {
    fn drop(&mut self) {
        let _ = self.holder.stdin.as_mut().map(|stdin| stdin.flush());
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
fn after_a_boot_ends_follow_the_wall_clock_and_no_block_lasts_longer_than_it_had_left() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = edge_with_clock(&lab)?;
    let mut boots = vec![Boot::begin(&mut edge, 0)?];
    edge.run()?;
    edge.cli(&["block", "10.77.0.2", "--for", "1h"])?.good()?;
    let many: String = (0..300).map(|n| format!("198.18.0.{}\n", n % 256)).collect();
    edge.cli_with(&["import", "-", "--for", "1h"], many.as_bytes())?.good()?;
    edge.cli(&["block", "2001:db8:66::2"])?.good()?;
    // The right time; a clock without a battery; one that was set right again, so that 56 years have passed; ten years back.
    for (number, clock) in [(1, "+0d"), (2, "@1970-01-01 00:01:00"), (3, "+0d"), (4, "-3650d")] {
        edge.kill()?;
        edge.cli(&["unload"])?.good()?;
        set_clock(&edge, clock)?;
        boots.push(Boot::begin(&mut edge, number)?);
        edge.run()?;
        about_an_hour_is_left(&edge).context(clock)?;
        ensure!(is_blocked(&lab, &edge, ATTACKER4)?, "{number}: {}", edge.log());
        ensure!(is_blocked(&lab, &edge, ATTACKER6)?, "{number}: what has no end has ended: {}", edge.log());
        ensure!(!is_blocked(&lab, &edge, NEIGHBOUR4)?, "{number}");
        let status = edge.json(&["status"])?;
        ensure!(status["drift"] == 0 && status["store"]["ok"] == true, "{status}");
    }
    // Within a boot a jump after it changes nothing either.
    edge.kill()?;
    set_clock(&edge, "+0d")?;
    edge.run()?;
    about_an_hour_is_left(&edge)?;
    ensure!(is_blocked(&lab, &edge, ATTACKER4)?);
    Ok(())
}
