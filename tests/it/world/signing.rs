//! Tokens under each algorithm: what edge signs anybody can verify with the key that it publishes, and what another key
//! signed is refused.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    client::Client,
    net::{Lab, NEIGHBOUR4},
    run,
};
use serde_json::{Value, json};

use super::log_in;

const METADATA: &str = "/.well-known/openid-configuration";

/// Algorithm, key type, and what `openssl genpkey` makes its key with.
pub(super) const KINDS: [(&str, &str, &str); 4] = [
    ("RS256", "RSA", "-algorithm RSA -pkeyopt rsa_keygen_bits:2048"),
    ("PS256", "RSA", "-algorithm RSA -pkeyopt rsa_keygen_bits:2048"),
    ("ES256", "EC", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256"),
    ("EdDSA", "OKP", "-algorithm ED25519"),
];

#[test]
fn a_token_of_each_algorithm_is_good_and_verifies_with_what_is_published() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    ensure!(client.get("/.well-known/jwks.json")?.json()? == json!({"keys": []}), "a secret is nobody else's");
    ensure!(client.get(METADATA)?.status() == Some(404));
    let mut former = log_in(&client)?;
    for (algorithm, kind, made_with) in KINDS {
        sign_with(&mut edge, algorithm, made_with)?;
        edge.cli(&["reload"])?.good()?;
        let client = Client::new(&lab, &edge, NEIGHBOUR4);
        let token = log_in(&client)?;
        ensure!(client.bearer("/auth/verify", &token)?.status() == Some(200), "{algorithm}");
        ensure!(client.bearer("/auth/verify", &former)?.status() == Some(401), "{algorithm}: a former key's token");
        let published = client.get("/.well-known/jwks.json")?.json()?;
        let key = &published["keys"][0];
        ensure!(key["kty"] == kind && key["alg"] == algorithm && key["use"] == "sig", "{published}");
        ensure!(header(&token)? == json!({"alg": algorithm, "kid": key["kid"], "typ": "JWT"}), "{algorithm}");
        let metadata = client.get(METADATA)?.json()?;
        ensure!(metadata["jwks_uri"] == "https://edge.test/.well-known/jwks.json", "{metadata}");
        if algorithm != "ES256" {
            verified_by_openssl(&edge, algorithm, &token)?;
        }
        former = token;
    }
    Ok(())
}

#[test]
fn a_key_of_another_kind_is_told_with_its_place() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    sign_with(&mut edge, "ES256", "-algorithm ED25519")?;
    let check = edge.cli(&["check"])?;
    ensure!(check.code == 2 && check.stderr.contains("auth.key_file") && check.stderr.contains("P-256"), "{check:?}");
    let secret = edge.path("jwt");
    edge.config.unset("auth", "key_file").text("auth", "secret_file", secret);
    edge.write_config()?;
    let check = edge.cli(&["check"])?;
    ensure!(
        check.stderr.contains("auth.secret_file") && check.stderr.contains("auth.key_file: is missing"),
        "{check:?}"
    );
    Ok(())
}

/// Writes a new key and the config that names it.
pub(super) fn sign_with(edge: &mut Edge, algorithm: &str, made_with: &str) -> Result<()> {
    let key = edge.path("signing.pem");
    let mut command = Command::new("openssl");
    command.arg("genpkey").args(made_with.split(' ')).arg("-out").arg(&key);
    run(&mut command, b"")?.good()?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    edge.config.unset("auth", "secret_file").text("auth", "algorithm", algorithm).text("auth", "key_file", key);
    edge.write_config().map(drop)
}

fn header(token: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&decoded(token.split('.').next().context("no header")?)?)?)
}

/// base64url, by the system's own tool.
fn decoded(part: &str) -> Result<Vec<u8>> {
    let padded = part.replace('-', "+").replace('_', "/") + &"=".repeat((4 - part.len() % 4) % 4);
    let mut command = Command::new("sh");
    command.args(["-c", "base64 -d | od -An -v -tx1"]);
    let hex = run(&mut command, padded.as_bytes())?.good()?;
    hex.split_whitespace().map(|byte| Ok(u8::from_str_radix(byte, 16)?)).collect()
}

/// With the public half of the key, by code that edge has nothing of. (A signature of ES256 is not in its form.)
fn verified_by_openssl(edge: &Edge, algorithm: &str, token: &str) -> Result<()> {
    let (message, signature) = token.rsplit_once('.').context("no signature")?;
    let (message_file, signature_file) = (edge.path("message"), edge.path("signature"));
    fs::write(&message_file, message)?;
    fs::write(&signature_file, decoded(signature)?)?;
    let how: &[&str] = match algorithm {
        "RS256" => &["-digest", "sha256"],
        "PS256" => &["-digest", "sha256", "-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest"],
        _ => &[],
    };
    let mut command = Command::new("openssl");
    command.args(["pkeyutl", "-verify", "-rawin", "-inkey"]).arg(edge.path("signing.pem")).args(how);
    command.arg("-in").arg(&message_file).arg("-sigfile").arg(&signature_file);
    let said = run(&mut command, b"")?.good()?;
    ensure!(said.contains("Signature Verified Successfully"), "{algorithm}: {said}");
    Ok(())
}
