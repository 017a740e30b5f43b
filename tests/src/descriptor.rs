//! A descriptor of another process, as a copy: what is done to the socket behind it is done to that process's.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use nix::errno::Errno;

/// Needs CAP_SYS_PTRACE where the process is not dumpable.
pub fn copied(pid: u32, number: RawFd) -> Result<OwnedFd> {
    let pid = i32::try_from(pid)?;
    // SAFETY: a system call without pointers.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    Errno::result(process).context("pidfd_open")?;
    // SAFETY: the descriptor was made the line before and belongs to nobody else.
    let process = unsafe { OwnedFd::from_raw_fd(RawFd::try_from(process)?) };
    // SAFETY: a system call without pointers.
    let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    Errno::result(copy).context("pidfd_getfd")?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(copy)?) })
}
