//! Every TCP connection of this network namespace that is there whole, with the cookie that names it for good, and
//! which of them others opened. For whoever compares with the kernel's own count, counts what was open before, or closes
//! what is blocked.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, Parseable};
use netlink_packet_sock_diag::{
    constants::{AF_INET, AF_INET6, TCP_SYN_RECV},
    inet::{InetResponseHeader, SocketId, StateFlags, Timer},
};

use super::list;
use crate::netlink::NetlinkError;

/// One that is not closed yet. Handshakes under way are among them, since a connection that TCP Fast Open made early is told
/// as one. Addresses are canonical: an IPv4-mapped one is IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Never given twice while the machine is up; programs have it from `bpf_get_socket_cookie`.
    pub cookie: u64,
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// As `include/net/tcp_states.h` numbers it.
    pub state: u8,
    /// Index of the interface that it is bound to, as one between link-local addresses is; 0: to none.
    pub interface: u32,
}

/// Connections and listening sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    pub open: Vec<Connection>,
    pub listeners: Vec<SocketAddr>,
}

/// All of them, 80 bytes a connection. Of those that come or go while it is read, and of their neighbours in the kernel's
/// table, one may be missing or there twice: a single reading is no proof that a connection has ended.
///
/// TIME_WAIT is left out, and what waits for the other end's FIN in the same small form (`FIN_WAIT2` in the kernel's
/// answer, with the timer of TIME_WAIT): their sockets are closed.
pub fn connections() -> Result<Connections, NetlinkError> {
    let open = StateFlags::ESTABLISHED
        | StateFlags::SYN_RECV
        | StateFlags::FIN_WAIT1
        | StateFlags::FIN_WAIT2
        | StateFlags::CLOSE_WAIT
        | StateFlags::LAST_ACK
        | StateFlags::CLOSING;
    let mut found = Connections::default();
    for family in [AF_INET, AF_INET6] {
        found.open.extend(list::<Told>(family, open.clone())?.into_iter().filter_map(|Told(told)| told));
    }
    for family in [AF_INET, AF_INET6] {
        let listening = list::<Told>(family, StateFlags::LISTEN)?.into_iter().filter_map(|Told(told)| told);
        found.listeners.extend(listening.map(|socket| socket.local));
    }
    Ok(found)
}

impl Connections {
    /// Those that others opened to this host: somebody listens at their own end, and the other is elsewhere. A listener
    /// of `[::]` is taken to have IPv4 too, even one of IPv6 alone: that no other listens there does not make a port
    /// that this host connects from. What was accepted by a listener that is closed by now is not found.
    pub fn passive(&self) -> impl Iterator<Item = &Connection> {
        let mut listening: HashMap<u16, Vec<IpAddr>> = HashMap::new();
        for listener in &self.listeners {
            listening.entry(listener.port()).or_default().push(listener.ip());
        }
        self.open.iter().filter(move |connection| {
            let local = connection.local.ip();
            let at = listening.get(&connection.local.port()).map(Vec::as_slice).unwrap_or_default();
            let is_whole = connection.state != TCP_SYN_RECV;
            is_whole && !connection.is_own() && at.iter().any(|address| takes(*address, local))
        })
    }
}

impl Connection {
    /// Between two sockets of this host.
    fn is_own(&self) -> bool {
        self.peer.ip() == self.local.ip() || self.peer.ip().is_loopback()
    }
}

/// Whether what comes to an address comes to a listener there.
fn takes(listener: IpAddr, local: IpAddr) -> bool {
    listener == local || listener.is_unspecified() && (listener.is_ipv6() || local.is_ipv4())
}

/// `None`: its socket is closed.
struct Told(Option<Connection>);

impl NetlinkDeserializable for Told {
    type Error = DecodeError;

    fn deserialize(_header: &NetlinkHeader, payload: &[u8]) -> Result<Told, DecodeError> {
        let header = InetResponseHeader::parse(payload)?;
        let SocketId { source_address, source_port, destination_address, destination_port, .. } = header.socket_id;
        let connection = Connection {
            cookie: cookie(header.socket_id.cookie),
            local: SocketAddr::new(source_address.to_canonical(), source_port),
            peer: SocketAddr::new(destination_address.to_canonical(), destination_port),
            state: header.state,
            interface: header.socket_id.interface_id,
        };
        Ok(Told((header.timer != Some(Timer::TimeWait)).then_some(connection)))
    }
}

/// Two words, the lower first, each in the machine's order.
fn cookie([a, b, c, d, e, f, g, h]: [u8; 8]) -> u64 {
    u64::from(u32::from_ne_bytes([a, b, c, d])) | u64::from(u32::from_ne_bytes([e, f, g, h])) << 32
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{Shutdown, TcpListener, TcpStream},
        thread,
        time::{Duration, Instant},
    };

    use netlink_packet_sock_diag::constants::{TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_FIN_WAIT2};

    use super::*;

    fn pair() -> (TcpListener, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        (listener, client, server)
    }

    /// By its ends as the socket gave them while it was open. The other end may acknowledge a FIN later.
    fn becomes(ends: (SocketAddr, SocketAddr), expected: Option<u8>) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let found = connections().unwrap().open;
            let state = found.into_iter().find(|one| (one.local, one.peer) == ends).map(|one| one.state);
            if state == expected {
                return;
            }
            assert!(Instant::now() < end, "{ends:?} is in state {state:?}, not {expected:?}");
            thread::yield_now();
        }
    }

    fn ends(stream: &TcpStream) -> (SocketAddr, SocketAddr) {
        (stream.local_addr().unwrap(), stream.peer_addr().unwrap())
    }

    #[test]
    fn both_ends_of_a_connection_and_its_listener_are_told_each_with_a_cookie_of_its_own() {
        let (listener, client, server) = pair();
        let found = connections().unwrap();
        assert!(found.listeners.contains(&listener.local_addr().unwrap()));
        let find = |stream: &TcpStream| {
            let is_this = |one: &&Connection| (one.local, one.peer) == ends(stream);
            found.open.iter().find(is_this).unwrap_or_else(|| panic!("{stream:?} is not told"))
        };
        assert_eq!((find(&client).state, find(&server).state), (TCP_ESTABLISHED, TCP_ESTABLISHED));
        assert_ne!(find(&client).cookie, find(&server).cookie);
        assert!(find(&client).cookie != 0 && find(&server).cookie != 0);
    }

    #[test]
    fn a_connection_is_told_until_its_socket_is_closed_and_not_as_what_is_kept_of_it_afterwards() {
        let (_listener, client, mut server) = pair();
        let (of_client, of_server) = (ends(&client), ends(&server));
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        becomes(of_client, Some(TCP_FIN_WAIT2));
        becomes(of_server, Some(TCP_CLOSE_WAIT));
        // Nobody holds it any more, and the other end's FIN is still to come: kept in the small form.
        drop(client);
        becomes(of_client, None);
        becomes(of_server, Some(TCP_CLOSE_WAIT));
        drop(server);
        becomes(of_server, None);
    }

    #[test]
    fn others_opened_what_is_at_a_listener_and_comes_from_elsewhere() {
        let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
        let passive = |listeners: &[&str], local: &str, peer: &str| {
            let (local, peer) = (socket(local), socket(peer));
            let open = vec![Connection { cookie: 1, local, peer, state: TCP_ESTABLISHED, interface: 0 }];
            let all = Connections { open, listeners: listeners.iter().map(|text| socket(text)).collect() };
            all.passive().count() == 1
        };
        let (own4, own6) = ("192.0.2.1:443", "[2001:db8::1]:443");
        let (peer4, peer6) = ("203.0.113.7:40000", "[2001:db8:1::7]:40000");
        assert!(passive(&["0.0.0.0:443"], own4, peer4));
        assert!(passive(&["192.0.2.1:443"], own4, peer4));
        assert!(passive(&["[::]:443"], own4, peer4));
        assert!(passive(&["[::]:443"], own6, peer6));
        assert!(passive(&["192.0.2.9:443", "[2001:db8::1]:443"], own6, peer6));
        assert!(!passive(&[], own4, peer4));
        assert!(!passive(&["0.0.0.0:443"], own6, peer6));
        assert!(!passive(&["192.0.2.2:443", "0.0.0.0:444"], own4, peer4));
        // Opened by this host, though it listens on the other port.
        assert!(!passive(&["0.0.0.0:40000"], own4, peer4));
        // Its own.
        assert!(!passive(&["0.0.0.0:443"], own4, "192.0.2.1:40000"));
        assert!(!passive(&["0.0.0.0:443"], "127.0.0.1:443", "127.0.0.1:40000"));
        assert!(!passive(&["[::]:443"], "[::1]:443", "[::1]:40000"));
    }

    #[test]
    fn a_cookie_s_lower_word_comes_first() {
        let words = [0x0102_0304_u32.to_ne_bytes(), 0x0506_0708_u32.to_ne_bytes()].concat();
        assert_eq!(cookie(words.try_into().unwrap()), 0x0506_0708_0102_0304);
    }
}
