//! What can be wrong at a start: one clear sentence each, the agreed exit code, and nothing left attached.

use std::{
    fs::{self, Permissions},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    Output,
    agent::Edge,
    authority::certificate,
    client::Client,
    net::{ATTACKER4, HOST_INTERFACE, HOST4, Lab, NEIGHBOUR4},
};

use super::{
    FOREIGN, attach_foreign, attach_named,
    lifecycle::{filter_only, nothing_left, nothing_left_but},
    served,
};

#[test]
fn a_config_with_three_mistakes_tells_all_three() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    edge.config.set("filter", "interfcaes", "[]").set("filter", "ipv6_unit", "129");
    edge.config.set("learn", "window", "\"ten minutes\"");
    let config = edge.write_config()?;
    let text = fs::read_to_string(&config)?;
    for output in [edge.cli(&["check"])?, edge.run_in_vain()?] {
        ensure!(output.code == 2, "{output:?}");
        let said = output.stdout.clone() + &output.stderr;
        for key in ["interfcaes", "ipv6_unit", "window"] {
            let line = 1 + text.lines().position(|line| line.starts_with(key)).context("the key's line")?;
            let place = format!("{}:{line}:", config.display());
            ensure!(said.lines().any(|said| said.contains(&place) && said.contains(key)), "no {place} {key} in {said}");
        }
    }
    nothing_left(&lab)
}

#[test]
fn a_file_that_is_no_toml_names_its_place() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::bare(&lab)?;
    let config = edge.write_config()?;
    fs::write(&config, "mode = \"production\"\n[filter\n")?;
    let output = edge.cli(&["check"])?;
    ensure!(output.code == 2, "{output:?}");
    ensure!((output.stdout.clone() + &output.stderr).contains(&format!("{}:2:", config.display())), "{output:?}");
    Ok(())
}

#[test]
fn what_is_hardly_meant_is_warned_of_by_a_check_and_at_a_start() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::bare(&lab)?;
    filter_only(&mut edge.config);
    let own = HOST4.to_string();
    edge.config.set("filter", "allow", "[\"::/0\"]").set("filter", "block", &format!("[\"{own}\", \"16.0.0.0/4\"]"));
    let config = edge.write_config()?;
    let text = fs::read_to_string(&config)?;
    let place = |key: &str| -> Result<String> {
        let line = 1 + text.lines().position(|line| line.starts_with(key)).context("the key's line")?;
        Ok(format!("{}:{line}:", config.display()))
    };
    let check = edge.cli(&["check"])?;
    ensure!(check.code == 0, "{check:?}");
    let warned = |said: &str, place: &str, named: &str| -> Result<()> {
        let found = said.lines().any(|line| line.contains(place) && line.contains(named));
        ensure!(found, "no warning at {place} of {named} in {said}");
        Ok(())
    };
    warned(
        &check.stderr,
        &place("block")?,
        &format!("{own}/32 is protected and stays served: it is an address of this"),
    )?;
    edge.run()?;
    for said in [check.stderr, edge.log()] {
        warned(&said, &place("allow")?, "::/0 lets all of IPv6 pass")?;
        warned(&said, &place("block")?, "16.0.0.0/4 is wider than /8")?;
    }
    ensure!(edge.log().contains(&format!("names {own}/32, which is protected")), "{}", edge.log());
    // The same shape, good or not.
    let (_, good) = edge.json_any(&["check"])?;
    edge.config.set("filter", "nonsense", "1");
    edge.write_config()?;
    let (code, bad) = edge.json_any(&["check"])?;
    ensure!(code == 2 && good["ok"] == true && bad["ok"] == false, "{good} {bad}");
    ensure!(
        good["problems"] == serde_json::json!([]) && bad["problems"][0]["key"] == "filter.nonsense",
        "{good} {bad}"
    );
    let warnings = |document: &serde_json::Value| document["warnings"].as_array().map(Vec::len);
    ensure!(warnings(&good) >= Some(3) && warnings(&good) == warnings(&bad), "{good} {bad}");
    ensure!(good["warnings"][0] == bad["warnings"][0] && good["warnings"][0]["line"].is_u64(), "{good} {bad}");
    Ok(())
}

#[test]
fn an_unknown_interface_is_named() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    edge.config.set("filter", "interfaces", "[\"eth77\"]");
    refused(&edge.run_in_vain()?, &[1, 2], &["eth77"])?;
    nothing_left(&lab)
}

#[test]
fn one_unknown_interface_of_two_leaves_the_other_alone() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    edge.config.set("filter", "interfaces", &format!("[\"{HOST_INTERFACE}\", \"eth77\"]"));
    refused(&edge.run_in_vain()?, &[1, 2], &["eth77"])?;
    nothing_left(&lab)
}

#[test]
fn an_interface_without_ethernet_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    lab.host.ip("tuntap add dev tun7 mode tun")?;
    let mut edge = Edge::new(&lab)?;
    edge.config.set("filter", "interfaces", "[\"tun7\"]");
    refused(&edge.run_in_vain()?, &[1, 2], &["tun7", "Ethernet"])?;
    nothing_left(&lab)
}

#[test]
fn an_occupied_hook_is_left_to_its_owner() -> Result<()> {
    let lab = Lab::new()?;
    for mode in ["xdpgeneric", "xdpdrv"] {
        let owner = attach_foreign(&lab, HOST_INTERFACE, mode)?;
        let mut edge = Edge::new(&lab)?;
        refused(&edge.run_in_vain()?, &[1], &[HOST_INTERFACE, &owner.to_string(), FOREIGN])?;
        ensure!(lab.host.xdp_program(HOST_INTERFACE)? == Some(owner), "the owner was thrown out");
        lab.host.ip(&format!("link set dev {HOST_INTERFACE} {mode} off"))?;
        nothing_left(&lab)?;
    }
    Ok(())
}

/// What libxdp puts in front of its users' programs; they are named by its own tool.
#[test]
fn a_hook_that_libxdp_has_is_left_to_it() -> Result<()> {
    let lab = Lab::new()?;
    let owner = attach_named(&lab, HOST_INTERFACE, "xdpgeneric", "xdp_dispatcher")?;
    let mut edge = Edge::new(&lab)?;
    let named = [HOST_INTERFACE, &owner.to_string(), "`xdp_dispatcher`", "xdp-loader status", "xdp-loader unload"];
    refused(&edge.run_in_vain()?, &[1], &named)?;
    let doctor = edge.cli(&["doctor"])?;
    ensure!(doctor.code == 1 && doctor.stdout.contains("xdp-loader unload"), "{doctor:?}");
    ensure!(lab.host.xdp_program(HOST_INTERFACE)? == Some(owner), "the owner was thrown out");
    nothing_left_but(&lab, Some(owner))
}

#[test]
fn missing_capabilities_are_named() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    for (dropped, named) in
        [("-all", "CAP_BPF"), ("-net_admin", "CAP_NET_ADMIN"), ("-perfmon,-sys_admin", "CAP_PERFMON")]
    {
        let output =
            edge.run_in_vain_under(&["setpriv", "--inh-caps=-all", &format!("--bounding-set={dropped}"), "--"])?;
        refused(&output, &[4], &[named])?;
        nothing_left(&lab)?;
    }
    Ok(())
}

#[test]
fn a_pin_path_that_is_on_no_bpffs_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let (pins, above) = (edge.path("deep/pins"), edge.path("deep"));
    edge.config.text("filter", "pin_path", &pins);
    refused(&edge.run_in_vain()?, &[1], &[&pins.display().to_string(), "bpffs"])?;
    ensure!(!above.exists(), "a directory is left behind");
    nothing_left(&lab)
}

#[test]
fn a_kernel_that_refuses_bpf_is_told_with_what_to_do() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    // As a container's runtime refuses it, and as a kernel built without it.
    for (errno, code, named) in [(libc::EPERM, 4, "CAP_BPF"), (libc::ENOSYS, 1, "edge doctor")] {
        let output = edge.run_in_vain_without(libc::SYS_bpf, errno)?;
        refused(&output, &[code], &["kernel", named])?;
        ensure!(output.stderr.lines().filter(|line| line.starts_with("edge: ")).count() == 1, "{output:?}");
        nothing_left(&lab)?;
        ensure!(!lab.pin_path().exists(), "the directory of pins is left");
    }
    Ok(())
}

#[test]
fn a_taken_port_is_named() -> Result<()> {
    let lab = Lab::new()?;
    for (place, named) in [
        (SocketAddr::new(HOST4, 443), "server.listen: 10.77.0.1:443"),
        ("127.0.0.1:9464".parse()?, "metrics.listen: 127.0.0.1:9464"),
    ] {
        let _taken: TcpListener = lab.host.within(|| Ok(TcpListener::bind(place)?))?;
        let mut edge = Edge::new(&lab)?;
        refused(&edge.run_in_vain()?, &[1], &[named, "`ss -ltnp`"])?;
        nothing_left(&lab)?;
    }
    Ok(())
}

#[test]
fn a_broken_certificate_is_named() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let (good, key) = (fs::read(edge.path("cert.pem"))?, fs::read(edge.path("key.pem"))?);
    fs::write(edge.path("cert.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")?;
    broken(&lab, &mut edge, "cert.pem")?;
    fs::write(edge.path("cert.pem"), "")?;
    broken(&lab, &mut edge, "cert.pem")?;
    fs::remove_file(edge.path("cert.pem"))?;
    broken(&lab, &mut edge, "cert.pem")?;
    fs::write(edge.path("cert.pem"), &good)?;
    fs::write(edge.path("key.pem"), "no key")?;
    broken(&lab, &mut edge, "key.pem")?;
    // A key that belongs to another certificate.
    certificate(&edge.path("other.pem"), &edge.path("key.pem"))?;
    broken(&lab, &mut edge, "key.pem")?;
    fs::write(edge.path("key.pem"), key)?;
    edge.cli(&["check"])?.good()?;
    Ok(())
}

fn broken(lab: &Lab, edge: &mut Edge, named: &str) -> Result<()> {
    let check = edge.cli(&["check"])?;
    ensure!(check.code == 2 && (check.stdout.clone() + &check.stderr).contains(named), "{check:?}");
    refused(&edge.run_in_vain()?, &[1, 2], &[named])?;
    nothing_left(lab)
}

#[test]
fn a_weak_or_public_secret_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let good = fs::read(edge.path("jwt"))?;
    for weak in
        ["short", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "your-256-bit-secret", "01234567890123456789012345678901"]
    {
        fs::write(edge.path("jwt"), weak)?;
        let output = edge.run_in_vain()?;
        ensure!(!(output.stdout.clone() + &output.stderr).contains(weak), "the secret was printed: {output:?}");
        refused(&output, &[2], &["secret"])?;
    }
    fs::write(edge.path("jwt"), good)?;
    fs::set_permissions(edge.path("jwt"), Permissions::from_mode(0o644))?;
    refused(&edge.run_in_vain()?, &[2], &["jwt"])?;
    nothing_left(&lab)
}

#[test]
fn a_second_agent_on_the_same_pins_changes_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let first = Edge::start(&lab)?;
    let program = lab.host.xdp_program(HOST_INTERFACE)?;
    // The same pins, but everything else its own.
    let mut second = Edge::bare(&lab)?;
    filter_only(&mut second.config);
    second.config.text("metrics", "listen", "127.0.0.1:9465");
    let output = second.run_in_vain()?;
    refused(&output, &[1], &[&lab.pin_path().display().to_string()])?;
    ensure!(lab.host.xdp_program(HOST_INTERFACE)? == program, "the program changed");
    served(&Client::new(&lab, &first, NEIGHBOUR4))?;
    ensure!(first.cli(&["status"])?.code == 0);
    Ok(())
}

/// One of these exit codes, and a sentence that names each of these.
fn refused(output: &Output, codes: &[i32], named: &[&str]) -> Result<()> {
    ensure!(codes.contains(&output.code), "exit code {}, not {codes:?}: {}", output.code, output.stderr);
    let sentence = output.stderr.lines().rfind(|line| named.iter().all(|name| line.contains(name)));
    ensure!(sentence.is_some(), "no line names {named:?}: {}", output.stderr);
    ensure!(!output.stderr.contains("panicked") && !output.stderr.contains("backtrace"), "{}", output.stderr);
    Ok(())
}

#[test]
fn an_admin_socket_that_another_agent_has_stops_a_start_before_anything_is_attached() -> Result<()> {
    let (lab, other) = (Lab::new()?, Lab::new()?);
    let first = Edge::start(&lab)?;
    let mut second = Edge::new(&other)?;
    second.config.text("admin", "socket", first.path("edge.sock"));
    let refused = second.run_in_vain()?;
    ensure!(refused.code == 1 && refused.stderr.contains("another agent answers"), "{refused:?}");
    ensure!(other.host.xdp_program(HOST_INTERFACE)?.is_none() && !other.pin_path().exists());
    Ok(())
}

#[test]
fn a_store_that_another_agent_uses_stops_a_start() -> Result<()> {
    let (lab, other) = (Lab::new()?, Lab::new()?);
    let first = Edge::start(&lab)?;
    let mut second = Edge::new(&other)?;
    second.config.text("store", "path", first.path("edge.db"));
    let refused = second.run_in_vain()?;
    ensure!(refused.code == 1 && refused.stderr.contains("in use by another agent"), "{refused:?}");
    ensure!(other.host.xdp_program(HOST_INTERFACE)?.is_none() && !other.pin_path().exists());
    Ok(())
}

#[test]
fn a_second_interface_that_is_taken_leaves_the_first_filtered_as_it_was() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    edge.cli(&["block", &ATTACKER4.to_string()])?.good()?;
    let program = lab.host.xdp_program(HOST_INTERFACE)?;
    edge.stop()?;
    lab.host.ip("link add edge-x type veth peer name edge-y")?;
    attach_foreign(&lab, "edge-x", "xdpgeneric")?;
    edge.config.set("filter", "interfaces", &format!("[\"{HOST_INTERFACE}\", \"edge-x\"]"));
    let refused = edge.run_in_vain()?;
    ensure!(refused.code == 1 && refused.stderr.contains("edge-x"), "{refused:?}");
    ensure!(lab.host.xdp_program(HOST_INTERFACE)? == program, "the first interface runs another program");
    // What is in force is what the commands write: what comes now is dropped no more.
    edge.cli(&["unblock", &ATTACKER4.to_string()])?.good()?;
    edge.config.set("filter", "interfaces", &format!("[\"{HOST_INTERFACE}\"]"));
    let seen = Client::new(&lab, &edge, ATTACKER4).get("/health")?;
    ensure!(seen != edge_tests::client::Seen::Timeout, "still dropped");
    edge.run()?;
    served(&Client::new(&lab, &edge, ATTACKER4))
}
