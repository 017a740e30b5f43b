//! The listening sockets. The agent opens them, since the server may not, and keeps them while servers come and go.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
        },
    },
};
use tokio::time::{Instant, sleep};

use crate::error::Failure;

/// The server of an agent that was killed holds the address until it has noticed.
const FREE_WITHIN: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_millis(20);

/// One listening socket for each address, in that order.
pub async fn open(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, Failure> {
    raise_descriptors();
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        listeners
            .push(when_free(*address, FREE_WITHIN).await.map_err(|error| explain("server.listen", *address, error))?);
    }
    Ok(listeners)
}

async fn when_free(address: SocketAddr, within: Duration) -> Result<TcpListener, Errno> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        match listen_on(address) {
            Err(Errno::EADDRINUSE) if begun.elapsed() < within => {}
            result => return result,
        }
        if !told {
            tracing::info!("{address} is still taken; a server that was left over lets go of it in a moment");
            told = true;
        }
        sleep(ASK_EVERY).await;
    }
}

/// It survives a restart's TIME-WAIT; IPv6 sockets take IPv6 alone.
fn listen_on(address: SocketAddr) -> Result<TcpListener, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&socket, Backlog::MAXALLOWABLE)?;
    Ok(TcpListener::from(socket))
}

/// Why an address that `key` names cannot be listened on, and what to do.
pub fn explain(key: &str, address: SocketAddr, error: Errno) -> Failure {
    match error {
        Errno::EADDRINUSE => Failure::refused(format!(
            "{key}: {address} is taken by another process; stop it (`ss -ltnp`) or name another address there"
        )),
        Errno::EACCES => Failure::forbidden(format!(
            "{key}: {address} needs CAP_NET_BIND_SERVICE; run as root or name a port above 1023"
        )),
        Errno::EADDRNOTAVAIL => Failure::refused(format!(
            "{key}: {address} is no address of this host; name one that `ip address` lists, or 0.0.0.0 or [::] for all"
        )),
        other => {
            let error = io::Error::from(other);
            Failure::refused(format!("{key}: {address} cannot be listened on: {error}; name another address there"))
        }
    }
}

/// Each connection is a descriptor; the server inherits the limit.
fn raise_descriptors() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_let_go_of_is_waited_for() {
        let left_over = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = left_over.local_addr().unwrap();
        // The first try fails before the other side lets go.
        let lets_go = async { drop(left_over) };
        let (listener, ()) = tokio::join!(biased; when_free(address, FREE_WITHIN), lets_go);
        assert_eq!(listener.unwrap().local_addr().unwrap(), address);
    }

    #[tokio::test]
    async fn one_that_stays_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = when_free(address, ASK_EVERY * 2).await.unwrap_err();
        assert!(explain("server.listen", address, error).message.contains(&format!("{address} is taken")));
    }
}
