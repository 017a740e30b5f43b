//! `bench slow-headers`: what honest clients have of a server while one address sends its headers slowly over a thousand
//! connections: nginx and edge's own server, each with edge's cap before it and without.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use edge_tests::{
    agent::Edge,
    crowd::Crowd,
    net::{HOST4, Lab},
    slow::{Attack, Nginx, ask},
    sockets::Sockets,
    wait_for,
};
use serde_json::{Value, json};

use super::{Outcome, quantile};

const ATTACKING: u32 = 1_000;
/// As in the shipped configuration.
const CAP: u32 = 100;
const REQUESTS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(3);
/// An attacker who has got no more for so long will get no more.
const STEADY: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Nginx,
    Edge,
}

struct Row {
    name: &'static str,
    /// Of the attacker, at most.
    held: u64,
    /// Seconds of those that were served.
    answers: Vec<f64>,
}

pub fn measure() -> Result<Outcome> {
    let rows = [
        row("nginx alone", Server::Nginx, false)?,
        row("nginx behind edge", Server::Nginx, true)?,
        row("edge's server, no cap", Server::Edge, false)?,
        row("edge's server, capped", Server::Edge, true)?,
    ];
    let mut lines = vec![
        format!("slow-headers: one address opens {ATTACKING} connections and never ends a request; cap {CAP}"),
        format!("{:24}{:>16}{:>16}{:>14}{:>14}", "", "attacker has", "others served", "median ms", "longest ms"),
    ];
    lines.extend(rows.iter().map(Row::line));
    lines.push(format!(
        "Others: {REQUESTS} requests over connections of their own, each given {} s.",
        PATIENCE.as_secs()
    ));
    let rows: Vec<Value> = rows.iter().map(Row::document).collect();
    Ok(Outcome { text: lines.join("\n"), json: json!({ "attacking": ATTACKING, "cap": CAP, "rows": rows }) })
}

fn row(name: &'static str, server: Server, capped: bool) -> Result<Row> {
    eprintln!("bench slow-headers: {name}");
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 2)?;
    let _edge = edge(&lab, server, capped)?;
    let _nginx = if server == Server::Nginx { Some(Nginx::start(&lab)?) } else { None };
    let (port, url) = match server {
        Server::Nginx => (Nginx::ADDRESS.port(), format!("http://{}/", Nginx::ADDRESS)),
        Server::Edge => (443, format!("https://{HOST4}/health")),
    };
    let (attacker, honest) = (crowd.four(0), crowd.four(1));
    let mut attack = Attack::start(&lab, attacker, &url, ATTACKING)?;
    let mut sockets = Sockets::of(&lab.host)?;
    let mut held = || Ok::<u64, anyhow::Error>(sockets.opened(&[port])?.get(&attacker).copied().unwrap_or(0));
    let (mut last, mut same) = (0, Instant::now());
    let mut most = wait_for("the attack to have all that it can get", Duration::from_secs(30), || {
        attack.goes_on()?;
        let now = held()?;
        if now != last {
            (last, same) = (now, Instant::now());
        }
        Ok((now > 0 && same.elapsed() > STEADY).then_some(now))
    })
    .with_context(|| name)?;
    let mut answers = Vec::new();
    for _ in 0..REQUESTS {
        answers.extend(ask(&lab, honest, &url, PATIENCE)?.map(|time| time.as_secs_f64()));
        most = most.max(held()?);
    }
    Ok(Row { name, held: most, answers })
}

/// `None`: there is no edge at all.
fn edge(lab: &Lab, server: Server, capped: bool) -> Result<Option<Edge>> {
    if server == Server::Nginx && !capped {
        return Ok(None);
    }
    let edge = Edge::start_with(lab, |config| {
        if capped {
            config.set("filter.limits", "connections", &CAP.to_string());
        }
    })?;
    Ok(Some(edge))
}

impl Row {
    fn times(&self) -> [f64; 2] {
        [0.5, 1.0].map(|part| quantile(&self.answers, part) * 1e3)
    }

    fn line(&self) -> String {
        let served = format!("{} of {REQUESTS}", self.answers.len());
        let [median, longest] =
            self.times().map(|time| if self.answers.is_empty() { "-".into() } else { format!("{time:.1}") });
        format!("{:24}{:>16}{served:>16}{median:>14}{longest:>14}", self.name, self.held)
    }

    fn document(&self) -> Value {
        let [median, longest] = self.times();
        json!({
            "name": self.name, "attacker_connections": self.held, "served": self.answers.len(), "of": REQUESTS,
            "median_ms": median, "longest_ms": longest,
        })
    }
}
