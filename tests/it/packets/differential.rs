//! Random states and random packets: the kernel and the reference model must not differ in anything.
//!
//! `EDGE_SEED` repeats a run from its first state on; `EDGE_PACKETS` says how many packets the tests judge together.

use std::{env, net::IpAddr};

use anyhow::{Context, Result};
use edge_tests::{generate::Generator, scene::Setting};
use fastrand::Rng;

use super::rig::Rig;

/// Packets for each state.
const PER_STATE: u64 = 5_000;
/// Unless the environment says otherwise.
const PACKETS: u64 = 1_000_000;
/// How many tests share them.
const TESTS: u64 = 1;

#[test]
fn blocks_and_trust() -> Result<()> {
    compare(&Setting { gateways: gateways()?, ..Setting::default() })
}

fn compare(setting: &Setting) -> Result<()> {
    let seed = from_environment("EDGE_SEED")?.unwrap_or_else(|| Rng::new().u64(..));
    let packets = from_environment("EDGE_PACKETS")?.unwrap_or(PACKETS).div_ceil(TESTS);
    println!("EDGE_SEED={seed}, {packets} packets");
    let mut rig = Rig::start(setting)?;
    for state in 0..packets.div_ceil(PER_STATE) {
        let seed = seed.wrapping_add(state);
        compare_state(&mut rig, seed).with_context(|| format!("EDGE_SEED={seed} repeats it"))?;
    }
    rig.status_agrees()
}

fn compare_state(rig: &mut Rig, seed: u64) -> Result<()> {
    rig.draw(&mut Rng::with_seed(seed))?;
    let mut generator = Generator::new(&rig.policy, seed);
    let mut frame = Vec::new();
    for number in 0..PER_STATE {
        let class = generator.next(&mut frame);
        rig.judge(&frame).with_context(|| format!("packet {number}, {class}: {}", hex(&frame)))?;
    }
    rig.hits_agree()
}

fn gateways() -> Result<Vec<IpAddr>> {
    Ok(vec!["10.77.0.9".parse()?, "2001:db8:1::9".parse()?])
}

fn from_environment(name: &str) -> Result<Option<u64>> {
    let Ok(text) = env::var(name) else { return Ok(None) };
    Ok(Some(text.parse().with_context(|| format!("{name} is `{text}` and not a whole number"))?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(200).map(|byte| format!("{byte:02x}")).collect()
}
