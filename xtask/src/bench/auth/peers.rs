//! The peers: HAProxy that verifies a token and answers 200 itself, and nginx that answers 200, each with edge's certificate
//! and on both CPUs.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};
use edge_tests::{
    agent::Edge,
    net::{HOST4, Lab},
    run, wait_for,
};
use tempfile::TempDir;

/// One that serves in the guarded host's namespace until it is dropped.
pub struct Peer {
    process: Child,
    folder: TempDir,
    pub url: String,
}

impl Peer {
    /// As its documentation checks a token: algorithm, signature, time, issuer and audience.
    pub fn haproxy(lab: &Lab, edge: &Edge) -> Result<Peer> {
        let secret = fs::read_to_string(edge.path("jwt"))?;
        let config = |folder: &Path| {
            format!(
                "global\n nbthread 2\n tune.ssl.default-dh-param 2048\n\
                 defaults\n mode http\n timeout client 60s\n timeout server 60s\n timeout connect 5s\n\
                 frontend auth\n bind {HOST4}:8443 ssl crt {} alpn h2,http/1.1\n\
                 http-request set-var(txn.token) http_auth_bearer\n\
                 http-request set-var(txn.alg) var(txn.token),jwt_header_query('$.alg')\n\
                 http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int')\n\
                 http-request set-var(txn.now) date()\n\
                 http-request deny deny_status 401 unless {{ var(txn.alg) -m str HS256 }}\n\
                 http-request deny deny_status 401 unless {{ var(txn.token),jwt_verify(txn.alg,\"{}\") -m int 1 }}\n\
                 http-request deny deny_status 401 if {{ var(txn.exp),sub(txn.now) -m int lt 0 }}\n\
                 http-request deny deny_status 401 unless {{ var(txn.token),jwt_payload_query('$.iss') -m str https://edge.test }}\n\
                 http-request deny deny_status 401 unless {{ var(txn.token),jwt_payload_query('$.aud') -m str test }}\n\
                 http-request return status 200 content-type application/json string \"{{}}\"\n",
                folder.join("both.pem").display(),
                secret.trim()
            )
        };
        Peer::start(lab, edge, "haproxy", &["-db", "-f"], config, 8443)
    }

    pub fn nginx(lab: &Lab, edge: &Edge) -> Result<Peer> {
        let config = |folder: &Path| {
            let path = |name: &str| folder.join(name).display().to_string();
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {};\n", path(kind)))
                .concat();
            format!(
                "user root; daemon off; worker_processes 2; pid {}; error_log {};\nevents {{ worker_connections 2048; }}\n\
                 http {{\naccess_log off;\n{temporary}server {{ listen {HOST4}:8444 ssl http2;\n\
                 ssl_certificate {both}; ssl_certificate_key {both}; ssl_protocols TLSv1.2 TLSv1.3;\n\
                 location / {{ return 200 \"{{}}\"; }} }}\n}}\n",
                path("pid"),
                path("error.log"),
                both = path("both.pem")
            )
        };
        Peer::start(lab, edge, "nginx", &["-e", "/dev/null", "-c"], config, 8444)
    }

    fn start(
        lab: &Lab,
        edge: &Edge,
        program: &str,
        arguments: &[&str],
        config: impl Fn(&Path) -> String,
        port: u16,
    ) -> Result<Peer> {
        let folder = tempfile::Builder::new().prefix(&format!("{}-{program}-", lab.name)).tempdir()?;
        let both = [fs::read(edge.path("cert.pem"))?, fs::read(edge.path("key.pem"))?].concat();
        fs::write(folder.path().join("both.pem"), both)?;
        let file = folder.path().join("config");
        fs::write(&file, config(folder.path()))?;
        let mut command: Command = lab.host.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]).args(arguments).arg(&file);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn()?;
        let mut peer = Peer { process, folder, url: format!("https://{HOST4}:{port}/") };
        wait_for(program, Duration::from_secs(10), || {
            ensure!(peer.process.try_wait()?.is_none(), "{program} ended; see {}", peer.folder.path().display());
            let mut curl = lab.host.command("curl");
            curl.args(["--silent", "--insecure", "--max-time", "5", "--output", "/dev/null", &peer.url]);
            Ok((run(&mut curl, b"")?.code == 0).then_some(()))
        })?;
        Ok(peer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // nginx's workers end with it only where it is asked.
        // SAFETY: numbers only; the process is a child that was not waited for.
        unsafe { libc::kill(self.process.id() as i32, libc::SIGTERM) };
        let _ = self.process.wait();
    }
}
