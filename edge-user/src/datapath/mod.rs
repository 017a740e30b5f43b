//! The kernel side as the agent sees it, and the only importer of aya: loading, pinning, attaching, the tables.
//!
//! The tables live in generations: a directory `gen-N` below `pin_path` holds the maps and the program of one. A start
//! builds the next generation aside, fills it, replaces the program in place on every link, and only then removes the
//! one before: blocked stays blocked through a start, an upgrade and a change of sizes. Counters by reason outlive
//! generations, beside the links, directly below `pin_path`.

mod amend;
mod areas;
mod batch;
mod blocked;
mod clock;
mod connections;
mod egress;
mod events;
mod generation;
mod link;
mod mapping;
mod nets;
mod object;
mod rates;
mod room;
mod spilled;
mod table;
mod trace;
mod unloaded;

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use edge_common::{reason::Counters, table::Hits, time::Until};
use nix::fcntl::{Flock, FlockArg};

pub use blocked::Difference;
pub use connections::{Compared, Comparison, Connections, Excesses};
pub use events::Events;
pub use generation::Generation;
pub use link::{
    Attached, Links, Look, Mended, Unfiltered, attach, is_bare, pinned_interfaces, program_name, programs_in_force,
    remedy, unload,
};
pub use object::{Plan, TRUSTED};
pub use room::Singles6;
pub use unloaded::Unloaded;

use crate::{
    block::Target,
    clock::Boot,
    control::protocol::Rates,
    error::{Blame, Failure},
    inventory::Inventory,
};

/// What the one writer does with a generation.
pub trait Tables {
    /// Puts into force what has an end, and ends what has none; in order. After a failure some are done and some are not.
    fn settle(&mut self, wanted: impl Iterator<Item = (Target, Option<Until>)>) -> Result<(), Failure>;
    /// The end that the kernel holds for this entry, if it holds one.
    fn until(&self, target: Target) -> Option<Until>;
    fn hits(&self, target: Target) -> Hits;
    /// All that the kernel holds, read anew.
    fn inventory(&self) -> Inventory;
    /// Each bounded table with its entries and its capacity; `connected` says how many connections are listed, so that
    /// they are not counted through once more.
    fn capacities(&self, connected: Connected) -> Vec<(&'static str, u64, u64)>;
    /// What was counted by reason and family.
    fn counters(&self) -> Result<Counters, Failure>;
    /// What an address may still send.
    fn rates(&self, address: IpAddr, now: Boot) -> Rates;
    /// How many connections an address (IPv6: its unit) has now, as the kernel counts; `None` where none are capped, so
    /// that it counts none.
    fn connections(&self, address: IpAddr) -> Option<u64>;
    /// All that the kernel counts now; zeroes where none are capped.
    fn connected(&self) -> Connected;
    /// The cap in force on the connections of one address.
    fn cap(&self) -> Option<u64>;
    /// Detaches everything and removes every pin.
    fn unload(&mut self) -> Result<Unloaded, Failure>;
    /// Replaces what is allowed, protected and own.
    fn trust(&mut self, prefixes: &[(Target, edge_common::table::Trust)]) -> Result<(), Failure>;
}

/// Connections that others opened to this host, as the kernel counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// Addresses (IPv6: units) that have any.
    pub addresses: u64,
    pub total: u64,
    /// Ever since: those that a full table had no room to count.
    pub uncounted: u64,
    /// Ever since: those that were established over their client's cap.
    pub excess: u64,
}

/// Sole right to write below a `pin_path`, for as long as it lives.
pub struct Lock {
    directory: Flock<File>,
    path: PathBuf,
}

impl Lock {
    /// Makes the directory if need be. `None`: somebody else holds it.
    pub fn take(pin_path: &Path) -> Result<Option<Lock>, Failure> {
        make_pin_directory(pin_path)?;
        Lock::open(pin_path)
    }

    /// As [`take`](Self::take), of a directory that must exist.
    pub fn open(pin_path: &Path) -> Result<Option<Lock>, Failure> {
        let file = File::open(pin_path).map_err(|error| of_directory(pin_path, &error))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Lock { directory: lock, path: pin_path.to_owned() })),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(Failure::system(format!("{} cannot be locked: {error}", pin_path.display()))),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the directory is still the one that it locks: it can be removed, and be made anew by somebody else.
    pub fn holds(&self) -> bool {
        let locked = self.directory.metadata().map(|locked| (locked.dev(), locked.ino()));
        let there = std::fs::metadata(&self.path).map(|there| (there.dev(), there.ino()));
        matches!((locked, there), (Ok(locked), Ok(there)) if locked == there)
    }
}

/// Whether the directory of pins is there; who may not look is told so.
pub fn is_there(pin_path: &Path) -> Result<bool, Failure> {
    pin_path.try_exists().map_err(|error| of_directory(pin_path, &error))
}

fn of_directory(path: &Path, error: &io::Error) -> Failure {
    let blame = if error.kind() == io::ErrorKind::PermissionDenied { Blame::Forbidden } else { Blame::System };
    Failure::new(blame, format!("the directory of pinned maps {} cannot be used: {error}", path.display()))
}

/// What helps where there is no bpffs.
pub const MOUNT_BPFFS: &str = "mount one (`mount -t bpf bpf /sys/fs/bpf`) or change `filter.pin_path`";

/// What lies above it decides, since edge makes the directory itself.
pub fn is_on_bpffs(path: &Path) -> io::Result<bool> {
    let above = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    Ok(nix::sys::statfs::statfs(above)?.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

/// What lies above it is looked at first: where nothing can be pinned, no directory is left behind.
fn make_pin_directory(path: &Path) -> Result<(), Failure> {
    if !is_on_bpffs(path).map_err(|error| of_directory(path, &error))? {
        return Err(Failure::system(format!(
            "{} is not on a bpffs, so nothing can be pinned there; {MOUNT_BPFFS}",
            path.display()
        )));
    }
    std::fs::create_dir_all(path).map_err(|error| of_directory(path, &error))
}

/// Sums what the CPUs counted.
pub(crate) fn sum(per_cpu: impl IntoIterator<Item = Counters>) -> Counters {
    let mut total = Counters::default();
    for (run, reason, family, tally) in per_cpu.into_iter().flat_map(|one| one.all().collect::<Vec<_>>()) {
        let sum = total.tally_mut(run, reason, family);
        sum.packets += tally.packets;
        sum.bytes += tally.bytes;
    }
    total
}

/// Waits until no CPU runs a program that was replaced (`membarrier(2)`, Linux 4.3: a whole RCU grace period).
pub(crate) fn wait_for_readers() {
    // SAFETY: no pointers; MEMBARRIER_CMD_GLOBAL is 1.
    unsafe { libc::syscall(libc::SYS_membarrier, 1, 0, 0) };
}

/// The raw descriptor, for the memory mapping.
pub(crate) fn descriptor(map: &aya::maps::MapData) -> std::os::fd::BorrowedFd<'_> {
    map.fd().as_fd()
}
