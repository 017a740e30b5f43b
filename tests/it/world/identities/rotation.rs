//! `edge secret rotate`: what the former secret signed stays good, also over restarts, and the new one signs at once.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use edge_tests::{
    agent::Edge,
    client::Client,
    net::{Lab, NEIGHBOUR4},
    wait_for,
};
use edge_user::server::jws::{Algorithm, Members, SigningKey};
use serde_json::{Value, json};

use super::{events, is_kept};
use crate::world::{SOON, log_in, served};

fn kid(token: &str) -> Result<String> {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().context("no header")?)?;
    let header: Value = serde_json::from_slice(&header)?;
    Ok(header["kid"].as_str().context("no kid")?.to_owned())
}

#[test]
fn a_rotated_secret_signs_at_once_and_the_former_verifies_over_restarts() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    let good = |token: &str| Ok::<_, anyhow::Error>(client.bearer("/auth/me", token)?.status() == Some(200));
    let secret = || Ok::<_, anyhow::Error>(fs::read_to_string(edge.path("jwt"))?.trim().to_owned());
    let (first, first_secret) = (log_in(&client)?, secret()?);
    let server = edge.server_pid()?;
    let told = edge.json(&["secret", "rotate"])?;
    edge.canaries.let_go(&first_secret);
    let (second, second_secret) = (log_in(&client)?, secret()?);
    ensure!(first_secret != second_secret && second_secret.len() == 43 && edge.server_pid()? != server);
    ensure!(kid(&second)? != kid(&first)? && told["kid"] == kid(&second)?, "{told}");
    ensure!(fs::metadata(edge.path("jwt"))?.permissions().mode() & 0o777 == 0o600);
    ensure!(good(&first)? && good(&second)?);
    edge.cli(&["secret", "rotate"])?.good()?;
    let third = log_in(&client)?;
    ensure!(good(&first)? && good(&second)? && good(&third)?);
    ensure!(events(&edge, "secret.rotate", 2)?.iter().all(|event| event["outcome"] == "success"));
    ensure!(!edge.log().contains(&first_secret) && !edge.cli(&["audit"])?.good()?.contains(&second_secret));
    ensure!(!is_kept(&edge, &secret()?)?, "the one that signs is in its file alone");

    edge.kill()?;
    edge.cli(&["secret", "rotate"])?.good()?;
    edge.run()?;
    let fourth = log_in(&client)?;
    ensure!(kid(&fourth)? != kid(&third)?, "it was rotated while no agent ran");
    ensure!(good(&first)? && good(&second)? && good(&third)? && good(&fourth)?);
    edge.cli(&["token", "revoke-all"])?.good()?;
    ensure!(!good(&first)? && !good(&fourth)?);
    edge.cli(&["reload", "--confirm", "60s"])?.good()?;
    let refused = edge.cli(&["secret", "rotate"])?;
    ensure!(refused.code == 1 && refused.stderr.contains("edge reload --keep"), "{refused:?}");
    Ok(())
}

#[test]
fn a_secret_that_is_no_file_is_not_rotated_and_what_to_change_is_told() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let before = fs::read_to_string(edge.path("jwt"))?;
    edge.environment = vec![("EDGE_AUTH_SECRET".to_owned(), "9lWjO0cQ2nVwXhT5sUeR7yBzKdMfGaLpQrSt".to_owned())];
    edge.run()?;
    for environment in [edge.environment.clone(), Vec::new()] {
        // The agent knows, where the caller's environment does not say it.
        edge.environment = environment;
        let refused = edge.cli(&["secret", "rotate"])?;
        ensure!(refused.code == 1 && refused.stderr.contains("EDGE_AUTH_SECRET"), "{refused:?}");
    }
    ensure!(fs::read_to_string(edge.path("jwt"))? == before);
    ensure!(events(&edge, "secret.rotate", 2)?.iter().all(|event| event["outcome"] == "failure"));
    Ok(())
}

#[test]
fn what_a_former_secret_signed_is_good_until_its_time_is_over_and_no_guess_afterwards() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        config.text("auth", "access_ttl", "3s").text("auth", "leeway", "0s").set("learn", "threshold", "1");
    })?;
    let client = Client::new(&lab, &edge, NEIGHBOUR4);
    let secret = fs::read_to_string(edge.path("jwt"))?.trim().to_owned();
    let former = SigningKey::new(Algorithm::HS256, &secret).map_err(anyhow::Error::msg)?;
    // As edge would have signed it for longer: its own end is not what ends it.
    let own = log_in(&client)?;
    let claims = URL_SAFE_NO_PAD.decode(own.split('.').nth(1).context("no claims")?)?;
    let mut claims: Value = serde_json::from_slice(&claims)?;
    claims["exp"] = json!(claims["iat"].as_i64().context("no iat")? + 600);
    let token = former.sign(&Members::default(), claims.to_string().as_bytes()).context("signing")?;
    let status = || Ok::<_, anyhow::Error>(client.bearer("/auth/me", &token)?.status());
    ensure!(status()? == Some(200));
    let told = edge.json(&["secret", "rotate"])?;
    edge.canaries.let_go(&secret);
    ensure!(told["former_verifies_seconds"] == 3 && status()? == Some(200), "{told}");
    wait_for("its time to be over", SOON, || Ok((status()? == Some(401)).then_some(())))?;
    ensure!(client.bearer("/auth/me", &log_in(&client)?)?.status() == Some(200));
    served(&client)
}
