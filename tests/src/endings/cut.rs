//! What happens to a namespace while connections end: packets that are lost, a setting that is another, and what the kernel
//! counted there.

use std::fs;

use anyhow::{Context, Result};

use crate::{
    net::{Lab, Namespace},
    places::set,
    run,
};

/// No packet of these ports of the host gets through, either way, until this is dropped. Filters of the host see them.
#[derive(Debug)]
pub struct Cut<'a> {
    lab: &'a Lab,
}

impl<'a> Cut<'a> {
    pub fn new(lab: &'a Lab, [four, six]: [u16; 2]) -> Result<Cut<'a>> {
        let cut = Cut { lab };
        for (namespace, side) in [(&lab.host, "dport"), (&lab.client, "sport")] {
            let rules = format!(
                "table inet cut {{\n chain cut {{\n type filter hook prerouting priority -300\n tcp {side} {{ {four}, {six} }} \
                 drop\n }}\n}}\n"
            );
            run(namespace.command("nft").args(["-f", "-"]), rules.as_bytes())?.good().context("nft")?;
        }
        Ok(cut)
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        for namespace in [&self.lab.host, &self.lab.client] {
            let _ = run(namespace.command("nft").args(["delete", "table", "inet", "cut"]), b"");
        }
    }
}

/// Another value of a setting below `/proc/sys/net`, until this is dropped.
#[derive(Debug)]
pub struct Setting<'a> {
    namespace: &'a Namespace,
    name: &'a str,
    before: String,
}

impl<'a> Setting<'a> {
    pub fn change(namespace: &'a Namespace, name: &'a str, value: &str) -> Result<Setting<'a>> {
        let before = namespace.within(|| Ok(fs::read_to_string(format!("/proc/sys/net/{name}"))?))?;
        set(namespace, name, value)?;
        Ok(Setting { namespace, name, before })
    }
}

impl Drop for Setting<'_> {
    fn drop(&mut self) {
        let _ = set(self.namespace, self.name, self.before.trim());
    }
}

/// A counter of `TcpExt` in `/proc/net/netstat`.
pub fn counter(namespace: &Namespace, name: &str) -> Result<u64> {
    let text = namespace.within(|| Ok(fs::read_to_string("/proc/thread-self/net/netstat")?))?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let names = lines.next().unwrap_or_default().split_whitespace();
    let numbers = lines.next().unwrap_or_default().split_whitespace();
    let found = names.zip(numbers).find(|(found, _)| *found == name);
    found.with_context(|| format!("the kernel counts no {name}"))?.1.parse().context(name.to_owned())
}
