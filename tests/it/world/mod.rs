//! The real binary between real clients, as a user, an operator and an attacker meet it.

mod attacks;
mod audit;
mod backups;
mod beside;
mod blocks;
mod bulk;
mod caps;
mod clock;
mod commands;
mod connections;
mod crash;
mod cutoff;
mod doctor;
mod drift;
mod drops;
mod failures;
mod fetcher;
mod filter;
mod frames;
mod handover;
mod identities;
mod interfaces;
mod issuers;
mod lifecycle;
mod listeners;
mod logins;
mod operations;
mod ports;
mod privileges;
mod reload;
mod renew;
mod secrets;
mod signin;
mod signing;
mod ssh;
mod storeless;
mod stores;
mod story;
mod supervision;
mod systemd;
mod takeover;
mod tls;
mod trial;
mod trusting;

use std::{
    env, fs,
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::{Edge, PASSWORD, USER},
    bpf::Program,
    client::{Client, Seen},
    net::Lab,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect as connect_to, socket};
use serde_json::Value;

/// Longer than anything takes that the agent does by itself, even on a machine busy with other things.
const SOON: Duration = Duration::from_secs(10);

/// The name under which the failed logins of these tests are tried.
const GUESSED: &str = "root";

/// The name of an XDP program that is not edge's.
const FOREIGN: &str = "foreign";

/// How often, by default and where a variable says otherwise.
fn times(variable: &str, default: usize) -> Result<usize> {
    match env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable} is no number: {text}")),
        Err(_) => Ok(default),
    }
}

/// Five wrong passwords, each answered with 401; the fifth reaches the threshold.
fn fail_five_times(client: &Client<'_>) -> Result<()> {
    for attempt in 1..=5 {
        let seen = client.login(GUESSED, "wrong password")?;
        ensure!(seen.status() == Some(401), "attempt {attempt}: {seen:?}");
        ensure!(seen.json()?["error"] == "invalid_credentials", "attempt {attempt}: {seen:?}");
    }
    Ok(())
}

/// A good login; gives its access token.
fn log_in(client: &Client<'_>) -> Result<String> {
    let seen = client.login(USER, PASSWORD)?;
    ensure!(seen.status() == Some(200), "{seen:?}");
    Ok(seen.json()?["access_token"].as_str().context("no access_token")?.to_owned())
}

fn served(client: &Client<'_>) -> Result<()> {
    let seen = client.get("/health")?;
    ensure!(seen.status() == Some(200), "{} is not served: {seen:?}", client.address);
    Ok(())
}

fn shut_out(client: &Client<'_>) -> Result<()> {
    let seen = client.request("/health", &["--connect-timeout", "1.5"])?;
    ensure!(seen == Seen::Timeout, "{} is not shut out: {seen:?}", client.address);
    Ok(())
}

/// A connection to the guarded host, from one of the clients' addresses.
fn connect(lab: &Lab, from: impl Into<IpAddr>, to: impl Into<SocketAddr>) -> Result<TcpStream> {
    let (from, to) = (SocketAddr::new(from.into(), 0), to.into());
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    lab.client.within(|| {
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
        connect_to(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok(TcpStream::from(socket))
    })
}

/// Attaches a program that is not edge's; gives its id.
fn attach_foreign(lab: &Lab, interface: &str, mode: &str) -> Result<u64> {
    attach_named(lab, interface, mode, FOREIGN)
}

fn attach_named(lab: &Lab, interface: &str, mode: &str, name: &str) -> Result<u64> {
    let pin = lab.pin_path().with_file_name(format!("{}-foreign", lab.name));
    Program::passing(name)?.pin(&pin)?;
    let attached = lab.host.ip(&format!("link set dev {interface} {mode} pinned {}", pin.display()));
    fs::remove_file(&pin)?;
    attached?;
    lab.host.xdp_program(interface)?.context("the foreign program is not attached")
}

/// The packets of a reason, as `edge status` counts them.
fn packets(edge: &Edge, reason: &str) -> Result<u64> {
    let status = edge.json(&["status"])?;
    status["packets"]["by_reason"][reason].as_u64().with_context(|| format!("no {reason} in {status}"))
}

/// The one entry of `edge list`.
fn only_block(edge: &Edge) -> Result<Value> {
    let list = edge.json(&["list"])?;
    let entries = list.as_array().context("list is no array")?;
    ensure!(entries.len() == 1, "not one entry: {list}");
    Ok(entries[0].clone())
}

/// A block's length in seconds.
fn length(entry: &Value) -> Result<f64> {
    let length = time(&entry["expires"])?.duration_since(time(&entry["created"])?);
    Ok(length.as_secs_f64())
}

/// A time as the interface writes it: RFC 3339, UTC, milliseconds.
fn time(value: &Value) -> Result<jiff::Timestamp> {
    let text = value.as_str().with_context(|| format!("no time: {value}"))?;
    ensure!(text.len() == "2026-01-02T03:04:05.000Z".len() && text.ends_with('Z'), "not in the agreed form: {text}");
    Ok(text.parse()?)
}

/// That each of these keys is there.
fn has_keys(value: &Value, keys: &[&str]) -> Result<()> {
    for key in keys {
        ensure!(value.get(key).is_some(), "no `{key}` in {value}");
    }
    Ok(())
}
