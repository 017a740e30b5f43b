//! `cargo xtask demo`: the main job, on this machine, from real observations.

use anyhow::{Result, bail};

pub fn demo() -> Result<()> {
    bail!("the demo is not in this version yet")
}
