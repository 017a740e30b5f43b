//! The part of a service manager that edge speaks with, played: it hears what the agent notifies, keeps the descriptors that
//! the agent stores, and hands them over at the next start, as systemd does (sd_notify(3), sd_listen_fds(3)).

use std::{
    io::IoSliceMut,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixDatagram,
    },
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    cmsg_space,
    errno::Errno,
    sys::{
        socket::{ControlMessageOwned, MsgFlags, recvmsg},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use crate::agent::Edge;

/// Takes what is handed over from standard input and output, where a parent can put it without the other children of this
/// process getting it too.
const HANDS_OVER: &str = "LISTEN_PID=$$; export LISTEN_PID; exec 3<&0 4<&1 </dev/null >&2; exec \"$@\"";

#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    /// Messages that were heard so far.
    pub heard: Vec<String>,
    /// By name.
    pub stored: Vec<(String, OwnedFd)>,
}

impl Manager {
    /// `edge` speaks with it from its next start on.
    pub fn of(edge: &mut Edge, watchdog: Option<Duration>) -> Result<Manager> {
        let path = edge.path("notify.sock");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        edge.environment.push(("NOTIFY_SOCKET".to_owned(), path.display().to_string()));
        if let Some(period) = watchdog {
            edge.environment.push(("WATCHDOG_USEC".to_owned(), period.as_micros().to_string()));
        }
        Ok(Manager { socket, path, heard: Vec::new(), stored: Vec::new() })
    }

    /// Takes what has come since.
    pub fn hear(&mut self) -> Result<()> {
        while let Some((message, descriptor)) = self.next()? {
            let value = |key: &str| message.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
            if value("FDSTORE=1").is_some() {
                let name = value("FDNAME=").context("stored without a name")?;
                self.stored.push((name, descriptor.context("stored without a descriptor")?));
            } else if value("FDSTOREREMOVE=1").is_some() {
                let name = value("FDNAME=").context("removed without a name")?;
                self.stored.retain(|(stored, _)| *stored != name);
            }
            self.heard.push(message);
        }
        Ok(())
    }

    /// How many messages had this line.
    pub fn count(&self, line: &str) -> usize {
        self.heard.iter().filter(|message| message.lines().any(|one| one == line)).count()
    }

    /// The names of what is stored.
    pub fn names(&self) -> Vec<&str> {
        self.stored.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The next start of `edge` gets what is stored, at most two.
    pub fn hand_over(&self, edge: &mut Edge) -> Result<()> {
        ensure!(self.stored.len() <= 2, "too many to hand over: {:?}", self.names());
        edge.wrapper = ["sh", "-c", HANDS_OVER, "sh"].map(str::to_owned).to_vec();
        edge.environment.retain(|(key, _)| !key.starts_with("LISTEN_"));
        edge.environment.push(("LISTEN_FDS".to_owned(), self.stored.len().to_string()));
        edge.environment.push(("LISTEN_FDNAMES".to_owned(), self.names().join(":")));
        edge.inherits = self.stored.iter().map(|(_, stored)| stored.try_clone()).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn next(&self) -> Result<Option<(String, Option<OwnedFd>)>> {
        let mut bytes = [0; 4096];
        let mut beside = cmsg_space!([RawFd; 4]);
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg::<()>(self.socket.as_raw_fd(), &mut buffers, Some(&mut beside), MsgFlags::MSG_CMSG_CLOEXEC);
        let message = match got {
            Err(Errno::EAGAIN) => return Ok(None),
            got => got?,
        };
        let mut handed = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                // SAFETY: the kernel has just made these descriptors for this process; nobody else has them.
                handed.extend(descriptors.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
            }
        }
        let length = message.bytes;
        ensure!(handed.len() <= 1, "{} descriptors at once", handed.len());
        Ok(Some((String::from_utf8(bytes[..length].to_vec())?, handed.pop())))
    }
}

/// The first thread of a process, which stands still until this is dropped; the others go on.
#[derive(Debug)]
pub struct Halted(Pid);

impl Halted {
    pub fn new(process: u32) -> Result<Halted> {
        let process = Pid::from_raw(process.try_into()?);
        trace(libc::PTRACE_SEIZE, process)?;
        let halted = Halted(process);
        trace(libc::PTRACE_INTERRUPT, process)?;
        waitpid(process, Some(WaitPidFlag::__WALL))?;
        Ok(halted)
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        let _ = trace(libc::PTRACE_DETACH, self.0);
    }
}

fn trace(request: libc::c_uint, process: Pid) -> Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests change the state of another process, and read and write no memory of this one.
    Errno::result(unsafe { libc::ptrace(request, process.as_raw(), nothing, nothing) }).context("ptrace").map(drop)
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
