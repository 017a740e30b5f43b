//! What passes between an agent and its server at an end and at a start: answers in flight, and the listening sockets.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::{Child, ChildStdout, Stdio},
};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::{Edge, PASSWORD, USER},
    client::Client,
    net::{HOST4, Lab, NEIGHBOUR4},
    wait_for,
};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{SOON, served};

#[test]
fn a_signal_to_the_whole_group_lets_an_answer_in_flight_be_given() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    for (signal, password, status) in
        [(Signal::SIGTERM, PASSWORD, 200), (Signal::SIGINT, "wrong password", 401), (Signal::SIGTERM, "wrong", 401)]
    {
        edge.run()?;
        let mut login = HalfSent::login(&lab, password)?;
        edge.signal_group(signal)?;
        let answer = login.finish()?;
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{signal}: {answer}\n{}", edge.log());
        ensure!(edge.wait()? == 0, "{signal}: {}", edge.log());
    }
    ensure!(!edge.log().contains("started again"), "{}", edge.log());
    Ok(())
}

#[test]
fn a_server_that_was_left_over_is_no_hindrance() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let left_over = lab.host.within(|| Ok(TcpListener::bind((HOST4, 443))?))?;
    edge.spawn()?;
    wait_for("the agent to wait", SOON, || Ok(edge.log().contains("is still taken").then_some(())))?;
    drop(left_over);
    wait_for("edge to be ready", SOON, || Ok((edge.cli(&["status"])?.code == 0).then_some(())))
        .with_context(|| edge.log())?;
    served(&Client::new(&lab, &edge, NEIGHBOUR4))
}

/// A login of which the head was sent and taken, and the body not yet.
struct HalfSent {
    client: Child,
    answers: BufReader<ChildStdout>,
    body: String,
}

impl HalfSent {
    fn login(lab: &Lab, password: &str) -> Result<HalfSent> {
        let body = json!({"username": USER, "password": password}).to_string();
        let mut client = lab
            .client
            .command("openssl")
            .args(["s_client", "-quiet", "-connect", &format!("{HOST4}:443")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let answers = BufReader::new(client.stdout.take().context("stdout")?);
        let mut sent = HalfSent { client, answers, body };
        let length = sent.body.len();
        sent.send(&format!(
            "POST /auth/login HTTP/1.1\r\nHost: edge\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        ))?;
        // The server says so when it wants the body: the request is being answered.
        let line = sent.line()?;
        ensure!(line.starts_with("HTTP/1.1 100"), "not asked for the body but answered: {line}");
        ensure!(sent.line()?.trim().is_empty());
        Ok(sent)
    }

    /// Sends the rest; the first line of the answer.
    fn finish(&mut self) -> Result<String> {
        self.send(&self.body.clone())?;
        self.line()
    }

    fn send(&mut self, text: &str) -> Result<()> {
        let stdin = self.client.stdin.as_mut().context("stdin")?;
        stdin.write_all(text.as_bytes())?;
        Ok(stdin.flush()?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line)
    }
}

impl Drop for HalfSent {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}
