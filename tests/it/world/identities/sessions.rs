//! `edge session …` and `edge token revoke-all` beside a running server.

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::{Edge, PASSWORD, USER},
    client::Client,
    net::{Lab, NEIGHBOUR4},
};
use serde_json::{Value, json};

use super::{events, printed, text};
use crate::world::{has_keys, log_in};

fn sessions(edge: &Edge, args: &[&str]) -> Result<Vec<Value>> {
    let list = edge.json(&[&["session", "list"], args].concat())?;
    Ok(list.as_array().context("no array")?.clone())
}

#[test]
fn sessions_are_listed_and_end_one_by_one_or_all_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    edge.add_user("bob", PASSWORD, &[])?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    ensure!(sessions(&edge, &[])?.is_empty());
    let one = log_in(&client)?;
    let id_of_one = text(&sessions(&edge, &[])?[0], "id")?.to_owned();
    let two = log_in(&client)?;
    let bob = client.login("bob", PASSWORD)?.json()?;
    let (of_user, all) = (sessions(&edge, &["--user", USER])?, sessions(&edge, &[])?);
    ensure!((of_user.len(), all.len()) == (2, 3), "{all:#?}");
    has_keys(&all[0], &["id", "user", "kind", "peer", "created", "last_seen", "expires"])?;
    ensure!(all[0]["kind"] == "password" && all[0]["peer"] == json!(NEIGHBOUR4.to_string()), "{all:#?}");

    edge.cli(&["session", "end", &id_of_one])?.good()?;
    let status = |token: &str| Ok::<_, anyhow::Error>(client.bearer("/auth/me", token)?.status());
    ensure!((status(&one)?, status(&two)?) == (Some(401), Some(200)));
    ensure!(edge.cli(&["session", "end", &id_of_one])?.code == 1);
    let key = printed(&edge, &["key", "create", "--name", "ci"])?;
    edge.cli(&["token", "revoke-all"])?.good()?;
    ensure!((status(&two)?, status(text(&bob, "access_token")?)?) == (Some(401), Some(401)));
    let refresh = json!({"refresh_token": bob["refresh_token"]}).to_string();
    let refused = client.request("/auth/refresh", &["--data-binary", &refresh])?;
    ensure!(refused.status() == Some(401), "{refused:?}");
    ensure!(sessions(&edge, &[])?.is_empty());
    ensure!(status(&log_in(&client)?)? == Some(200), "who signs in right after is in");
    ensure!(client.request("/auth/me", &["-H", &format!("X-API-Key: {key}")])?.status() == Some(200), "keys stay");

    let third = log_in(&client)?;
    edge.cli_with(&["user", "passwd", USER], b"another password\n")?.good()?;
    ensure!(status(&third)? == Some(401) && sessions(&edge, &[])?.is_empty());
    ensure!(client.login(USER, "another password")?.status() == Some(200));
    let ended = events(&edge, "session.end", 2)?;
    ensure!(ended[0]["subject"] == USER && ended[1]["outcome"] == "failure", "{ended:#?}");
    ensure!(events(&edge, "token.revoke-all", 1)?.len() == 1);
    Ok(())
}
