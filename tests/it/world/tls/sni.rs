//! Several certificates: which one a client gets, and that files which change are served without a word to the agent.

use std::fs;

use anyhow::{Result, ensure};
use edge_tests::{
    agent::{Config, Edge},
    authority::certificate_of,
    client::scrape,
    net::{Lab, NEIGHBOUR4},
    wait_for,
};
use rustls::ProtocolVersion;

use super::session::{Greeting, Session};
use crate::world::SOON;

/// Files and names of those beside the first, which is for `edge.test`.
const MORE: [(&str, &str); 3] =
    [("wild", "DNS:*.example.org,DNS:example.org"), ("api", "DNS:api.example.org"), ("other", "DNS:other.test")];

fn with_more(edge: &mut Edge) -> Result<()> {
    let mut tables = Vec::new();
    for (file, names) in MORE {
        let (cert, key) = (edge.path(&format!("{file}.pem")), edge.path(&format!("{file}.key")));
        certificate_of(names, &cert, &key)?;
        tables.push(format!("{{ cert_file = {cert:?}, key_file = {key:?} }}"));
    }
    named(&mut edge.config, &tables);
    Ok(())
}

fn named(config: &mut Config, tables: &[String]) {
    config.set("server.tls", "certificate", &format!("[{}]", tables.join(", ")));
}

/// The name of the file whose certificate a client gets.
fn gets(lab: &Lab, edge: &Edge, name: &str) -> Result<&'static str> {
    let session = Session::greet(lab, NEIGHBOUR4, &Greeting { name, ..Greeting::default() })?;
    for file in ["cert", "wild", "api", "other"] {
        if edge.path(&format!("{file}.pem")).exists()
            && session.has_certificate_of(&edge.path(&format!("{file}.pem")))?
        {
            return Ok(file);
        }
    }
    Ok("none of them")
}

#[test]
fn the_name_chooses_the_certificate() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    with_more(&mut edge)?;
    edge.run()?;
    for (name, file) in [
        ("edge.test", "cert"),
        ("api.example.org", "api"),
        ("API.Example.ORG", "api"),
        ("app.example.org", "wild"),
        ("example.org", "wild"),
        ("a.b.example.org", "cert"),
        ("other.test", "other"),
        ("nobody.test", "cert"),
        ("192.0.2.1", "cert"),
    ] {
        let found = gets(&lab, &edge, name)?;
        ensure!(found == file, "{name}: {found}, not {file}");
    }
    let metrics = scrape(&lab)?;
    for name in ["edge.test", "*.example.org", "api.example.org", "other.test"] {
        let end = metrics.value("edge_tls_certificate_not_after_timestamp_seconds", &[("certificate", name)]);
        ensure!(end.is_some_and(|end| end > 1_700_000_000.0), "{name}: {end:?}");
    }
    // What is taken out is served no more, by a reload like the rest.
    edge.config.unset("server.tls", "certificate");
    edge.write_config()?;
    edge.cli(&["reload"])?.good()?;
    ensure!(gets(&lab, &edge, "api.example.org")? == "cert");
    Ok(())
}

#[test]
fn files_that_change_are_served_by_themselves() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    with_more(&mut edge)?;
    edge.run()?;
    let before = edge.json(&["status"])?["reload"].clone();
    // A config that nobody asked to be in force stays out of it.
    edge.config.set("filter", "fragments", "\"drop\"");
    edge.write_config()?;
    let (cert, key) = (edge.path("api.pem"), edge.path("api.key"));
    certificate_of("DNS:api.example.org,DNS:new.example.org", &cert, &key)?;
    wait_for("the other certificate", SOON, || Ok((gets(&lab, &edge, "new.example.org")? == "api").then_some(())))?;
    ensure!(edge.json(&["status"])?["reload"] == before);
    // What cannot be served is told of, and what was served stays.
    fs::copy(edge.path("other.key"), &key)?;
    wait_for("a word about it", SOON, || Ok(edge.log().contains("cannot be served").then_some(())))?;
    ensure!(gets(&lab, &edge, "new.example.org")? == "api" && edge.log().contains("api.pem"), "{}", edge.log());
    certificate_of("DNS:late.example.org", &cert, &key)?;
    wait_for("one that is good again", SOON, || Ok((gets(&lab, &edge, "late.example.org")? == "api").then_some(())))
}

#[test]
fn protocols_are_agreed_on() -> Result<()> {
    let lab = Lab::new()?;
    let _edge = Edge::start(&lab)?;
    let greet = |alpn: &[&str], versions: &[&'static _]| {
        Session::greet(&lab, NEIGHBOUR4, &Greeting { alpn, versions, ..Greeting::default() })
    };
    for (alpn, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let session = greet(alpn, rustls::ALL_VERSIONS)?;
        ensure!(session.alpn() == agreed, "{alpn:?}: {:?}", session.alpn());
    }
    ensure!(greet(&["spdy/3"], rustls::ALL_VERSIONS).is_err(), "RFC 7301: no_application_protocol");
    for (version, agreed) in
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let mut session = greet(&["http/1.1"], &[version])?;
        ensure!(session.version() == Some(agreed));
        session.served()?;
    }
    Ok(())
}
