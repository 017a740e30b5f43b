//! Ends connections from outside (`SOCK_DESTROY`): their owner's next call fails with ECONNABORTED, the other end gets a
//! RST. A connection is named by its cookie as well, so that another one that took its place meanwhile stays.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
};

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage, inet::SocketId};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::{Connection, Found, connections, look_up};
use crate::netlink::{Conversation, NetlinkError};

const WHAT: &str = "the end of a connection";

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// By this call.
    Now,
    /// It was gone already.
    Before,
    /// This kernel cannot: it was built without CONFIG_INET_DIAG_DESTROY.
    Never,
}

/// Closes connections of the network namespace that it was opened in, one after the other; each takes microseconds.
/// Needs CAP_NET_ADMIN.
#[derive(Debug)]
pub struct Closer {
    kernel: Conversation,
}

impl Closer {
    pub fn open() -> Result<Closer, NetlinkError> {
        Ok(Closer { kernel: Conversation::open(NETLINK_SOCK_DIAG, WHAT)? })
    }

    pub fn close(&mut self, connection: &Connection) -> Result<Closed, NetlinkError> {
        let mut request = look_up(connection.peer, connection.local);
        request.socket_id =
            SocketId { cookie: bytes(connection.cookie), interface_id: connection.interface, ..request.socket_id };
        let request = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
        let answer = self.kernel.ask::<_, Found>(NLM_F_ACK, request);
        let Err(NetlinkError::Refused { error, what }) = answer else { return answer.map(|_| Closed::Now) };
        match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(Closed::Before),
            Some(libc::EOPNOTSUPP) => Ok(Closed::Never),
            _ => Err(NetlinkError::Refused { error, what }),
        }
    }
}

/// Whether this kernel closes connections at all, as seen on one that is made for it.
pub fn can_close() -> Result<bool, NetlinkError> {
    let (_listener, client) = own_connection().map_err(|error| NetlinkError::Socket { what: WHAT, error })?;
    let ends = (client.local_addr().ok(), client.peer_addr().ok());
    let open = connections()?.open;
    let own = open.iter().find(|connection| ends == (Some(connection.local), Some(connection.peer)));
    let own = own.ok_or_else(|| NetlinkError::Answer { what: WHAT, error: "it does not know one".to_owned() })?;
    Ok(Closer::open()?.close(own)? != Closed::Never)
}

fn own_connection() -> io::Result<(TcpListener, TcpStream)> {
    let loopback: [SocketAddr; 2] = [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()];
    let listener = TcpListener::bind(loopback.as_slice())?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    Ok((listener, client))
}

/// As [`super::connections()`] reads it.
fn bytes(cookie: u64) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = ((cookie as u32).to_ne_bytes(), ((cookie >> 32) as u32).to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}
