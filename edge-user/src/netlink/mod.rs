//! What the kernel says of this network namespace: interfaces and their XDP hooks, addresses, default routes, and who
//! is connected. Blocking requests on a socket of their own, each answered by the kernel in microseconds.

mod features;
mod filters;
mod route;
mod sockets;
mod watch;

use std::{fs, io, net::IpAddr};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

pub use features::native_xdp;
pub use filters::{FilterPlace, egress_filters, remove_egress_filter};
pub use route::{
    Link, XdpAttached, XdpHook, default_route_indices, default_route_interfaces, gateways, link, links, own_addresses,
};
pub use sockets::{
    Closed, Closer, Connection, Connections, TcpSocket, can_close, connections, established, tcp_sockets, usable,
};
pub use watch::{News, Watch};

/// Which question failed, and how.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("cannot ask the kernel for {what}: {error}")]
    Socket { what: &'static str, error: io::Error },
    #[error("the kernel refused to give {what}: {error}")]
    Refused { what: &'static str, error: io::Error },
    #[error("the kernel's answer about {what} cannot be read: {error}")]
    Answer { what: &'static str, error: String },
}

/// How often a dump is begun again when what it lists changed meanwhile.
const ATTEMPTS: usize = 8;

/// The resolvers of this host, as far as they can be read. Where systemd-resolved stands between, those behind it too.
pub fn resolvers() -> Vec<IpAddr> {
    let mut found = Vec::new();
    for file in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        for address in nameservers(&fs::read(file).unwrap_or_default()) {
            if !found.contains(&address) {
                found.push(address);
            }
        }
    }
    found
}

/// resolv.conf(5); what is not understood is passed over.
fn nameservers(text: &[u8]) -> Vec<IpAddr> {
    let nameserver = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        let address = address.split_once('%').map_or(address, |(address, _scope)| address);
        Some(address.parse::<IpAddr>().ok()?.to_canonical())
    };
    String::from_utf8_lossy(text).lines().filter_map(nameserver).collect()
}

/// Every answer to a dump. One that was torn by a change meanwhile is begun again.
fn dump<Q, A>(protocol: isize, request: &Q, what: &'static str) -> Result<Vec<A>, NetlinkError>
where
    Q: NetlinkSerializable + Clone,
    A: NetlinkDeserializable,
{
    for _ in 0..ATTEMPTS {
        if let Some(answers) = exchange(protocol, NLM_F_DUMP, request.clone(), what)? {
            return Ok(answers);
        }
    }
    Err(NetlinkError::Answer { what, error: format!("it changed {ATTEMPTS} times while it was read") })
}

/// One request and its answers; `None` if they do not fit together.
fn exchange<Q, A>(protocol: isize, flags: u16, request: Q, what: &'static str) -> Result<Option<Vec<A>>, NetlinkError>
where
    Q: NetlinkSerializable,
    A: NetlinkDeserializable,
{
    Conversation::open(protocol, what)?.ask(flags, request)
}

/// Room for a datagram: the kernel makes those of a dump as long as a reader has room for, up to 32 KiB, and an answer
/// about one thing as long as it is.
const DATAGRAM: usize = 1 << 18;

/// A socket of one of the kernel's protocols, for any number of questions.
#[derive(Debug)]
struct Conversation {
    socket: Socket,
    what: &'static str,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Conversation {
    fn open(protocol: isize, what: &'static str) -> Result<Conversation, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|error| NetlinkError::Socket { what, error })?;
        Ok(Conversation { socket, what, sequence: 0, datagram: Vec::with_capacity(DATAGRAM) })
    }

    /// One request and its answers; `None` if they do not fit together. What is left of an earlier one is passed over.
    fn ask<Q, A>(&mut self, flags: u16, request: Q) -> Result<Option<Vec<A>>, NetlinkError>
    where
        Q: NetlinkSerializable,
        A: NetlinkDeserializable,
    {
        let what = self.what;
        let failed = |error| NetlinkError::Socket { what, error };
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&bytes_of(flags, self.sequence, request), 0).map_err(failed)?;
        let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut answers = Answers { what, sequence: self.sequence, dump, whole: true, found: Vec::new() };
        loop {
            self.datagram.clear();
            let length = self.socket.recv(&mut self.datagram, libc::MSG_TRUNC).map_err(failed)?;
            if length > self.datagram.len() {
                return Err(answers.unreadable(format!("it has {length} bytes at once")));
            }
            if answers.take(&self.datagram)? {
                return Ok(answers.whole.then_some(answers.found));
            }
        }
    }
}

fn bytes_of<Q: NetlinkSerializable>(flags: u16, sequence: u32, request: Q) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

struct Answers<A> {
    what: &'static str,
    /// The request's.
    sequence: u32,
    dump: bool,
    whole: bool,
    found: Vec<A>,
}

impl<A: NetlinkDeserializable> Answers<A> {
    /// Takes one datagram, which holds any number of messages; true after the last.
    fn take(&mut self, datagram: &[u8]) -> Result<bool, NetlinkError> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let message = NetlinkMessage::<A>::deserialize(rest).map_err(|error| self.unreadable(error.to_string()))?;
            let length = (message.header.length as usize).max(1).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            if message.header.sequence_number != self.sequence {
                continue;
            }
            self.whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
            if self.take_one(message.payload)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn take_one(&mut self, payload: NetlinkPayload<A>) -> Result<bool, NetlinkError> {
        match payload {
            NetlinkPayload::InnerMessage(answer) => {
                self.found.push(answer);
                Ok(!self.dump)
            }
            NetlinkPayload::Done(done) if done.code >= 0 => Ok(true),
            NetlinkPayload::Done(done) => Err(self.refused(io::Error::from_raw_os_error(done.code.saturating_neg()))),
            NetlinkPayload::Error(error) if error.code.is_none() => Ok(true),
            NetlinkPayload::Error(error) => Err(self.refused(error.to_io())),
            NetlinkPayload::Overrun(_) => Err(self.unreadable("it was cut short".to_owned())),
            _ => Ok(false),
        }
    }

    fn refused(&self, error: io::Error) -> NetlinkError {
        NetlinkError::Refused { what: self.what, error }
    }

    fn unreadable(&self, error: String) -> NetlinkError {
        NetlinkError::Answer { what: self.what, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_read_leniently() {
        let text = b"# no\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # x\nnameserver fe80::1%eth0\nnameserver\n\
            nameserver x\nnameservers 192.0.2.2\nsearch example.org\nnameserver ::ffff:192.0.2.3\n\xff\xfe";
        let expected = ["192.0.2.1", "2001:db8::1", "fe80::1", "192.0.2.3"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(nameservers(text), expected);
    }

    #[test]
    fn a_datagram_that_lies_about_its_length_is_an_error_and_no_panic() {
        for bytes in [&[1u8, 2, 3][..], &[255; 16], &[0; 16], &[16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            let mut answers =
                Answers::<sockets::Found> { what: "x", sequence: 0, dump: true, whole: true, found: Vec::new() };
            assert!(answers.take(bytes).is_err(), "{bytes:?}");
        }
    }
}
