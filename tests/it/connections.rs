//! What edge asks the kernel about connections, in a namespace that surely has both families.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, SocketAddrV6, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use edge_tests::net::{ATTACKER4, ATTACKER6, CLIENT_INTERFACE, HOST_INTERFACE, HOST4, HOST6, Lab};
use edge_user::netlink::{Closed, Closer, Connection, can_close, connections, established};

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

#[test]
fn what_others_opened_is_told_by_canonical_addresses_and_closed_at_both_ends() -> Result<()> {
    for (listen, peer, host) in
        [("0.0.0.0:443", ATTACKER4, HOST4), ("[::]:443", ATTACKER4, HOST4), ("[::]:443", ATTACKER6, HOST6)]
    {
        let lab = Lab::new()?;
        let listener = lab.host.within(|| Ok(TcpListener::bind(listen)?))?;
        let (mut first, mut closed) = accepted(&lab, &listener, peer, (host, 443).into())?;
        let (mut second, mut stays) = accepted(&lab, &listener, peer, (host, 443).into())?;
        lab.host.within(|| {
            let told = passive_of(&first)?;
            ensure!(told.local == SocketAddr::new(host, 443) && told.peer == first.local_addr()?, "{told:?}");
            let mut closer = Closer::open()?;
            // Another's cookie closes nothing, though the ends are these.
            let other = Connection { cookie: passive_of(&second)?.cookie, ..told.clone() };
            ensure!(closer.close(&other)? == Closed::Before, "another connection than the one that was named");
            ensure!(closer.close(&told)? == Closed::Now, "{told:?} is not closed");
            ensure!(closer.close(&told)? == Closed::Before, "{told:?} is closed twice");
            ensure!(passive_of(&first).is_err(), "{told:?} is told of still");
            Ok(())
        })?;
        fails(&mut first, ErrorKind::ConnectionReset)?;
        fails(&mut closed, ErrorKind::ConnectionAborted)?;
        stays.write_all(b"x")?;
        ensure!(second.read(&mut [0])? == 1, "the other connection does not transfer");
    }
    Ok(())
}

#[test]
fn what_this_host_opened_is_not_told_as_opened_by_others() -> Result<()> {
    let lab = Lab::new()?;
    let listener = lab.client.within(|| Ok(TcpListener::bind((ATTACKER4, 443))?))?;
    lab.host.within(|| {
        let _own = TcpListener::bind((HOST4, 443))?;
        let _within = TcpStream::connect((HOST4, 443))?;
        let _out = TcpStream::connect((ATTACKER4, 443))?;
        let _other = listener.accept()?;
        let told = connections()?;
        ensure!(told.open.len() == 3 && told.listeners == [SocketAddr::new(HOST4, 443)], "{told:?}");
        ensure!(told.passive().next().is_none(), "{told:?}");
        Ok(())
    })
}

#[test]
fn a_connection_between_link_local_addresses_is_closed_on_its_interface() -> Result<()> {
    let lab = Lab::new()?;
    for (namespace, interface, address) in
        [(&lab.host, HOST_INTERFACE, "fe80::77:1"), (&lab.client, CLIENT_INTERFACE, "fe80::77:2")]
    {
        namespace.ip(&format!("address add {address}/64 dev {interface} nodad"))?;
    }
    let scope = u32::try_from(lab.client.index(CLIENT_INTERFACE)?)?;
    let listener = lab.host.within(|| Ok(TcpListener::bind("[::]:443")?))?;
    let to = SocketAddrV6::new("fe80::77:1".parse()?, 443, 0, scope);
    let mut client = lab.client.within(|| Ok(TcpStream::connect(to)?))?;
    let _server = listener.accept()?;
    lab.host.within(|| {
        let told = connections()?;
        let told = told.passive().next().context("nothing is told")?;
        ensure!(u64::from(told.interface) == lab.host.index(HOST_INTERFACE)?, "{told:?}");
        ensure!(Closer::open()?.close(told)? == Closed::Now, "{told:?} is not closed");
        Ok(())
    })?;
    fails(&mut client, ErrorKind::ConnectionReset)
}

#[test]
fn this_kernel_closes_connections() -> Result<()> {
    let lab = Lab::new()?;
    ensure!(lab.host.within(|| Ok(can_close()?))?);
    Ok(())
}

/// A connection from a client to this listener: both of its sockets.
fn accepted(lab: &Lab, listener: &TcpListener, from: IpAddr, to: SocketAddr) -> Result<(TcpStream, TcpStream)> {
    let client = edge_tests::client::connect(lab, from, to, Duration::from_secs(10))??;
    Ok((client, listener.accept()?.0))
}

/// What the host is told of a client's connection.
fn passive_of(client: &TcpStream) -> Result<Connection> {
    let (peer, told) = (client.local_addr()?, connections()?);
    told.passive().find(|one| one.peer == peer).cloned().with_context(|| format!("{peer} is not in {told:?}"))
}

fn fails(stream: &mut TcpStream, expected: ErrorKind) -> Result<()> {
    let read = stream.read(&mut [0]);
    ensure!(read.as_ref().is_err_and(|error| error.kind() == expected), "{read:?}, not {expected:?}");
    Ok(())
}

/// A connection to this listener, both of its sockets, and the server's view of it: peer, local.
fn connect(listener: &TcpListener, to: IpAddr) -> Result<([TcpStream; 2], SocketAddr, SocketAddr)> {
    let client = TcpStream::connect((to, listener.local_addr()?.port()))?;
    let (server, peer) = listener.accept()?;
    let local = server.local_addr()?;
    Ok(([client, server], peer, local))
}
