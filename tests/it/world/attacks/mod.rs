//! Tokens that attackers make, each beside one that is good and differs in the one point: what is published of attacks
//! on JSON Web Tokens, against the real binary over TLS, under each algorithm.

mod forge;
mod table;

use std::{
    collections::BTreeSet,
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use edge_tests::{
    agent::Edge,
    client::Client,
    net::{Lab, NEIGHBOUR4},
    talk::Talk,
};
use serde_json::Value;

use self::{
    forge::Forge,
    table::{Request, Table},
};
use super::{
    log_in,
    signing::{KINDS, sign_with},
};

#[test]
fn every_published_attack_is_refused_and_its_good_twin_is_not() -> Result<()> {
    let lab = Lab::new()?;
    // No guess blocks the client here: each answer is to be seen.
    let mut edge = Edge::start_with(&lab, |config| {
        config.set("learn", "threshold", "1000000");
    })?;
    let secret = fs::read_to_string(edge.path("jwt"))?;
    let mut tried = withstands(&lab, &edge, &Forge::secret(secret.trim().as_bytes()))?;
    for (algorithm, _, made_with) in KINDS {
        sign_with(&mut edge, algorithm, made_with)?;
        edge.cli(&["reload"])?.good()?;
        tried.extend(withstands(&lab, &edge, &Forge::private(algorithm, &edge.path("signing.pem"))?)?);
    }
    println!("{} attacks", tried.len());
    ensure!(tried.len() >= 120, "{} attacks", tried.len());
    Ok(())
}

/// Gives the names of what was tried.
fn withstands(lab: &Lab, edge: &Edge, forge: &Forge) -> Result<BTreeSet<String>> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let own = log_in(&Client::new(lab, edge, NEIGHBOUR4))?;
    let header = own.split('.').next().context("no header")?;
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header)?)?;
    let kid = header["kid"].as_str().context("no kid")?.to_owned();
    let table = Table::of(forge, now, kid)?;
    let mut talk = Talk::open(lab, "http/1.1")?;
    let (mut names, mut wrong) = (BTreeSet::new(), Vec::new());
    for attack in &table.attacks {
        let (bad, good) = (status(&mut talk, &attack.bad)?, status(&mut talk, &attack.good)?);
        if !matches!(bad, 400 | 401) || good != 200 {
            wrong.push(format!("{}: {bad}, its twin {good}: {:?}", attack.name, attack.bad));
        }
        names.insert(attack.name.clone());
    }
    ensure!(wrong.is_empty(), "{}:\n{}", forge.algorithm, wrong.join("\n"));
    ensure!(edge.json(&["list"])? == serde_json::json!([]), "the client is blocked");
    Ok(names)
}

/// Of the answer; its body is read and passed over.
fn status(talk: &mut Talk, request: &Request) -> Result<u16> {
    let fields: String = request.fields.iter().map(|field| format!("{field}\r\n")).collect();
    talk.say(format!("GET {} HTTP/1.1\r\nHost: edge.test\r\n{fields}\r\n", request.target).as_bytes())?;
    let line = talk.line()?;
    let status = line.split(' ').nth(1).with_context(|| format!("no answer to {request:?}: {line:?}"))?.parse()?;
    let mut length = 0;
    loop {
        let field = talk.line()?;
        match field.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse()?,
            Some(_) => {}
            None => break,
        }
    }
    talk.bytes(length)?;
    Ok(status)
}
