//! Named packets: what each is, what it deserves, and in which state. The reference model is held to them, and the
//! kernel to the model, for the whole frame and for each cut of it.

mod carried;
mod chains;
mod fragments;
mod headers;
mod mapped;
mod ports;
mod six;
mod source;
mod tags;
mod transport;

use anyhow::Result;
use edge_tests::{
    model::{Family, Reason},
    packet::Packet,
    scene::{Scene, Setting},
};

/// One state and the packets to judge in it.
pub struct Stage {
    pub scene: Scene,
    pub rows: Vec<Row>,
}

pub struct Row {
    pub what: &'static str,
    pub frame: Vec<u8>,
    pub family: Family,
    pub reason: Reason,
    /// The blocked entry that counts the packet.
    pub entry: Option<&'static str>,
}

/// A packet of its source's family; what carries another type is none of IP's.
pub fn row(what: &'static str, packet: Packet, reason: Reason) -> Row {
    let family = match () {
        () if packet.ethertype.is_some() || packet.tags.len() > 2 => Family::Other,
        () if packet.source.is_ipv4() => Family::Ipv4,
        () => Family::Ipv6,
    };
    Row { what, frame: packet.bytes(), family, reason, entry: None }
}

impl Row {
    /// Counted for this entry.
    fn by(self, entry: &'static str) -> Row {
        Row { entry: Some(entry), ..self }
    }

    fn of(self, family: Family) -> Row {
        Row { family, ..self }
    }
}

/// A SYN to port 443 from this address.
pub fn from(source: &str) -> Result<Packet> {
    Ok(Packet::new(source.parse()?))
}

fn scene(setting: Setting) -> Result<Scene> {
    let parse = |texts: &[&str]| texts.iter().map(|text| Ok(text.parse()?)).collect::<Result<Vec<_>>>();
    Ok(Scene { setting, blocked: parse(&BLOCKED)?, allowed: parse(&ALLOWED)? })
}

const BLOCKED: [&str; 19] = [
    "198.51.100.7/32",
    "198.51.100.128/25",
    "203.0.113.0/24",
    "203.0.113.64/26",
    "203.0.113.65/32",
    "0.0.0.0/32",
    "255.255.255.255/32",
    "192.0.2.0/28",
    "10.77.0.0/28",
    "100.64.0.0/10",
    "2001:db8:bad::1/128",
    "2001:db8:1:2::/64",
    "2001:db8:1:2:8000::/65",
    "2001:db8:ffff::/48",
    "2001:db8:ffff:3::/64",
    "2001:db8:ffff:3::5/128",
    "2001:db8:5::/127",
    "2001:db8:1::/60",
    "64:ff9b::/96",
];

const ALLOWED: [&str; 4] = ["203.0.113.9/32", "2001:db8:ffff:1::/64", "192.0.2.200/32", "172.16.0.0/12"];

/// Default gateways, which are protected.
const GATEWAYS: [&str; 2] = ["10.77.0.9", "2001:db8:1::9"];

fn guarded() -> Result<Setting> {
    let gateways = GATEWAYS.iter().map(|text| Ok(text.parse()?)).collect::<Result<_>>()?;
    Ok(Setting { gateways, ..Setting::default() })
}

fn exposing(words: &[&str]) -> Result<Setting> {
    Ok(Setting { exposed: words.iter().map(|word| (*word).to_owned()).collect(), ..guarded()? })
}

/// Nothing but blocks and the allow list.
pub fn blocks() -> Result<Stage> {
    let parts = [source::rows()?, six::rows()?, tags::rows()?, headers::rows()?, mapped::rows()?, carried::rows()?];
    Ok(Stage { scene: scene(guarded()?)?, rows: parts.into_iter().flatten().collect() })
}

/// Some ports are exposed.
pub fn ports() -> Result<Stage> {
    let setting = exposing(&["22/tcp", "443/tcp", "53/udp", "443/udp", "esp", "proto/89"])?;
    let parts = [ports::rows()?, transport::rows()?, chains::rows()?, fragments::rows_of_first()?];
    Ok(Stage { scene: scene(setting)?, rows: parts.into_iter().flatten().collect() })
}

/// Fragments are dropped.
pub fn fragments() -> Result<Stage> {
    Ok(Stage { scene: scene(Setting { drops_fragments: true, ..guarded()? })?, rows: fragments::rows()? })
}

/// Fragments are dropped, some ports are exposed, and everything is only counted.
pub fn dry_run() -> Result<Stage> {
    let setting = Setting { dry_run: true, drops_fragments: true, ..exposing(&["22/tcp", "53/udp"])? };
    Ok(Stage { scene: scene(setting)?, rows: ports::rows_of_dry_run()? })
}
