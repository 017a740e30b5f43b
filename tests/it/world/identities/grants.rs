//! Tokens by the form of RFC 6749, and what other services ask about them.

use anyhow::{Result, ensure};
use edge_tests::{
    agent::{Edge, PASSWORD, USER},
    client::Client,
    net::{Lab, NEIGHBOUR4},
};
use serde_json::json;

use super::{events, form, me, printed, text};
use crate::world::has_keys;

#[test]
fn tokens_by_password_refresh_and_key_are_introspected_and_revoked() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    let by_password = format!("grant_type=password&username={USER}&password={}", PASSWORD.replace(' ', "+"));
    let signed_in = form(&client, "/auth/token", &[], &by_password)?;
    ensure!(signed_in.status() == Some(200) && signed_in.header("Cache-Control") == Some("no-store"), "{signed_in:?}");
    let signed_in = signed_in.json()?;
    has_keys(&signed_in, &["access_token", "token_type", "expires_in", "refresh_token"])?;
    let refresh = format!("grant_type=refresh_token&refresh_token={}", text(&signed_in, "refresh_token")?);
    let refreshed = form(&client, "/auth/token", &[], &refresh)?.json()?;
    let again = form(&client, "/auth/token", &[], &refresh)?;
    ensure!(again.status() == Some(400) && again.json()? == json!({"error": "invalid_grant"}), "{again:?}");
    let access = text(&refreshed, "access_token")?;
    ensure!(client.bearer("/auth/me", access)?.status() == Some(401), "a second use ended the session");

    let key = printed(&edge, &["key", "create", "--name", "ci", "--role", "deploy", "--for", "1h"])?;
    let id = text(&edge.json(&["key", "list"])?[0], "id")?.to_owned();
    let answer = form(
        &client,
        "/auth/token",
        &[],
        &format!("grant_type=client_credentials&client_id={id}&client_secret={key}"),
    )?;
    let by_form = answer.json()?;
    ensure!(by_form.get("refresh_token").is_none() && by_form["expires_in"].as_u64() <= Some(3600), "{by_form}");
    let by_basic = client
        .request("/auth/token", &["--user", &format!("{id}:{key}"), "--data", "grant_type=client_credentials"])?;
    let by_basic = by_basic.json()?;
    let token = text(&by_basic, "access_token")?;
    let of_key = json!({"username": "key:ci", "roles": ["deploy"]});
    ensure!(me(&client, &[&format!("Authorization: Bearer {token}")])? == (200, of_key));
    let wrong =
        client.request("/auth/token", &["--user", &format!("{id}:x"), "--data", "grant_type=client_credentials"])?;
    ensure!(wrong.status() == Some(401) && wrong.json()? == json!({"error": "invalid_client"}), "{wrong:?}");
    ensure!(wrong.header("WWW-Authenticate").is_some_and(|value| value.starts_with("Basic ")), "{wrong:?}");

    let internal = printed(&edge, &["key", "create", "--name", "billing", "--internal"])?;
    let internal = format!("X-Internal-API-Key: {internal}");
    let about = |token: &str| form(&client, "/auth/introspect", &[&internal], &format!("token={token}"))?.json();
    let good = about(token)?;
    has_keys(&good, &["active", "sub", "username", "exp", "iat", "iss", "aud"])?;
    ensure!(good["active"] == true && good["sub"] == "key:ci", "{good}");
    ensure!(form(&client, "/auth/introspect", &[], &format!("token={token}"))?.status() == Some(401));
    ensure!(form(&client, "/auth/revoke", &[&internal], &format!("token={token}"))?.status() == Some(200));
    ensure!(about(token)? == json!({"active": false}));
    ensure!(about(access)? == json!({"active": false}));
    ensure!(client.bearer("/auth/me", token)?.status() == Some(401));
    let other = text(&by_form, "access_token")?;
    ensure!(client.bearer("/auth/me", other)?.status() == Some(200), "one alone was revoked");
    edge.cli(&["key", "revoke", "ci"])?.good()?;
    ensure!(client.bearer("/auth/me", other)?.status() == Some(401), "it ends with its key");

    let login = events(&edge, "login", 1)?;
    ensure!(login.len() == 1 && login[0]["subject"] == USER, "{login:#?}");
    let token = events(&edge, "token", 5)?;
    ensure!(token.iter().any(|event| event["key_id"] == json!(id) && event["subject"] == "key:ci"), "{token:#?}");
    ensure!(token.iter().any(|event| event["reason"] == "ended_token"), "{token:#?}");
    ensure!(events(&edge, "introspect", 3)?.len() == 3 && events(&edge, "revoke", 1)?[0]["subject"] == "key:billing");
    Ok(())
}
