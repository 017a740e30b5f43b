//! wrk, and what it says at its end.

use std::{fmt::Write as _, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use edge_tests::{net::Lab, run};

/// What clients do.
#[derive(Clone, Default)]
pub struct Load {
    pub connections: usize,
    pub seconds: u64,
    pub fields: Vec<(&'static str, String)>,
    /// The body of a POST.
    pub body: Option<String>,
    /// Between an answer and the next request of the same connection; `None`: at once.
    pub pause: Option<Duration>,
}

/// Of a run.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub per_second: f64,
    /// Milliseconds.
    pub p99: f64,
    /// Answers that were not 2xx.
    pub others: u64,
}

impl Load {
    pub fn run(&self, lab: &Lab, url: &str) -> Result<Figures> {
        let script = tempfile::NamedTempFile::new()?;
        fs::write(script.path(), self.script())?;
        let (connections, duration) = (self.connections.to_string(), format!("{}s", self.seconds));
        let threads = if self.connections > 1 { "2" } else { "1" };
        let mut wrk = lab.client.command("wrk");
        wrk.args(["-t", threads, "-c", &connections, "-d", &duration, "--latency", "-s"]).arg(script.path()).arg(url);
        let said = run(&mut wrk, b"")?.good()?;
        read(&said).with_context(|| format!("wrk of {url} said:\n{said}"))
    }

    fn script(&self) -> String {
        let mut script = String::new();
        for (name, value) in &self.fields {
            let _ = writeln!(script, "wrk.headers[{name:?}] = {value:?}");
        }
        if let Some(body) = &self.body {
            let _ = writeln!(script, "wrk.method = 'POST'\nwrk.body = {body:?}");
        }
        if let Some(pause) = self.pause {
            let _ = writeln!(script, "function delay() return {} end", pause.as_millis());
        }
        script
    }
}

fn read(said: &str) -> Result<Figures> {
    let after = |name: &str| said.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    ensure!(after("Socket errors").is_none(), "connections failed");
    Ok(Figures {
        per_second: after("Requests/sec:").context("no rate")?.parse()?,
        p99: milliseconds(after("99%").context("no p99")?)?,
        others: after("Non-2xx or 3xx responses:").map_or(Ok(0), str::parse)?,
    })
}

fn milliseconds(text: &str) -> Result<f64> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).context("no unit")?;
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "us" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        other => anyhow::bail!("{other} is no unit of wrk"),
    };
    Ok(number.parse::<f64>()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_read() {
        let said = "Running 1s test @ https://10.0.0.1/\n  2 threads and 8 connections\n  Latency Distribution\n     50%  310.00us\n     99%    1.25ms\n  812 requests in 1.00s, 1.0MB read\nRequests/sec:    811.50\nTransfer/sec:      1.0MB\n";
        let figures = read(said).unwrap();
        assert_eq!((figures.per_second, figures.p99, figures.others), (811.5, 1.25, 0));
        assert!(read(&format!("{said}  Socket errors: connect 0, read 1, write 0, timeout 0\n")).is_err());
        assert_eq!(read(&format!("{said}  Non-2xx or 3xx responses: 7\n")).unwrap().others, 7);
    }
}
