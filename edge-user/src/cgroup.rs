//! Where the hierarchy of cgroups (version 2) is mounted: what counts connections is attached to its root, below which is
//! every socket of the machine.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::error::{Blame, Context, Failure};

const MOUNTS: &str = "/proc/self/mounts";
/// The hierarchy's own root, and nothing below it (`kernfs_create_root`).
const ROOT_INODE: u64 = 1;

/// A mount that shows the whole hierarchy.
pub fn root() -> Result<PathBuf, Failure> {
    let mounts = std::fs::read_to_string(MOUNTS).blame(Blame::System, || format!("{MOUNTS} cannot be read"))?;
    choose(mounted(&mounts), shows_all)
}

/// The first that `shows_all`: a container that sees its own part alone may have been given the host's as well.
fn choose(mounted: Vec<PathBuf>, shows_all: impl Fn(&Path) -> bool) -> Result<PathBuf, Failure> {
    if let Some(root) = mounted.iter().find(|path| shows_all(path)) {
        return Ok(root.clone());
    }
    Err(Failure::system(match mounted.first() {
        None => {
            "no cgroup2 is mounted, by whose root connections are counted; mount it (`mkdir -p /run/cgroup2 && mount \
                 -t cgroup2 none /run/cgroup2`), or leave out `filter.limits.connections`"
                .to_owned()
        }
        Some(part) => format!(
            "{} shows a container's part of the cgroups, and connections are counted by the root of all; start the \
             container with the host's (`--cgroupns=host`), or leave out `filter.limits.connections`",
            part.display()
        ),
    }))
}

fn shows_all(path: &Path) -> bool {
    // Something else may be mounted over it.
    statfs(path).is_ok_and(|mounted| mounted.filesystem_type() == CGROUP2_SUPER_MAGIC)
        && path.metadata().is_ok_and(|metadata| metadata.ino() == ROOT_INODE)
}

/// Every mount of version 2 in `mounts` (of [`MOUNTS`]), the system's first.
fn mounted(mounts: &str) -> Vec<PathBuf> {
    let paths = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let path = words.next()?;
        (words.next()? == "cgroup2").then_some(path)
    });
    // Octal escapes of what parts words (proc_pid_mounts(5)).
    paths.map(|path| path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\").into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\nnone /sys/fs/cgroup/uni\\040fied cgroup2 rw 0 0\n\
        cgroup2 /cgroup2 tmpfs rw 0 0\n\nx\nnone /elsewhere cgroup2 rw 0 0\n";

    #[test]
    fn the_first_mount_of_the_whole_hierarchy_is_taken() {
        let both = ["/sys/fs/cgroup/uni fied", "/elsewhere"].map(PathBuf::from);
        assert_eq!(mounted(MIXED), both);
        assert_eq!(choose(mounted(MIXED), |_| true).unwrap(), both[0]);
        assert_eq!(choose(mounted(MIXED), |path| path == both[1]).unwrap(), both[1]);
    }

    #[test]
    fn none_and_a_part_are_told_apart() {
        let why = |mounts| choose(mounted(mounts), |_| false).unwrap_err().message;
        assert!(why("").starts_with("no cgroup2 is mounted"), "{}", why(""));
        assert!(why(MIXED).starts_with("/sys/fs/cgroup/uni fied shows a container's part"), "{}", why(MIXED));
    }

    #[test]
    fn a_cgroup_is_not_the_root_and_neither_is_another_file_system() {
        let root = root().unwrap();
        assert!(root.join("cgroup.procs").exists() && shows_all(&root));
        assert!(!shows_all(&root.join("cgroup.procs")) && !shows_all(Path::new("/proc")));
    }
}
