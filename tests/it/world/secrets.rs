//! A canary of each kind, through everything that handles it: what is looked for at the end of every test is put here on
//! purpose where it could get out.

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::{Edge, PASSWORD, USER},
    client::{Client, Seen, scrape},
    net::{Lab, NEIGHBOUR4},
};
use serde_json::json;

/// As a user types it who errs.
const MISTYPED: &str = "correct horse battery stable";

#[test]
fn no_secret_gets_out_however_much_is_logged() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let audit = edge.path("audit.log");
    edge.config.text("log", "audit", audit).set("learn", "threshold", "1000000");
    edge.environment.push(("EDGE_LOG".to_owned(), "trace".to_owned()));
    edge.canaries.watch("a mistyped password", MISTYPED)?;
    edge.run()?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    let mut answers = Vec::new();
    let mut keys = Vec::new();
    for kind in [&["--name", "ci"][..], &["--name", "inner", "--internal"]] {
        let made = edge.cli(&[&["key", "create"], kind].concat())?.good()?;
        edge.canaries.watch("a key", &made)?;
        keys.push(made.trim().to_owned());
    }
    let seen = client.login(USER, PASSWORD)?.json()?;
    let [access, refresh] = ["access_token", "refresh_token"].map(|name| seen[name].as_str().map(str::to_owned));
    let (access, refresh) = (access.context("no access_token")?, refresh.context("no refresh_token")?);
    edge.canaries.watch("an access token", &access)?;
    edge.canaries.watch("a refresh token", &refresh)?;
    answers.push(client.login(USER, MISTYPED)?);
    let refreshed = json!({"refresh_token": refresh}).to_string();
    for (path, options) in [
        ("/auth/me", vec![format!("Authorization: Bearer {access}")]),
        ("/auth/me", vec![format!("Authorization: Bearer {access}x")]),
        ("/auth/me", vec![format!("Authorization: Basic {access}")]),
        ("/auth/verify", vec![format!("X-API-Key: {}", keys[0])]),
        ("/auth/verify", vec![format!("X-API-Key: {}x", keys[0])]),
        ("/auth/verify", vec![format!("X-API-Key: {}", keys[1])]),
        ("/auth/verify", vec![format!("X-Internal-API-Key: {}", keys[1])]),
        ("/auth/verify", vec![format!("Cookie: session={access}")]),
        ("/nowhere", vec![format!("Authorization: Bearer {access}")]),
    ] {
        let options: Vec<&str> = options.iter().flat_map(|field| ["-H", field.as_str()]).collect();
        answers.push(client.request(path, &options)?);
    }
    for (path, body) in [
        ("/auth/token", format!("grant_type=password&username={USER}&password={}", MISTYPED.replace(' ', "+"))),
        ("/auth/token", format!("grant_type=client_credentials&client_id=x&client_secret={}", keys[0])),
        ("/auth/token", format!("grant_type=refresh_token&refresh_token={refresh}x")),
        ("/auth/introspect", format!("token={access}")),
        ("/auth/revoke", format!("token={access}")),
    ] {
        answers.push(client.request(path, &["--data-binary", &body])?);
    }
    // Used twice: a reuse ends the family, and is told.
    for _ in 0..2 {
        client.request("/auth/refresh", &["-H", "Content-Type: application/json", "--data-binary", &refreshed])?;
    }
    for args in [&["status"][..], &["list"], &["audit"], &["why", "10.77.0.3"], &["key", "list"], &["session", "list"]]
    {
        edge.cli(args)?.good()?;
    }
    edge.cli(&["backup", &edge.path("kept").display().to_string()])?.good()?;
    edge.cli(&["reload"])?.good()?;
    edge.canaries.not_in("the metrics", scrape(&lab)?.text.as_bytes())?;
    for answer in &answers {
        let Seen::Answer { head, body, .. } = answer else { anyhow::bail!("{answer:?}") };
        edge.canaries.not_in("an answer", format!("{head}{body}").as_bytes())?;
    }
    ensure!(edge.log().contains("TRACE"), "little was logged");
    Ok(())
}
