//! What `demo` and `bench` begin with: set-up, the built binary, root. They run in a second process of this same program,
//! which has root's rights and finds the binary in `EDGE_BIN`.

use std::{env, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{
    run::{Profile, build},
    setup,
    shell::{as_root, is_root},
};

/// Returns in the process that has all it needs; the one that has not becomes it.
pub fn enter(profile: Profile, set_up: fn() -> Result<()>) -> Result<()> {
    if is_root() && env::var_os("EDGE_BIN").is_some() {
        return Ok(());
    }
    setup::for_build()?;
    set_up()?;
    let binary = build(profile)?;
    let mut variable = std::ffi::OsString::from("EDGE_BIN=");
    variable.push(binary);
    let own = env::current_exe().context("cannot find this program")?;
    Err(as_root("env")?.arg(variable).arg(own).args(env::args_os().skip(1)).exec()).context("cannot start as root")
}
