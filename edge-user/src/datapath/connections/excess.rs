//! Connections that were established over their client's cap, as the kernel side tells of them, to be closed.

use std::{io, net::SocketAddr, path::Path};

use aya::maps::{Map, MapData, RingBuf};
use edge_common::connection::Excess;
use netlink_packet_sock_diag::constants::TCP_ESTABLISHED;
use tokio::io::{Interest, unix::AsyncFd};

use super::address_of;
use crate::{
    error::{Blame, Context, Failure},
    netlink::Connection,
};

/// Taken at once, so that others have their turn.
const AT_ONCE: usize = 256;

/// The ring buffer, which later generations go on with.
pub struct Excesses(AsyncFd<RingBuf<MapData>>);

impl Excesses {
    /// To be called within the runtime.
    pub(super) fn of_pin(pin: &Path) -> Result<Excesses, Failure> {
        let what = || format!("the connections over the cap cannot be read from {}", pin.display());
        let ring = MapData::from_pin(pin).blame(Blame::System, what)?;
        let ring = RingBuf::try_from(Map::RingBuf(ring)).blame(Blame::System, what)?;
        // SAFETY: the ring owns the descriptor that it gives, always the same one, and closes it only when it is dropped.
        Ok(Excesses(unsafe { AsyncFd::register(ring) }.blame(Blame::System, what)?))
    }

    /// Waits until there are some. Cancel-safe.
    pub async fn take(&mut self) -> Vec<Connection> {
        loop {
            // The descriptor of a map does not fail; if it does, nobody is woken for nothing.
            if self.0.readable().await.is_err() {
                std::future::pending().await
            }
            let taken = self.there();
            if !taken.is_empty() {
                return taken;
            }
        }
    }

    fn there(&mut self) -> Vec<Connection> {
        let mut taken = Vec::new();
        while taken.len() < AT_ONCE {
            let Some(item) = self.0.get_mut().next() else {
                let _ = self.0.try_io(Interest::READABLE, |_| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                break;
            };
            let excess = <&[u8; Excess::BYTES]>::try_from(&*item).map(Excess::of_bytes);
            taken.extend(excess.map(connection));
        }
        taken
    }
}

fn connection(excess: Excess) -> Connection {
    let end = |halves, port| SocketAddr::new(address_of(halves), port);
    Connection {
        cookie: excess.cookie,
        local: end(excess.local, excess.port),
        peer: end(excess.remote, excess.remote_port),
        state: TCP_ESTABLISHED,
        interface: excess.interface,
    }
}
