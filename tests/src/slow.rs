//! An attack that sends request headers slowly (Debian's `slowhttptest`), an nginx that it can be aimed at beside edge's own
//! server, and honest clients who would be served meanwhile.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{
    net::{CLIENT_INTERFACE, HOST4, Lab},
    run, wait_for,
};

/// Ends with this value.
#[derive(Debug)]
pub struct Attack {
    process: Child,
}

impl Attack {
    /// So many connections, begun within two seconds, each with another header line every few seconds and never the last.
    pub fn start(lab: &Lab, from: IpAddr, url: &str, connections: u32) -> Result<Attack> {
        // The tool leaves its address to the kernel.
        lab.client.ip(&format!("route replace {HOST4}/32 dev {CLIENT_INTERFACE} src {from}"))?;
        let mut command = lab.client.command("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "--",
            "slowhttptest",
            "-H",
            "-v",
            "0",
            "-i",
            "3",
            "-x",
            "24",
            "-l",
            "600",
        ]);
        command.args([
            "-p",
            "3",
            "-u",
            url,
            "-c",
            &connections.to_string(),
            "-r",
            &connections.div_ceil(2).to_string(),
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Attack { process: command.spawn().context("slowhttptest")? })
    }

    /// It ends by itself where it finds nobody.
    pub fn goes_on(&mut self) -> Result<()> {
        let ended = self.process.try_wait()?;
        ensure!(ended.is_none(), "slowhttptest ended: {ended:?}");
        Ok(())
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An nginx of one process on the guarded host, with as many connections as Debian's configuration gives it; ends with this
/// value.
#[derive(Debug)]
pub struct Nginx {
    process: Child,
    folder: TempDir,
}

impl Nginx {
    pub const ADDRESS: SocketAddr = SocketAddr::new(HOST4, 8_080);

    pub fn start(lab: &Lab) -> Result<Nginx> {
        let folder = tempfile::Builder::new().prefix(&format!("{}-nginx-", lab.name)).tempdir()?;
        fs::write(folder.path().join("nginx.conf"), config(folder.path()))?;
        let mut command = lab.host.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "nginx", "-e"]).arg(folder.path().join("error.log"));
        command.arg("-p").arg(folder.path()).args(["-c", "nginx.conf"]);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut nginx = Nginx { process, folder };
        wait_for("nginx to serve", Duration::from_secs(10), || {
            ensure!(nginx.process.try_wait()?.is_none(), "nginx ended: {}", nginx.log());
            let url = format!("http://{}/", Nginx::ADDRESS);
            let mut curl = lab.host.command("curl");
            curl.args(["--silent", "--max-time", "5", &url]);
            Ok((run(&mut curl, b"")?.code == 0).then_some(()))
        })?;
        Ok(nginx)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn config(folder: &std::path::Path) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", path(kind)))
        .concat();
    format!(
        "daemon off; master_process off; pid {};\nevents {{ worker_connections 768; }}\nhttp {{\naccess_log off;\n{temporary}\
         server {{ listen {}; location / {{ return 200 \"well\\n\"; }} }}\n}}\n",
        path("pid"),
        Nginx::ADDRESS
    )
}

/// One request of an honest client over a connection of its own: how long the answer took, `None` if there was none within
/// `limit`.
pub fn ask(lab: &Lab, from: IpAddr, url: &str, limit: Duration) -> Result<Option<Duration>> {
    let mut curl: Command = lab.client.command("curl");
    curl.args(["--silent", "--fail", "--insecure", "--noproxy", "*", "--output", "/dev/null", "--interface"]);
    curl.args([&from.to_string(), "--max-time", &limit.as_secs_f64().to_string(), url]);
    let begin = Instant::now();
    Ok((run(&mut curl, b"")?.code == 0).then(|| begin.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{crowd::Crowd, sockets::Sockets};

    #[test]
    fn an_attack_takes_all_connections_of_an_nginx() {
        let lab = Lab::new().unwrap();
        let crowd = Crowd::new(&lab, 2).unwrap();
        let _nginx = Nginx::start(&lab).unwrap();
        let url = format!("http://{}/", Nginx::ADDRESS);
        let second = Duration::from_secs(1);
        assert!(ask(&lab, crowd.four(1), &url, 5 * second).unwrap().is_some());
        let mut attack = Attack::start(&lab, crowd.four(0), &url, 1_000).unwrap();
        let mut sockets = Sockets::of(&lab.host).unwrap();
        wait_for("nobody else to be served", 20 * second, || {
            attack.goes_on()?;
            Ok(ask(&lab, crowd.four(1), &url, 2 * second)?.is_none().then_some(()))
        })
        .unwrap();
        let opened = sockets.opened(&[Nginx::ADDRESS.port()]).unwrap();
        assert!(opened[&crowd.four(0)] > 700, "{opened:?}");
    }
}
