//! Random sources: the programs of `edge-ebpf/src/bench.rs` on the tables of the running edge, and on a hash and a trie of
//! the kernel with the same lists in them.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{HashMap, LpmTrie, lpm_trie::Key},
    programs::Xdp,
};
use edge_common::settings::switch;
use edge_tests::{bpf::Program, client::Wire, net::Lab};

use super::{DROPS, PASSES, alternate, lists};
use crate::bench::object;

pub const GOAL: f64 = 0.4;

const ROWS: [(&str, &str, &str, u32); 2] = [
    ("drop, IPv4, random of a million", "edge_hit", "kernel_hit", DROPS),
    ("honest, IPv4, everything on", "edge_miss", "kernel_miss", PASSES),
];

pub fn measure(lab: &Lab) -> Result<Vec<(&'static str, [u32; 3])>> {
    let mut object = load(lab)?;
    fill(&mut object)?;
    let frame = Wire::new(lab)?.datagram(lists::HONEST4, 0, &[0; 22])?;
    let measured = ROWS.iter().map(|(name, edge, kernel, verdict)| {
        let programs =
            [program(&mut object, edge)?, program(&mut object, kernel)?, program(&mut object, "random_only")?];
        Ok((*name, alternate(&programs, &frame, [*verdict, *verdict, PASSES]).context(*name)?))
    });
    measured.collect()
}

fn program(object: &mut Ebpf, name: &str) -> Result<Program> {
    let program: &mut Xdp = object.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("the kernel did not take {name}"))?;
    }
    Program::by_id(program.info()?.id())
}

/// With everything switched on.
fn load(lab: &Lab) -> Result<Ebpf> {
    let mut loader = object::loader(lab)?;
    loader.map_max_entries("KERNEL_HASH", lists::ADDRESSES).map_max_entries("KERNEL_TRIE", lists::PREFIXES);
    for name in [switch::DROP_FRAGMENTS, switch::PORTS, switch::SYNS, switch::PACKETS] {
        loader.override_global(name, &1u8, true);
    }
    object::load(&mut loader)
}

fn fill(object: &mut Ebpf) -> Result<()> {
    let mut hash: HashMap<_, u32, [u64; 3]> = object.map_mut("KERNEL_HASH").context("no hash")?.try_into()?;
    for index in 0..lists::ADDRESSES {
        hash.insert(lists::address(index), [u64::MAX, 0, 0], 0)?;
    }
    let mut trie: LpmTrie<_, u64, u64> = object.map_mut("KERNEL_TRIE").context("no trie")?.try_into()?;
    for index in 0..lists::PREFIXES {
        let (bits, length) = lists::prefix(index);
        trie.insert(&Key::new(u32::from(length), u64::from(bits.to_be())), u64::MAX, 0)?;
    }
    Ok(())
}
