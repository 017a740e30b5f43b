//! Who is connected to this host (`NETLINK_SOCK_DIAG`): one look-up by both ends, lists, and closing the connections
//! of a client.

use std::{
    collections::BTreeSet,
    env, io,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, NLM_F_ACK, NetlinkDeserializable, NetlinkHeader, Parseable};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{
        AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2,
        TCP_LAST_ACK, TCP_TIME_WAIT,
    },
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

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
    list(AF_INET, StateFlags::empty()).map(drop)
}

/// Who has an SSH session on this host: the peers of connections to port 22, and to the port of the session that edge
/// was started from.
pub fn ssh_peers() -> Result<Vec<IpAddr>, NetlinkError> {
    let session = env::var("SSH_CONNECTION").ok();
    let ports: Vec<u16> = session.as_deref().and_then(server_port).into_iter().chain([22]).collect();
    let peers: BTreeSet<IpAddr> = list_all(StateFlags::ESTABLISHED)?
        .into_iter()
        .filter(|id| ports.contains(&id.source_port))
        .map(|id| id.destination_address.to_canonical())
        .collect();
    Ok(peers.into_iter().collect())
}

/// Ends every TCP connection whose peer lies in `net`, at once and without waiting for the peer, and says how many.
pub fn destroy_connections_of(net: IpNet) -> Result<u64, NetlinkError> {
    let mut ended = 0;
    for (family, id) in connections(live())? {
        if net.contains(&id.destination_address.to_canonical()) {
            ended += u64::from(destroy(family, id)?);
        }
    }
    Ok(ended)
}

/// Ends the very socket that was listed (the cookie says which); false if it is gone already.
fn destroy(family: u8, socket_id: SocketId) -> Result<bool, NetlinkError> {
    let request = SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: live(),
        socket_id,
    });
    let done =
        exchange::<_, Found>(NETLINK_SOCK_DIAG, NLM_F_ACK, SockDiagDestroy::new(request), "an end to a connection");
    match done {
        Ok(_) => Ok(true),
        Err(NetlinkError::Refused { error, .. }) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(NetlinkError::Refused { error, .. }) if unsupported(&error) => Err(NetlinkError::NotSupported),
        Err(error) => Err(error),
    }
}

fn unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EOPNOTSUPP)
}

/// What can be ended: neither listeners nor what is only remembered.
fn live() -> StateFlags {
    StateFlags::all() - StateFlags::LISTEN - StateFlags::CLOSE - StateFlags::TIME_WAIT
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

fn list_all(states: StateFlags) -> Result<Vec<SocketId>, NetlinkError> {
    Ok(connections(states)?.into_iter().map(|(_, id)| id).collect())
}

fn connections(states: StateFlags) -> Result<Vec<(u8, SocketId)>, NetlinkError> {
    let mut found = list(AF_INET, states.clone())?;
    found.extend(list(AF_INET6, states)?);
    Ok(found.into_iter().map(|Found(header)| (header.family, header.socket_id)).collect())
}

fn list(family: u8, states: StateFlags) -> Result<Vec<Found>, NetlinkError> {
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let request = InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id };
    dump(NETLINK_SOCK_DIAG, &SockDiagMessage::InetRequest(request), "the connections")
}

/// The server's port in `$SSH_CONNECTION`: client address and port, server address and port (sshd(8)).
fn server_port(connection: &str) -> Option<u16> {
    connection.split_whitespace().nth(3)?.parse().ok()
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
        net::{TcpListener, TcpStream},
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
    fn a_dual_stack_listener_s_connections_are_known_by_either_form() {
        let Ok(listener) = TcpListener::bind("[::]:0") else {
            return eprintln!("not tried: this host has no IPv6");
        };
        let (_client, server) = connect(&listener, "127.0.0.1");
        let (peer, local) = (server.peer_addr().unwrap(), server.local_addr().unwrap());
        assert!(peer.ip().is_ipv6(), "{peer}");
        assert!(established(peer, local).unwrap());
        let four = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        assert!(established(four(peer), four(local)).unwrap());
    }

    #[test]
    fn an_ipv6_connection_is_known() {
        let Ok(listener) = TcpListener::bind("[::1]:0") else {
            return eprintln!("not tried: this host has no IPv6");
        };
        let (_client, server) = connect(&listener, "::1");
        assert!(known(&server));
        assert!(!established("[::1]:1".parse().unwrap(), server.local_addr().unwrap()).unwrap());
    }

    #[tokio::test]
    async fn the_connections_of_one_client_end_and_no_others() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let open = async |from: &str| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
            let client = socket.connect(SocketAddr::new("127.0.0.1".parse().unwrap(), port)).await.unwrap();
            (client, listener.accept().unwrap().0)
        };
        let (_guilty, guilty) = open("127.77.61.9").await;
        let (_innocent, innocent) = open("127.77.61.10").await;
        // A socket that was ended no longer knows its peer.
        let (peer, local) = (guilty.peer_addr().unwrap(), guilty.local_addr().unwrap());
        assert!(established(peer, local).unwrap());
        match destroy_connections_of("127.77.61.9/32".parse().unwrap()) {
            Ok(ended) => {
                assert_eq!(ended, 1);
                assert!(!established(peer, local).unwrap() && known(&innocent));
                assert_eq!(destroy_connections_of("127.77.61.9/32".parse().unwrap()).unwrap(), 0);
            }
            Err(NetlinkError::NotSupported) => eprintln!("not tried: {}", NetlinkError::NotSupported),
            Err(error) => {
                assert!(!nix::unistd::geteuid().is_root(), "{error}");
                eprintln!("not tried, for want of the right: {error}");
            }
        }
    }

    #[test]
    fn peers_of_ssh_can_be_listed() {
        ssh_peers().unwrap();
        assert_eq!(server_port("203.0.113.7 40000 192.0.2.1 2222"), Some(2222));
        for text in ["", "a b c", "1 2 3 x", "1 2 3 99999"] {
            assert_eq!(server_port(text), None);
        }
    }
}
