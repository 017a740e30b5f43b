//! Who is connected to this host (`NETLINK_SOCK_DIAG`): one look-up by both ends, lists, and the end of connections.

mod close;
mod connections;

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, Parseable};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{
        AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2,
        TCP_LAST_ACK, TCP_TIME_WAIT,
    },
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

pub use self::{
    close::{Closed, Closer, can_close},
    connections::{Connection, Connections, connections},
};
use super::{NetlinkError, dump, exchange};

/// Of an IPv6 socket, the kernel takes this for "any cookie".
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// Whether the kernel holds a connection between these two ends whose handshake was completed. A listener alone is
/// none, and neither is a handshake that is under way: its sender may be forged. Both ends may be IPv4-mapped.
pub fn established(peer: SocketAddr, local: SocketAddr) -> Result<bool, NetlinkError> {
    let request = SockDiagMessage::InetRequest(look_up(peer, local));
    match exchange::<_, Found>(NETLINK_SOCK_DIAG, 0, request, "a connection") {
        Ok(found) => Ok(found.unwrap_or_default().iter().any(|found| completed(found.0.state))),
        Err(NetlinkError::Refused { error, .. }) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether this kernel answers such questions at all; one without TCP diagnosis would call every connection unknown.
pub fn usable() -> Result<(), NetlinkError> {
    list::<Found>(AF_INET, StateFlags::empty()).map(drop)
}

/// A TCP socket that listens, or whose connection is established.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// As `/proc/PID/fd` names it.
    pub inode: u32,
    /// Of who opened it, or the listener that it came in by.
    pub uid: u32,
    /// This end's.
    pub port: u16,
    /// `None`: it listens.
    pub peer: Option<IpAddr>,
}

impl TcpSocket {
    pub fn listens(&self) -> bool {
        self.peer.is_none()
    }
}

/// All of this network namespace.
pub fn tcp_sockets() -> Result<Vec<TcpSocket>, NetlinkError> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let sockets = list(family, StateFlags::LISTEN | StateFlags::ESTABLISHED)?;
        found.extend(sockets.into_iter().map(|Found(header)| TcpSocket {
            inode: header.inode,
            uid: header.uid,
            port: header.socket_id.source_port,
            peer: (header.state == TCP_ESTABLISHED).then(|| header.socket_id.destination_address.to_canonical()),
        }));
    }
    Ok(found)
}

fn completed(state: u8) -> bool {
    [TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_TIME_WAIT, TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING]
        .contains(&state)
}

/// The kernel finds an IPv6 socket that carries IPv4 by its IPv4 addresses.
fn look_up(peer: SocketAddr, local: SocketAddr) -> InetRequest {
    let (source_address, destination_address) = (local.ip().to_canonical(), peer.ip().to_canonical());
    let interface_id = match peer {
        SocketAddr::V6(six) => six.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    InetRequest {
        family: if destination_address.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: local.port(),
            destination_port: peer.port(),
            source_address,
            destination_address,
            interface_id,
            cookie: ANY_COOKIE,
        },
    }
}

fn list<A: NetlinkDeserializable>(family: u8, states: StateFlags) -> Result<Vec<A>, NetlinkError> {
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let request = InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id };
    dump(NETLINK_SOCK_DIAG, &SockDiagMessage::InetRequest(request), "the connections")
}

/// A socket as the kernel tells of it. The attributes that follow the header are of no use here and are not read, so
/// that a later kernel's new ones cannot make an answer unreadable.
pub(super) struct Found(InetResponseHeader);

impl NetlinkDeserializable for Found {
    type Error = DecodeError;

    fn deserialize(_header: &NetlinkHeader, payload: &[u8]) -> Result<Found, DecodeError> {
        InetResponseHeader::parse(payload).map(Found)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{Ipv4Addr, TcpListener, TcpStream},
        os::fd::{AsRawFd, RawFd},
    };

    use super::*;

    /// The server's view of a connection to this listener: peer, local.
    fn connect(listener: &TcpListener, to: &str) -> (TcpStream, TcpStream) {
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((to, port)).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn known(stream: &TcpStream) -> bool {
        established(stream.peer_addr().unwrap(), stream.local_addr().unwrap()).unwrap()
    }

    #[test]
    fn a_connection_is_known_and_a_listener_is_none() {
        usable().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (client, server) = connect(&listener, "127.0.0.1");
        assert!(known(&server) && known(&client));
        let local = server.local_addr().unwrap();
        for peer in ["127.0.0.1:1", "127.0.0.2:40000", "203.0.113.7:443", "[2001:db8::1]:443"] {
            assert!(!established(peer.parse().unwrap(), local).unwrap(), "{peer}");
        }
    }

    #[test]
    fn a_connection_that_is_being_closed_is_still_known() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (client, mut server) = connect(&listener, "127.0.0.1");
        client.shutdown(std::net::Shutdown::Both).unwrap();
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        assert!(known(&server));
    }

    #[test]
    fn sockets_are_listed_with_what_proc_calls_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (_client, server) = connect(&listener, "127.0.0.1");
        let inode = |fd: RawFd| {
            let name = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
            name.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
        };
        let uid = nix::unistd::getuid().as_raw();
        let listens = TcpSocket { inode: inode(listener.as_raw_fd()), uid, port, peer: None };
        let served = TcpSocket { inode: inode(server.as_raw_fd()), uid, port, peer: Some(Ipv4Addr::LOCALHOST.into()) };
        let found = tcp_sockets().unwrap();
        assert!(found.contains(&listens) && found.contains(&served), "{listens:?}, {served:?} in {found:?}");
    }
}
