//! `cargo xtask test [LAYER...]`: the README's test command. Sets up, builds the real binary, then runs nextest, whose
//! summary line ends the output.

use std::process::Command;

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    run::{Profile, build},
    setup,
    shell::{cargo, run, run_built_as_root},
};

#[derive(clap::Args)]
pub struct Arguments {
    /// All of them but `fuzz` and `soak` if none is named
    layers: Vec<Layer>,
}

/// How much of the real thing takes part.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layer {
    /// Functions alone: no kernel, no network, no root
    Pure,
    /// The built object: it loads, and its maps are what both sides say
    Bytecode,
    /// Packets through the kernel's `BPF_PROG_TEST_RUN`: named rows, and a million at random against a reference model
    Packets,
    /// Network namespaces, the real binary, real clients
    World,
    /// Ten million packets and a million tokens at random; only where it is named. `EDGE_SEED` repeats what it printed
    Fuzz,
    /// Connection caps: a million connections, ten million forged packets, a hundred rounds of a thousand connects at once;
    /// ten thousand operations at random; a thousand kills, two thousand replacements under a flood,
    /// a death at every step; two hundred reloads of certificates under load; the times of 6,000 refused logins; only where
    /// it is named
    Soak,
}

impl Layer {
    fn filter(self) -> &'static str {
        match self {
            Layer::Pure => "not package(edge-tests) | test(/^(model|generate|packet|scene)::/)",
            Layer::Bytecode => "package(edge-tests) & test(/^bytecode::/)",
            Layer::Packets => "package(edge-tests) & test(/^packets?::/)",
            Layer::World => "package(edge-tests) & !test(/^(bytecode|packets?|model|generate|scene)::/)",
            Layer::Fuzz => "package(edge-tests) & test(/^(packets::differential|mutants)::/)",
            Layer::Soak => {
                "package(edge-tests) & test(/^world::((caps::(endings|forged|bursts|replacements)|crash|operations|logins)::|renew::nobody)/)"
            }
        }
    }

    /// What makes a campaign of it: the profile, and what its tests read. `None` for those that run where none is named.
    fn campaign(self) -> Option<Campaign> {
        match self {
            Layer::Pure | Layer::Bytecode | Layer::Packets | Layer::World => None,
            Layer::Fuzz => Some(Campaign {
                profile: "fuzz",
                variables: &[("EDGE_PACKETS", "10000000"), ("EDGE_MUTANTS", "1000000")],
            }),
            Layer::Soak => Some(Campaign {
                profile: "soak",
                variables: &[
                    ("EDGE_CONNECTIONS", "1000000"),
                    ("EDGE_FORGED", "10000000"),
                    ("EDGE_ROUNDS", "100"),
                    ("EDGE_OPERATIONS", "10000"),
                    ("EDGE_LOGINS", "2000"),
                    ("EDGE_KILLS", "1000"),
                    ("EDGE_REPLACEMENTS", "2000"),
                    ("EDGE_RELOADS", "200"),
                    ("EDGE_STEPS", "100000"),
                ],
            }),
        }
    }
}

/// A layer that runs only where it is named.
struct Campaign {
    profile: &'static str,
    variables: &'static [(&'static str, &'static str)],
}

pub fn test(arguments: &Arguments) -> Result<()> {
    setup::for_build()?;
    setup::for_tests()?;
    let binary = build(Profile::Dev)?;
    let (campaigns, layers): (Vec<Layer>, Vec<Layer>) =
        arguments.layers.iter().partition(|layer| layer.campaign().is_some());
    if campaigns.is_empty() || !layers.is_empty() {
        run(nextest(&layers)?.env("EDGE_BIN", &binary))?;
    }
    for layer in campaigns {
        let Some(Campaign { profile, variables }) = layer.campaign() else { continue };
        let mut nextest = nextest(&[layer])?;
        nextest.args(["--profile", profile]).envs(variables.iter().copied());
        run(nextest.env("EDGE_BIN", &binary))?;
    }
    Ok(())
}

/// The tests of these layers, of all if there is none.
fn nextest(layers: &[Layer]) -> Result<Command> {
    let mut nextest = cargo();
    nextest.args(["nextest", "run", "--workspace"]);
    nextest.args(layers.iter().flat_map(|layer| ["--filterset", layer.filter()]));
    if layers != [Layer::Pure] {
        run_built_as_root(&mut nextest)?;
    }
    Ok(nextest)
}
