//! The listening sockets. The agent opens them, since the server may not, and keeps them while servers come and go.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd,
    sync::Arc,
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

/// A listening socket, and the address that the config names.
#[derive(Clone, Debug)]
pub struct Listener {
    pub address: SocketAddr,
    pub socket: Arc<TcpListener>,
}

impl PartialEq for Listener {
    fn eq(&self, other: &Listener) -> bool {
        self.address == other.address && Arc::ptr_eq(&self.socket, &other.socket)
    }
}

/// One socket for each address, in that order: of those that are `held` or a new one. The new ones have their addresses
/// alone: they take no connection from those held before it is certain that they will be served. `key` names them in the
/// config.
pub async fn bound(key: &str, addresses: &[SocketAddr], held: &[Listener]) -> Result<Vec<Listener>, Failure> {
    raise_descriptors();
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        let listener = match held.iter().find(|held| held.address == *address) {
            Some(held) => held.clone(),
            None => {
                let socket =
                    when_free(*address, held, FREE_WITHIN).await.map_err(|error| explain(key, *address, error))?;
                Listener { address: *address, socket: Arc::new(socket) }
            }
        };
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Connections come to those that are not `held` from now on.
pub fn listen_on(key: &str, listeners: &[Listener], held: &[Listener]) -> Result<(), Failure> {
    for listener in listeners.iter().filter(|listener| !held.contains(listener)) {
        let begun = sharing(listener.address, held, |shared| begin(&listener.socket, shared));
        begun.map_err(|error| explain(key, listener.address, error))?;
    }
    Ok(())
}

async fn when_free(address: SocketAddr, held: &[Listener], within: Duration) -> Result<TcpListener, Errno> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        match beside(address, held) {
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

fn beside(address: SocketAddr, held: &[Listener]) -> Result<TcpListener, Errno> {
    sharing(address, held, |shared| bind_to(address, shared))
}

/// The address may be a part of one that is held, or the reverse: what is held lets it in while this is done.
fn sharing<R>(address: SocketAddr, held: &[Listener], act: impl FnOnce(bool) -> Result<R, Errno>) -> Result<R, Errno> {
    let in_the_way: Vec<_> = held.iter().filter(|held| overlap(held.address, address)).collect();
    let share =
        |shared: bool| in_the_way.iter().try_for_each(|held| setsockopt(&*held.socket, sockopt::ReusePort, &shared));
    share(true)?;
    let done = act(!in_the_way.is_empty());
    share(false)?;
    done
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let whole = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.is_ipv4() == other.is_ipv4() && whole
}

/// It survives a restart's TIME-WAIT; IPv6 sockets take IPv6 alone.
fn bind_to(address: SocketAddr, shared: bool) -> Result<TcpListener, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    setsockopt(&socket, sockopt::ReusePort, &shared)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    setsockopt(&socket, sockopt::ReusePort, &false)?;
    Ok(TcpListener::from(socket))
}

/// Nobody shares it once it listens.
fn begin(socket: &TcpListener, shared: bool) -> Result<(), Errno> {
    setsockopt(socket, sockopt::ReusePort, &shared)?;
    listen(socket, Backlog::MAXALLOWABLE)?;
    setsockopt(socket, sockopt::ReusePort, &false)
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
        let (listener, ()) = tokio::join!(biased; when_free(address, &[], FREE_WITHIN), lets_go);
        assert_eq!(listener.unwrap().local_addr().unwrap(), address);
    }

    #[tokio::test]
    async fn one_that_stays_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = when_free(address, &[], ASK_EVERY * 2).await.unwrap_err();
        assert!(explain("server.listen", address, error).message.contains(&format!("{address} is taken")));
    }

    #[tokio::test]
    async fn what_is_held_is_taken_over_and_makes_room_for_a_part_or_the_whole_of_it() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let whole = SocketAddr::new("0.0.0.0".parse().unwrap(), free.port());
        for (first, second) in [(free, whole), (whole, free)] {
            let held = bound("key", &[first], &[]).await.unwrap();
            listen_on("key", &held, &[]).unwrap();
            let both = bound("key", &[second, first], &held).await.unwrap();
            assert_eq!((&both[1], both[0].address), (&held[0], second));
            let comes_to = |listener: &Listener| {
                let client = std::net::TcpStream::connect(free).unwrap();
                assert_eq!(listener.socket.accept().unwrap().1, client.local_addr().unwrap());
            };
            comes_to(&held[0]);
            listen_on("key", &both, &held).unwrap();
            // To the one that names the address most closely.
            comes_to(both.iter().find(|one| one.address == free).unwrap());
            for address in [first, second] {
                assert_eq!(bind_to(address, false).unwrap_err(), Errno::EADDRINUSE);
            }
        }
    }
}
