//! `edge doctor`: what the config asks for and whether this machine can do it, each with how to mend it.

use std::{fs, path::Path};

use serde::Serialize;
use serde_json::json;

use super::{
    args::Global,
    ask,
    output::{Complaint, Outcome, table},
};
use crate::config::{Config, Interfaces, Overrides};

/// The oldest kernel on which all that edge uses is there.
const FLOOR: (u32, u32) = (6, 1);

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    result: Grade,
    /// What was found and, unless it is well, how to mend it.
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Grade {
    #[serde(rename = "ok")]
    Good,
    #[serde(rename = "FAIL")]
    Bad,
    /// Worth knowing; edge works without it.
    #[serde(rename = "hint")]
    Hint,
}

impl Grade {
    const fn name(self) -> &'static str {
        match self {
            Grade::Good => "ok",
            Grade::Bad => "FAIL",
            Grade::Hint => "hint",
        }
    }
}

pub fn doctor(global: &Global) -> Result<Outcome, Complaint> {
    let file = ask::config_file(global);
    let overrides = Overrides { interfaces_optional: true, ..Overrides::default() };
    let config = if global.config.is_none() && !file.exists() {
        Config::parse(&file, "", &overrides)?
    } else {
        Config::load(&file, &overrides)?
    };
    let mut findings = vec![kernel(&nix_release()), btf(), bpffs(&config.filter.pin_path), cgroup2()];
    findings.push(capabilities(effective_capabilities()));
    findings.extend(interfaces(&config));
    let bad = findings.iter().any(|finding| finding.result == Grade::Bad);
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| vec![finding.result.name().to_owned(), finding.check.to_owned(), finding.message.clone()])
        .collect();
    let text = table(&["RESULT", "CHECK", "FOUND"], &rows);
    Ok(Outcome { exit_code: u8::from(bad), ..Outcome::new(json!({"ok": !bad, "checks": findings}), text) })
}

fn good(check: &'static str, message: impl Into<String>) -> Finding {
    Finding { check, result: Grade::Good, message: message.into() }
}

fn bad(check: &'static str, message: impl Into<String>) -> Finding {
    Finding { check, result: Grade::Bad, message: message.into() }
}

fn hint(check: &'static str, message: impl Into<String>) -> Finding {
    Finding { check, result: Grade::Hint, message: message.into() }
}

fn nix_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) >= FLOOR => good("kernel", format!("Linux {release}")),
        _ => bad("kernel", format!("Linux {release} is older than {}.{}; install a newer kernel", FLOOR.0, FLOOR.1)),
    }
}

fn btf() -> Finding {
    let path = "/sys/kernel/btf/vmlinux";
    if Path::new(path).exists() {
        return good("btf", path);
    }
    bad("btf", format!("{path} is missing; run a kernel built with CONFIG_DEBUG_INFO_BTF"))
}

fn bpffs(pin_path: &Path) -> Finding {
    // What lies above it decides, since edge makes the directory itself.
    let existing = pin_path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let right = "mount it: mount -t bpf bpf /sys/fs/bpf";
    match nix::sys::statfs::statfs(existing) {
        Ok(found) if found.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC => {
            good("bpffs", format!("mounted for {}", pin_path.display()))
        }
        Ok(_) => bad("bpffs", format!("{} does not lie on a bpf file system; {right}", pin_path.display())),
        Err(error) => bad("bpffs", format!("{} cannot be looked at: {}; {right}", existing.display(), error.desc())),
    }
}

fn cgroup2() -> Finding {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let place = words.next()?;
        (words.next()? == "cgroup2").then(|| place.to_owned())
    });
    match mounted {
        Some(place) => good("cgroup2", format!("mounted at {place}")),
        None => hint("cgroup2", "not mounted; nothing of this version needs it: mount -t cgroup2 none /sys/fs/cgroup"),
    }
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
}

/// Numbers of `linux/capability.h`.
fn capabilities(effective: u64) -> Finding {
    const NET_ADMIN: u32 = 12;
    const SYS_ADMIN: u32 = 21;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;
    let has = |capability: u32| effective & (1 << capability) != 0;
    let named = [("BPF", BPF), ("NET_ADMIN", NET_ADMIN), ("PERFMON", PERFMON)];
    let covered = |capability: u32| has(capability) || (capability != NET_ADMIN && has(SYS_ADMIN));
    let missing: Vec<&str> = named.iter().filter(|(_, number)| !covered(*number)).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return good("capabilities", "BPF, NET_ADMIN and PERFMON");
    }
    bad("capabilities", format!("{} missing; run as root, or by the systemd unit", missing.join(" and ")))
}

fn interfaces(config: &Config) -> Vec<Finding> {
    match &config.filter.interfaces {
        Interfaces::Auto => Vec::new(),
        Interfaces::Named(names) => names.iter().map(|name| interface(name)).collect(),
    }
}

fn interface(name: &str) -> Finding {
    match nix::net::if_::if_nametoindex(name) {
        Ok(_) => good("interface", format!("{name} exists")),
        Err(_) => bad("interface", format!("{name} does not exist; name one that `ip link` lists, or [\"auto\"]")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_old_below_the_floor() {
        for (release, grade) in [
            ("6.1.0-18-amd64", Grade::Good),
            ("6.12.3", Grade::Good),
            ("7.0", Grade::Good),
            ("6.0.19", Grade::Bad),
            ("5.15.0-generic", Grade::Bad),
            ("", Grade::Bad),
        ] {
            assert_eq!(kernel(release).result, grade, "{release}");
        }
    }

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon_but_not_for_net_admin() {
        assert_eq!(capabilities(1 << 39 | 1 << 12 | 1 << 38).result, Grade::Good);
        assert_eq!(capabilities(1 << 21 | 1 << 12).result, Grade::Good);
        assert_eq!(capabilities(1 << 21).message, "NET_ADMIN missing; run as root, or by the systemd unit");
        assert_eq!(capabilities(0).result, Grade::Bad);
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        assert!(interface("edge-none").message.starts_with("edge-none does not exist; name"));
        assert_eq!(interface("lo").result, Grade::Good);
    }
}
