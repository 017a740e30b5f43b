//! Who calls: users, programs with keys, and what is issued to them, from the command that makes them to the request
//! that is refused.

mod grants;
mod import;
mod kept;
mod keys;
mod rotation;
mod sessions;

use std::fs;

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    client::{Client, Seen},
    wait_for,
};
use serde_json::Value;

use super::SOON;

/// Whom header lines name, and the status.
fn me(client: &Client<'_>, headers: &[&str]) -> Result<(u16, Value)> {
    let options: Vec<&str> = headers.iter().flat_map(|header| ["-H", *header]).collect();
    let seen = client.request("/auth/me", &options)?;
    Ok((seen.status().context("no answer")?, seen.json()?))
}

/// A POST of a form.
fn form(client: &Client<'_>, path: &str, headers: &[&str], form: &str) -> Result<Seen> {
    let mut options = vec!["--data-binary", form];
    options.extend(headers.iter().flat_map(|header| ["-H", *header]));
    client.request(path, &options)
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("no {key} in {value}"))
}

/// A key as the command prints it: alone, in a line of its own.
fn printed(edge: &Edge, args: &[&str]) -> Result<String> {
    let output = edge.cli(args)?.good()?;
    let key = output.strip_suffix('\n').context("no line")?.to_owned();
    let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    ensure!(key.len() == 9 + 43 && key.chars().all(is_letter), "{output:?}");
    edge.canaries.watch("a key", &key)?;
    Ok(key)
}

/// Whether any file of the store, the audit log or the log has it.
fn is_kept(edge: &Edge, secret: &str) -> Result<bool> {
    let mut files = vec![edge.path("audit.log")];
    for entry in fs::read_dir(edge.path("edge.db-auth"))? {
        files.push(entry?.path());
    }
    let in_files = files
        .iter()
        .filter_map(|file| fs::read(file).ok())
        .any(|bytes| bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    Ok(in_files || edge.log().contains(secret))
}

/// The events of a name, once there are so many.
fn events(edge: &Edge, name: &str, count: usize) -> Result<Vec<Value>> {
    let found = || {
        let all = edge.json(&["audit"])?;
        let named = all.as_array().context("no array")?.iter().filter(|event| event["event"] == name);
        Ok(Some(named.cloned().collect::<Vec<_>>()).filter(|found| found.len() >= count))
    };
    wait_for(&format!("{count} of {name}"), SOON, found)
}
