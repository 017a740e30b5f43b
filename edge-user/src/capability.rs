//! Which capabilities this process has, and which ones the agent needs. The kernel's word (`/proc/self/status`), so that
//! user namespaces and capabilities given to a file are seen as they are.

use crate::error::{Blame, Context, Failure};

/// A right, by its number in `linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    number: u32,
    pub name: &'static str,
    /// CAP_SYS_ADMIN, which it was once a part of, still stands for it.
    part_of_sys_admin: bool,
}

pub const SETGID: Capability = Capability { number: 6, name: "CAP_SETGID", part_of_sys_admin: false };
pub const SETUID: Capability = Capability { number: 7, name: "CAP_SETUID", part_of_sys_admin: false };
const NET_ADMIN: Capability = Capability { number: 12, name: "CAP_NET_ADMIN", part_of_sys_admin: false };
const SYS_ADMIN: u32 = 21;
const PERFMON: Capability = Capability { number: 38, name: "CAP_PERFMON", part_of_sys_admin: true };
const BPF: Capability = Capability { number: 39, name: "CAP_BPF", part_of_sys_admin: true };

/// Without any of these the agent cannot work.
pub const OF_AGENT: [Capability; 3] = [BPF, NET_ADMIN, PERFMON];

pub const OF_AGENT_NAMED: &str = "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON";

/// A set of capabilities as the kernel writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// What this process may do now.
    pub fn effective() -> Result<Capabilities, Failure> {
        Capabilities::of_self("CapEff")
    }

    /// One of the sets of `/proc/self/status`.
    pub fn of_self(set: &str) -> Result<Capabilities, Failure> {
        let status = std::fs::read_to_string("/proc/self/status")
            .blame(Blame::System, || "reading /proc/self/status".to_owned())?;
        let found = Capabilities::find(&status, set);
        found.ok_or_else(|| Failure::system(format!("/proc/self/status has no {set}")))
    }

    fn find(status: &str, set: &str) -> Option<Capabilities> {
        let value = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':'))?;
        u64::from_str_radix(value.trim(), 16).ok().map(Capabilities)
    }

    pub fn has(self, capability: Capability) -> bool {
        let bit = |number: u32| self.0 >> number & 1 == 1;
        bit(capability.number) || (capability.part_of_sys_admin && bit(SYS_ADMIN))
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of `needed` that are not there, as a sentence names them: "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON".
    pub fn lacking(self, needed: &[Capability]) -> Option<String> {
        let missing: Vec<&str> = needed.iter().filter(|one| !self.has(**one)).map(|one| one.name).collect();
        match missing.as_slice() {
            [] => None,
            [one] => Some((*one).to_owned()),
            [several @ .., last] => Some(format!("{} and {last}", several.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon_but_not_for_net_admin() {
        let lacking = |bits| Capabilities(bits).lacking(&OF_AGENT);
        assert_eq!(lacking(1 << 39 | 1 << 12 | 1 << 38), None);
        assert_eq!(lacking(1 << 21 | 1 << 12), None);
        assert_eq!(lacking(1 << 21).as_deref(), Some("CAP_NET_ADMIN"));
        assert_eq!(lacking(1 << 39 | 1 << 12).as_deref(), Some("CAP_PERFMON"));
        assert_eq!(lacking(0).as_deref(), Some(OF_AGENT_NAMED));
    }

    #[test]
    fn sets_are_read_as_the_kernel_writes_them() {
        let status = "Name:\tedge\nCapInh:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
        assert_eq!(Capabilities::find(status, "CapEff"), Some(Capabilities(0x1ff_ffff_ffff)));
        assert!(Capabilities::find(status, "CapInh").is_some_and(Capabilities::is_empty));
        assert_eq!(Capabilities::find(status, "Cap"), None);
        Capabilities::effective().unwrap();
    }
}
