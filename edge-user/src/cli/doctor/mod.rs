//! `edge doctor`: what the config asks for and whether this machine can do it, each with how to mend it.

mod interfaces;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::json;

use self::interfaces::Interface;
use super::{
    args::Global,
    ask,
    output::{Complaint, Outcome, table},
};
use crate::{
    capability::{self, Capabilities},
    cgroup,
    config::Config,
    control::protocol::{Command, Reply},
    datapath,
    error::Failure,
    netlink::{self, NetlinkError},
    server::spawn::Identity,
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
    /// The same for programs, where it is about an interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<Interface>,
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

impl Finding {
    fn new(check: &'static str, result: Grade, message: impl Into<String>) -> Finding {
        Finding { check, result, message: message.into(), interface: None }
    }
}

pub fn doctor(global: &Global) -> Result<Outcome, Complaint> {
    let config = ask::config_or_default(global)?;
    let mut findings = vec![kernel(&kernel_release()), btf(), bpffs(&config.filter.pin_path)];
    findings.push(cgroup2(cgroup::root(), config.filter.limits.connections.is_some()));
    findings.push(capabilities(Capabilities::effective()?));
    findings.push(diagnosis());
    findings.push(closing(netlink::can_close()));
    findings.extend(config.server.as_ref().map(|_| user()));
    findings.extend(interfaces::all(&config, &own_programs(global, &config)));
    let bad = findings.iter().any(|finding| finding.result == Grade::Bad);
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|finding| vec![finding.result.name().to_owned(), finding.check.to_owned(), finding.message.clone()])
        .collect();
    let text = table(&["RESULT", "CHECK", "FOUND"], &rows);
    Ok(Outcome { exit_code: u8::from(bad), ..Outcome::new(json!({"ok": !bad, "checks": findings}), text) })
}

fn good(check: &'static str, message: impl Into<String>) -> Finding {
    Finding::new(check, Grade::Good, message)
}

fn bad(check: &'static str, message: impl Into<String>) -> Finding {
    Finding::new(check, Grade::Bad, message)
}

fn hint(check: &'static str, message: impl Into<String>) -> Finding {
    Finding::new(check, Grade::Hint, message)
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
    let (path, right) = (pin_path.display(), datapath::MOUNT_BPFFS);
    match datapath::is_on_bpffs(pin_path) {
        Ok(true) => good("bpffs", format!("mounted for {path}")),
        Ok(false) => bad("bpffs", format!("{path} is not on a bpffs; {right}")),
        Err(error) => bad("bpffs", format!("{path} cannot be looked at: {error}; {right}")),
    }
}

/// Where connections are counted: `capped` says whether the config asks for that.
fn cgroup2(found: Result<PathBuf, Failure>, capped: bool) -> Finding {
    match found {
        Ok(root) => good("cgroup2", format!("mounted at {}", root.display())),
        Err(failure) if capped => bad("cgroup2", failure.message),
        Err(_) => {
            hint("cgroup2", "its root is not mounted; only `filter.limits.connections`, which is not given, needs it")
        }
    }
}

fn capabilities(effective: Capabilities) -> Finding {
    match effective.lacking(&capability::OF_AGENT) {
        None => good("capabilities", capability::OF_AGENT_NAMED),
        Some(missing) => {
            bad("capabilities", format!("this process lacks {missing}; run as root, or with these capabilities"))
        }
    }
}

/// Whom the server becomes.
fn user() -> Finding {
    match Identity::find() {
        Ok(Identity { name, fallback: false, .. }) => good("user", format!("the server runs as {name}")),
        Ok(Identity { name, .. }) => {
            hint("user", format!("the server runs as {name}, as others may; make it a user of its own: {MAKE_USER}"))
        }
        Err(failure) => bad("user", failure.message),
    }
}

const MAKE_USER: &str = "useradd --system --no-create-home --shell /usr/sbin/nologin edge-server";

/// Whether the kernel confirms that an offender is connected, without which nothing is learned.
fn diagnosis() -> Finding {
    match netlink::usable() {
        Ok(()) => good("sock_diag", "connections can be looked up"),
        Err(error) => bad("sock_diag", format!("{error}; load it: modprobe tcp_diag inet_diag")),
    }
}

/// Whether open connections of who is blocked can be ended, those of other services too.
fn closing(tried: Result<bool, NetlinkError>) -> Finding {
    match tried {
        Ok(true) => good("sock_destroy", "open connections can be closed"),
        Ok(false) => hint("sock_destroy", NEVER_CLOSED),
        Err(error) => hint("sock_destroy", format!("whether open connections can be closed is not known: {error}")),
    }
}

const NEVER_CLOSED: &str = "edge closes its own connections; others fall silent: this kernel closes none of those, for it \
                            was built without CONFIG_INET_DIAG_DESTROY";

/// What the agent has attached, and what is in force through the pins where none runs.
fn own_programs(global: &Global, config: &Config) -> Vec<u32> {
    let mut own = datapath::programs_in_force(&config.filter.pin_path);
    if let Ok(Reply::Status(status)) = ask::agent(global, Command::Status) {
        own.extend(status.interfaces.iter().map(|interface| interface.program_id));
    }
    own
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
    fn a_missing_cgroup_root_hinders_only_a_cap_of_connections() {
        let looked = |capped| cgroup2(Err(Failure::system("none, mount it")), capped);
        assert_eq!(looked(true), bad("cgroup2", "none, mount it"));
        assert_eq!(looked(false).result, Grade::Hint);
        assert_eq!(cgroup2(Ok("/x".into()), true).result, Grade::Good);
    }

    #[test]
    fn a_kernel_that_closes_no_connection_is_a_hint() {
        assert_eq!(closing(Ok(true)).result, Grade::Good);
        let never = closing(Ok(false));
        assert!(never.result == Grade::Hint && never.message.contains("others fall silent"), "{never:?}");
    }
}
