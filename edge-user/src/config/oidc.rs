//! `[auth.oidc.NAME]` as typed: providers at which browsers sign in.

use std::path::PathBuf;

use super::{
    Mode, TrustedIssuer,
    issuers::{is_issuer_name, roles, url},
    raw::{Place, Problems, Section},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oidc {
    pub name: String,
    pub issuer: String,
    pub client_id: String,
    pub client_secret_file: PathBuf,
    pub allowed_emails: Vec<String>,
    pub allowed_domains: Vec<String>,
    pub roles: Vec<String>,
}

/// The providers, and where each names its secret.
pub fn oidc(
    section: &mut Section<'_>,
    mode: Mode,
    own: &str,
    trusted: &[TrustedIssuer],
    problems: &mut Problems<'_>,
) -> (Vec<Oidc>, Vec<Place>) {
    let mut all = Vec::new();
    for (name, mut table) in section.named("oidc", problems) {
        let place = Place { offset: table.offset, key: format!("auth.oidc.{name}") };
        if !is_issuer_name(&name) {
            problems.at(&place, "is no name here; write letters, digits, `-`, `_` and `.`, and not `key`");
        }
        if trusted.iter().any(|one| one.name == name) {
            problems
                .at(&place, "is the name of a trusted issuer too; names of callers begin with it, so write another");
        }
        if !is_address(own, mode) {
            problems.at(&place, "needs auth.issuer to be this server's address, as https://api.example.org: providers send browsers back there");
        }
        all.push(read(name, &mut table, mode, problems));
        table.finish(problems);
    }
    all.into_iter().unzip()
}

fn is_address(issuer: &str, mode: Mode) -> bool {
    issuer.parse().is_ok_and(|uri| crate::fetch::may_ask(&uri, mode == Mode::Development).is_ok())
}

fn read(name: String, table: &mut Section<'_>, mode: Mode, problems: &mut Problems<'_>) -> (Oidc, Place) {
    let issuer = table.read_placed("issuer", problems, |node, p| url(node, mode, p));
    let client_id = table.read_placed("client_id", problems, |node, p| node.string(p));
    let secret = table.read_placed("client_secret_file", problems, |node, p| node.path(p));
    for (key, is_missing, right) in [
        ("issuer", issuer.is_none(), "write its address, as https://accounts.google.com"),
        ("client_id", client_id.is_none(), "write what it calls this server"),
        ("client_secret_file", secret.is_none(), "write the file with the secret that it gave"),
    ] {
        if is_missing {
            problems.missing(&table.place(key), format!("is missing; {right}"));
        }
    }
    let place = secret.as_ref().map_or_else(|| table.place("client_secret_file"), |(_, place)| place.clone());
    let mut strings = |key| table.read(key, problems, Vec::new(), |node, p| node.list(p, |node, p| node.string(p)));
    let (allowed_emails, allowed_domains) = (strings("allowed_emails"), strings("allowed_domains"));
    let one = Oidc {
        name,
        issuer: issuer.and_then(|(issuer, _)| issuer).unwrap_or_default(),
        client_id: client_id.and_then(|(client_id, _)| client_id).unwrap_or_default(),
        client_secret_file: secret.and_then(|(file, _)| file).unwrap_or_default(),
        allowed_emails,
        allowed_domains,
        roles: table.read("roles", problems, Vec::new(), roles),
    };
    if one.allowed_emails.is_empty() && one.allowed_domains.is_empty() {
        problems.warn(&table.place("allowed_domains"), "is empty, and so is allowed_emails: nobody may sign in there");
    }
    (one, place)
}
