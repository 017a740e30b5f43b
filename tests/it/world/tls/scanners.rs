//! What others say of the TLS that is served: testssl.sh finds nothing above LOW, and sslyze takes it for what Mozilla
//! calls intermediate. Both scan from a client's place.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    authority::AUTHORITY,
    net::{HOST4, Lab},
    run,
};
use serde_json::Value;

/// What testssl.sh finds and edge has nothing to do with.
const EXCEPTIONS: [(&str, &str); 2] = [
    ("cert_revocation", "the authority of these tests signs for some weeks and revokes nothing"),
    (
        "sessionresumption_ticket",
        "its client hangs up at once, at times before the ticket of TLS 1.3 is there to resume by",
    ),
];

/// Protocols, kinds of ciphers, forward secrecy, preferences, defaults and certificate, HTTP's header, known attacks. The
/// rest lists each cipher and client, and judges nothing.
const SECTIONS: [&str; 7] = ["-p", "-s", "-f", "-P", "-S", "-h", "-U"];

/// Where `cargo xtask setup` puts it.
const SSLYZE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/sslyze/bin/sslyze");

fn scanned(lab: &Lab) -> Result<Edge> {
    // Of a handshake that is left half done, scanners wait for the end.
    Edge::start_with(lab, |config| {
        config.set("server", "header_timeout", "\"1s\"");
    })
}

fn field<'a>(finding: &'a Value, name: &str) -> Result<&'a str> {
    finding[name].as_str().with_context(|| format!("no `{name}` in {finding}"))
}

#[test]
fn testssl_finds_nothing_above_low() -> Result<()> {
    let lab = Lab::new()?;
    let edge = scanned(&lab)?;
    let found = edge.path("testssl.json");
    let mut command = lab.client.command("testssl");
    command.args(["--quiet", "--color", "0", "--warnings", "off", "--nodns", "none"]).args(SECTIONS);
    command.arg("--add-ca").arg(edge.path(AUTHORITY)).arg("--jsonfile").arg(&found);
    let said = run(command.arg(format!("https://{HOST4}:443")), b"")?;
    let findings = fs::read_to_string(&found).with_context(|| format!("{said:?}"))?;
    let findings: Vec<Value> = serde_json::from_str(&findings).with_context(|| format!("{said:?}"))?;
    let mut ids = BTreeSet::new();
    for finding in &findings {
        let (id, severity) = (field(finding, "id")?, field(finding, "severity")?);
        let is_excepted = EXCEPTIONS.iter().any(|(excepted, _)| *excepted == id);
        // What it could not find out, or had to end for, is as bad.
        ensure!(["OK", "INFO", "LOW"].contains(&severity) || is_excepted, "{finding}");
        ids.insert(id);
    }
    // Each section had its say.
    for id in
        ["TLS1_3", "cipherlist_NULL", "PFS", "cipher_order", "cert_chain_of_trust", "HSTS_time", "heartbleed", "RC4"]
    {
        ensure!(ids.contains(id), "nothing on {id}: {ids:?}");
    }
    println!("{} findings, none above LOW but {EXCEPTIONS:?}", findings.len());
    Ok(())
}

#[test]
fn sslyze_takes_it_for_mozillas_intermediate() -> Result<()> {
    ensure!(Path::new(SSLYZE).is_file(), "{SSLYZE} is missing; `cargo xtask setup` installs it");
    let lab = Lab::new()?;
    let edge = scanned(&lab)?;
    let mut command = lab.client.command(SSLYZE);
    command.args(["--mozilla_config=intermediate", "--certinfo_ca_file"]).arg(edge.path(AUTHORITY));
    let said = run(command.arg(format!("{HOST4}:443")), b"")?;
    let (_, judged) = said.stdout.split_once("COMPLIANCE AGAINST").with_context(|| format!("{said:?}"))?;
    ensure!(said.code == 0 && judged.contains(&format!("{HOST4}:443: OK - Compliant")), "{judged}");
    Ok(())
}
