//! A real OpenSSH server on the guarded host, with keys of its own, and clients of it in any state of signing in.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{net::Lab, run, wait_for};

const SIGNED_IN_WITHIN: Duration = Duration::from_secs(20);
/// Exists everywhere, and may sign in where no shell is asked for.
pub const ORDINARY_USER: &str = "nobody";

/// Ends with this value, and so do its clients.
#[derive(Debug)]
pub struct Sshd<'lab> {
    lab: &'lab Lab,
    folder: TempDir,
    address: IpAddr,
    port: u16,
    _process: Process,
}

impl<'lab> Sshd<'lab> {
    /// Listens on this port of the guarded host.
    pub fn start(lab: &'lab Lab, address: IpAddr, port: u16) -> Result<Sshd<'lab>> {
        let folder = tempfile::Builder::new().prefix(&format!("{}-ssh-", lab.name)).tempdir()?;
        // sshd reads the keys of a user as that user.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        for name in ["host", "client", "other"] {
            make_key(&folder.path().join(name))?;
        }
        // Debian makes it when the service starts.
        DirBuilder::new().recursive(true).mode(0o755).create("/run/sshd")?;
        fs::write(folder.path().join("config"), config(folder.path(), address, port)?)?;
        let log = File::create(folder.path().join("log"))?;
        let mut command = lab.host.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "/usr/sbin/sshd", "-D", "-e", "-f"]);
        command.arg(folder.path().join("config")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = Process(command.spawn().context("sshd cannot be started; is openssh-server installed?")?);
        let sshd = Sshd { lab, folder, address, port, _process: process };
        sshd.says("Server listening on")?;
        Ok(sshd)
    }

    /// Somebody who signed in from this address, without a shell, and stays. More options may ask for forwarding.
    pub fn sign_in(&self, user: &str, from: IpAddr, options: &[&str]) -> Result<Process> {
        let said = format!("Accepted publickey for {user} from {from} ");
        let before = self.log().matches(&said).count();
        let mut client = self.client(user, from, "client");
        let client = Process(client.args(["-o", "BatchMode=yes", "-N"]).args(options).spawn()?);
        wait_for("the client to be signed in", SIGNED_IN_WITHIN, || {
            Ok((self.log().matches(&said).count() > before).then_some(()))
        })
        .with_context(|| self.log())?;
        Ok(client)
    }

    /// Somebody who named an existing user and does not come to an end with the password.
    pub fn hesitate(&self, user: &str, from: IpAddr) -> Result<Process> {
        let (asked, ask) = (self.folder.path().join("asked"), self.folder.path().join("ask"));
        fs::write(&ask, format!("#!/bin/sh\n: > {}\nexec sleep 600\n", asked.display()))?;
        fs::set_permissions(&ask, Permissions::from_mode(0o755))?;
        let mut client = self.client(user, from, "other");
        client.args(["-o", "PreferredAuthentications=publickey,password", "-N"]);
        let client = Process(client.env("SSH_ASKPASS", ask).env("SSH_ASKPASS_REQUIRE", "force").spawn()?);
        wait_for("the password to be asked for", SIGNED_IN_WITHIN, || Ok(asked.exists().then_some(())))
            .with_context(|| self.log())?;
        Ok(client)
    }

    /// What sshd logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn says(&self, what: &str) -> Result<()> {
        wait_for(what, SIGNED_IN_WITHIN, || Ok(self.log().contains(what).then_some(()))).with_context(|| self.log())
    }

    fn client(&self, user: &str, from: IpAddr, key: &str) -> Command {
        let mut command = self.lab.client.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "ssh", "-F", "none", "-o", "LogLevel=ERROR"]);
        for option in ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes"] {
            command.args(["-o", option]);
        }
        command.args(["-p", &self.port.to_string(), "-b", &from.to_string(), "-l", user, "-i"]);
        command.arg(self.folder.path().join(key)).arg(self.address.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.env_remove("SSH_AUTH_SOCK");
        command
    }
}

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn make_key(path: &Path) -> Result<()> {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path);
    run(&mut command, b"")?.good().context("ssh-keygen")?;
    Ok(())
}

fn config(folder: &Path, address: IpAddr, port: u16) -> Result<String> {
    let file = |name: &str| -> PathBuf { folder.join(name) };
    // Without PAM, sshd lets nobody in whose password is locked, as root's is on Ubuntu.
    let root = fs::read_to_string("/etc/shadow")?;
    let locked = root.lines().any(|line| line.starts_with("root:!"));
    let listen = if address.is_ipv6() { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
    let text = format!(
        "ListenAddress {listen}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM {}\nPidFile none\n\
         PermitRootLogin yes\nGatewayPorts clientspecified\nLoginGraceTime 600\n",
        file("host").display(),
        file("client.pub").display(),
        if locked { "yes" } else { "no" },
    );
    ensure!(!text.contains('"'), "a path that sshd would misread: {text}");
    Ok(text)
}
