//! Cases about loading, unloading, and what commands show.

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    net::{HOST_INTERFACE, Lab},
};

use super::{Case, REMOTE4, REMOTE6, prove};

#[test]
fn loading() -> Result<()> {
    prove(&CASES, &mut Lab::new()?)
}

pub const CASES: [Case<Lab>; 11] = [
    ("LoadUnload.load_once", "loaded once, unloaded once, and unloading what is not loaded is done already", once),
    ("LoadUnload.load_twice", "a second start on the same pins is refused, and the first filters on", twice),
    ("LoadUnload.load_hw", "a mode that there is not is a config error, and nothing is loaded", no_such_mode),
    ("test_load", "every mode with every feature loads, and unloading leaves no pin", every_mode),
    ("test_print", "what is blocked is listed, of both families; a hardware address or a port is no address", listed),
    ("test_output_remove", "what is lifted is what was named, origin for origin", lifted),
    ("Status.ethernet_feature", "a hardware address is refused and changes no list", hardware),
    ("Status.ipv4_feature", "an address is listed from its block to its end", in_the_list),
    ("Status.all_features", "list, status and why agree on each block", agree),
    ("ManyAddresses.ip_arrive", "an address that found no place is not blocked, nor is any that came with it", full),
    ("ManyAddressesInverted.ether_arrive", "who cannot be named cannot be allowed", not_allowed),
];

fn filter(lab: &Lab) -> Result<Edge> {
    let mut edge = Edge::bare(lab)?;
    edge.config.without("server").without("auth");
    edge.write_config()?;
    Ok(edge)
}

fn started(lab: &Lab) -> Result<Edge> {
    let mut edge = filter(lab)?;
    edge.run()?;
    Ok(edge)
}

fn once(lab: &mut Lab) -> Result<()> {
    let mut edge = filter(lab)?;
    edge.cli(&["unload"])?.good()?;
    edge.run()?;
    ensure!(lab.host.xdp_program(HOST_INTERFACE)?.is_some());
    edge.cli(&["unload"])?.good()?;
    ensure!(lab.host.xdp_program(HOST_INTERFACE)?.is_none());
    edge.cli(&["unload"])?.good()?;
    Ok(())
}

fn twice(lab: &mut Lab) -> Result<()> {
    let edge = started(lab)?;
    let program = lab.host.xdp_program(HOST_INTERFACE)?.context("nothing is loaded")?;
    let mut second = filter(lab)?;
    second.config.without("metrics");
    let refused = second.run_in_vain()?;
    ensure!(refused.code == 1, "{refused:?}");
    ensure!(lab.host.xdp_program(HOST_INTERFACE)? == Some(program));
    edge.cli(&["unload"])?.good()?;
    Ok(())
}

fn no_such_mode(lab: &mut Lab) -> Result<()> {
    let mut edge = filter(lab)?;
    edge.config.text("filter", "attach", "hw");
    let refused = edge.run_in_vain()?;
    ensure!(refused.code == 2 && refused.stderr.contains("filter.attach"), "{refused:?}");
    ensure!(lab.host.xdp_program(HOST_INTERFACE)?.is_none());
    Ok(())
}

fn every_mode(lab: &mut Lab) -> Result<()> {
    let features: [(&str, &str, &str); 5] = [
        ("filter", "dry_run", "false"),
        ("filter", "exposed_ports", "[\"22/tcp\", \"53/udp\", \"gre\"]"),
        ("filter", "fragments", "\"drop\""),
        ("filter.limits", "syns", "{ per_second = 5, burst = 9 }"),
        ("filter.limits", "packets", "{ per_second = 5, burst = 9 }"),
    ];
    for mode in ["native", "generic"] {
        for (section, key, value) in features {
            let mut edge = filter(lab)?;
            edge.config.text("filter", "attach", mode).set(section, key, value);
            edge.run().with_context(|| format!("{mode}, {key}"))?;
            let status = edge.json(&["status"])?;
            ensure!(status["interfaces"][0]["mode"] == mode, "{status}");
            edge.cli(&["unload"])?.good()?;
        }
    }
    ensure!(!lab.pin_path().join("gen-1").exists() && lab.host.xdp_program(HOST_INTERFACE)?.is_none());
    Ok(())
}

fn listed(lab: &mut Lab) -> Result<()> {
    let edge = started(lab)?;
    edge.cli(&["block", "1.2.3.4", "aa::bb"])?.good()?;
    ensure!(addresses(&edge)? == ["1.2.3.4/32 manual", "aa::bb/128 manual"]);
    for wrong in ["aa:bb:cc:dd:ee:ff", "100", "1.2.3.4:100", "100/tcp"] {
        let refused = edge.cli(&["block", wrong])?;
        ensure!(refused.code == 2, "{wrong}: {refused:?}");
    }
    ensure!(addresses(&edge)?.len() == 2);
    Ok(())
}

fn lifted(lab: &mut Lab) -> Result<()> {
    let all = ["198.51.100.0/24 manual", "198.51.100.7/32 feed", "198.51.100.7/32 manual"];
    let edge = started(lab)?;
    let cases: [(&[&str], &[usize]); 7] = [
        (&["198.51.100.7", "--origin", "feed"], &[0, 2]),
        (&["198.51.100.7", "--origin", "manual"], &[0, 1]),
        (&["198.51.100.7"], &[0]),
        (&["198.51.100.0/24"], &[1, 2]),
        (&["198.51.100.0/25", "198.51.100.8"], &[0, 1, 2]),
        (&["--all", "--origin", "manual"], &[1]),
        (&["--all"], &[]),
    ];
    for (named, left) in cases {
        edge.cli(&["block", "198.51.100.7", "198.51.100.0/24"])?.good()?;
        edge.cli(&["block", "198.51.100.7", "--origin", "feed"])?.good()?;
        edge.cli(&[&["unblock"], named].concat())?.good()?;
        let mut found = addresses(&edge)?;
        found.sort();
        let wanted: Vec<_> = left.iter().map(|index| all[*index]).collect();
        ensure!(found == wanted, "unblock {named:?} leaves {found:?}, not {wanted:?}");
    }
    Ok(())
}

fn hardware(lab: &mut Lab) -> Result<()> {
    let edge = started(lab)?;
    for command in ["block", "unblock", "allow"] {
        ensure!(edge.cli(&[command, "02:00:00:00:00:01"])?.code == 2, "{command}");
    }
    ensure!(addresses(&edge)?.is_empty());
    Ok(())
}

fn in_the_list(lab: &mut Lab) -> Result<()> {
    let edge = started(lab)?;
    ensure!(addresses(&edge)?.is_empty());
    edge.cli(&["block", REMOTE4])?.good()?;
    ensure!(addresses(&edge)? == ["198.51.100.7/32 manual"]);
    edge.cli(&["unblock", REMOTE4])?.good()?;
    ensure!(addresses(&edge)?.is_empty());
    Ok(())
}

fn agree(lab: &mut Lab) -> Result<()> {
    let edge = started(lab)?;
    edge.cli(&["block", REMOTE4, REMOTE6, "203.0.113.0/24"])?.good()?;
    let status = edge.json(&["status"])?;
    let blocked = &status["blocked"];
    ensure!(
        blocked["total"] == 3 && blocked["ipv4"] == 1 && blocked["ipv6"] == 1 && blocked["prefixes"] == 1,
        "{status}"
    );
    ensure!(addresses(&edge)?.len() == 3);
    for (address, verdict) in [(REMOTE4, "drop"), (REMOTE6, "drop"), ("203.0.113.9", "drop"), ("198.51.100.8", "pass")]
    {
        let (code, why) = edge.json_any(&["why", address])?;
        ensure!(why["verdict"] == verdict && code == i32::from(verdict == "drop"), "{address}: {why}");
    }
    Ok(())
}

fn full(lab: &mut Lab) -> Result<()> {
    let mut edge = filter(lab)?;
    edge.config.set("filter", "max_prefixes", "16");
    edge.run()?;
    let nets = |range: std::ops::Range<u8>| range.map(|number| format!("100.{number}.0.0/16\n")).collect::<String>();
    edge.cli_with(&["block", "-"], nets(0..16).as_bytes())?.good()?;
    let refused = edge.cli_with(&["block", "-"], nets(10..20).as_bytes())?;
    ensure!(refused.code == 1 && refused.stderr.contains("16"), "{refused:?}");
    ensure!(addresses(&edge)?.len() == 16);
    for (address, code) in [("100.15.0.1", 1), ("100.16.0.1", 0), ("100.19.0.1", 0)] {
        ensure!(edge.cli(&["why", address])?.code == code, "{address}");
    }
    Ok(())
}

fn not_allowed(lab: &mut Lab) -> Result<()> {
    let edge = started(lab)?;
    edge.cli(&["block", "--force", "0.0.0.0/0"])?.good()?;
    ensure!(edge.cli(&["allow", REMOTE4, "02:00:00:00:00:01"])?.code == 2);
    ensure!(edge.cli(&["why", REMOTE4])?.code == 1, "half of a refused command was done");
    Ok(())
}

/// Address and origin of what is listed.
fn addresses(edge: &Edge) -> Result<Vec<String>> {
    let list = edge.json(&["list"])?;
    let entries = list.as_array().context("edge list gives no array")?.iter();
    let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    Ok(entries.map(|entry| format!("{} {}", text(entry, "address"), text(entry, "origin"))).collect())
}
