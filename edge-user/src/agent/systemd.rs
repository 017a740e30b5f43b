//! What systemd is told and what it hands over: readiness, reloads, one line of status, and the listening sockets, which it
//! keeps while no agent runs (`FileDescriptorStoreMax=`). Nothing of it where nobody asks (`NOTIFY_SOCKET`,
//! `LISTEN_FDS`). sd-notify sends descriptors only by a further library, and waits without bound for a manager that
//! hangs; so the sending is by hand.

use std::{
    io::{self, IoSlice},
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, net::UnixDatagram},
    },
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::socket::{
        ControlMessage, MsgFlags, SockType, SockaddrStorage, UnixAddr, getsockname, getsockopt, sendmsg, sockopt,
    },
    time::{ClockId, clock_gettime},
};

use super::listener::Listener;

/// A manager that takes nothing for so long is told nothing.
const TOLD_WITHIN: Duration = Duration::from_millis(200);

/// Everything is in force.
pub fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={status}"), &[]);
}

/// The config is being read again, until [`ready`].
pub fn reloading() {
    if let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) {
        let microseconds = i128::from(now.tv_sec()) * 1_000_000 + i128::from(now.tv_nsec()) / 1_000;
        tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"), &[]);
    }
}

pub fn stopping() {
    tell("STOPPING=1\nSTATUS=ending; what is in the kernel stays in force", &[]);
}

pub fn alive() {
    tell("WATCHDOG=1", &[]);
}

/// Has these kept, and those no more that are not among them.
pub fn keep(listeners: &[Listener], before: &[Listener]) {
    for listener in listeners.iter().filter(|listener| !before.contains(listener)) {
        let name = name(listener.address);
        tell(&format!("FDSTORE=1\nFDNAME={name}"), &[listener.socket.as_raw_fd()]);
    }
    for gone in before.iter().filter(|before| !listeners.contains(before)) {
        forget(&name(gone.address));
    }
}

fn forget(name: &str) {
    tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
}

/// The sockets that were handed over for these addresses. Those for no other purpose are closed, and kept no more. To be
/// called once.
pub fn handed(addresses: &[SocketAddr]) -> Vec<Listener> {
    let descriptors = match sd_notify::listen_fds_with_names() {
        Ok(descriptors) => descriptors,
        Err(error) => {
            tracing::warn!("the service manager handed over sockets that cannot be told apart: {error}");
            return Vec::new();
        }
    };
    let mut listeners: Vec<Listener> = Vec::new();
    for (descriptor, name) in descriptors {
        match listening(descriptor) {
            Some(listener)
                if addresses.contains(&listener.address)
                    && !listeners.iter().any(|one| one.address == listener.address) =>
            {
                tracing::info!("{} is taken over from the service manager", listener.address);
                listeners.push(listener);
            }
            _ => {
                tracing::info!("a socket of the service manager is not listened on by the config, so it is closed");
                forget(&name);
            }
        }
    }
    listeners
}

/// `None`: it is no listening TCP socket.
fn listening(descriptor: RawFd) -> Option<Listener> {
    // A number that is not open, or no socket, is left alone.
    getsockname::<SockaddrStorage>(descriptor).ok()?;
    // SAFETY: the descriptor is open, for it has just named its address. The service manager opened it for this process, each
    // number comes once, and this is called once, so nobody else owns it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let listens = getsockopt(&descriptor, sockopt::AcceptConn).ok()?;
    if !listens || getsockopt(&descriptor, sockopt::SockType).ok()? != SockType::Stream {
        return None;
    }
    let socket = TcpListener::from(descriptor);
    socket.set_nonblocking(true).ok()?;
    let address = socket.local_addr().ok()?;
    Some(Listener { address, socket: Arc::new(socket) })
}

/// Without what a name may not have (`:` among it).
fn name(address: SocketAddr) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    format!("listen-{address}").chars().map(plain).collect()
}

/// Lost where nobody listens: it is said, and nothing depends on it.
fn tell(state: &str, descriptors: &[RawFd]) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(path.as_bytes(), state, descriptors) {
        tracing::debug!("the service manager was not told `{}`: {error}", state.lines().next().unwrap_or_default());
    }
}

fn send(path: &[u8], state: &str, descriptors: &[RawFd]) -> io::Result<()> {
    let manager = match path.strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(TOLD_WITHIN))?;
    let beside = if descriptors.is_empty() { vec![] } else { vec![ControlMessage::ScmRights(descriptors)] };
    let state = [IoSlice::new(state.as_bytes())];
    sendmsg(socket.as_raw_fd(), &state, &beside, MsgFlags::MSG_NOSIGNAL, Some(&manager))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_a_name_that_the_manager_takes() {
        let names = ["0.0.0.0:443", "[::]:443", "[2001:db8::1]:80"].map(|text| name(text.parse().unwrap()));
        assert_eq!(names, ["listen-0.0.0.0-443", "listen------443", "listen--2001-db8--1--80"]);
    }
}
