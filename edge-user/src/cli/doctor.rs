//! `edge doctor`: what the config asks for and whether this machine can do it, each with how to mend it.

use std::{fs, path::Path};

use serde::Serialize;
use serde_json::json;

use super::{
    args::Global,
    ask,
    output::{Complaint, Outcome, table},
};
use crate::{
    capability::{self, Capabilities},
    config::{Config, Interfaces, Overrides},
    control::protocol::{Command, Reply},
    netlink::{self, Link, XdpAttached},
};

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
    let mut findings = vec![kernel(&kernel_release()), btf(), bpffs(&config.filter.pin_path), cgroup2()];
    findings.push(capabilities(Capabilities::effective()?));
    findings.push(diagnosis());
    findings.extend(interfaces(&config, &own_programs(global)));
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

fn kernel_release() -> String {
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

fn capabilities(effective: Capabilities) -> Finding {
    match effective.lacking(&capability::OF_AGENT) {
        None => good("capabilities", capability::OF_AGENT_NAMED),
        Some(missing) => bad("capabilities", format!("{missing} missing; run as root, or by the systemd unit")),
    }
}

/// Whether the kernel confirms that an offender is connected, without which nothing is learned.
fn diagnosis() -> Finding {
    match netlink::usable() {
        Ok(()) => good("sock_diag", "connections can be looked up"),
        Err(error) => bad("sock_diag", format!("{error}; load it: modprobe tcp_diag inet_diag")),
    }
}

fn interfaces(config: &Config, own_programs: &[u32]) -> Vec<Finding> {
    let failed =
        |error: netlink::NetlinkError| vec![bad("interface", format!("{error}; run in a namespace that allows it"))];
    let links = match netlink::links() {
        Ok(links) => links,
        Err(error) => return failed(error),
    };
    let look = |name: &String| interface(name, links.iter().find(|link| link.name == *name), own_programs);
    match &config.filter.interfaces {
        Interfaces::Named(names) => names.iter().map(look).collect(),
        Interfaces::Auto => match netlink::default_route_interfaces() {
            Err(error) => failed(error),
            Ok(names) if names.is_empty() => {
                vec![hint("interface", "none carries a default route now; it is filtered as soon as one does")]
            }
            Ok(names) => names.iter().map(look).map(left_out).collect(),
        },
    }
}

/// With `["auto"]`, an interface without Ethernet headers is left out and hinders nothing.
fn left_out(finding: Finding) -> Finding {
    let no_ethernet = finding.message.contains(NO_ETHERNET);
    if no_ethernet { Finding { result: Grade::Hint, ..finding } } else { finding }
}

const NO_ETHERNET: &str = "has no Ethernet headers";

fn interface(name: &str, link: Option<&Link>, own_programs: &[u32]) -> Finding {
    let Some(link) = link else {
        return bad("interface", format!("{name} does not exist; name one that `ip link` lists, or [\"auto\"]"));
    };
    if !link.ethernet {
        return bad("interface", format!("{name} {NO_ETHERNET}; name the interface that carries its packets"));
    }
    match &link.xdp {
        None => good("interface", format!("{name} has Ethernet headers, its XDP hook is free")),
        Some(hook) if own_programs.contains(&hook.program_id) => {
            good("interface", format!("{name} is filtered by edge ({}, program {})", mode(hook.mode), hook.program_id))
        }
        Some(hook) => bad(
            "interface",
            format!(
                "the XDP hook of {name} holds program {} ({}); if it is edge's, `edge unload` frees it, else `ip link set \
                 dev {name} xdp off`",
                hook.program_id,
                mode(hook.mode)
            ),
        ),
    }
}

const fn mode(attached: XdpAttached) -> &'static str {
    match attached {
        XdpAttached::Native => "native",
        XdpAttached::Generic => "generic",
        XdpAttached::Offloaded => "offloaded",
    }
}

/// What the agent has attached, if one runs.
fn own_programs(global: &Global) -> Vec<u32> {
    match ask::agent(global, Command::Status) {
        Ok(Reply::Status(status)) => status.interfaces.iter().map(|interface| interface.program_id).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::XdpHook;

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
    fn an_interface_must_exist_with_ethernet_and_a_free_hook() {
        let hook = XdpHook { mode: XdpAttached::Generic, program_id: 7 };
        let free = Link { index: 2, name: "eth0".to_owned(), up: true, ethernet: true, xdp: None };
        let occupied = Link { xdp: Some(hook), ..free.clone() };
        let tunnel = Link { ethernet: false, ..free.clone() };
        assert!(interface("eth0", None, &[]).message.starts_with("eth0 does not exist; name"));
        assert_eq!(interface("eth0", Some(&free), &[]).result, Grade::Good);
        assert_eq!(interface("eth0", Some(&occupied), &[7]).result, Grade::Good);
        assert!(interface("eth0", Some(&occupied), &[8]).message.contains("holds program 7 (generic)"));
        assert_eq!(interface("eth0", Some(&occupied), &[8]).result, Grade::Bad);
        assert_eq!(interface("wg0", Some(&tunnel), &[]).result, Grade::Bad);
        assert_eq!(left_out(interface("wg0", Some(&tunnel), &[])).result, Grade::Hint);
    }
}
