//! Who is at the other end of the admin socket, by the kernel's word, and whether they may command the agent.

use std::{io, mem::size_of, os::fd::AsRawFd};

use nix::unistd::{Gid, geteuid};
use tokio::net::UnixStream;

use crate::error::Failure;

/// Who sent a request, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    pub uid: u32,
    pub pid: Option<i32>,
}

/// root, the agent's own user, and members of the socket's group. The file's mode says the same; this holds also where
/// someone widened it.
pub(super) fn admitted(stream: &UnixStream, allowed_group: Option<Gid>) -> io::Result<Result<Actor, Failure>> {
    let peer = stream.peer_cred()?;
    let member = |group: Gid| {
        peer.gid() == group.as_raw() || peer_groups(stream).is_ok_and(|groups| groups.contains(&group.as_raw()))
    };
    let uid = peer.uid();
    if uid == 0 || uid == geteuid().as_raw() || allowed_group.is_some_and(member) {
        return Ok(Ok(Actor { uid, pid: peer.pid() }));
    }
    Ok(Err(Failure::forbidden(format!("user {uid} may not command this agent; run as root or join the group edge"))))
}

/// The supplementary groups of the peer when it connected (`SO_PEERGROUPS`, Linux 4.13); nix has no wrapper.
fn peer_groups(stream: &UnixStream) -> io::Result<Vec<libc::gid_t>> {
    // NGROUPS_MAX on Linux.
    let mut groups: Vec<libc::gid_t> = vec![0; 65_536];
    let mut bytes = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes, the length of `groups`, and stores how many it wrote.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(bytes as usize / size_of::<libc::gid_t>());
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_peer_has_groups() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(peer_groups(&one).unwrap().len(), nix::unistd::getgroups().unwrap().len());
    }
}
