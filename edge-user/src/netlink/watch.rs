//! News of interfaces and default routes, as the kernel announces them. Of each message only its kind and, of a route,
//! the length of its prefix are read, by hand: a host may announce a hundred thousand routes a second that concern
//! nobody here. What changed is then asked for.

use std::io;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::{Interest, unix::AsyncFd};

use super::NetlinkError;

/// What may be different from when it was looked at last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    pub links: bool,
    pub default_routes: bool,
}

impl News {
    /// Nobody knows what: some of it was lost, or cannot be read.
    pub const ALL: News = News { links: true, default_routes: true };
    const NONE: News = News { links: false, default_routes: false };

    fn and(self, other: News) -> News {
        News { links: self.links || other.links, default_routes: self.default_routes || other.default_routes }
    }
}

/// A subscription, from the moment it is opened.
#[derive(Debug)]
pub struct Watch {
    socket: AsyncFd<Socket>,
}

/// `linux/rtnetlink.h`.
const GROUPS: [u32; 3] = [1, 7, 11]; // RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE

/// Datagrams taken in at once, before somebody else has a turn.
const AT_ONCE: usize = 256;
const WHAT: &str = "news of interfaces and routes";

impl Watch {
    /// To be called within the runtime.
    pub fn open() -> Result<Watch, NetlinkError> {
        let open = || -> io::Result<Watch> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.set_non_blocking(true)?;
            GROUPS.iter().try_for_each(|group| socket.add_membership(*group))?;
            // SAFETY: the socket owns its descriptor, which nobody replaces or closes while it lives.
            Ok(Watch { socket: unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }? })
        };
        open().map_err(|error| NetlinkError::Socket { what: WHAT, error })
    }

    /// Waits until something changed. Nothing is lost where the wait is broken off.
    pub async fn changed(&self) -> News {
        loop {
            let Ok(mut ready) = self.socket.readable().await else { return News::ALL };
            let (news, drained) = self.take();
            if drained {
                ready.clear_ready();
            }
            if news != News::NONE {
                return news;
            }
        }
    }

    /// What has been announced by now, and whether that was all.
    fn take(&self) -> (News, bool) {
        let mut news = News::NONE;
        let mut datagram = Vec::with_capacity(1 << 16);
        for _ in 0..AT_ONCE {
            datagram.clear();
            match self.socket.get_ref().recv(&mut datagram, 0) {
                Ok(_) => news = news.and(told_by(&datagram)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (news, true),
                // Overrun (ENOBUFS): what was lost is not known.
                Err(_) => news = News::ALL,
            }
        }
        (news, false)
    }
}

fn told_by(datagram: &[u8]) -> News {
    let mut news = News::NONE;
    let mut rest = datagram;
    while !rest.is_empty() {
        let Ok(message) = NetlinkBuffer::new_checked(rest) else { return News::ALL };
        news = news.and(told_by_one(message.message_type(), message.payload()));
        rest = rest.get((message.length() as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    news
}

fn told_by_one(kind: u16, payload: &[u8]) -> News {
    match kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => News { links: true, ..News::NONE },
        // The second byte of a `struct rtmsg` is the length of the destination's prefix.
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            News { default_routes: payload.get(1).is_none_or(|length| *length == 0), ..News::NONE }
        }
        _ => News::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn links_and_default_routes_are_news_and_nothing_else_is() {
        let (links, routes) = (News { links: true, ..News::NONE }, News { default_routes: true, ..News::NONE });
        for (kind, payload, news) in [
            (libc::RTM_NEWLINK, &[0; 16][..], links),
            (libc::RTM_DELLINK, &[], links),
            (libc::RTM_NEWROUTE, &[2, 0, 0, 0], routes),
            (libc::RTM_DELROUTE, &[10, 0, 0, 0], routes),
            (libc::RTM_NEWROUTE, &[2, 24, 0, 0], News::NONE),
            (libc::RTM_NEWROUTE, &[2], routes),
            (libc::RTM_NEWADDR, &[0; 8], News::NONE),
        ] {
            assert_eq!(told_by(&message(kind, payload)), news, "{kind} {payload:?}");
        }
        let both = [message(libc::RTM_NEWROUTE, &[2, 0, 0]), message(libc::RTM_NEWLINK, &[1; 5])].concat();
        assert_eq!(told_by(&both), News::ALL);
        assert_eq!(told_by(&[]), News::NONE);
    }

    #[test]
    fn what_cannot_be_read_is_news_of_everything_and_no_panic() {
        for bytes in [&[1u8, 2, 3][..], &[0; 16], &[255; 16], &[15, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(told_by(bytes), News::ALL, "{bytes:?}");
        }
    }
}
