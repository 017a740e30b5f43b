//! Who takes the lists: edge, and in a namespace of their own ipset and nftables.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use edge_tests::{agent::Edge, net::Lab, run};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Kind;

/// The name of the peers' sets.
const SET: &str = "bulk";
/// A little more than the list has.
const CAPACITY: u32 = 1 << 20;

pub trait Contender {
    fn name(&self) -> &'static str;
    /// The whole list from its file.
    fn load(&self, kind: Kind) -> Result<Duration>;
    /// One more, by the command.
    fn add(&self, kind: Kind, one: &str) -> Result<Duration>;
    /// One more, without the start of a process, where that can be.
    fn add_inside(&self, _one: &str) -> Result<Option<Duration>> {
        Ok(None)
    }
    fn empty(&self, kind: Kind) -> Result<()>;
}

pub struct Guard {
    edge: Edge,
}

impl Guard {
    pub fn start(lab: &Lab) -> Result<Guard> {
        let edge = Edge::start_with(lab, |config| {
            config.set("filter", "max_blocked", &CAPACITY.to_string()).unset("filter", "max_prefixes");
        })?;
        for kind in Kind::ALL {
            fs::write(edge.path(kind.key()), kind.entries().collect::<Vec<_>>().join("\n") + "\n")?;
        }
        Ok(Guard { edge })
    }

    pub fn capacity(&self) -> u32 {
        CAPACITY
    }
}

impl Contender for Guard {
    fn name(&self) -> &'static str {
        "edge import"
    }

    fn load(&self, kind: Kind) -> Result<Duration> {
        let file = self.edge.path(kind.key()).display().to_string();
        let begun = Instant::now();
        self.edge.cli(&["import", &file])?.good()?;
        let took = begun.elapsed();
        let blocked = self.edge.json(&["status"])?["blocked"]["total"].clone();
        ensure!(blocked == kind.count(), "{blocked} are blocked, not {}", kind.count());
        Ok(took)
    }

    fn add(&self, _kind: Kind, one: &str) -> Result<Duration> {
        let begun = Instant::now();
        self.edge.cli(&["block", one])?.good()?;
        Ok(begun.elapsed())
    }

    /// In the words of the admin socket: a length, and a request in JSON.
    fn add_inside(&self, one: &str) -> Result<Option<Duration>> {
        let one = if one.contains('/') { one.to_owned() } else { format!("{one}/32") };
        let block =
            json!({ "targets": [one], "for_seconds": null, "reason": null, "origin": "manual", "force": false });
        let request = json!({ "command": { "block": block }, "caller": null }).to_string();
        let frame = [&u32::try_from(request.len())?.to_le_bytes(), request.as_bytes()].concat();
        let mut answer = Vec::new();
        let begun = Instant::now();
        let mut socket = UnixStream::connect(self.edge.path("edge.sock")).context("cannot reach edge's socket")?;
        socket.write_all(&frame)?;
        socket.read_to_end(&mut answer)?;
        let took = begun.elapsed();
        let answer: Value = serde_json::from_slice(answer.get(4..).unwrap_or_default())?;
        ensure!(answer["Ok"]["changed"]["changed"] == json!([one]), "edge answers {answer}");
        Ok(Some(took))
    }

    fn empty(&self, _kind: Kind) -> Result<()> {
        self.edge.cli(&["unblock", "--all"])?.good().map(drop)
    }
}

/// A peer's namespace and files.
struct Peer<'a> {
    lab: &'a Lab,
    folder: TempDir,
}

impl Peer<'_> {
    fn new(lab: &Lab, text: impl Fn(Kind) -> String) -> Result<Peer<'_>> {
        let folder = tempfile::tempdir()?;
        for kind in Kind::ALL {
            fs::write(folder.path().join(kind.key()), text(kind))?;
        }
        Ok(Peer { lab, folder })
    }

    fn file(&self, kind: Kind) -> PathBuf {
        self.folder.path().join(kind.key())
    }

    fn timed(&self, words: &[&str]) -> Result<Duration> {
        let begun = Instant::now();
        self.command(words)?;
        Ok(begun.elapsed())
    }

    fn command(&self, words: &[&str]) -> Result<String> {
        let output = run(self.lab.host.command(words[0]).args(&words[1..]), b"")?;
        output.good().with_context(|| words.join(" "))
    }
}

pub struct Ipset<'a>(Peer<'a>);

impl Ipset<'_> {
    /// The table is as large as it has to be from the start, which spares ipset its growing.
    pub fn new(lab: &Lab) -> Result<Ipset<'_>> {
        let text = |kind: Kind| {
            let adds = kind.entries().map(|entry| format!("add {SET} {entry}\n"));
            let of = if kind == Kind::Addresses { "hash:ip" } else { "hash:net" };
            let size = kind.count().next_power_of_two();
            format!("create {SET} {of} hashsize {size} maxelem {}\n{}", 2 * size, adds.collect::<String>())
        };
        Peer::new(lab, text).map(Ipset)
    }

    /// By its own word.
    pub fn bytes_each(&self) -> Result<f64> {
        self.load(Kind::Addresses)?;
        let told = self.0.command(&["ipset", "list", "-terse", SET])?;
        self.empty(Kind::Addresses)?;
        let bytes = told.lines().find_map(|line| line.strip_prefix("Size in memory: ")?.trim().parse::<f64>().ok());
        let bytes = bytes.with_context(|| format!("ipset does not tell the size of its set: {told}"))?;
        Ok(bytes / f64::from(Kind::Addresses.count()))
    }
}

impl Contender for Ipset<'_> {
    fn name(&self) -> &'static str {
        "ipset restore"
    }

    fn load(&self, kind: Kind) -> Result<Duration> {
        self.0.timed(&["ipset", "-file", &self.0.file(kind).display().to_string(), "restore"])
    }

    fn add(&self, _kind: Kind, one: &str) -> Result<Duration> {
        self.0.timed(&["ipset", "add", SET, one])
    }

    fn empty(&self, _kind: Kind) -> Result<()> {
        self.0.command(&["ipset", "destroy", SET]).map(drop)
    }
}

pub struct Nft<'a>(Peer<'a>);

impl Nft<'_> {
    pub fn new(lab: &Lab) -> Result<Nft<'_>> {
        let text = |kind: Kind| {
            let elements: Vec<String> = kind.entries().collect();
            let flags = if kind == Kind::Prefixes { "flags interval; " } else { "" };
            let elements = elements.join(",\n");
            format!("table ip {SET} {{ set {SET} {{ type ipv4_addr; {flags}elements = {{\n{elements}\n}}; }}; }}\n")
        };
        Peer::new(lab, text).map(Nft)
    }
}

impl Contender for Nft<'_> {
    fn name(&self) -> &'static str {
        "nft -f"
    }

    fn load(&self, kind: Kind) -> Result<Duration> {
        self.0.timed(&["nft", "-f", &self.0.file(kind).display().to_string()])
    }

    fn add(&self, _kind: Kind, one: &str) -> Result<Duration> {
        self.0.timed(&["nft", &format!("add element ip {SET} {SET} {{ {one} }}")])
    }

    fn empty(&self, _kind: Kind) -> Result<()> {
        self.0.command(&["nft", "delete", "table", "ip", SET]).map(drop)
    }
}
