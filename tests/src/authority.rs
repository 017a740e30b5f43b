//! Certificates for the edges of a lab, made by openssl: production serves none that vouches for itself, so an authority
//! signs them, made beside the first of them and kept in that folder for the next.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    net::{HOST4, HOST6},
    run,
};

/// Of whoever signed the certificates in the same folder.
pub const AUTHORITY: &str = "authority.pem";

/// A certificate for the lab's host addresses.
pub fn certificate(cert: &Path, key: &Path) -> Result<()> {
    certificate_of(&format!("DNS:edge.test,IP:{HOST4},IP:{HOST6}"), cert, key)
}

/// The same for other names, as openssl writes them: `DNS:*.example.org,IP:192.0.2.1`.
pub fn certificate_of(names: &str, cert: &Path, key: &Path) -> Result<()> {
    let (authority, its_key) = authority(cert.parent().context("a certificate without a folder")?)?;
    let mut command = request("/CN=edge.test", cert, key);
    command.args(["-addext", &format!("subjectAltName={names}"), "-addext", "basicConstraints=critical,CA:FALSE"]);
    command.arg("-CA").arg(authority).arg("-CAkey").arg(its_key);
    made(&mut command, key)
}

/// The same, signed by its own key.
pub fn self_signed(cert: &Path, key: &Path) -> Result<()> {
    let mut command = request("/CN=edge.test", cert, key);
    command.args(["-addext", &format!("subjectAltName=DNS:edge.test,IP:{HOST4},IP:{HOST6}")]);
    made(&mut command, key)
}

/// Certificate and key of the one that signs in this folder.
fn authority(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let (cert, key) = (folder.join(AUTHORITY), folder.join("authority.key"));
    if !cert.exists() {
        let mut command = request("/CN=Authority of the tests", &cert, &key);
        command.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
        made(&mut command, &key)?;
    }
    Ok((cert, key))
}

fn request(subject: &str, cert: &Path, key: &Path) -> Command {
    let mut command = Command::new("openssl");
    command
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "90"])
        .args(["-subj", subject, "-keyout"])
        .arg(key)
        .arg("-out")
        .arg(cert);
    command
}

fn made(command: &mut Command, key: &Path) -> Result<()> {
    run(command, b"")?.good().context("openssl req")?;
    Ok(fs::set_permissions(key, Permissions::from_mode(0o600))?)
}
