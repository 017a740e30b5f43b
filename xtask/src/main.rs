//! `cargo xtask`: everything that one does with this repository besides `cargo build`. One file for each command.

mod bench;
mod check;
mod demo;
mod dependencies;
mod live;
mod probe;
mod rules;
mod run;
mod setup;
mod shell;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set-up, demo, tests, checks and benchmarks of edge.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building and testing need and this machine lacks; says what and why
    Setup,
    /// The main job on this machine: real logins that fail, the block, the packets that the kernel drops
    Demo,
    /// Build, then `edge run ARGS`
    Run(run::Arguments),
    /// All tests, or those of the named layers
    Test(test::Arguments),
    /// Formatting, lints for host and BPF, docs, dependency policy, house rules, the verifier's figures
    Check,
    /// Benchmarks, each beside its peer in the same run
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    match perform(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Setup => setup::everything(),
        Command::Demo => demo::demo(),
        Command::Run(arguments) => run::run(&arguments),
        Command::Test(arguments) => test::test(&arguments),
        Command::Check => check::check(),
        Command::Bench(arguments) => bench::bench(&arguments),
    }
}
