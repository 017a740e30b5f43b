//! Packets whose judgement hangs on what was before them: rates, answers over UDP, blocks that ended, and what lies in
//! the first buffer.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use edge_tests::{
    model::{
        Flow, Limit,
        Reason::{self, Allowed, Blocked, Malformed, PacketRate, Passed, PortClosed, SynRate},
    },
    net::{HOST4, HOST6},
    packet::{ACK, Extension, Packet, SYN},
    scene::Setting,
    wait_for,
};

use super::{rig::Rig, rows::from};

struct Step(&'static str, Packet, Reason);

fn walk(rig: &mut Rig, steps: impl IntoIterator<Item = Step>) -> Result<()> {
    for Step(what, packet, wanted) in steps {
        let reason = rig.judge(&packet.bytes()).context(what)?.reason;
        ensure!(reason == wanted, "{what}: {reason:?}, not {wanted:?}");
    }
    Ok(())
}

/// Walks before anything of a rate comes back; on a machine too busy for that once more, with an agent of its own.
fn walk_at_once(start: impl Fn() -> Result<Rig>, steps: impl Fn() -> Result<Vec<Step>>) -> Result<()> {
    const TIMES: usize = 5;
    for _ in 0..TIMES {
        let (mut rig, steps) = (start()?, steps()?);
        let begin = Instant::now();
        let walked = walk(&mut rig, steps);
        if begin.elapsed() < SHORT {
            return walked;
        }
    }
    bail!("{TIMES} times in a row this machine was too busy to say")
}

fn again_and_again(what: &'static str, packet: &Packet, reason: Reason) -> impl Iterator<Item = Step> {
    (0..9).map(move |_| Step(what, packet.clone(), reason))
}

/// So slow that nothing comes back while a test runs.
const fn slow(burst: u64) -> Option<Limit> {
    Some(Limit { per_second: 1, burst })
}

/// Long enough after a burst that the clock's steps do not matter, and shorter than the second that gives a packet back.
const SHORT: Duration = Duration::from_millis(500);

#[test]
fn connections_beyond_the_burst_are_refused_and_nothing_else_is() -> Result<()> {
    let start = || -> Result<Rig> {
        let mut rig = Rig::start(&Setting { syns: slow(3), ..Setting::default() })?;
        rig.enforce(&["203.0.113.0/24".parse()?], &["192.0.2.200/32".parse()?])?;
        Ok(rig)
    };
    walk_at_once(start, syns)
}

fn syns() -> Result<Vec<Step>> {
    let syn = |source| from(source).map(|packet| packet.tcp(23, SYN));
    let steps = [
        Step("the first of three", syn("192.0.2.1")?, Passed),
        Step("another flag, which opens nothing", from("192.0.2.1")?.tcp(23, SYN | ACK), Passed),
        Step("the second", syn("192.0.2.1")?, Passed),
        Step("the third", syn("192.0.2.1")?.tags(&[0x8100]), Passed),
        Step("the fourth", syn("192.0.2.1")?, SynRate),
        Step("the fifth, to another port", from("192.0.2.1")?.tcp(443, SYN), SynRate),
        Step("the sixth, with data", syn("192.0.2.1")?.payload(100), SynRate),
        Step("SYN and RST open something too", from("192.0.2.1")?.tcp(23, SYN | 4), SynRate),
        Step("an ACK", from("192.0.2.1")?.tcp(23, ACK), Passed),
        Step("UDP", from("192.0.2.1")?.udp(9, 53), Passed),
        Step("a later fragment", syn("192.0.2.1")?.fragment(9, false), Passed),
        Step("half a TCP header", Packet { length: Some(30), ..syn("192.0.2.1")? }, Malformed),
        Step("the neighbour", syn("192.0.2.2")?, Passed),
        Step("blocked", syn("203.0.113.1")?, Blocked),
    ];
    Ok(steps.into_iter().chain(again_and_again("allowed", &syn("192.0.2.200")?, Allowed)).collect())
}

#[test]
fn an_ipv6_client_is_its_unit() -> Result<()> {
    let start = || Rig::start(&Setting { packets: slow(2), ipv6_unit: 56, ..Setting::default() });
    walk_at_once(start, clients)
}

fn clients() -> Result<Vec<Step>> {
    let steps = [
        Step("the first of two", from("2001:db8:0:100::1")?, Passed),
        Step("the second, from another /64 of the /56", from("2001:db8:0:1ff::2")?.udp(9, 9), Passed),
        Step("the third", from("2001:db8:0:180::3")?.protocol(58), PacketRate),
        Step(
            "a later fragment of the same",
            from("2001:db8:0:100::4")?.extended([Extension::fragment(9, false)]),
            PacketRate,
        ),
        Step("the /56 above", from("2001:db8:0:200::1")?, Passed),
        Step("the /56 below", from("2001:db8:0:ff::1")?, Passed),
        Step("link-local", from("fe80::1")?, Passed),
        Step("once more", from("fe80::1")?, Passed),
        Step("and once too often", from("fe80::1")?, PacketRate),
        Step("its neighbour on the link", from("fe80::2")?, Passed),
        Step("IPv4 is apart, address by address", from("192.0.2.1")?, Passed),
        Step("once more", from("192.0.2.1")?, Passed),
        Step("and once too often", from("192.0.2.1")?, PacketRate),
        Step("its neighbour", from("192.0.2.0")?, Passed),
    ];
    Ok(steps.into())
}

#[test]
fn both_rates_hold_and_trusted_proxies_have_none() -> Result<()> {
    let start = || -> Result<Rig> {
        let proxies = vec!["198.18.0.0/15".parse()?];
        let setting = Setting { syns: slow(2), packets: slow(4), proxies, ..Setting::default() };
        let mut rig = Rig::start(&Setting { exposed: vec!["22/tcp".to_owned()], ..setting })?;
        rig.enforce(&["198.16.0.0/12".parse()?], &[])?;
        Ok(rig)
    };
    walk_at_once(start, both)
}

fn both() -> Result<Vec<Step>> {
    let syn = |source| from(source).map(|packet| packet.tcp(22, SYN));
    let steps = [
        Step("a SYN", syn("192.0.2.1")?, Passed),
        Step("another", syn("192.0.2.1")?, Passed),
        Step("one too many counts for no packet", syn("192.0.2.1")?, SynRate),
        Step("a third packet", from("192.0.2.1")?.tcp(22, ACK), Passed),
        Step("a SYN to a closed port counts for no rate", from("192.0.2.1")?.tcp(23, SYN), PortClosed),
        Step("a fourth packet", from("192.0.2.1")?.protocol(1), Passed),
        Step("a fifth", from("192.0.2.1")?.tcp(22, ACK), PacketRate),
        Step("SYNs first, whatever the packets", syn("192.0.2.1")?, SynRate),
        Step("a trusted proxy in a blocked network, to a closed port", from("198.18.0.1")?.tcp(23, SYN), PortClosed),
    ];
    Ok(steps.into_iter().chain(again_and_again("a trusted proxy", &syn("198.18.0.1")?, Passed)).collect())
}

#[test]
fn an_answer_over_udp_is_the_question_turned_round() -> Result<()> {
    let gateways = vec!["10.77.0.9".parse()?, "2001:db8:1::9".parse()?];
    let mut rig = Rig::start(&Setting { exposed: vec!["22/tcp".to_owned()], gateways, ..Setting::default() })?;
    let flow = |local, remote: &str| -> Result<Flow> {
        Ok(Flow { local: SocketAddr::new(local, 4000), remote: SocketAddr::new(remote.parse()?, 53) })
    };
    let (four, six) = (from("192.0.2.53")?.udp(53, 4000), from("2001:db8:53::1")?.udp(53, 4000));
    walk(&mut rig, [Step("nothing was asked", four.clone(), PortClosed), Step("nor here", six.clone(), PortClosed)])?;
    rig.send(&[flow(HOST4, "192.0.2.53")?, flow(HOST6, "2001:db8:53::1")?], 100)?;
    walk(&mut rig, answers(&four, &six)?)
}

fn answers(four: &Packet, six: &Packet) -> Result<[Step; 17]> {
    let exchanged = |packet: &Packet| packet.clone().udp(4000, 53);
    Ok([
        Step("an answer", four.clone(), Passed),
        Step("another", four.clone().payload(1000), Passed),
        Step("an answer behind two tags", four.clone().tags(&[0x88a8, 0x8100]), Passed),
        Step("an answer with options", four.clone().options(4), Passed),
        Step("the first fragment of an answer", four.clone().fragment(0, true).payload(64), Passed),
        Step("an answer over IPv6", six.clone(), Passed),
        Step("an answer behind options", six.clone().extended([Extension::sized(60, 8)]), Passed),
        Step("from another port", four.clone().udp(54, 4000), PortClosed),
        Step("to another port", four.clone().udp(53, 4001), PortClosed),
        Step("both ports exchanged", exchanged(four), PortClosed),
        Step("both ports exchanged, IPv6", exchanged(six), PortClosed),
        Step("from another address", from("192.0.2.54")?.udp(53, 4000), PortClosed),
        Step("to another address", four.clone().to("10.77.0.3".parse()?), PortClosed),
        Step("from another address, IPv6", from("2001:db8:53::2")?.udp(53, 4000), PortClosed),
        Step("the same ports over TCP", Packet { upper: tcp(53, 4000), ..four.clone() }, PortClosed),
        Step("an answer whose length lies", Packet { length: Some(27), ..four.clone() }, Malformed),
        Step("an answer still", four.clone(), Passed),
    ])
}

fn tcp(from: u16, to: u16) -> edge_tests::packet::Upper {
    edge_tests::packet::Upper::Tcp { from, to, flags: SYN, words: 5 }
}

#[test]
fn a_block_ends_in_the_kernel_alone() -> Result<()> {
    let mut rig = Rig::start(&Setting::default())?;
    let lasting = ["198.51.100.0/25", "198.51.100.200/32", "2001:db8:1:2::/64"];
    rig.enforce(&lasting.map(str::parse).into_iter().collect::<Result<Vec<_>, _>>()?, &[])?;
    let ending =
        ["198.51.100.7", "203.0.113.0/24", "203.0.113.9", "2001:db8:9::/48", "2001:db8:1:3::/64", "2001:db8::7"];
    let block = [&["block", "--for", "1s"][..], &ending].concat();
    rig.edge().cli(&block)?.good()?;
    rig.kill()?;
    let passes = |rig: &mut Rig, source: &str| -> Result<bool> { rig.passes_now(&from(source)?.bytes()) };
    let ended = ["203.0.113.1", "203.0.113.9", "2001:db8:9::1", "2001:db8:1:3::1", "2001:db8::7"];
    wait_for("the blocks to end", Duration::from_secs(5), || {
        let all = ended.iter().map(|source| passes(&mut rig, source)).collect::<Result<Vec<_>>>()?;
        Ok(all.into_iter().all(|passes| passes).then_some(()))
    })?;
    rig.recount()?;
    for source in ended {
        walk(&mut rig, [Step("of a block that ended", from(source)?, Passed)])?;
    }
    walk(
        &mut rig,
        [
            Step("a longer block under one that ended", from("198.51.100.7")?, Blocked),
            Step("a block that lasts", from("198.51.100.200")?, Blocked),
            Step("a /64 that lasts", from("2001:db8:1:2::7")?, Blocked),
        ],
    )?;
    rig.hits_agree()
}

#[test]
fn what_the_first_buffer_does_not_hold_is_not_read() -> Result<()> {
    let mut rig = Rig::start(&Setting { exposed: vec!["22/tcp".to_owned()], ..Setting::default() })?;
    rig.enforce(&["198.51.100.7/32".parse()?, "2001:db8:bad::1/128".parse()?], &[])?;
    let honest4 = from("192.0.2.1")?.tcp(22, SYN).payload(100);
    let honest6 = from("2001:db8::1")?.tcp(22, SYN).payload(100);
    let behind = honest6.clone().extended([Extension::sized(60, 16)]);
    let rows = [
        ("half of IPv4's header", honest4.clone(), 33, Malformed),
        ("IPv4's header, and no TCP", honest4.clone(), 34, Malformed),
        ("all but a byte of TCP's header", honest4.clone(), 53, Malformed),
        ("TCP's header", honest4.clone(), 54, Passed),
        ("half of IPv6's header", honest6.clone(), 53, Malformed),
        ("all but a byte of TCP's, IPv6", honest6.clone(), 73, Malformed),
        ("TCP's header, IPv6", honest6, 74, Passed),
        ("half of an extension header's head", behind.clone(), 56, Malformed),
        ("an extension header's head alone", behind.clone(), 60, Malformed),
        ("TCP's header behind it", behind, 90, Passed),
        ("a blocked address, and no more", from("198.51.100.7")?.payload(100), 34, Blocked),
        ("all but a byte of a blocked address's header", from("198.51.100.7")?.payload(100), 33, Malformed),
        ("a blocked IPv6 address, and no more", from("2001:db8:bad::1")?.payload(100), 54, Blocked),
        ("an EtherType beyond the tag that is read", honest4.tags(&[0x8100]), 17, Passed),
    ];
    for (what, packet, readable, wanted) in rows {
        if rig.parts() {
            let reason = rig.judge_parted(&packet.bytes(), readable).context(what)?.reason;
            ensure!(reason == wanted, "{what}: {reason:?}, not {wanted:?}");
        }
    }
    Ok(())
}
