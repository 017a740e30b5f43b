//! Interfaces that come, go and come back, links and pins that are lost, several of them with one set of maps: what is
//! to be filtered is, and what is said of it is what the kernel says.

use std::{
    fs,
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    bpf::detach_link,
    client::{Wire, scrape},
    net::{ATTACKER4, HOST_INTERFACE, HOST4, Lab, NEIGHBOUR4},
    wait_for,
};
use serde_json::json;

use super::{FOREIGN, SOON, attach_foreign, lifecycle::filter_only, only_block, packets};

/// How soon an interface that came back is filtered.
const BACK_WITHIN: Duration = Duration::from_secs(1);
/// How soon one that appeared is.
const THERE_WITHIN: Duration = Duration::from_secs(2);
/// How soon a change from outside is undone.
const UNDONE_WITHIN: Duration = Duration::from_secs(5);

/// A second pair: the host's end, the client's.
pub const SECOND: (&str, &str) = ("edge-x", "edge-y");
const SECOND_HOST: &str = "10.78.0.1";

#[test]
fn an_interface_that_goes_and_comes_back_under_traffic_is_filtered_within_a_second() -> Result<()> {
    let lab = Lab::new()?;
    let edge = filtering(&lab, &[HOST_INTERFACE])?;
    edge.cli(&["block", &ATTACKER4.to_string()])?.good()?;
    let sink = sink(&lab)?;
    for _ in 0..3 {
        lab.host.ip(&format!("link delete {HOST_INTERFACE}"))?;
        wait_for("it to be said", BACK_WITHIN, || Ok(filtered(&edge)?.is_empty().then_some(())))?;
        let status = edge.json(&["status"])?;
        ensure!(status["unfiltered"][0]["name"] == HOST_INTERFACE, "{status}");
        ensure!(attached(&lab, HOST_INTERFACE)? == Some(0.0), "{}", scrape(&lab)?.text);

        let appeared = Instant::now();
        lab.connect()?;
        let wire = Wire::new(&lab)?;
        let (mut leaked, mut honest) = (Vec::new(), 0);
        wait_for("two seconds of traffic", SOON, || {
            let stamp = u64::try_from(appeared.elapsed().as_millis())?.to_be_bytes();
            wire.send(&wire.datagram(ATTACKER4, 0, &stamp)?)?;
            wire.send(&wire.datagram(NEIGHBOUR4, 0, &stamp)?)?;
            for (from, sent) in received(&sink)? {
                if from == ATTACKER4 { leaked.push(sent) } else { honest += 1 }
            }
            Ok((appeared.elapsed() > BACK_WITHIN * 2).then_some(()))
        })?;
        let late: Vec<_> = leaked.iter().filter(|sent| **sent > BACK_WITHIN).collect();
        ensure!(late.is_empty(), "passed so long after it was back: {late:?}\n{}", edge.log());
        ensure!(honest > 50, "{honest} of the neighbour's datagrams came through");
        agrees(&lab, &edge, &[HOST_INTERFACE])?;
        ensure!(attached(&lab, HOST_INTERFACE)? == Some(1.0));
    }
    ensure!(edge.log().matches("is not filtered, and will be").count() == 3, "{}", edge.log());
    Ok(())
}

#[test]
fn a_pin_that_is_removed_opens_no_gap_and_is_back_within_five_seconds() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = filtering(&lab, &[HOST_INTERFACE])?;
    let program = lab.host.xdp_program(HOST_INTERFACE)?;
    let pin = lab.pin_path().join(format!("link-{}", lab.host.index(HOST_INTERFACE)?));
    fs::remove_file(&pin)?;
    wait_for("the pin to be back", UNDONE_WITHIN, || {
        ensure!(lab.host.xdp_program(HOST_INTERFACE)? == program, "it was detached");
        Ok(pin.exists().then_some(()))
    })?;
    agrees(&lab, &edge, &[HOST_INTERFACE])?;
    ensure!(repaired(&lab, "unpinned")? == 1.0 && repaired(&lab, "detached")? == 0.0);
    ensure!(edge.log().lines().filter(|line| line.contains("WARN") && line.contains("not pinned")).count() == 1);
    edge.kill()?;
    ensure!(lab.host.xdp_program(HOST_INTERFACE)? == program, "the pin holds nothing");
    Ok(())
}

#[test]
fn a_link_that_is_detached_is_attached_again_within_five_seconds() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = filtering(&lab, &[HOST_INTERFACE])?;
    edge.cli(&["block", &ATTACKER4.to_string()])?.good()?;
    let pin = lab.pin_path().join(format!("link-{}", lab.host.index(HOST_INTERFACE)?));
    for times in 1..=2 {
        detach_link(&pin)?;
        wait_for("it to be attached", UNDONE_WITHIN, || lab.host.xdp_program(HOST_INTERFACE))?;
        agrees(&lab, &edge, &[HOST_INTERFACE])?;
        ensure!(repaired(&lab, "detached")? == f64::from(times));
        let said = edge.log().lines().filter(|line| line.contains("WARN") && line.contains("filtered no more")).count();
        ensure!(said == usize::try_from(times)?, "{}", edge.log());
    }
    edge.kill()?;
    ensure!(lab.host.xdp_program(HOST_INTERFACE)?.is_some(), "what is pinned is the dead link");
    edge.run()?;
    dropped(&lab, &edge, ATTACKER4)
}

#[test]
fn all_pins_removed_open_no_gap_and_are_back_within_five_seconds() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = filtering(&lab, &[HOST_INTERFACE])?;
    edge.cli(&["block", &ATTACKER4.to_string()])?.good()?;
    dropped(&lab, &edge, ATTACKER4)?;
    let pins = names(&lab)?;
    fs::remove_dir_all(lab.pin_path())?;
    dropped(&lab, &edge, ATTACKER4)?;
    edge.cli(&["block", &NEIGHBOUR4.to_string()])?.good()?;
    dropped(&lab, &edge, NEIGHBOUR4)?;
    wait_for("the pins to be back", UNDONE_WITHIN, || Ok((names(&lab).unwrap_or_default() == pins).then_some(())))?;
    agrees(&lab, &edge, &[HOST_INTERFACE])?;
    ensure!(repaired(&lab, "detached")? == 0.0);
    // The lock is on the directory that is there now.
    let mut second = Edge::bare(&lab)?;
    filter_only(&mut second.config);
    second.config.text("metrics", "listen", "127.0.0.1:9465");
    let refused = second.run_in_vain()?;
    ensure!(refused.code == 1 && refused.stderr.contains(&lab.pin_path().display().to_string()), "{refused:?}");

    // What is pinned is what is in force: another process goes on with it.
    let before = edge.json(&["list"])?;
    edge.kill()?;
    let (counted, program) = (edge.json(&["list"])?, lab.host.xdp_program(HOST_INTERFACE)?);
    ensure!(counted == before, "{before} became {counted}");
    edge.cli(&["unblock", &NEIGHBOUR4.to_string()])?.good()?;
    edge.run()?;
    ensure!(lab.host.xdp_program(HOST_INTERFACE)? != program);
    ensure!(only_block(&edge)?["packets"] == counted[0]["packets"], "{} after {counted}", only_block(&edge)?);
    dropped(&lab, &edge, ATTACKER4)
}

#[test]
fn unload_detaches_what_was_pinned_no_more() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = filtering(&lab, &[HOST_INTERFACE])?;
    fs::remove_dir_all(lab.pin_path())?;
    let unloaded = edge.json(&["unload"])?;
    ensure!(unloaded["detached"] == json!([HOST_INTERFACE]), "{unloaded}");
    super::lifecycle::nothing_left(&lab)?;
    ensure!(edge.wait()? == 0);
    Ok(())
}

#[test]
fn a_hook_that_was_taken_meanwhile_is_said_once_and_taken_back_when_it_is_free() -> Result<()> {
    use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
    let lab = Lab::new()?;
    let edge = filtering(&lab, &[HOST_INTERFACE])?;
    edge.signal_group(SIGSTOP)?;
    detach_link(&lab.pin_path().join(format!("link-{}", lab.host.index(HOST_INTERFACE)?)))?;
    let foreign = attach_foreign(&lab, HOST_INTERFACE, "xdpgeneric")?;
    edge.signal_group(SIGCONT)?;
    let mut looks = 0;
    let status = wait_for("two looks", SOON, || {
        let status = edge.json(&["status"])?;
        looks += usize::from(status["unfiltered"] != json!([]));
        Ok((looks >= 2).then_some(status))
    })?;
    ensure!(status["interfaces"] == json!([]), "{status}");
    let reason = status["unfiltered"][0]["reason"].as_str().context("no reason")?;
    ensure!(reason.contains(&foreign.to_string()) && reason.contains(FOREIGN), "{reason}");
    ensure!(edge.cli(&["status"])?.good()?.contains(reason));
    ensure!(attached(&lab, HOST_INTERFACE)? == Some(0.0), "{}", scrape(&lab)?.text);
    let warned = edge.cli(&["block", &ATTACKER4.to_string()])?;
    ensure!(warned.code == 0 && warned.stderr.contains(HOST_INTERFACE), "{warned:?}");
    let (code, why) = edge.json_any(&["why", &ATTACKER4.to_string()])?;
    ensure!(code == 0 && why["verdict"] == "pass" && why["reason"] == "blocked", "{why}");
    ensure!(why["unfiltered"] == status["unfiltered"], "{why}");
    let told = edge.cli(&["why", &ATTACKER4.to_string()])?.good()?;
    ensure!(told.contains("edge filters no interface now") && told.contains(reason), "{told}");
    ensure!(edge.log().lines().filter(|line| line.contains("ERROR") && line.contains(FOREIGN)).count() == 1);
    ensure!(lab.host.xdp_program(HOST_INTERFACE)? == Some(foreign), "the owner was thrown out");
    lab.host.ip(&format!("link set dev {HOST_INTERFACE} xdpgeneric off"))?;
    wait_for("it to be filtered", THERE_WITHIN, || Ok(filtered(&edge)?.pop()))?;
    agrees(&lab, &edge, &[HOST_INTERFACE])
}

#[test]
fn auto_follows_the_default_route_and_lets_none_go() -> Result<()> {
    let lab = Lab::new()?;
    second_pair(&lab)?;
    lab.host.ip("tuntap add dev tun7 mode tun")?;
    lab.host.ip("link set tun7 up")?;
    let mut edge = filtering(&lab, &["auto"])?;
    ensure!(filtered(&edge)?.is_empty() && edge.log().contains("no interface carries a default route"));
    ensure!(edge.cli(&["status"])?.good()?.contains("none"));

    lab.host.ip("route add default dev tun7")?;
    for (interface, route) in [
        (HOST_INTERFACE, format!("route add default via 10.77.0.2 dev {HOST_INTERFACE} metric 7")),
        (SECOND.0, format!("-6 route add default via fe80::1 dev {} metric 7", SECOND.0)),
    ] {
        lab.host.ip(&route)?;
        wait_for("the route to be followed", THERE_WITHIN, || lab.host.xdp_program(interface))?;
    }
    let both = [HOST_INTERFACE, SECOND.0];
    agrees(&lab, &edge, &both)?;
    ensure!(edge.log().lines().filter(|line| line.contains("tun7")).count() == 1, "{}", edge.log());

    lab.host.ip("route flush exact default")?;
    lab.host.ip("-6 route flush exact default")?;
    // With no route it is the same interface all the same, and the first that it sends may come before any route.
    lab.host.ip(&format!("link delete {}", SECOND.0))?;
    second_pair(&lab)?;
    wait_for("it to be filtered again", BACK_WITHIN, || lab.host.xdp_program(SECOND.0))?;
    agrees(&lab, &edge, &both)?;
    edge.kill()?;
    edge.run()?;
    agrees(&lab, &edge, &both)
}

#[test]
fn two_interfaces_have_one_set_of_maps() -> Result<()> {
    let lab = Lab::new()?;
    second_pair(&lab)?;
    let edge = filtering(&lab, &[HOST_INTERFACE, SECOND.0])?;
    agrees(&lab, &edge, &[HOST_INTERFACE, SECOND.0])?;
    edge.cli(&["block", &ATTACKER4.to_string()])?.good()?;
    let wires = [Wire::new(&lab)?, Wire::between(&lab, SECOND.1, SECOND.0)?];
    for (wire, frames) in wires.iter().zip([3, 4]) {
        let frame = wire.datagram(ATTACKER4, 0, b"x")?;
        (0..frames).try_for_each(|_| wire.send(&frame))?;
    }
    wait_for("both to count", SOON, || Ok((packets(&edge, "blocked")? == 7).then_some(())))?;
    ensure!(only_block(&edge)?["packets"] == 7);
    // One loses its link, the other goes on meanwhile.
    let program = lab.host.xdp_program(HOST_INTERFACE)?;
    lab.host.ip(&format!("link delete {}", SECOND.0))?;
    wait_for("it to be said", BACK_WITHIN, || Ok((filtered(&edge)? == [HOST_INTERFACE]).then_some(())))?;
    second_pair(&lab)?;
    wait_for("it to be filtered again", BACK_WITHIN, || lab.host.xdp_program(SECOND.0))?;
    ensure!(lab.host.xdp_program(HOST_INTERFACE)? == program);
    agrees(&lab, &edge, &[HOST_INTERFACE, SECOND.0])
}

#[test]
fn each_interface_is_filtered_in_the_mode_that_it_has_and_that_is_asked_for() -> Result<()> {
    let lab = Lab::new()?;
    // A bridge runs no programs itself.
    lab.host.ip("link add edge-d type bridge")?;
    for (mode, expected) in [("auto", ["native", "generic"]), ("generic", ["generic", "generic"])] {
        let mut edge = Edge::bare(&lab)?;
        filter_only(&mut edge.config);
        edge.config.set("filter", "interfaces", &format!("[\"{HOST_INTERFACE}\", \"edge-d\"]"));
        edge.config.text("filter", "attach", mode);
        edge.run()?;
        let status = edge.json(&["status"])?;
        for (interface, mode) in [HOST_INTERFACE, "edge-d"].into_iter().zip(expected) {
            let found = status["interfaces"].as_array().context("interfaces")?;
            ensure!(found.iter().any(|one| one["name"] == interface && one["mode"] == mode), "{mode}: {status}");
            let labels = [("interface", interface), ("mode", mode)];
            ensure!(scrape(&lab)?.value("edge_xdp_attached", &labels) == Some(1.0));
        }
        let told = edge.log().contains("edge-d: native mode refused");
        ensure!(told == (mode == "auto"), "{}", edge.log());
        edge.cli(&["unload"])?.good()?;
    }
    let mut edge = Edge::bare(&lab)?;
    filter_only(&mut edge.config);
    edge.config.set("filter", "interfaces", &format!("[\"{HOST_INTERFACE}\", \"edge-d\"]"));
    edge.config.text("filter", "attach", "native");
    let refused = edge.run_in_vain()?;
    ensure!(refused.code == 1 && refused.stderr.contains("cannot be attached to edge-d"), "{refused:?}");
    super::lifecycle::nothing_left(&lab)
}

#[test]
fn answers_come_through_again_where_what_is_sent_was_noted_no_more() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::bare(&lab)?;
    filter_only(&mut edge.config);
    edge.config.set("filter", "exposed_ports", "[\"22/tcp\"]");
    edge.run()?;
    asked_and_answered(&lab)?;
    let pin = lab.pin_path().join(format!("sent-{}", lab.host.index(HOST_INTERFACE)?));
    detach_link(&pin)?;
    wait_for("it to be attached", UNDONE_WITHIN, || Ok((repaired(&lab, "detached")? == 1.0).then_some(())))?;
    asked_and_answered(&lab)?;
    fs::remove_file(&pin)?;
    asked_and_answered(&lab)?;
    wait_for("the pin to be back", UNDONE_WITHIN, || Ok(pin.exists().then_some(())))?;

    lab.host.ip(&format!("link delete {HOST_INTERFACE}"))?;
    wait_for("it to be said", BACK_WITHIN, || Ok(filtered(&edge)?.is_empty().then_some(())))?;
    ensure!(!pin.exists(), "the pin of an interface that is gone is left");
    lab.connect()?;
    wait_for("it to be filtered again", BACK_WITHIN, || lab.host.xdp_program(HOST_INTERFACE))?;
    asked_and_answered(&lab)?;
    edge.kill()?;
    asked_and_answered(&lab)
}

#[test]
fn a_name_that_comes_back_without_ethernet_is_told_as_unfiltered() -> Result<()> {
    let lab = Lab::new()?;
    second_pair(&lab)?;
    let edge = filtering(&lab, &[HOST_INTERFACE, SECOND.0])?;
    lab.host.ip(&format!("link delete {}", SECOND.0))?;
    lab.host.ip(&format!("tuntap add dev {} mode tun", SECOND.0))?;
    wait_for("it to be said", THERE_WITHIN, || {
        let status = edge.json(&["status"])?;
        let reason = status["unfiltered"][0]["reason"].as_str().unwrap_or_default();
        Ok(reason.contains("no Ethernet headers").then_some(()))
    })?;
    agrees(&lab, &edge, &[HOST_INTERFACE])
}

/// An edge that filters these and serves nothing, ready.
fn filtering(lab: &Lab, interfaces: &[&str]) -> Result<Edge> {
    let mut edge = Edge::bare(lab)?;
    filter_only(&mut edge.config);
    edge.config.set("filter", "interfaces", &json!(interfaces).to_string());
    edge.run()?;
    Ok(edge)
}

pub fn second_pair(lab: &Lab) -> Result<()> {
    let (host, client) = SECOND;
    lab.host.ip(&format!("link add {host} type veth peer name {client} netns {}", lab.client.name))?;
    lab.client.ip(&format!("link set {client} up"))?;
    lab.host.ip(&format!("link set {host} up"))?;
    lab.host.ip(&format!("address add {SECOND_HOST}/24 dev {host}"))
}

/// The names that `edge status` lists.
fn filtered(edge: &Edge) -> Result<Vec<String>> {
    let status = edge.json(&["status"])?;
    let interfaces = status["interfaces"].as_array().context("interfaces")?;
    Ok(interfaces.iter().filter_map(|one| one["name"].as_str().map(str::to_owned)).collect())
}

/// That these are filtered, and nothing else is said to be: by name, and by the kernel's id of the program.
fn agrees(lab: &Lab, edge: &Edge, interfaces: &[&str]) -> Result<()> {
    let status = edge.json(&["status"])?;
    let listed = status["interfaces"].as_array().context("interfaces")?;
    ensure!(listed.len() == interfaces.len(), "{status}");
    for interface in interfaces {
        let found = listed.iter().find(|one| one["name"] == *interface).with_context(|| status.to_string())?;
        let program = lab.host.xdp_program(interface)?;
        ensure!(program.is_some() && found["program_id"].as_u64() == program, "{program:?}, not {found}");
        let pin = lab.pin_path().join(format!("link-{}", lab.host.index(interface)?));
        ensure!(pin.exists(), "no {}", pin.display());
    }
    Ok(())
}

/// What the metrics say of an interface; `None`: nothing.
fn attached(lab: &Lab, interface: &str) -> Result<Option<f64>> {
    Ok(scrape(lab)?.value("edge_xdp_attached", &[("interface", interface)]))
}

pub fn repaired(lab: &Lab, kind: &str) -> Result<f64> {
    scrape(lab)?.value("edge_drift_repaired_total", &[("kind", kind)]).context("no such kind")
}

/// That a frame of this address is dropped and counted.
fn dropped(lab: &Lab, edge: &Edge, from: IpAddr) -> Result<()> {
    let (before, wire) = (packets(edge, "blocked")?, Wire::new(lab)?);
    wire.send(&wire.datagram(from, 0, b"x")?)?;
    wait_for("it to be dropped", SOON, || Ok((packets(edge, "blocked")? > before).then_some(())))
}

/// The names of all that is pinned, from the top.
fn names(lab: &Lab) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut folders = vec![lab.pin_path()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            names.push(path.display().to_string());
            folders.extend(path.is_dir().then_some(path));
        }
    }
    names.sort();
    Ok(names)
}

/// Takes in what a [`Wire`] sends.
fn sink(lab: &Lab) -> Result<UdpSocket> {
    let sink = lab.host.within(|| Ok(UdpSocket::bind("0.0.0.0:5001")?))?;
    sink.set_nonblocking(true)?;
    Ok(sink)
}

/// Who sent what came by now, and the stamps that it had.
fn received(sink: &UdpSocket) -> Result<Vec<(IpAddr, Duration)>> {
    let mut received = Vec::new();
    let mut stamp = [0; 8];
    while let Ok((8, from)) = sink.recv_from(&mut stamp) {
        received.push((from.ip(), Duration::from_millis(u64::from_be_bytes(stamp))));
    }
    Ok(received)
}

/// A question over UDP that this host asks, and its answer.
pub fn asked_and_answered(lab: &Lab) -> Result<()> {
    let answers = lab.client.within(|| Ok(UdpSocket::bind((NEIGHBOUR4, 53))?))?;
    let asks = lab.host.within(|| Ok(UdpSocket::bind((HOST4, 0))?))?;
    for socket in [&answers, &asks] {
        socket.set_read_timeout(Some(SOON))?;
    }
    asks.send_to(b"question", answers.local_addr()?)?;
    let mut buffer = [0; 16];
    let (_, from) = answers.recv_from(&mut buffer).context("the question did not arrive")?;
    answers.send_to(b"answer", from)?;
    asks.recv_from(&mut buffer).context("the answer was dropped")?;
    Ok(())
}
