//! Keys through a backup: those that it has are good again, and nothing that was issued before is.

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    client::Client,
    net::{Lab, NEIGHBOUR4},
};
use serde_json::Value;

use super::{form, me, printed, text};
use crate::world::served;

fn status(client: &Client<'_>, line: &str, key: &str) -> Result<u16> {
    Ok(me(client, &[&format!("{line}: {key}")])?.0)
}

/// What a key is given a token for.
fn token(edge: &Edge, client: &Client<'_>, name: &str, key: &str) -> Result<String> {
    let keys = edge.json(&["key", "list"])?;
    let listed = keys.as_array().context("no array")?.iter().find(|listed| listed["name"] == name);
    let id = text(listed.context("no such key")?, "id")?.to_owned();
    let asked = format!("grant_type=client_credentials&client_id={id}&client_secret={key}");
    let token = text(&form(client, "/auth/token", &[], &asked)?.json()?, "access_token")?.to_owned();
    edge.canaries.watch("a token", &token)?;
    Ok(token)
}

/// What is said of a key, without what changes by its use.
fn listed(edge: &Edge) -> Result<Value> {
    let mut keys = edge.json(&["key", "list"])?;
    for key in keys.as_array_mut().context("no array")? {
        key.as_object_mut().context("no object")?.remove("last_used");
    }
    Ok(keys)
}

#[test]
fn a_restore_brings_back_the_keys_of_the_backup_and_ends_what_they_were_given() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    let ci = printed(&edge, &["key", "create", "--name", "ci", "--role", "deploy", "--for", "30d"])?;
    let gone = printed(&edge, &["key", "create", "--name", "gone"])?;
    let inner = printed(&edge, &["key", "create", "--name", "inner", "--internal"])?;
    let next = printed(&edge, &["key", "rotate", "ci", "--overlap", "1h"])?;
    let issued = token(&edge, &client, "ci", &next)?;
    let before = listed(&edge)?;
    let file = edge.path("a.backup").display().to_string();
    edge.cli(&["backup", &file])?.good()?;

    edge.cli(&["key", "revoke", "gone"])?.good()?;
    let later = printed(&edge, &["key", "create", "--name", "later"])?;
    let last = printed(&edge, &["key", "rotate", "ci", "--overlap", "0s"])?;
    ensure!(status(&client, "X-API-Key", &next)? == 401 && status(&client, "X-API-Key", &last)? == 200);
    for agent in [true, false] {
        if !agent {
            edge.stop()?;
        }
        let restored = edge.cli(&["restore", &file])?;
        ensure!(restored.code == 0, "{restored:?}");
        // Whoever revoked it meant it.
        ensure!(!agent || restored.stderr.contains("gone"), "{restored:?}");
        if !agent {
            edge.run()?;
        }
        ensure!(listed(&edge)? == before, "{} is not {before}", listed(&edge)?);
        for key in [&ci, &next, &gone] {
            ensure!(status(&client, "X-API-Key", key)? == 200);
        }
        ensure!(status(&client, "X-Internal-API-Key", &inner)? == 200);
        ensure!(status(&client, "X-API-Key", &inner)? == 401, "it is an internal one");
        ensure!(status(&client, "X-API-Key", &later)? == 401 && status(&client, "X-API-Key", &last)? == 401);
        ensure!(client.bearer("/auth/me", &issued)?.status() == Some(401), "a token of before is good");
        let new = token(&edge, &client, "ci", &next)?;
        ensure!(client.bearer("/auth/me", &new)?.status() == Some(200));
        edge.cli(&["unblock", "--all"])?.good()?;
    }
    served(&client)
}
