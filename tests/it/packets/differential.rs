//! Random states and random packets: the kernel and the reference model must not differ in anything.
//!
//! `EDGE_SEED` repeats a run from its first setting on; `EDGE_PACKETS` says how many packets the tests judge together.

use std::{
    env,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};
use edge_tests::{
    generate::Generator,
    model::{Exposed, Flow},
    net::{HOST4, HOST6},
    scene::{Features, Setting},
};
use fastrand::Rng;

use super::rig::Rig;

/// Packets for each state, and states for each setting, which is a start of the agent.
const PER_STATE: u64 = 5_000;
const PER_SETTING: u64 = 8;
/// Unless the environment says otherwise.
const PACKETS: u64 = 1_000_000;
/// How many tests share them.
const TESTS: u64 = 5;

#[test]
fn blocks_and_trust() -> Result<()> {
    compare(Features { proxies: true, ..Features::default() })
}

#[test]
fn exposed_ports() -> Result<()> {
    compare(Features { ports: true, ..Features::default() })
}

#[test]
fn fragments() -> Result<()> {
    compare(Features { fragments: true, ports: true, ..Features::default() })
}

#[test]
fn rates() -> Result<()> {
    compare(Features { rates: true, proxies: true, ports: true, ..Features::default() })
}

#[test]
fn dry_run() -> Result<()> {
    compare(Features { fragments: true, rates: true, ports: true, dry_run: true, proxies: true })
}

fn compare(features: Features) -> Result<()> {
    let seed = from_environment("EDGE_SEED")?.unwrap_or_else(|| Rng::new().u64(..));
    let packets = from_environment("EDGE_PACKETS")?.unwrap_or(PACKETS).div_ceil(TESTS);
    println!("EDGE_SEED={seed}, {packets} packets");
    for setting in 0..packets.div_ceil(PER_STATE * PER_SETTING) {
        let seed = seed.wrapping_add(setting);
        compare_setting(features, Rng::with_seed(seed)).with_context(|| format!("EDGE_SEED={seed} repeats it"))?;
    }
    Ok(())
}

fn compare_setting(features: Features, mut random: Rng) -> Result<()> {
    let first = Setting::draw(features, &mut random);
    let mut rig = Rig::start(&first)?;
    let mut setting = first.clone();
    for state in 0..PER_SETTING {
        rig.draw(&mut random)?;
        compare_some(&mut rig, &mut random).with_context(|| format!("state {state}, {setting:?}"))?;
        // What is left of a rate after a reload is nobody's promise, so settings with rates are not reloaded.
        if !features.rates {
            let Setting { gateways, proxies, .. } = first.clone();
            setting = Setting { gateways, proxies, ..Setting::draw(features, &mut random) };
            rig.reload(&setting)?;
        }
        compare_some(&mut rig, &mut random).with_context(|| format!("state {state}, then {setting:?}"))?;
    }
    rig.status_agrees()
}

/// Half of the packets of a state.
fn compare_some(rig: &mut Rig, random: &mut Rng) -> Result<()> {
    if let Some(exposed) = &rig.policy.exposed {
        let flows = flows(exposed, random);
        rig.send(&flows, random.usize(..4000))?;
    }
    let mut generator = Generator::new(&rig.policy, random.u64(..));
    let mut frame = Vec::new();
    for number in 0..PER_STATE / 2 {
        let class = generator.next(&mut frame);
        let readable = if random.u8(..8) == 0 { random.usize(14..200) } else { usize::MAX };
        let judged = rig.judge_parted(&frame, readable);
        judged.with_context(|| format!("packet {number}, {class}, readable {readable}: {}", hex(&frame)))?;
    }
    rig.hits_agree()
}

/// From this host to somebody, now and then from an exposed port.
fn flows(exposed: &Exposed, random: &mut Rng) -> Vec<Flow> {
    let exposed: Vec<u16> = exposed.udp.iter().copied().collect();
    let mut flow = || {
        let port = random.choice(&exposed).filter(|_| random.u8(..8) == 0);
        let (port, remote_port) = (port.copied().unwrap_or(random.u16(1024..)), random.u16(1..));
        let (local, remote): (IpAddr, IpAddr) = match random.bool() {
            // Outside of loopback, multicast and the lab.
            true => (HOST4, IpAddr::V4(random.u32(0x0b00_0000..0x7f00_0000).into())),
            false => (HOST6, IpAddr::V6((random.u128(..) >> 4 | 0x24 << 120).into())),
        };
        Flow { local: SocketAddr::new(local, port), remote: SocketAddr::new(remote, remote_port) }
    };
    (0..30).map(|_| flow()).collect()
}

fn from_environment(name: &str) -> Result<Option<u64>> {
    let Ok(text) = env::var(name) else { return Ok(None) };
    Ok(Some(text.parse().with_context(|| format!("{name} is `{text}` and not a whole number"))?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(200).map(|byte| format!("{byte:02x}")).collect()
}
