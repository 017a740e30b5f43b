//! The audit log in the journal: what it has, what is read there, and where it is kept while no journal listens.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use edge_tests::{agent::Edge, net::Lab, run, wait_for};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::{
    super::{SOON, lifecycle::filter_only},
    Following, as_nobody, member, shown, waited,
};

#[test]
fn without_a_file_and_a_journal_the_store_keeps_it() -> Result<()> {
    let lab = Lab::new()?;
    let journal = Journald::apart()?;
    let mut edge = Edge::new(&lab)?;
    edge.mounts = Some(journal.mounts());
    edge.add_user("bob", "another password", &[])?;
    filter_only(&mut edge.config);
    edge.run()?;
    edge.cli(&["block", "203.0.113.7"])?.good()?;
    ensure!(shown(&edge, "block")?.len() == 1);
    ensure!(edge.log().contains("\"event\":\"block\""), "standard error has it: {}", edge.log());
    // What came before the first start is there too, and the file is for nobody else.
    ensure!(shown(&edge, "user.add")?.last().is_some_and(|one| one["subject"] == "bob"));
    let kept = fs::metadata(edge.path("edge.db-audit"))?;
    ensure!(kept.permissions().mode() & 0o007 == 0);
    Ok(())
}

#[test]
fn a_journal_has_it_and_only_what_edge_wrote_is_read_there() -> Result<()> {
    let lab = Lab::new()?;
    let journal = Journald::start()?;
    let mut edge = Edge::new(&lab)?;
    edge.mounts = Some(journal.mounts());
    filter_only(&mut edge.config);
    edge.config.text("admin", "group", "games");
    edge.run()?;
    journal.forge()?;
    edge.cli(&["block", "203.0.113.7"])?.good()?;
    let [block] = &waited(&edge, "block", 1)?[..] else { unreachable!() };
    ensure!(block["subject"] == "203.0.113.7" && block["actor"]["name"] == "root", "{block}");
    let mut following = Following::of(&edge)?;
    ensure!(following.next("block")? == *block);
    edge.cli(&["unblock", "203.0.113.7"])?.good()?;
    ensure!(following.next("unblock")?["subject"] == "203.0.113.7");
    ensure!(!edge.log().contains("\"event\":\"block\""), "not on standard error too: {}", edge.log());

    // Who may command the agent reads it through the agent, with what other members did without one.
    let member = member()?;
    let shown = as_nobody(&edge, &member)?;
    ensure!(shown.code == 0 && shown.stdout.contains(" block subject=\"203.0.113.7\""), "{shown:?}");
    ensure!(shown.stdout.contains("2099-01-02"), "{shown:?}");
    ensure!(as_nobody(&edge, "--clear-groups")?.code == 4);
    ensure!(edge.stop()? == 0);
    let alone = as_nobody(&edge, &member)?;
    ensure!(alone.code == 4 && alone.stderr.contains("systemd-journal") && alone.stdout.is_empty(), "{alone:?}");
    Ok(())
}

#[test]
fn what_a_journal_does_not_tell_is_a_failure() -> Result<()> {
    let lab = Lab::new()?;
    let journal = Journald::start()?;
    let mut edge = Edge::new(&lab)?;
    edge.mounts = Some(journal.mounts());
    filter_only(&mut edge.config);
    edge.run()?;
    let folder = edge.path("bin");
    fs::create_dir(&folder)?;
    fs::write(folder.join("journalctl"), "#!/bin/sh\nexit 3\n")?;
    fs::set_permissions(folder.join("journalctl"), fs::Permissions::from_mode(0o755))?;
    let path = format!("PATH={}:/usr/bin:/bin", folder.display());
    let failed = edge.cli_under(&["env", &path], &["audit", "-o", "json"], b"")?;
    let document: Value = serde_json::from_str(&failed.stdout)?;
    let message = document["error"]["message"].as_str().context("no error")?;
    ensure!(failed.code == 1 && message.contains("journalctl failed (exit status: 3)"), "{failed:?}");
    Ok(())
}

#[test]
fn a_journal_that_comes_late_and_goes_again_loses_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let mut journal = Journald::apart()?;
    let mut edge = Edge::new(&lab)?;
    edge.mounts = Some(journal.mounts());
    filter_only(&mut edge.config);
    edge.run()?;
    edge.cli(&["block", "203.0.113.1"])?.good()?;
    let mut following = Following::of(&edge)?;
    ensure!(following.next("block")?["subject"] == "203.0.113.1");
    journal.listen()?;
    let kept =
        || -> Result<usize> { Ok(fs::read_to_string(edge.path("edge.db-audit"))?.matches("198.51.100.9").count()) };
    let mut allowed = 0;
    wait_for("the journal to be taken", SOON, || {
        let before = kept()?;
        edge.cli(&["allow", "198.51.100.9"])?.good()?;
        allowed += 1;
        // All of it is written when the log is read.
        ensure!(shown(&edge, "allow")?.len() == allowed);
        Ok((kept()? == before).then_some(()))
    })?;
    edge.cli(&["block", "203.0.113.2"])?.good()?;
    journal.leave()?;
    edge.cli(&["block", "203.0.113.3"])?.good()?;
    let blocked = waited(&edge, "block", 3)?;
    let subjects: Vec<_> = blocked.iter().map(|one| one["subject"].clone()).collect();
    ensure!(subjects == ["203.0.113.1", "203.0.113.2", "203.0.113.3"], "{subjects:?}");
    Ok(())
}

/// A mount namespace without the system's journal, and one of its own in it.
struct Journald {
    holder: Child,
    daemon: Option<Child>,
}

impl Journald {
    /// No journal listens.
    fn apart() -> Result<Journald> {
        let mounts = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal /run/log/journal && exec cat";
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "sh", "-c", mounts]);
        let holder = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let journal = Journald { holder, daemon: None };
        wait_for("the mounts", SOON, || {
            let words = fs::read_to_string(format!("/proc/{}/comm", journal.holder.id()))?;
            Ok((words == "cat\n").then_some(()))
        })?;
        Ok(journal)
    }

    fn start() -> Result<Journald> {
        let mut journal = Journald::apart()?;
        journal.listen()?;
        Ok(journal)
    }

    fn listen(&mut self) -> Result<()> {
        let daemon = "/lib/systemd/systemd-journald";
        ensure!(Path::new(daemon).exists(), "no {daemon}; it comes with systemd, as journalctl does");
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--mount={}", self.mounts().display()))
            .arg(daemon);
        self.daemon = Some(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let socket = format!("/proc/{}/root/run/systemd/journal/socket", self.holder.id());
        wait_for("the journal", SOON, || {
            let connected = std::os::unix::net::UnixDatagram::unbound()?.connect(&socket);
            Ok(connected.is_ok().then_some(()))
        })
    }

    /// It writes what it has and ends.
    fn leave(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            kill(nix::unistd::Pid::from_raw(i32::try_from(daemon.id())?), Signal::SIGTERM)?;
            daemon.wait()?;
        }
        Ok(())
    }

    fn mounts(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/mnt", self.holder.id()))
    }

    /// A user who has nothing to do with edge writes under its name.
    fn forge(&self) -> Result<()> {
        let forged =
            "{\"time\":\"2099-01-02T03:04:05.000Z\",\"event\":\"block\",\"outcome\":\"success\",\"peer\":null}";
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount={}", self.mounts().display())).args(["--", "setpriv", "--reuid=65534"]);
        command.args(["--regid=65534", "--clear-groups", "systemd-cat", "-t", "edge-audit", "echo", forged]);
        run(&mut command, b"")?.good()?;
        Ok(())
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        for process in [self.daemon.as_mut(), Some(&mut self.holder)].into_iter().flatten() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
