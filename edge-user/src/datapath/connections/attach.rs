//! The two programs that count connections. Their links are pinned with the generation and end with it: the next one's
//! programs are attached beside them before, and since a connection is named by its cookie, whatever both see is counted
//! once. So nothing has to be replaced in place, which tracepoints cannot be.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use aya::{
    Btf, Ebpf,
    programs::{BtfTracePoint, CgroupAttachMode, ProgramError, SockOps, links::FdLink},
};
use edge_common::names;

use super::Connections;
use crate::{
    datapath::{Generation, link::Held},
    error::{Blame, Context, Failure},
};

/// What the links are pinned as, beside the programs.
const COUNT_LINK: &str = "edge_count_link";
const CLOSED_LINK: &str = "edge_closed_link";

/// Both links, which stay as long as somebody holds them or their pins.
pub struct Counting {
    count: Held,
    closed: Held,
}

/// Loads both programs.
pub fn load(object: &mut Ebpf) -> Result<(), ProgramError> {
    let btf = Btf::from_sys_fs()?;
    closed(object)?.load(names::CLOSED_TRACEPOINT, &btf)?;
    count(object)?.load()
}

fn count(object: &mut Ebpf) -> Result<&mut SockOps, ProgramError> {
    object.program_mut(names::COUNT_PROGRAM).ok_or(ProgramError::NotLoaded)?.try_into()
}

fn closed(object: &mut Ebpf) -> Result<&mut BtfTracePoint, ProgramError> {
    object.program_mut(names::CLOSED_PROGRAM).ok_or(ProgramError::NotLoaded)?.try_into()
}

impl Counting {
    /// Attaches and pins both: first what counts off, so that nothing is counted whose end is not seen.
    fn attach(object: &mut Ebpf, directory: &Path) -> Result<Counting, Failure> {
        let what = || format!("connections cannot be counted: the tracepoint {}", names::CLOSED_TRACEPOINT);
        let program = closed(object).blame(Blame::System, what)?;
        let id = program.attach().blame(Blame::System, what)?;
        let link: FdLink = program.take_link(id).blame(Blame::System, what)?.into();
        let closed = hold(link, &directory.join(CLOSED_LINK))?;
        Ok(Counting { count: attach_count(object, &directory.join(COUNT_LINK))?, closed })
    }

    /// Pins what is pinned no more; gives how many were not.
    pub fn pin_again(&self, directory: &Path) -> Result<u64, Failure> {
        let mut missing = 0;
        for (link, name) in [(&self.count, COUNT_LINK), (&self.closed, CLOSED_LINK)] {
            let pin = directory.join(name);
            if !pin.exists() {
                link.pin(&pin).blame(Blame::System, || nowhere(&pin))?;
                missing += 1;
            }
        }
        Ok(missing)
    }
}

fn attach_count(object: &mut Ebpf, pin: &Path) -> Result<Held, Failure> {
    let root = cgroups()?;
    let what = || format!("connections cannot be counted: the cgroup {}", root.display());
    let cgroup = File::open(&root).blame(Blame::System, what)?;
    let program = count(object).blame(Blame::System, what)?;
    let id = program.attach(cgroup, CgroupAttachMode::Single).blame(Blame::System, what)?;
    let link: FdLink = program.take_link(id).blame(Blame::System, what)?.try_into().blame(Blame::System, what)?;
    hold(link, pin)
}

impl Generation {
    /// Attaches again what somebody detached (the kernel detaches links to cgroups, and none to tracepoints); gives how
    /// many. What was opened meanwhile is found when counts are compared with sockets.
    pub(in crate::datapath) fn count_again(&mut self) -> Result<u64, Failure> {
        let pin = self.directory().join(COUNT_LINK);
        let (Some(counting), Some(object)) = (&mut self.counting, &mut self.object) else { return Ok(0) };
        if counting.count.is_attached() {
            return Ok(0);
        }
        let _ = std::fs::remove_file(&pin);
        counting.count = attach_count(object, &pin)?;
        tracing::warn!("connections were counted no more, by something from outside; they are again");
        Ok(1)
    }

    /// Counts connections from here on, those that are open included, where they are capped. `before`: the directory of
    /// the generation that is in force, whose counts go on.
    pub(in crate::datapath) fn count_connections(&mut self, before: Option<&Path>) -> Result<(), Failure> {
        let Some(mut connections) = Connections::of(self)? else { return Ok(()) };
        let directory = self.directory().to_owned();
        let object =
            self.object.as_mut().ok_or_else(|| Failure::bug("a generation that was only opened is attached"))?;
        self.counting = Some(Counting::attach(object, &directory)?);
        if let Some(before) = before.filter(|_| !self.counts_go_on) {
            let before = Generation::of_pins(before).and_then(|before| Connections::of(&before));
            match before {
                Ok(Some(before)) => connections.carry(&before)?,
                Ok(None) => {}
                Err(failure) => tracing::warn!("{failure}; connections are counted from the kernel's sockets"),
            }
        }
        super::compare(&mut connections)?;
        self.connections = Some(connections);
        Ok(())
    }
}

fn hold(link: FdLink, pin: &Path) -> Result<Held, Failure> {
    let what = || nowhere(pin);
    link.pin(pin).blame(Blame::System, what)?;
    Held::of_pin(pin).blame(Blame::System, what)
}

fn nowhere(pin: &Path) -> String {
    format!("the link cannot be pinned as {}", pin.display())
}

/// Where the one hierarchy of cgroups (version 2) is mounted: a socket of any namespace is below its root.
fn cgroups() -> Result<PathBuf, Failure> {
    let mounts = std::fs::read_to_string("/proc/self/mounts");
    let mounts = mounts.blame(Blame::System, || "/proc/self/mounts cannot be read".to_owned())?;
    root_of(&mounts).ok_or_else(|| {
        Failure::system(
            "no cgroup2 is mounted, by whose root connections are counted; mount one (`mount -t cgroup2 none \
             /sys/fs/cgroup`) or leave out `filter.limits.connections`",
        )
    })
}

/// The mount of `mounts` (`/proc/self/mounts`) that shows the root. A mount of a part of the hierarchy looks the same
/// here; the first is that of the system.
fn root_of(mounts: &str) -> Option<PathBuf> {
    let mut words = mounts.lines().map(|line| line.split(' '));
    let path = words.find_map(|mut words| {
        let (path, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then_some(path)
    })?;
    // Octal escapes of what parts words (proc_pid_mounts(5)).
    Some(PathBuf::from(path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroups_root_is_the_first_mount_of_version_2() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\nnone /sys/fs/cgroup/uni\\040fied cgroup2 rw 0 0\n\
            none /elsewhere cgroup2 rw 0 0\n";
        assert_eq!(root_of(mounts), Some(PathBuf::from("/sys/fs/cgroup/uni fied")));
        assert_eq!(root_of("cgroup2 /cgroup2 tmpfs rw 0 0\n\nx\n"), None);
        assert!(cgroups().unwrap().join("cgroup.procs").exists());
    }
}
