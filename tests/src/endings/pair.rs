//! Connections with both of their ends in hand: made, used, and asked how they ended.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, setsockopt, socket,
            sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use crate::{net::Namespace, sockets::Opened};

/// Longer than any answer takes, even on a machine busy with other things.
const PATIENCE: i64 = 20;

/// At least so many descriptors in this process, which has both ends of each connection.
pub fn allow_descriptors(count: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(count <= hard, "{count} descriptors are needed, and {hard} are allowed (`ulimit -Hn`)");
    if soft < count {
        setrlimit(Resource::RLIMIT_NOFILE, count, hard).context("more descriptors")?;
    }
    Ok(())
}

/// A listener of each family.
#[derive(Debug)]
pub struct Listeners {
    four: TcpListener,
    six: TcpListener,
}

impl Listeners {
    /// On ports that the kernel chooses.
    pub fn new(namespace: &Namespace, [four, six]: [IpAddr; 2], backlog: i32) -> Result<Listeners> {
        let listener = |address: IpAddr| -> Result<TcpListener> {
            let listener = TcpListener::bind((address, 0))?;
            // The second call sets the length of the queue anew.
            listen(&listener, Backlog::new(backlog)?)?;
            setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
            Ok(listener)
        };
        namespace.within(|| Ok(Listeners { four: listener(four)?, six: listener(six)? }))
    }

    pub fn ports(&self) -> Result<[u16; 2]> {
        Ok([self.four.local_addr()?.port(), self.six.local_addr()?.port()])
    }

    /// That of the family of a client.
    pub fn for_client(&self, from: IpAddr) -> &TcpListener {
        if from.is_ipv4() { &self.four } else { &self.six }
    }

    /// Connects from an address (port 0: any) to the listener of its family; the calling thread is of the clients'
    /// namespace.
    pub fn dial(&self, from: SocketAddr) -> Result<TcpStream> {
        dial(from, self.for_client(from.ip()).local_addr()?)
    }

    /// The same without waiting for the answer.
    pub fn knock(&self, from: SocketAddr) -> Result<TcpStream> {
        knock(from, self.for_client(from.ip()).local_addr()?)
    }

    pub fn accept(&self, client: TcpStream) -> Result<Pair> {
        let from = client.local_addr()?;
        let (server, peer) = self.for_client(from.ip()).accept().with_context(|| format!("{from} is not accepted"))?;
        ensure!(peer == from, "{peer} was accepted instead of {from}");
        Ok(Pair { client, server })
    }

    /// Accepts so many of these, the queues' oldest; gives the rest too. Who was last at the door may be first in the queue.
    pub fn accept_some(&self, clients: Vec<TcpStream>, count: usize) -> Result<(Vec<Pair>, Vec<TcpStream>)> {
        let mut accepted = HashMap::new();
        for client in clients.iter().take(count) {
            let (server, peer) = self.for_client(client.local_addr()?.ip()).accept().context("nobody is accepted")?;
            accepted.insert(peer, server);
        }
        let (mut pairs, mut queued) = (Vec::new(), Vec::new());
        for client in clients {
            match accepted.remove(&client.local_addr()?) {
                Some(server) => pairs.push(Pair { client, server }),
                None => queued.push(client),
            }
        }
        ensure!(accepted.is_empty(), "{:?} were accepted, and never came", accepted.keys());
        Ok((pairs, queued))
    }

    /// So many connections in use, the clients in turn.
    pub fn open(&self, clients: &[IpAddr], count: usize) -> Result<Vec<Pair>> {
        let one = |&from: &IpAddr| {
            let mut pair = self.accept(self.dial(SocketAddr::new(from, 0))?)?;
            pair.talk()?;
            Ok(pair)
        };
        clients.iter().cycle().take(count).map(one).collect()
    }
}

/// A connection to anywhere, from one of the addresses of the calling thread's namespace.
pub fn dial(from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let stream = bound(from, SockFlag::SOCK_CLOEXEC)?;
    connect(stream.as_raw_fd(), &SockaddrStorage::from(to)).with_context(|| format!("from {from} to {to}"))?;
    Ok(stream)
}

/// The same without waiting for the answer, and without blocking afterwards.
pub fn knock(from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let stream = bound(from, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    match connect(stream.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(stream),
        Err(error) => Err(error).with_context(|| format!("from {from} to {to}")),
    }
}

fn bound(from: SocketAddr, flags: SockFlag) -> Result<TcpStream> {
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, flags, None)?;
    // The time to send bounds the connecting too, on Linux.
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(PATIENCE))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
    // A port is chosen with the other end known, so that one port serves many; also one that waits for its time-out.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from)).with_context(|| format!("bind to {from}"))?;
    Ok(TcpStream::from(socket))
}

/// How many connections each client has in these.
pub fn opened(pairs: &[Pair]) -> Result<Opened> {
    let mut opened = Opened::new();
    for pair in pairs {
        *opened.entry(pair.client.local_addr()?.ip()).or_default() += 1;
    }
    Ok(opened)
}

#[derive(Debug)]
pub struct Pair {
    pub client: TcpStream,
    pub server: TcpStream,
}

impl Pair {
    /// A few bytes each way.
    pub fn talk(&mut self) -> Result<()> {
        self.client.write_all(b"a question").context("ask")?;
        hear(&mut self.server, b"a question")?;
        self.server.write_all(b"the answer").context("answer")?;
        hear(&mut self.client, b"the answer")
    }
}

pub fn hear(stream: &mut TcpStream, words: &[u8]) -> Result<()> {
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard).context("hear")?;
    ensure!(heard == words, "{heard:?} instead of {words:?}");
    Ok(())
}

/// The other end has closed in good order.
pub fn hear_end(stream: &mut TcpStream) -> Result<()> {
    let count = stream.read(&mut [0; 64]).context("waiting for the end")?;
    ensure!(count == 0, "{count} bytes instead of the end");
    Ok(())
}

/// The connection has broken this way.
pub fn hear_error(stream: &mut TcpStream, kinds: &[ErrorKind]) -> Result<()> {
    match stream.read(&mut [0; 64]) {
        Err(error) if kinds.contains(&error.kind()) => Ok(()),
        other => bail!("{other:?} instead of {kinds:?}"),
    }
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) -> Result<()> {
    Ok(setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?)
}

/// Has the kernel ask after the other end as soon and as seldom as it can: after a second, once, for a second.
pub fn keep_alive(stream: &TcpStream) -> Result<()> {
    setsockopt(stream, sockopt::TcpKeepIdle, &1)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &1)?;
    setsockopt(stream, sockopt::TcpKeepCount, &1)?;
    Ok(setsockopt(stream, sockopt::KeepAlive, &true)?)
}

/// What the kernel waits at most, as `read` and `write` of these sockets do.
pub const fn patience() -> Duration {
    Duration::from_secs(PATIENCE as u64)
}
