//! The TCP sockets of a namespace, as the kernel itself lists them in `/proc/net/tcp` and `tcp6`: the truth that counts of
//! connections are held against.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result};

use crate::net::Namespace;

/// How many connections each client has.
pub type Opened = BTreeMap<IpAddr, u64>;

/// `TCP_ESTABLISHED` and so on.
pub const ESTABLISHED: u8 = 1;
pub const TIME_WAIT: u8 = 6;
pub const LISTEN: u8 = 10;

/// One line of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: u8,
}

/// The two lists, opened once, so that they can be read often.
#[derive(Debug)]
pub struct Sockets {
    lists: [File; 2],
    text: String,
}

impl Sockets {
    pub fn of(namespace: &Namespace) -> Result<Sockets> {
        // A list is of the namespace of the thread that opens it.
        let open = |name: &str| File::open(format!("/proc/thread-self/net/{name}")).context(name.to_owned());
        let lists = namespace.within(|| Ok([open("tcp")?, open("tcp6")?]))?;
        Ok(Sockets { lists, text: String::new() })
    }

    /// All whose local port is one of these.
    pub fn at(&mut self, ports: &[u16]) -> Result<Vec<Socket>> {
        let mut all = Vec::new();
        for list in &mut self.lists {
            list.rewind()?;
            self.text.clear();
            list.read_to_string(&mut self.text)?;
            all.extend(self.text.lines().filter_map(parse).filter(|socket| ports.contains(&socket.local.port())));
        }
        Ok(all)
    }

    /// Those that are established, by their client.
    pub fn opened(&mut self, ports: &[u16]) -> Result<Opened> {
        let mut opened = Opened::new();
        for socket in self.at(ports)?.iter().filter(|socket| socket.state == ESTABLISHED) {
            *opened.entry(socket.remote.ip().to_canonical()).or_default() += 1;
        }
        Ok(opened)
    }
}

/// `  0: 0100007F:1F90 0200007F:C350 01 …`; the head has no such address.
fn parse(line: &str) -> Option<Socket> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let mut end = || {
        let (address, port) = words.next()?.split_once(':')?;
        Some(SocketAddr::new(ip(address)?, u16::from_str_radix(port, 16).ok()?))
    };
    let (local, remote) = (end()?, end()?);
    Some(Socket { local, remote, state: u8::from_str_radix(words.next()?, 16).ok()? })
}

/// Words of 32 bits as this machine has them in memory.
fn ip(text: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let word = u32::from_str_radix(text.get(index * 8..index * 8 + 8)?, 16).ok()?;
        Some(u32::from_be_bytes(word.to_ne_bytes()))
    };
    if text.len() == 8 {
        return Some(IpAddr::V4(Ipv4Addr::from_bits(word(0)?)));
    }
    let bits = (0..4).try_fold(0, |bits, index| Some(bits << 32 | u128::from(word(index)?)))?;
    Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::Lab;

    #[test]
    fn sockets_are_listed_with_both_ends() {
        let lab = Lab::new().unwrap();
        let mut sockets = Sockets::of(&lab.host).unwrap();
        for address in ["127.0.0.1", "::1"] {
            let make = || {
                let listener = TcpListener::bind((address, 0))?;
                let client = TcpStream::connect(listener.local_addr()?)?;
                Ok((listener, client))
            };
            let (listener, client) = lab.host.within(make).unwrap();
            let (local, remote) = (listener.local_addr().unwrap(), client.local_addr().unwrap());
            let all = sockets.at(&[local.port()]).unwrap();
            assert_eq!(all.len(), 2, "{all:?}");
            assert!(all.contains(&Socket { local, remote, state: ESTABLISHED }), "{all:?}");
            assert!(all.iter().any(|socket| socket.local == local && socket.state == LISTEN), "{all:?}");
            assert_eq!(sockets.opened(&[local.port()]).unwrap(), Opened::from([(remote.ip(), 1)]));
        }
    }
}
