//! `cargo xtask run -- ARGS`: builds edge and becomes `edge run ARGS`.

use std::{fs, os::unix::process::CommandExt as _, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{
    setup,
    shell::{as_root, cargo, run as run_command, target},
};

#[derive(clap::Args)]
pub struct Arguments {
    /// Handed to `edge run` as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::for_build()?;
    let binary = build(Profile::Dev)?;
    let mut command = as_root(&binary)?;
    Err(command.arg("run").args(&arguments.arguments).exec()).context("cannot start edge")
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Dev,
    Release,
}

impl Profile {
    /// What cargo is told.
    pub fn flags(self) -> &'static [&'static str] {
        match self {
            Profile::Dev => &[],
            Profile::Release => &["--release"],
        }
    }

    fn directory(self) -> &'static str {
        match self {
            Profile::Dev => "debug",
            Profile::Release => "release",
        }
    }
}

/// Builds the binary and gives a copy that no later build replaces while it is used.
pub fn build(profile: Profile) -> Result<PathBuf> {
    run_command(cargo().args(["build", "--package", "edge-user", "--bin", "edge"]).args(profile.flags()))?;
    let built = target().join(profile.directory()).join("edge");
    let directory = target().join("xtask").join(profile.directory());
    let copy = directory.join("edge");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    // A copy that runs cannot be written to, only replaced.
    let fresh = directory.join("edge.new");
    fs::copy(&built, &fresh).with_context(|| format!("cannot copy {}", built.display()))?;
    fs::rename(&fresh, &copy).with_context(|| format!("cannot replace {}", copy.display()))?;
    Ok(copy)
}
