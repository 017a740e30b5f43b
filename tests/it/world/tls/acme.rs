//! Certificates by ACME from Pebble, Let's Encrypt's test server, which issues for real and checks for real.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use edge_tests::{
    agent::Edge,
    client::scrape,
    net::{HOST4, Lab, NEIGHBOUR4},
    run, wait_for,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::session::{Greeting, Session};
use crate::world::time;

const DOMAIN: &str = "api.example.org";
/// Orders fail at random here as they do there, and are tried again after ten seconds, then twenty.
const ISSUED_WITHIN: Duration = Duration::from_secs(60);

/// Pebble and a server of names, in the clients' namespace. Ended with this value.
struct Authority {
    folder: TempDir,
    processes: Vec<Child>,
    /// How long at most it waits before it looks whether a name leads where it should, in seconds.
    looks_after: u32,
}

impl Authority {
    fn new() -> Result<Authority> {
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let mut command = Command::new("openssl");
        command.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ]);
        // What may sign others is not taken for a server's own.
        command.args(["-subj", "/CN=authority.test", "-addext", "basicConstraints=critical,CA:FALSE"]);
        command.args(["-addext", &format!("subjectAltName=IP:{NEIGHBOUR4}")]);
        command.arg("-keyout").arg(folder.path().join("key.pem")).arg("-out").arg(folder.path().join("cert.pem"));
        run(&mut command, b"")?.good()?;
        Ok(Authority { folder, processes: Vec::new(), looks_after: 0 })
    }

    /// Certificates are good for so long.
    fn start(&mut self, lab: &Lab, good_for: Duration) -> Result<()> {
        let config = json!({"pebble": {
            "listenAddress": format!("{NEIGHBOUR4}:14000"),
            "managementListenAddress": format!("{NEIGHBOUR4}:15000"),
            "certificate": self.folder.path().join("cert.pem"),
            "privateKey": self.folder.path().join("key.pem"),
            "httpPort": 80,
            "tlsPort": 443,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": good_for.as_secs(),
        }});
        let file = self.folder.path().join("pebble.json");
        fs::write(&file, config.to_string())?;
        let names = ["-dns01", "127.0.0.1:8053", "-management", "127.0.0.1:8055", "-defaultIPv6", ""];
        let nothing = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv4", &HOST4.to_string()];
        self.begin(lab, "pebble-challtestsrv", &[&names[..], &nothing].concat())?;
        let file = file.display().to_string();
        self.begin(lab, "pebble", &["-config", &file, "-dnsserver", "127.0.0.1:8053"])?;
        wait_for("the authority", ISSUED_WITHIN, || {
            let mut curl = lab.client.command("curl");
            curl.args(["--silent", "--insecure", "--max-time", "10", &format!("https://{NEIGHBOUR4}:14000/dir")]);
            Ok((run(&mut curl, b"")?.code == 0).then_some(()))
        })
    }

    fn begin(&mut self, lab: &Lab, program: &str, args: &[&str]) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log"))?;
        let mut command = lab.client.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]).args(args);
        // Each order is proven anew.
        command.env("PEBBLE_AUTHZREUSE", "0").stdin(Stdio::null());
        match self.looks_after {
            0 => command.env("PEBBLE_VA_NOSLEEP", "1"),
            seconds => command.env("PEBBLE_VA_SLEEPTIME", seconds.to_string()),
        };
        self.processes.push(command.stdout(log.try_clone()?).stderr(log).spawn().context(program.to_owned())?);
        Ok(())
    }

    fn stop(&mut self) {
        for mut process in self.processes.drain(..) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// How often it issued a certificate.
    fn issued(&self) -> usize {
        self.log().matches("Issued certificate serial").count()
    }

    /// How often it was asked for one.
    fn ordered(&self) -> usize {
        self.log().matches("Added order").count()
    }

    /// Whether a client that trusts this authority is served under the name.
    fn vouches_for(&self, lab: &Lab, port: u16) -> Result<bool> {
        let root = self.folder.path().join("root.pem");
        let mut curl = lab.client.command("curl");
        curl.args(["--silent", "--insecure", "--max-time", "10", "--output"]).arg(&root);
        if run(curl.arg(format!("https://{NEIGHBOUR4}:15000/roots/0")), b"")?.code != 0 {
            // It has only begun.
            return Ok(false);
        }
        let mut curl = lab.client.command("curl");
        curl.args(["--silent", "--max-time", "10", "--cacert"]).arg(&root);
        curl.args(["--resolve", &format!("{DOMAIN}:{port}:{HOST4}"), &format!("https://{DOMAIN}:{port}/health")]);
        Ok(run(&mut curl, b"")?.stdout.contains("ok"))
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.stop();
    }
}

fn edge_with(lab: &Lab, authority: &Authority) -> Result<Edge> {
    let mut edge = Edge::new(lab)?;
    edge.environment.push(("SSL_CERT_FILE".to_owned(), authority.folder.path().join("cert.pem").display().to_string()));
    edge.config.unset("server.tls", "cert_file").unset("server.tls", "key_file").set(
        "server.tls",
        "acme",
        &format!(
            "{{ domains = [\"{DOMAIN}\"], contact = \"mailto:ops@example.org\", directory = \"https://{NEIGHBOUR4}:14000/dir\" }}"
        ),
    );
    Ok(edge)
}

/// The certificate that a client gets under the name.
fn gets(lab: &Lab) -> Result<Session> {
    Session::greet(lab, NEIGHBOUR4, &Greeting { name: DOMAIN, ..Greeting::default() })
}

fn end(lab: &Lab) -> Result<f64> {
    let end = scrape(lab)?.value("edge_tls_certificate_not_after_timestamp_seconds", &[("certificate", DOMAIN)]);
    end.context("no such metric")
}

fn issued_to(edge: &Edge, authority: &Authority, reached: impl Fn() -> Result<bool>) -> Result<()> {
    let told = || format!("{}\n{}", edge.log(), authority.log());
    wait_for("a certificate", ISSUED_WITHIN, || Ok(reached()?.then_some(()))).with_context(told)
}

fn is_private(file: &Path) -> Result<()> {
    let mode = fs::metadata(file)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{}: {mode:o}", file.display());
    Ok(())
}

#[test]
fn one_is_had_by_tls_alone_when_the_authority_is_there_and_kept() -> Result<()> {
    let lab = Lab::new()?;
    let mut authority = Authority::new()?;
    let mut edge = edge_with(&lab, &authority)?;
    // Ready before the first certificate is there, and before anybody could issue it.
    edge.run()?;
    ensure!(end(&lab)? == 0.0 && gets(&lab).is_err());
    wait_for("a word about it", ISSUED_WITHIN, || Ok(edge.log().contains("no certificate for").then_some(())))?;
    authority.start(&lab, Duration::from_secs(90 * 86_400))?;
    issued_to(&edge, &authority, || Ok(gets(&lab).is_ok()))?;
    ensure!(authority.vouches_for(&lab, 443)?, "{}", edge.log());
    ensure!(edge.log().matches("no certificate for").count() == 1, "once for each reason: {}", edge.log());
    wait_for("the metric", ISSUED_WITHIN, || Ok((end(&lab)? > 1_700_000_000.0).then_some(())))?;
    for name in ["acme-account.json", "acme-certificate.pem", "acme-lock"] {
        is_private(&edge.path("edge.db-auth").join(name))?;
    }
    // What proves a name is nobody else's protocol.
    let proof = Greeting { name: DOMAIN, alpn: &["acme-tls/1"], ..Greeting::default() };
    ensure!(Session::greet(&lab, NEIGHBOUR4, &proof).is_err());
    // Used again by the next server and the next agent, without the authority.
    authority.stop();
    edge.config.set("server", "max_handshakes", "100");
    edge.write_config()?;
    edge.cli(&["reload"])?.good()?;
    gets(&lab)?.served()?;
    edge.kill()?;
    edge.run()?;
    gets(&lab)?.served()?;
    ensure!(authority.issued() == 1, "{}", authority.log());
    Ok(())
}

#[test]
fn one_is_had_over_plain_http_and_renewed_in_time() -> Result<()> {
    let lab = Lab::new()?;
    let mut authority = Authority::new()?;
    authority.start(&lab, Duration::from_secs(20))?;
    let mut edge = edge_with(&lab, &authority)?;
    edge.config.set("server", "listen", &format!("[\"{HOST4}:8443\"]"));
    edge.config.set("server", "http_redirect", &format!("[\"{HOST4}:80\"]"));
    edge.run()?;
    issued_to(&edge, &authority, || authority.vouches_for(&lab, 8443))?;
    // Two servers at once: the one that is in service renews.
    for count in 2..=3 {
        edge.config.set("server", "max_handshakes", &format!("{}", 100 + count));
        edge.write_config()?;
        edge.cli(&["reload"])?.good()?;
        issued_to(&edge, &authority, || Ok(authority.issued() >= count))?;
        issued_to(&edge, &authority, || authority.vouches_for(&lab, 8443))?;
    }
    if edge.log().contains("no certificate for") {
        bail!("{}\n{}", edge.log(), authority.log());
    }
    Ok(())
}

/// The certificate by ACME, as `edge status` has it.
fn told(edge: &Edge) -> Result<Value> {
    let status = edge.json(&["status"])?;
    let all = status["certificates"].as_array().with_context(|| format!("no certificates in {status}"))?;
    ensure!(all.len() == 1 && all[0]["names"] == json!([DOMAIN]), "{status}");
    Ok(all[0].clone())
}

#[test]
fn the_pause_after_a_failure_outlasts_a_restart_and_status_says_how_it_stands() -> Result<()> {
    let lab = Lab::new()?;
    let mut authority = Authority::new()?;
    let mut edge = edge_with(&lab, &authority)?;
    edge.run()?;
    // The second is ten seconds after the first, the third would be twenty seconds later.
    let failed = wait_for("two failures", ISSUED_WITHIN, || {
        let told = told(&edge)?;
        Ok((told["acme"]["failures"] == 2).then_some(told))
    })?;
    ensure!(failed["expires"].is_null() && failed["acme"]["renews_at"].is_null(), "{failed}");
    ensure!(failed["acme"]["last_error"].as_str().is_some_and(|error| !error.is_empty()), "{failed}");
    let text = edge.cli(&["status"])?.good()?;
    ensure!(text.contains(&format!("{DOMAIN}: none yet")) && text.contains("failed 2 times, tried again at"), "{text}");
    edge.kill()?;
    edge.run()?;
    let again = wait_for("a word of the next server", ISSUED_WITHIN, || {
        let told = told(&edge)?;
        Ok((told["acme"]["failures"] != 0).then_some(told))
    })?;
    let retries_at = time(&failed["acme"]["retries_at"])?;
    // Unless all of this took longer than the pause.
    ensure!(again == failed || jiff::Timestamp::now() >= retries_at, "{failed}, then {again}");
    // Who mended it has it tried at once by a reload.
    authority.start(&lab, Duration::from_secs(90 * 86_400))?;
    edge.cli(&["reload"])?.good()?;
    let good = wait_for("a certificate", ISSUED_WITHIN, || {
        let told = told(&edge)?;
        Ok((told["expires"].is_string() && told["acme"]["renews_at"].is_string()).then_some(told))
    })?;
    ensure!(time(&good["acme"]["renews_at"])? < time(&good["expires"])?, "{good}");
    ensure!(good["acme"]["failures"] == 0 && good["acme"]["retries_at"].is_null(), "{good}");
    ensure!(good["acme"]["last_error"].is_null(), "{good}");
    Ok(())
}

#[test]
fn another_server_goes_on_with_an_order_in_flight() -> Result<()> {
    let lab = Lab::new()?;
    for crashes in [false, true] {
        let mut authority = Authority::new()?;
        authority.looks_after = 6;
        authority.start(&lab, Duration::from_secs(90 * 86_400))?;
        let mut edge = edge_with(&lab, &authority)?;
        edge.run()?;
        let (order, proof) = (edge.path("edge.db-auth").join("acme-order.json"), "\"digest\"");
        wait_for("an order", ISSUED_WITHIN, || {
            let in_flight = fs::read_to_string(&order).is_ok_and(|order| order.contains(proof));
            Ok((in_flight || authority.issued() > 0).then_some(()))
        })?;
        if crashes {
            edge.kill()?;
            edge.run()?;
        } else {
            edge.config.set("server", "max_handshakes", "100");
            edge.write_config()?;
            ensure!(edge.json(&["reload"])?["applied"] == json!(["server.max_handshakes"]));
        }
        issued_to(&edge, &authority, || authority.vouches_for(&lab, 443))?;
        ensure!(authority.ordered() == 1, "crashed {crashes}: {}\n{}", edge.log(), authority.log());
        wait_for("its end", ISSUED_WITHIN, || Ok((!order.exists()).then_some(())))?;
        edge.stop()?;
        edge.cli(&["unload"])?.good()?;
    }
    Ok(())
}

#[test]
fn what_cannot_be_ordered_is_told_at_its_place() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = edge_with(&lab, &Authority::new()?)?;
    for (acme, says) in [
        ("{ }", "server.tls.acme.domains: is missing"),
        ("{ domains = [] }", "server.tls.acme.domains: names no host"),
        ("{ domains = [\"*.example.org\"] }", "without wildcards"),
        ("{ domains = [\"a.test\"], directory = \"http://a.test/\" }", "begins with https://"),
        ("{ domains = [\"a.test\"], contact = \"ops@a.test\" }", "write mailto:"),
        ("{ domains = [\"a.test\"], mail = \"x\" }", "unknown key"),
    ] {
        edge.config.set("server.tls", "acme", acme);
        edge.write_config()?;
        let refused = edge.cli(&["check"])?;
        ensure!(refused.code == 2 && refused.stderr.contains(says), "{acme}: {refused:?}");
    }
    Ok(())
}
