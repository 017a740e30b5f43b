//! `cargo xtask test [LAYER...]`: the README's test command. Sets up, builds the real binary, then runs nextest, whose
//! summary line ends the output.

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    run::{Profile, build},
    setup,
    shell::{cargo, run, run_built_as_root},
};

#[derive(clap::Args)]
pub struct Arguments {
    /// All of them if none is named
    layers: Vec<Layer>,
}

/// How much of the real thing takes part.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layer {
    /// Functions alone: no kernel, no network, no root
    Pure,
    /// The built object: it loads, and its maps are what both sides say
    Bytecode,
    /// Rows of packets through the kernel's `BPF_PROG_TEST_RUN`: verdict and counters
    Packets,
    /// Network namespaces, the real binary, real clients
    World,
}

impl Layer {
    fn filter(self) -> &'static str {
        match self {
            Layer::Pure => "not package(edge-tests)",
            Layer::Bytecode => "package(edge-tests) & test(/^bytecode::/)",
            Layer::Packets => "package(edge-tests) & test(/^packets?::/)",
            Layer::World => "package(edge-tests) & !test(/^(bytecode|packets?)::/)",
        }
    }
}

pub fn test(arguments: &Arguments) -> Result<()> {
    setup::for_build()?;
    setup::for_tests()?;
    let mut nextest = cargo();
    nextest.args(["nextest", "run", "--workspace"]);
    nextest.args(arguments.layers.iter().flat_map(|layer| ["--filterset", layer.filter()]));
    nextest.env("EDGE_BIN", build(Profile::Dev)?);
    if arguments.layers != [Layer::Pure] {
        run_built_as_root(&mut nextest)?;
    }
    run(&mut nextest)
}
