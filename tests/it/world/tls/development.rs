//! What development allows and production refuses: a certificate that edge makes itself or that signs itself, and plain HTTP
//! on loopback.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Result, ensure};
use edge_tests::{
    agent::Edge,
    authority::self_signed,
    client::Client,
    net::{Lab, NEIGHBOUR4},
    run, wait_for,
};

use crate::world::{SOON, served};

#[test]
fn edge_makes_its_own_certificate_and_keeps_it() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    edge.config.unset("server.tls", "cert_file").unset("server.tls", "key_file").set(
        "server.tls",
        "self_signed",
        "true",
    );
    edge.write_config()?;
    let refused = edge.cli(&["check"])?;
    ensure!(
        refused.code == 2 && refused.stderr.contains("server.tls.self_signed: is refused in production"),
        "{refused:?}"
    );
    ensure!(edge.run_in_vain()?.code == 2);
    edge.config.text("", "mode", "development");
    edge.run()?;
    let made = edge.path("edge.db-self-signed.pem");
    ensure!(fs::metadata(&made)?.permissions().mode() & 0o777 == 0o600);
    // A client that was given the certificate takes it for this address.
    let (text, folder) = (fs::read_to_string(&made)?, tempfile::tempdir()?);
    let (certificate, _) = text.split_once("-----BEGIN PRIVATE").unwrap_or((&text, ""));
    fs::write(folder.path().join("ca.pem"), certificate)?;
    let given = ["--cacert", &folder.path().join("ca.pem").display().to_string()];
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    ensure!(client.request("/health", &given)?.status() == Some(200));
    // Kept over reloads and restarts.
    ensure!(edge.json(&["reload"])?["applied"] == serde_json::json!([]));
    edge.stop()?;
    edge.run()?;
    ensure!(client.request("/health", &given)?.status() == Some(200) && fs::read_to_string(&made)? == text);
    Ok(())
}

#[test]
fn production_serves_none_that_vouches_for_itself() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    let (cert, key) = (edge.path("cert.pem"), edge.path("key.pem"));
    fs::copy(&cert, edge.path("served.pem"))?;
    self_signed(&cert, &key)?;
    let (named, why) = (cert.display().to_string(), "is signed by itself, which production refuses");
    wait_for("a word about it", SOON, || Ok(edge.log().contains("cannot be served").then_some(())))?;
    ensure!(edge.log().contains(why), "{}", edge.log());
    for refused in [edge.cli(&["check"])?, edge.cli(&["reload"])?] {
        let told = refused.stderr.contains(&named) && refused.stderr.contains(why);
        ensure!(refused.code == 2 && told, "{refused:?}");
    }
    let former = ["--cacert", &edge.path("served.pem").display().to_string()];
    ensure!(client.request("/health", &former)?.status() == Some(200));
    edge.stop()?;
    let refused = edge.run_in_vain()?;
    ensure!(refused.code == 2 && refused.stderr.contains(why), "{refused:?}");
    edge.config.text("", "mode", "development");
    edge.run()?;
    served(&client)
}

#[test]
fn plain_http_is_for_development_on_loopback_alone() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    edge.config.text("", "mode", "development").without("server.tls");
    edge.write_config()?;
    let refused = edge.cli(&["check"])?;
    ensure!(refused.code == 2 && refused.stderr.contains("server.tls.cert_file"), "{refused:?}");
    edge.config.set("server", "listen", "[\"127.0.0.1:8080\", \"[::1]:8080\"]");
    edge.run()?;
    for address in ["127.0.0.1", "[::1]"] {
        let mut curl = lab.host.command("curl");
        curl.args(["--silent", "--include", "--globoff", "--max-time", "10", &format!("http://{address}:8080/health")]);
        let output = run(&mut curl, b"")?;
        ensure!(
            output.stdout.starts_with("HTTP/1.1 200") && output.stdout.ends_with("{\"status\":\"ok\"}"),
            "{output:?}"
        );
        ensure!(!output.stdout.to_lowercase().contains("strict-transport-security"), "{output:?}");
    }
    edge.config.text("", "mode", "production");
    edge.write_config()?;
    ensure!(edge.cli(&["reload"])?.code == 2);
    let (cert, key) = (edge.path("cert.pem"), edge.path("key.pem"));
    edge.config.text("server.tls", "cert_file", cert).text("server.tls", "key_file", key);
    edge.config.set("server", "listen", "[\"10.77.0.1:443\"]");
    edge.write_config()?;
    edge.cli(&["reload"])?.good()?;
    served(&Client::new(&lab, &edge, NEIGHBOUR4))
}
