//! Connections by the thousand, and every way in which one can end ([`Ending`]). Both ends are real sockets of a lab: the
//! servers' in the guarded host (or in a namespace behind it), the clients' in that of the clients, and the packets between
//! them are filtered by whoever filters there.

mod close;
mod cut;
pub mod pair;

use std::{
    io::{ErrorKind, Write as _},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result, ensure};

use self::{
    close::{by_hand, each, fin, fin_or_reset, kill_holder},
    cut::{Cut, Setting},
    pair::{Listeners, Pair, allow_descriptors, hear_error, keep_alive, opened, patience, reset},
};
use crate::{
    crowd::Crowd,
    net::{HOST4, HOST6, Lab},
    places::{Behind, GUEST4, GUEST6, Guest, set},
    run,
    sockets::{LISTEN, Opened, Sockets, TIME_WAIT},
    wait_for,
};

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    FinByClient,
    FinByServer,
    ResetByClient,
    ResetByServer,
    /// One end has said all and hears the rest.
    HalfCloseByClient,
    HalfCloseByServer,
    /// Both ends close before either has heard of it (`TCP_CLOSING`).
    Simultaneous,
    /// The client is gone without a word, and the kernel's questions get no answer.
    KeepAlive,
    /// The process that has the server's ends is killed.
    Killed,
    /// The queue of a listener that never accepts is full; it closes.
    AcceptQueue,
    /// A listener closes with connections that were accepted and such that were not.
    ClosedListener,
    /// The kernel kept nothing of the handshake.
    SynCookies,
    /// The same two ends and ports again while the server's side still waits.
    TimeWaitReuse,
    /// `SOCK_DESTROY`, as an administrator does it.
    Destroyed,
    /// The namespace of the servers goes, and the way to the clients with it.
    NamespaceDeleted,
}

impl Ending {
    pub const ALL: [Ending; 15] = [
        Ending::FinByClient,
        Ending::FinByServer,
        Ending::ResetByClient,
        Ending::ResetByServer,
        Ending::HalfCloseByClient,
        Ending::HalfCloseByServer,
        Ending::Simultaneous,
        Ending::KeepAlive,
        Ending::Killed,
        Ending::AcceptQueue,
        Ending::ClosedListener,
        Ending::SynCookies,
        Ending::TimeWaitReuse,
        Ending::Destroyed,
        Ending::NamespaceDeleted,
    ];
}

/// Told how many connections each client has, while all are open.
pub type WhenOpen<'a> = &'a mut (dyn FnMut(&Opened) -> Result<()> + Send);

/// As many connections at once as a queue of a listener holds, in each family.
pub const MOST: usize = 8_000;
const BACKLOG: i32 = 4_096;

/// Opens so many connections from a crowd, uses them, and ends them; at most [`MOST`]. When it returns, the servers' side
/// has nothing of them but sockets that wait their time out.
pub fn drive(lab: &Lab, crowd: &Crowd, ending: Ending, count: usize, when_open: WhenOpen<'_>) -> Result<()> {
    ensure!(count <= MOST, "{count} connections at once, of at most {MOST}");
    allow_descriptors(2 * MOST as u64 + 1_000)?;
    let driver = Driver { lab, clients: crowd.all(), count };
    lab.client.within(|| driver.drive(ending, when_open)).with_context(|| format!("{ending:?}"))
}

struct Driver<'a> {
    lab: &'a Lab,
    clients: Vec<IpAddr>,
    count: usize,
}

impl Driver<'_> {
    fn drive(&self, ending: Ending, when_open: WhenOpen<'_>) -> Result<()> {
        match ending {
            Ending::AcceptQueue => self.overflow(when_open),
            Ending::ClosedListener => self.close_listener(when_open),
            Ending::TimeWaitReuse => self.reuse(when_open),
            Ending::NamespaceDeleted => self.delete_namespace(when_open),
            Ending::SynCookies => {
                let _always = Setting::change(&self.lab.host, "ipv4/tcp_syncookies", "2")?;
                let before = cut::counter(&self.lab.host, "SyncookiesRecv")?;
                self.of_pairs(when_open, |pairs, _| each(pairs, fin_or_reset))?;
                let used = cut::counter(&self.lab.host, "SyncookiesRecv")? - before;
                ensure!(used >= self.count as u64, "{used} SYN cookies were used");
                Ok(())
            }
            Ending::Simultaneous => self.of_pairs(when_open, |pairs, ports| {
                // Each sends its end once more after a while, and then neither has heard of the other's.
                let _cut = Cut::new(self.lab, ports)?;
                drop(pairs);
                Ok(())
            }),
            Ending::KeepAlive => self.of_pairs(when_open, |pairs, ports| self.fall_silent(pairs, ports)),
            Ending::Killed => self.of_pairs(when_open, |pairs, _| kill_holder(pairs)),
            Ending::Destroyed => self.of_pairs(when_open, |pairs, ports| self.destroy(pairs, ports)),
            simple => self.of_pairs(when_open, |pairs, _| each(pairs, |number, pair| by_hand(simple, number, pair))),
        }
    }

    fn listen(&self, backlog: i32) -> Result<Listeners> {
        Listeners::new(&self.lab.host, [HOST4, HOST6], backlog)
    }

    fn of_pairs(&self, when_open: WhenOpen<'_>, end: impl FnOnce(Vec<Pair>, [u16; 2]) -> Result<()>) -> Result<()> {
        let listeners = self.listen(BACKLOG)?;
        let pairs = listeners.open(&self.clients, self.count)?;
        when_open(&opened(&pairs)?)?;
        end(pairs, listeners.ports()?)?;
        self.settled(listeners.ports()?)
    }

    /// The servers' sides are gone.
    fn settled(&self, ports: [u16; 2]) -> Result<()> {
        let mut sockets = Sockets::of(&self.lab.host)?;
        wait_for("the kernel to close its sockets", patience(), || {
            let left = sockets.at(&ports)?;
            Ok(left.iter().all(|socket| [TIME_WAIT, LISTEN].contains(&socket.state)).then_some(()))
        })
    }

    fn fall_silent(&self, pairs: Vec<Pair>, ports: [u16; 2]) -> Result<()> {
        pairs.iter().try_for_each(|pair| keep_alive(&pair.server))?;
        let _cut = Cut::new(self.lab, ports)?;
        each(pairs, |_, mut pair| {
            hear_error(&mut pair.server, &[ErrorKind::TimedOut])?;
            reset(pair.client)
        })
    }

    fn destroy(&self, pairs: Vec<Pair>, [four, six]: [u16; 2]) -> Result<()> {
        let which = format!("( sport = :{four} or sport = :{six} )");
        let mut command = self.lab.host.command("ss");
        run(command.args(["-K", "-H", "-t", "-n", "state", "established"]).arg(which), b"")?.good().context("ss -K")?;
        each(pairs, |_, mut pair| hear_error(&mut pair.client, &[ErrorKind::ConnectionReset]))
    }

    /// Listeners with room for two each, and four times as many at the door.
    fn overflow(&self, when_open: WhenOpen<'_>) -> Result<()> {
        const AT_EACH: usize = 8;
        let (mut listeners, mut clients, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        let mut turns = self.clients.iter().cycle();
        for _ in 0..self.count.div_ceil(2 * AT_EACH) {
            let pair = self.listen(1)?;
            for &from in turns.by_ref().take(2 * AT_EACH) {
                let mut client = pair.knock(SocketAddr::new(from, 0))?;
                // Some are not connected, and some only believe it.
                let _ = client.write(b"a question");
                clients.push(client);
            }
            ports.extend(pair.ports()?);
            listeners.push(pair);
        }
        let mut sockets = Sockets::of(&self.lab.host)?;
        let opened = self.queued(&mut sockets, &ports, listeners.len())?;
        when_open(&opened)?;
        drop(listeners);
        clients.into_iter().try_for_each(reset)?;
        wait_for("the kernel to close its sockets", patience(), || {
            Ok(sockets.at(&ports)?.iter().all(|socket| socket.state == TIME_WAIT).then_some(()))
        })
    }

    /// Once every queue is full, as one of 1 is with two.
    fn queued(&self, sockets: &mut Sockets, ports: &[u16], listeners: usize) -> Result<Opened> {
        wait_for("full queues", patience(), || {
            let opened = sockets.opened(ports)?;
            Ok((opened.values().sum::<u64>() == 4 * listeners as u64).then_some(opened))
        })
    }

    fn close_listener(&self, when_open: WhenOpen<'_>) -> Result<()> {
        let listeners = self.listen(BACKLOG)?;
        let ports = listeners.ports()?;
        let dialled: Result<Vec<_>> = (self.clients.iter().cycle().take(self.count))
            .map(|&from| listeners.dial(SocketAddr::new(from, 0)))
            .collect();
        let (mut accepted, mut queued) = listeners.accept_some(dialled?, self.count / 2)?;
        accepted.iter_mut().try_for_each(Pair::talk)?;
        queued.iter_mut().try_for_each(|client| client.write_all(b"a question"))?;
        let mut opened = opened(&accepted)?;
        for client in &queued {
            *opened.entry(client.local_addr()?.ip()).or_default() += 1;
        }
        when_open(&opened)?;
        drop(listeners);
        for mut client in queued {
            hear_error(&mut client, &[ErrorKind::ConnectionReset])?;
        }
        each(accepted, |_, mut pair| pair.talk().and_then(|()| fin(pair.server, pair.client)))?;
        self.settled(ports)
    }

    /// Each pair of ends and ports connects four times.
    fn reuse(&self, when_open: WhenOpen<'_>) -> Result<()> {
        const TIMES: usize = 4;
        let listeners = self.listen(BACKLOG)?;
        let mut sockets = Sockets::of(&self.lab.host)?;
        let mut pairs = listeners.open(&self.clients, self.count / TIMES)?;
        for _ in 1..TIMES {
            let ends: Result<Vec<_>> = pairs.iter().map(|pair| Ok(pair.client.local_addr()?)).collect();
            each(std::mem::take(&mut pairs), |_, pair| fin(pair.server, pair.client))?;
            let waiting = sockets.at(&listeners.ports()?)?;
            ensure!(waiting.iter().any(|socket| socket.state == TIME_WAIT), "nothing is in TIME-WAIT");
            for from in ends? {
                let mut pair = listeners.accept(listeners.dial(from)?)?;
                pair.talk()?;
                pairs.push(pair);
            }
        }
        when_open(&opened(&pairs)?)?;
        each(pairs, |_, pair| fin(pair.server, pair.client))?;
        self.settled(listeners.ports()?)
    }

    fn delete_namespace(&self, when_open: WhenOpen<'_>) -> Result<()> {
        let guest = Guest::new(self.lab, Behind::Veth)?;
        set(&guest.namespace, "ipv4/tcp_orphan_retries", "1")?;
        let listeners = Listeners::new(&guest.namespace, [GUEST4, GUEST6], BACKLOG)?;
        let pairs = listeners.open(&self.clients, self.count)?;
        when_open(&opened(&pairs)?)?;
        let (mut sockets, ports) = (Sockets::of(&guest.namespace)?, listeners.ports()?);
        guest.leave(self.lab)?;
        drop(listeners);
        each(pairs, |number, pair| {
            if number % 2 == 0 {
                reset(pair.server)?
            } else {
                drop(pair.server)
            }
            reset(pair.client)
        })?;
        wait_for("the kernel to close its sockets", patience(), || {
            Ok(sockets.at(&ports)?.iter().all(|socket| socket.state == TIME_WAIT).then_some(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_end_in_every_way() {
        let lab = Lab::new().unwrap();
        let crowd = Crowd::new(&lab, 2).unwrap();
        // One that takes something away leaves nothing in the way of the next.
        for ending in Ending::ALL.into_iter().chain([Ending::NamespaceDeleted]) {
            let mut all = 0;
            drive(&lab, &crowd, ending, 64, &mut |opened| {
                ensure!(opened.len() == 4, "{opened:?}");
                all = opened.values().sum();
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{error:#}"));
            let expected = match ending {
                // Two at each of eight listeners; the fourth time of sixteen.
                Ending::AcceptQueue | Ending::TimeWaitReuse => 16,
                _ => 64,
            };
            assert_eq!(all, expected, "{ending:?}");
        }
    }
}
