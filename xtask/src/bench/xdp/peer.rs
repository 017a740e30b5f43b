//! xdp-filter (Debian's xdp-tools) on an interface of its own, with the same blocks.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use edge_tests::{
    net::{HOST_INTERFACE, Lab},
    run,
};

use super::lists;

const PINS: &str = "/sys/fs/bpf/xdp-filter";

pub struct XdpFilter {
    pub lab: Lab,
}

impl XdpFilter {
    /// With the features of a row: `ipv4`, `ipv6` or `all`.
    pub fn load(features: &str) -> Result<XdpFilter> {
        if Path::new(PINS).exists() {
            bail!("xdp-filter is in use on this machine ({PINS} exists): the benchmark would change its blocks");
        }
        let filter = XdpFilter { lab: Lab::new()? };
        filter.command(&["load", "--mode", "native", "--features", features, HOST_INTERFACE])?;
        for (family, address) in [("ipv4", lists::BLOCKED4), ("ipv6", lists::BLOCKED6)] {
            if features == "all" || features == family {
                filter.command(&["ip", "--mode", "src", &address.to_string()])?;
            }
        }
        Ok(filter)
    }

    fn command(&self, args: &[&str]) -> Result<()> {
        let output = run(self.lab.host.command("xdp-filter").args(args), b"")?;
        output.good().with_context(|| format!("xdp-filter {}", args.join(" ")))?;
        Ok(())
    }
}

impl Drop for XdpFilter {
    fn drop(&mut self) {
        let _ = self.command(&["unload", "--all"]);
    }
}
