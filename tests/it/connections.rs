//! What edge asks the kernel about connections, in a namespace that surely has both families.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use anyhow::{Result, ensure};
use edge_tests::net::Lab;
use edge_user::netlink::established;

#[test]
fn a_dual_stack_listener_s_connections_are_known_by_either_form() -> Result<()> {
    let lab = Lab::new()?;
    lab.host.within(|| {
        let listener = TcpListener::bind("[::]:0")?;
        let (_open, peer, local) = connect(&listener, "127.0.0.1".parse()?)?;
        ensure!(peer.is_ipv6(), "{peer} is no IPv4-mapped address");
        ensure!(established(peer, local)?, "{peer} is not known as it is");
        let four = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        ensure!(established(four(peer), four(local))?, "{peer} is not known as IPv4");
        Ok(())
    })
}

#[test]
fn an_ipv6_connection_is_known() -> Result<()> {
    let lab = Lab::new()?;
    lab.host.within(|| {
        let listener = TcpListener::bind("[::1]:0")?;
        let (_open, peer, local) = connect(&listener, "::1".parse()?)?;
        ensure!(established(peer, local)?, "{peer} is not known");
        ensure!(!established("[::1]:1".parse()?, local)?, "somebody else is known");
        Ok(())
    })
}

/// A connection to this listener, both of its sockets, and the server's view of it: peer, local.
fn connect(listener: &TcpListener, to: IpAddr) -> Result<([TcpStream; 2], SocketAddr, SocketAddr)> {
    let client = TcpStream::connect((to, listener.local_addr()?.port()))?;
    let (server, peer) = listener.accept()?;
    let local = server.local_addr()?;
    Ok(([client, server], peer, local))
}
