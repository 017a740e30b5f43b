//! A block ends what is open: connections to every service of the host, whatever way the block came.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    client::Client,
    crowd::Crowd,
    net::{ATTACKER4, ATTACKER6, ATTACKER6_SECOND, HOST4, HOST6, Lab, NEIGHBOUR4, NEIGHBOUR6},
    talk::Talk,
};
use serde_json::json;

use super::{SOON, connect, fail_five_times, lifecycle::filter_only, only_block, shut_out};

/// Longer than a connection of who is blocked lives.
const WELL_AFTER: Duration = Duration::from_millis(1500);

#[test]
fn a_block_by_hand_ends_connections_to_other_services() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, filter_only)?;
    let service = Service::on(&lab)?;
    let (four, six) = (service.open(ATTACKER4)?, service.open(ATTACKER6)?);
    let (mut neighbour, mut unit) = (service.open(NEIGHBOUR4)?, service.open(ATTACKER6_SECOND)?);
    edge.cli(&["block", &ATTACKER4.to_string(), &ATTACKER6.to_string()])?.good()?;
    four.ended()?;
    six.ended()?;
    neighbour.transfers()?;
    unit.transfers()
}

#[test]
fn who_is_allowed_inside_of_a_blocked_network_keeps_his_connection_until_he_is_not() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, filter_only)?;
    let service = Service::on(&lab)?;
    let (attacker, mut neighbour) = (service.open(ATTACKER4)?, service.open(NEIGHBOUR4)?);
    edge.cli(&["allow", &NEIGHBOUR4.to_string()])?.good()?;
    edge.cli(&["block", "10.77.0.0/24"])?.good()?;
    attacker.ended()?;
    neighbour.transfers()?;
    edge.cli(&["disallow", &NEIGHBOUR4.to_string()])?.good()?;
    neighbour.ended()
}

#[test]
fn an_import_ends_connections_too() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, filter_only)?;
    let service = Service::on(&lab)?;
    let (attacker, mut neighbour) = (service.open(ATTACKER4)?, service.open(NEIGHBOUR4)?);
    let others = (0..5_000u32).map(|n| format!("198.{}.{}.{}\n", 18 + n / 65_536, n / 256 % 256, n % 256));
    let list = others.chain([format!("{ATTACKER4}\n")]).collect::<String>();
    edge.cli_with(&["import", "-"], list.as_bytes())?.good()?;
    attacker.ended()?;
    neighbour.transfers()
}

#[test]
fn many_connections_of_many_addresses_end_together() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 200)?;
    let edge = Edge::start_with(&lab, filter_only)?;
    let service = Service::on(&lab)?;
    let open = (0..3).flat_map(|_| crowd.all()).map(|client| service.open(client)).collect::<Result<Vec<Open>>>()?;
    let mut neighbour = service.open(NEIGHBOUR4)?;
    let list = format!("{}\n{}\n", crowd.network4, crowd.network6);
    edge.cli_with(&["import", "-"], list.as_bytes())?.good()?;
    open.into_iter().try_for_each(Open::ended)?;
    neighbour.transfers()
}

#[test]
fn a_learned_block_ends_connections_and_the_refusal_is_read_before() -> Result<()> {
    for (attacker, neighbour) in [(ATTACKER4, NEIGHBOUR4), (ATTACKER6, NEIGHBOUR6)] {
        let lab = Lab::new()?;
        let edge = Edge::start(&lab)?;
        let service = Service::on(&lab)?;
        let (open, mut stays) = (service.open(attacker)?, service.open(neighbour)?);
        // Each answer is read whole, the fifth too.
        fail_five_times(&Client::new(&lab, &edge, attacker))?;
        open.ended()?;
        stays.transfers()?;
        only_block(&edge)?;
    }
    Ok(())
}

#[test]
fn the_connection_that_the_offences_came_by_ends_after_the_refusal() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let mut talk = Talk::open(&lab, "http/1.1")?;
    let body = json!({"username": "root", "password": "wrong password"}).to_string();
    let head = format!("POST /auth/login HTTP/1.1\r\nHost: edge\r\nContent-Length: {}\r\n\r\n", body.len());
    for attempt in 1..=5 {
        talk.say((head.clone() + &body).as_bytes())?;
        ensure!(talk.line()?.contains("401"), "attempt {attempt} is not answered");
        while !talk.line()?.trim().is_empty() {}
        talk.bytes(r#"{"error":"invalid_credentials"}"#.len())?;
    }
    ensure!(talk.line()?.is_empty(), "the connection goes on");
    shut_out(&Client::new(&lab, &edge, ATTACKER4))
}

#[test]
fn a_dry_run_ends_none_until_it_is_over() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start_with(&lab, |config| {
        filter_only(config);
        config.set("filter", "dry_run", "true");
    })?;
    let service = Service::on(&lab)?;
    let mut attacker = service.open(ATTACKER4)?;
    edge.cli(&["block", &ATTACKER4.to_string()])?.good()?;
    let until = Instant::now() + WELL_AFTER;
    while Instant::now() < until {
        attacker.transfers()?;
    }
    edge.config.set("filter", "dry_run", "false");
    edge.write_config()?;
    edge.cli(&["reload"])?.good()?;
    attacker.ended()
}

#[test]
fn without_an_agent_a_block_ends_connections_and_so_does_the_next_start() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start_with(&lab, filter_only)?;
    let service = Service::on(&lab)?;
    let (attacker, mut neighbour) = (service.open(ATTACKER4)?, service.open(NEIGHBOUR4)?);
    edge.kill()?;
    edge.cli(&["block", &ATTACKER4.to_string()])?.good()?;
    attacker.ended()?;
    neighbour.transfers()?;
    edge.config.set("filter", "block", &format!("[\"{NEIGHBOUR4}\"]"));
    edge.run()?;
    neighbour.ended()
}

/// Something on the guarded host that is not edge's.
struct Service<'lab> {
    lab: &'lab Lab,
    listener: TcpListener,
}

/// A connection to it: both of its sockets.
struct Open {
    client: TcpStream,
    server: TcpStream,
}

impl Service<'_> {
    fn on(lab: &Lab) -> Result<Service<'_>> {
        Ok(Service { lab, listener: lab.host.within(|| Ok(TcpListener::bind("[::]:8022")?))? })
    }

    fn open(&self, from: IpAddr) -> Result<Open> {
        let host = if from.is_ipv4() { HOST4 } else { HOST6 };
        let client = connect(self.lab, from, SocketAddr::new(host, 8022))?;
        let server = self.listener.accept()?.0;
        [&client, &server].iter().try_for_each(|end| end.set_read_timeout(Some(SOON)))?;
        let mut open = Open { client, server };
        open.transfers().context("from the start")?;
        Ok(open)
    }
}

impl Open {
    fn transfers(&mut self) -> Result<()> {
        self.client.write_all(b"x")?;
        self.server.read_exact(&mut [0])?;
        self.server.write_all(b"x")?;
        Ok(self.client.read_exact(&mut [0])?)
    }

    /// The service's next call says so, and the client is told.
    fn ended(mut self) -> Result<()> {
        for (end, expected) in
            [(&mut self.server, ErrorKind::ConnectionAborted), (&mut self.client, ErrorKind::ConnectionReset)]
        {
            let read = end.read(&mut [0]);
            ensure!(read.as_ref().is_err_and(|error| error.kind() == expected), "{read:?}, not {expected:?}");
        }
        Ok(())
    }
}
