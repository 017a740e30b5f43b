//! Who is flooded: the host's end of the veth, its NAPI in a kernel thread of its own (Linux 5.12), and the counters that
//! say what came, what got past the guard, and what CPU time it took.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use edge_tests::{
    net::{HOST_INTERFACE, Lab},
    run, wait_for,
};

/// Which of the CPUs that this process may use the two have.
pub const SENDER: usize = 0;
const RECEIVER: usize = 1;

const SOON: Duration = Duration::from_secs(10);

pub struct Receiver {
    /// CPU time of the kernel thread.
    time: String,
    /// Frames by interface.
    interfaces: File,
    /// Datagrams that the network stack handed on.
    stack: File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub came: u64,
    pub arrived: u64,
    pub cpu_ns: u64,
}

impl Receiver {
    /// What filters is there already: an XDP program may bring a NAPI of its own.
    pub fn new(lab: &Lab) -> Result<Receiver> {
        // Without GRO or an XDP program a veth has no NAPI, and takes no frames of XDP.
        run(lab.host.command("ethtool").args(["-K", HOST_INTERFACE, "gro", "on"]), b"")?.good().context("ethtool")?;
        let before = threads()?;
        in_a_thread(lab)?;
        let after = threads()?;
        let fresh: Vec<i32> = after.into_iter().filter(|pid| !before.contains(pid)).collect();
        let [pid] = fresh.as_slice() else {
            anyhow::bail!("one kernel thread should serve {HOST_INTERFACE} of {}, there are {}", lab.name, fresh.len())
        };
        pin(*pid, RECEIVER)?;
        let open = |path: &str| File::open(path).with_context(|| format!("cannot read {path}"));
        let interfaces = lab.host.within(|| open("/proc/thread-self/net/dev"))?;
        let stack = lab.host.within(|| open("/proc/thread-self/net/snmp"))?;
        Ok(Receiver { time: format!("/proc/{pid}/schedstat"), interfaces, stack })
    }

    /// Once the ring is empty and the thread sleeps. It may have to wait for its CPU, so one look is not enough.
    pub fn settled(&self) -> Result<Counts> {
        const LOOKS: u32 = 5;
        let (mut last, mut same) = (self.counts()?, 0);
        wait_for("the receiver to have taken all frames", SOON, || {
            let counts = self.counts()?;
            same = if counts == last { same + 1 } else { 0 };
            last = counts;
            Ok((same == LOOKS).then_some(counts))
        })
    }

    /// The same, once so many frames have come in all.
    pub fn settled_after(&self, came: u64) -> Result<Counts> {
        wait_for("frames to come", SOON, || Ok((self.counts()?.came >= came).then_some(())))?;
        self.settled()
    }

    pub fn counts(&self) -> Result<Counts> {
        let interfaces = text(&self.interfaces)?;
        let stack = text(&self.stack)?;
        let time = fs::read_to_string(&self.time).with_context(|| format!("cannot read {}", self.time))?;
        Ok(Counts {
            came: received(&interfaces, HOST_INTERFACE).context("no frames are counted")?,
            arrived: delivered(&stack).context("no datagrams are counted")?,
            cpu_ns: time.split(' ').next().and_then(|word| word.parse().ok()).context("no CPU time is counted")?,
        })
    }
}

/// Has the calling thread (0) or another run on one CPU of those that this process may use.
pub fn pin(thread: i32, number: usize) -> Result<()> {
    // SAFETY: all zeroes is an empty set; each call has a live set and its size, and each CPU is below its capacity.
    let pinned = unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(libc::getpid(), size_of_val(&allowed), &raw mut allowed);
        let mut cpus = (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &allowed));
        let cpu = cpus.nth(number).context("the sender and the receiver need a CPU each, and there is only one")?;
        libc::CPU_ZERO(&mut allowed);
        libc::CPU_SET(cpu, &mut allowed);
        libc::sched_setaffinity(thread, size_of_val(&allowed), &raw const allowed)
    };
    ensure!(pinned == 0, "a thread cannot be kept on one CPU: {}", io::Error::last_os_error());
    Ok(())
}

/// /sys has to be mounted anew for the interfaces of another namespace, which `ip netns exec` does.
fn in_a_thread(lab: &Lab) -> Result<()> {
    let threaded = format!("/sys/class/net/{HOST_INTERFACE}/threaded");
    let mut command = std::process::Command::new("ip");
    command.args(["netns", "exec", &lab.host.name, "tee", &threaded]);
    run(&mut command, b"1")?.good().context("a NAPI does not get a thread of its own")?;
    Ok(())
}

/// The kernel threads that serve interfaces of our name.
fn threads() -> Result<Vec<i32>> {
    let name = format!("napi/{HOST_INTERFACE}-");
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_ours = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(&name));
    Ok(pids.filter(is_ours).collect())
}

fn text(mut file: &File) -> Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Of `/proc/net/dev`: bytes, then frames.
fn received(text: &str, interface: &str) -> Option<u64> {
    let counts = text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))?;
    counts.split_whitespace().nth(1)?.parse().ok()
}

/// Of `/proc/net/snmp`: a line of names, then one of numbers.
fn delivered(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let names = lines.next()?.split_whitespace();
    let numbers = lines.next()?.split_whitespace();
    names.zip(numbers).find(|(name, _)| *name == "InDelivers")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let interfaces = "Inter-|   Receive\n face |bytes    packets errs\n    lo: 1 2 3\nedge-h: 600 10 0 0\n";
        assert_eq!(received(interfaces, "edge-h"), Some(10));
        assert_eq!(received(interfaces, "edge-c"), None);
        let stack = "Ip: Forwarding InReceives InDelivers\nIp: 1 9 7\nIcmp: InMsgs\nIcmp: 3\n";
        assert_eq!(delivered(stack), Some(7));
    }
}
