//! Who drops: edge and its peers, each set up as it does best with a million single addresses.

use anyhow::{Context as _, Result};
use edge_tests::{
    agent::Edge,
    bpf::Program,
    net::{HOST_INTERFACE, Lab},
    run,
};

use super::sender::LISTED;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    DropAll,
    Edge,
    NftablesIngress,
    NftablesRaw,
    Ipset,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::DropAll, Kind::Edge, Kind::NftablesIngress, Kind::NftablesRaw, Kind::Ipset];

    pub fn name(self) -> &'static str {
        match self {
            Kind::DropAll => "XDP that drops all",
            Kind::Edge => "edge",
            Kind::NftablesIngress => "nftables, ingress",
            Kind::NftablesRaw => "nftables, raw",
            Kind::Ipset => "ipset, iptables raw",
        }
    }

    pub fn is_peer(self) -> bool {
        matches!(self, Kind::NftablesIngress | Kind::NftablesRaw | Kind::Ipset)
    }
}

/// `list` has an address a line. What it gives has to live as long as it guards; the namespace holds the rest.
pub fn set_up(kind: Kind, lab: &Lab, list: &str) -> Result<Option<Edge>> {
    match kind {
        Kind::DropAll => drop_all(lab)?,
        Kind::Edge => return Ok(Some(edge(lab, list)?)),
        Kind::NftablesIngress => {
            let hook = format!("type filter hook ingress device {HOST_INTERFACE} priority -500;");
            nftables(lab, "netdev", &hook, list)?;
        }
        Kind::NftablesRaw => nftables(lab, "ip", "type filter hook prerouting priority raw;", list)?,
        Kind::Ipset => ipset(lab, list)?,
    }
    Ok(None)
}

fn drop_all(lab: &Lab) -> Result<()> {
    const DROPS: u32 = 1;
    let folder = lab.pin_path();
    std::fs::create_dir_all(&folder)?;
    let pin = folder.join("drop_all");
    Program::returning("drop_all", DROPS)?.pin(&pin)?;
    lab.host.ip(&format!("link set dev {HOST_INTERFACE} xdp pinned {}", pin.display()))
}

fn edge(lab: &Lab, list: &str) -> Result<Edge> {
    let mut edge = Edge::bare(lab)?;
    edge.config.without("server").without("auth");
    edge.config.set("filter", "max_blocked", &LISTED.to_string()).unset("filter", "max_prefixes");
    edge.config.text("filter", "attach", "native");
    edge.run()?;
    edge.cli_with(&["import", "-"], list.as_bytes())?.good()?;
    Ok(edge)
}

/// A set of known size and without time-outs is the fastest that it has.
fn nftables(lab: &Lab, family: &str, hook: &str, list: &str) -> Result<()> {
    let addresses = list.lines().collect::<Vec<_>>().join(",");
    let rules = format!(
        "table {family} flood {{\n set listed {{ type ipv4_addr; size {LISTED}; elements = {{ {addresses} }} }}\n \
         chain drops {{ {hook} ip saddr @listed drop; }}\n}}\n"
    );
    run(lab.host.command("nft").args(["-f", "-"]), rules.as_bytes())?.good().context("nft")?;
    Ok(())
}

/// With room for each address at once, and the older iptables, which has no translation in between.
fn ipset(lab: &Lab, list: &str) -> Result<()> {
    let mut commands = format!("create listed hash:ip family inet maxelem {LISTED} hashsize {}\n", 1 << 20);
    for address in list.lines() {
        commands.push_str(&format!("add listed {address}\n"));
    }
    run(lab.host.command("ipset").arg("restore"), commands.as_bytes())?.good().context("ipset")?;
    let rule = ["-t", "raw", "-A", "PREROUTING", "-m", "set", "--match-set", "listed", "src", "-j", "DROP"];
    run(lab.host.command("iptables-legacy").args(rule), b"")?.good().context("iptables")?;
    Ok(())
}
