//! `[filter]`: what is filtered, and by what.

use std::{path::PathBuf, str::FromStr};

use toml::de::DeValue;

use edge_common::ports::Exposure;

use super::{
    Attach, Exposed, Filter, Interfaces, Limits, Overrides, Rate,
    raw::{Node, Place, Problems, Section},
    validate::{self, number, target},
};
use crate::{block::Target, printable::quotable};

/// The most that a rate or a burst can be.
const RATE_MAX: u32 = 1_000_000_000;
/// The most connections that one address can be given.
const CONNECTIONS_MAX: u32 = 1_000_000;

/// Where the text says what only a look at the machine can judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterPlaces {
    /// What is to be blocked, element by element.
    pub block: Vec<(Target, Place)>,
    pub pin_path: Place,
}

pub fn filter(mut section: Section<'_>, overrides: &Overrides, problems: &mut Problems<'_>) -> (Filter, FilterPlaces) {
    let given = section.read_placed("interfaces", problems, interfaces);
    let interfaces = match given {
        _ if !overrides.interfaces.is_empty() => Interfaces::Named(overrides.interfaces.clone()),
        Some((interfaces, _)) => interfaces.unwrap_or(Interfaces::Auto),
        None if overrides.interfaces_optional => Interfaces::Auto,
        None => {
            let place = section.place("interfaces");
            let right = "is missing; write interfaces = [\"eth0\"], or [\"auto\"] for those with a default route";
            problems.missing(&place, right);
            Interfaces::Auto
        }
    };
    let pin_path = section.read_placed("pin_path", problems, |node, p| node.path(p));
    let pin_place = pin_path.as_ref().map_or_else(|| section.place("pin_path"), |(_, place)| place.clone());
    let block = section.read("block", problems, Vec::new(), |node, p| node.list(p, blocked));
    let attach = [("auto", Attach::Auto), ("native", Attach::Native), ("generic", Attach::Generic)];
    let exposed_ports = section.read("exposed_ports", problems, Vec::new(), |node, p| node.list(p, exposed));
    let (limits, caps) = limits(section.section("limits", problems), problems);
    let capped_ports = capped_ports(&mut section, caps, &exposed_ports, problems);
    let filter = Filter {
        interfaces,
        attach: section.read("attach", problems, Attach::Auto, |node, p| node.choice(p, &attach)),
        allow: section.read("allow", problems, Vec::new(), |node, p| validate::trusted(node, p, allowed)),
        block: block.iter().map(|(target, _)| *target).collect(),
        dry_run: section.read("dry_run", problems, false, |node, p| node.flag(p)),
        exposed_ports,
        capped_ports,
        drop_fragments: section
            .read("fragments", problems, false, |node, p| node.choice(p, &[("pass", false), ("drop", true)])),
        max_tracked: number(&mut section, "max_tracked", problems, 262_144, 1..=16_777_216),
        limits,
        max_blocked: number(&mut section, "max_blocked", problems, 1_000_000, 1..=100_000_000),
        max_prefixes: number(&mut section, "max_prefixes", problems, 131_072, 1..=16_777_216),
        ipv6_unit: number(&mut section, "ipv6_unit", problems, 64, 32..=64) as u8,
        pin_path: pin_path.and_then(|(path, _)| path).unwrap_or_else(|| PathBuf::from("/sys/fs/bpf/edge")),
    };
    section.finish(problems);
    (filter, FilterPlaces { block, pin_path: pin_place })
}

/// An element of `allow`. One that holds every address turns edge off, for IPv4 or for IPv6.
fn allowed(node: &Node<'_, '_>, problems: &mut Problems<'_>) -> Option<Target> {
    let target = target(node, problems)?;
    if target.net().prefix_len() == 0 {
        let family = if target.net().addr().is_ipv4() { "IPv4" } else { "IPv6" };
        let message =
            format!("{target} lets all of {family} pass, whatever is blocked; name the networks that are yours");
        problems.warn(&node.place(), message);
    }
    Some(target)
}

/// An element of `block`.
fn blocked(node: &Node<'_, '_>, problems: &mut Problems<'_>) -> Option<(Target, Place)> {
    let target = target(node, problems)?;
    if target.is_wide() {
        let message = format!(
            "{target} is wider than /{}, and all of it is dropped but protected addresses; name smaller networks unless \
             that is meant",
            target.widest()
        );
        problems.warn(&node.place(), message);
    }
    Some((target, node.place()))
}

fn interfaces(node: &Node<'_, '_>, problems: &mut Problems<'_>) -> Option<Interfaces> {
    let names = node.list(problems, |node, problems| {
        let name = node.text(problems)?;
        match interface_name(name) {
            Ok(()) => Some(name.to_owned()),
            Err(message) => node.wrong(problems, message),
        }
    })?;
    match names.as_slice() {
        [] => {
            node.wrong(problems, "names no interface; write [\"eth0\"], or [\"auto\"] for those with a default route")
        }
        [auto] if auto == "auto" => Some(Interfaces::Auto),
        several if several.iter().any(|name| name == "auto") => {
            node.wrong(problems, "\"auto\" stands beside names; write [\"auto\"] alone, or names alone")
        }
        _ => Some(Interfaces::Named(names)),
    }
}

/// What the kernel takes as a name (`dev_valid_name`, `IFNAMSIZ`).
pub fn interface_name(name: &str) -> Result<(), String> {
    let valid = !name.is_empty()
        && name.len() < 16
        && name != "."
        && name != ".."
        && !name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if valid { Ok(()) } else { Err(format!("`{name}` can be no interface; write a name of 1 to 15 letters, as eth0")) }
}

/// The second: whether a cap of connections is given, be it right or wrong.
fn limits(mut section: Section<'_>, problems: &mut Problems<'_>) -> (Limits, bool) {
    let connections = section.read_placed("connections", problems, |node, p| node.number(p, 1..=CONNECTIONS_MAX));
    let caps = connections.is_some();
    let limits = Limits {
        connections: connections.and_then(|(connections, _)| connections),
        syns: rate(section.section("syns", problems), problems),
        packets: rate(section.section("packets", problems), problems),
    };
    section.finish(problems);
    (limits, caps)
}

/// A burst that is not given is what passes in a second.
fn rate(mut section: Section<'_>, problems: &mut Problems<'_>) -> Option<Rate> {
    let present = section.present;
    let given = section.read_placed("per_second", problems, |node, p| node.number(p, 1..=RATE_MAX));
    if present && given.is_none() {
        problems.missing(&section.place("per_second"), "is missing; write { per_second = 50, burst = 100 }");
    }
    let per_second = given.and_then(|(per_second, _)| per_second).unwrap_or(1);
    let burst = number(&mut section, "burst", problems, per_second, 1..=RATE_MAX);
    section.finish(problems);
    present.then_some(Rate { per_second, burst })
}

fn exposed(node: &Node<'_, '_>, problems: &mut Problems<'_>) -> Option<Exposed> {
    node.parsed(problems, "a port as 443/tcp or 443/udp, or esp, ah, gre or proto/47")
}

/// Ascending, each once. `caps`: a cap of connections is given.
fn capped_ports(section: &mut Section<'_>, caps: bool, exposed: &[Exposed], problems: &mut Problems<'_>) -> Vec<u16> {
    let given = section.read_placed("capped_ports", problems, |node, p| node.list(p, capped));
    let Some((Some(mut ports), place)) = given else { return Vec::new() };
    ports.sort_unstable();
    ports.dedup();
    doubts(&ports, caps, exposed).into_iter().for_each(|doubt| problems.warn(&place, doubt));
    ports
}

/// An element of `capped_ports`: a number, or as `exposed_ports` names it.
fn capped(node: &Node<'_, '_>, problems: &mut Problems<'_>) -> Option<u16> {
    let DeValue::String(text) = node.value.get_ref() else {
        return node.number(problems, 1..=u32::from(u16::MAX)).and_then(|port| u16::try_from(port).ok());
    };
    let right = "write the number of a TCP port, from 1 to 65535";
    match text.split_once('/').unwrap_or((text, "tcp")) {
        (_, "udp") => node.wrong(problems, format!("`{}`: UDP has no connections to count; {right}", quotable(text))),
        (number, "tcp") if number.parse().is_ok_and(|port: u16| port > 0) => number.parse().ok(),
        _ => node.wrong(problems, format!("`{}` is no TCP port; {right}", quotable(text))),
    }
}

/// What makes capped ports count for nothing.
fn doubts(ports: &[u16], caps: bool, exposed: &[Exposed]) -> Vec<String> {
    let mut doubts = Vec::new();
    if !caps && !ports.is_empty() {
        doubts.push("caps nothing without limits.connections; write that too, or leave this out".to_owned());
    }
    let reachable =
        |port: &u16| exposed.is_empty() || exposed.iter().any(|exposed| exposed.exposure == Exposure::tcp(*port));
    doubts.extend(ports.iter().filter(|port| !reachable(port)).map(|port| {
        format!("{port} is not in exposed_ports; expose \"{port}/tcp\" too, unless another port is redirected to it")
    }));
    doubts
}

/// What is wrong with an exposed port, beside what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no port and no protocol")]
pub struct NotExposable;

impl FromStr for Exposed {
    type Err = NotExposable;

    fn from_str(text: &str) -> Result<Exposed, NotExposable> {
        let protocol = |number: u8| Exposed { text: text.to_owned(), exposure: Exposure::protocol(number) };
        let port = |number: &str, of: fn(u16) -> Exposure| match number.parse() {
            Ok(port @ 1..) => Ok(Exposed { text: text.to_owned(), exposure: of(port) }),
            _ => Err(NotExposable),
        };
        match text.split_once('/') {
            None if text == "esp" => Ok(protocol(50)),
            None if text == "ah" => Ok(protocol(51)),
            None if text == "gre" => Ok(protocol(47)),
            Some((number, "tcp")) => port(number, Exposure::tcp),
            Some((number, "udp")) => port(number, Exposure::udp),
            Some(("proto", number)) => number.parse().map(protocol).map_err(|_| NotExposable),
            _ => Err(NotExposable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_protocols_are_read_and_nothing_else() {
        let exposure = |text: &str| text.parse::<Exposed>().map(|exposed| exposed.exposure);
        assert_eq!(exposure("22/tcp"), Ok(Exposure::tcp(22)));
        assert_eq!(exposure("443/udp"), Ok(Exposure::udp(443)));
        assert_eq!(exposure("esp"), Ok(Exposure::protocol(50)));
        assert_eq!(exposure("proto/47"), exposure("gre"));
        for wrong in ["", "22", "tcp/22", "0/tcp", "65536/udp", "-1/tcp", "22/TCP", "proto/256", "proto/", "icmpx"] {
            assert_eq!(exposure(wrong), Err(NotExposable), "{wrong}");
        }
    }
}
