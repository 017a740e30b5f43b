//! Network namespaces with a veth pair between them, made for one test and removed with it.
//!
//! Names contain this process's id and a counter, so tests run side by side; what a killed test left behind is swept
//! up by the next. Namespaces are entered with `nsenter`, never `ip netns exec`, which hides /sys/fs/bpf.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

use crate::run;

/// The guarded host.
pub const HOST4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
pub const HOST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));
/// The client that guesses passwords.
pub const ATTACKER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
pub const ATTACKER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x66, 0, 0, 0, 0, 2));
/// Another address of the attacker's /64.
pub const ATTACKER6_SECOND: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x66, 0, 0, 0, 0, 3));
/// The innocent client on the neighbouring address (IPv6: the neighbouring /64).
pub const NEIGHBOUR4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 3));
pub const NEIGHBOUR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x66, 1, 0, 0, 0, 2));

/// The guarded host's interface.
pub const HOST_INTERFACE: &str = "edge-h";
/// The clients' interface.
pub const CLIENT_INTERFACE: &str = "edge-c";

/// Begins every name that the harness gives to something outside of its own process.
const PREFIX: &str = "edge-test-";
const NAMESPACES: &str = "/run/netns";
const BPFFS: &str = "/sys/fs/bpf";

/// A guarded host and its clients: two namespaces, a veth pair, addresses of both families. Dropping it removes all.
#[derive(Debug)]
pub struct Lab {
    /// `edge-test-PID-N`.
    pub name: String,
    pub host: Namespace,
    pub client: Namespace,
}

impl Lab {
    pub fn new() -> Result<Lab> {
        prepare()?;
        let name = fresh_name();
        let lab =
            Lab { host: Namespace::make(&format!("{name}-h"))?, client: Namespace::make(&format!("{name}-c"))?, name };
        lab.connect()?;
        Ok(lab)
    }

    /// Where an agent of this lab pins; removed with the lab.
    pub fn pin_path(&self) -> PathBuf {
        Path::new(BPFFS).join(&self.name)
    }

    /// The one generation of tables that an agent has pinned there.
    pub fn generation(&self) -> Result<PathBuf> {
        let pins = fs::read_dir(self.pin_path())?.filter_map(Result::ok).map(|entry| entry.path());
        let is_one = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"gen-"));
        let mut generations = pins.filter(|path| is_one(path));
        let generation = generations.next().context("no generation is pinned")?;
        ensure!(generations.next().is_none(), "two generations are pinned");
        Ok(generation)
    }

    /// Makes the pair and its addresses; again where it was removed.
    pub fn connect(&self) -> Result<()> {
        let Lab { host, client, .. } = self;
        host.ip(&format!("link add {HOST_INTERFACE} type veth peer name {CLIENT_INTERFACE} netns {}", client.name))?;
        for (namespace, interface) in [(host, HOST_INTERFACE), (client, CLIENT_INTERFACE)] {
            namespace.ip("link set lo up")?;
            namespace.ip(&format!("link set {interface} up"))?;
        }
        host.ip(&format!("address add {HOST4}/24 dev {HOST_INTERFACE}"))?;
        host.ip(&format!("address add {HOST6}/64 dev {HOST_INTERFACE} nodad"))?;
        for address in [ATTACKER4, NEIGHBOUR4] {
            client.ip(&format!("address add {address}/24 dev {CLIENT_INTERFACE}"))?;
        }
        for address in [ATTACKER6, ATTACKER6_SECOND, NEIGHBOUR6] {
            client.ip(&format!("address add {address}/64 dev {CLIENT_INTERFACE} nodad"))?;
        }
        host.ip(&format!("route add 2001:db8:66::/48 dev {HOST_INTERFACE}"))?;
        client.ip(&format!("route add 2001:db8:1::/64 dev {CLIENT_INTERFACE}"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = remove_pins(&self.pin_path());
    }
}

/// A network namespace that ends with this value.
#[derive(Debug)]
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    /// An empty namespace, with nothing but a loopback interface that is down.
    pub fn make(name: &str) -> Result<Namespace> {
        run(Command::new("ip").args(["netns", "add", name]), b"")?
            .good()
            .with_context(|| format!("the network namespace {name} cannot be made; root is needed"))?;
        Ok(Namespace { name: name.to_owned() })
    }

    pub fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.name)
    }

    /// A command that will run in here. Its process id is that of the program itself.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// `ip ARGS`, words parted by spaces.
    pub fn ip(&self, args: &str) -> Result<()> {
        let output = run(self.command("ip").args(args.split_whitespace()), b"")?;
        output.good().with_context(|| format!("ip {args} in {}", self.name))?;
        Ok(())
    }

    /// The kernel's word on one interface (`ip -j -d link show dev NAME`).
    pub fn link(&self, interface: &str) -> Result<serde_json::Value> {
        let text = run(self.command("ip").args(["-j", "-d", "link", "show", "dev", interface]), b"")?.good()?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        links.get(0).cloned().with_context(|| format!("ip shows no interface {interface}"))
    }

    /// The id of the XDP program on an interface.
    pub fn xdp_program(&self, interface: &str) -> Result<Option<u64>> {
        let link = self.link(interface)?;
        Ok(link.pointer("/xdp/prog/id").or_else(|| link.pointer("/xdp/attached/0/prog/id")).and_then(|id| id.as_u64()))
    }

    pub fn index(&self, interface: &str) -> Result<u64> {
        self.link(interface)?["ifindex"].as_u64().context("no ifindex")
    }

    /// The hardware address of an interface.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let link = self.link(interface)?;
        let text = link["address"].as_str().unwrap_or_default();
        let bytes: Vec<u8> = text.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        <[u8; 6]>::try_from(bytes).map_err(|_| anyhow::anyhow!("{interface} has no hardware address but `{text}`"))
    }

    /// Does `work` on a thread of this namespace. Sockets made there stay in it.
    pub fn within<R: Send>(&self, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
        let namespace = File::open(self.path())?;
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            thread.join().unwrap_or_else(|_| bail!("the work in {} panicked", self.name))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run(Command::new("ip").args(["netns", "delete", &self.name]), b"");
    }
}

/// A name that nothing alive has: `edge-test-PID-N`.
pub fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Removes a folder of pins; what is attached only through them is detached by it.
pub fn remove_pins(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove the pins in {}", path.display()))?;
    }
    Ok(())
}

/// Once a process, and one process at a time: bpffs is mounted, and leftovers are swept up.
fn prepare() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut outcome = Ok(());
    ONCE.call_once(|| outcome = prepare_now());
    outcome
}

fn prepare_now() -> Result<()> {
    let lock = File::create(std::env::temp_dir().join("edge-test.lock"))?;
    lock.lock()?;
    mount_bpffs()?;
    sweep(Path::new(NAMESPACES), |path| {
        let _ = run(Command::new("ip").args(["netns", "delete"]).args(path.file_name()), b"");
    });
    sweep(Path::new(BPFFS), |path| drop(remove_pins(path)));
    sweep(&std::env::temp_dir(), |path| drop(fs::remove_dir_all(path)));
    Ok(())
}

fn mount_bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    if mounts.lines().any(|line| line.split(' ').skip(1).take(2).eq([BPFFS, "bpf"])) {
        return Ok(());
    }
    run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]), b"")?.good().context("bpffs cannot be mounted")?;
    Ok(())
}

/// Hands over each thing of the harness whose process no longer lives.
fn sweep(folder: &Path, remove: impl Fn(&Path)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            remove(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweep_takes_what_a_dead_process_left_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let alive = format!("{PREFIX}{}-0", process::id());
        // Process ids end at 2^22.
        for name in [alive.as_str(), "edge-test-99999999-3-h", "edge-test-x-1", "other-99999999-1"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        sweep(folder.path(), |path| fs::remove_dir(path).unwrap());
        assert!(folder.path().join(alive).exists());
        assert!(!folder.path().join("edge-test-99999999-3-h").exists());
        assert!(folder.path().join("edge-test-x-1").exists());
        assert!(folder.path().join("other-99999999-1").exists());
    }

    #[test]
    fn a_lab_connects_its_addresses_and_is_gone_afterwards() {
        let lab = Lab::new().unwrap();
        let path = lab.host.path();
        for address in [ATTACKER4, ATTACKER6, ATTACKER6_SECOND, NEIGHBOUR4, NEIGHBOUR6] {
            let url = if address.is_ipv4() { format!("http://{HOST4}:1") } else { format!("http://[{HOST6}]:1") };
            let mut curl = lab.client.command("curl");
            curl.args(["--globoff", "--noproxy", "*", "--max-time", "5", "--interface", &address.to_string(), &url]);
            // Nobody listens there: the host itself says so, and both ways are open.
            assert_eq!(run(&mut curl, b"").unwrap().code, 7, "from {address}");
        }
        assert_eq!(lab.host.xdp_program(HOST_INTERFACE).unwrap(), None);
        drop(lab);
        assert!(!path.exists());
    }
}
