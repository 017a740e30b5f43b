//! A flood towards the guarded host, as fast as its senders go: UDP and TCP from those who should not get through, and now
//! and then a datagram from those who should. What gets through is counted by a [`Tap`](crate::tap::Tap) and by [`Sink`].

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, anyhow};
use nix::sys::socket::{setsockopt, sockopt};

use crate::{
    client::Wire,
    net::{HOST4, HOST6, Lab},
};

/// Where [`Wire::datagram`] sends to.
const PORT: u16 = 5001;
/// Where its SYNs go: nobody listens there.
const TCP_PORT: u16 = 5002;
/// Rounds of the unwanted to each honest datagram.
const ROUNDS: usize = 10;

/// Ends when it is dropped.
#[derive(Debug)]
pub struct Flood {
    over: Arc<AtomicBool>,
    honest: Arc<AtomicU64>,
    unwanted: Arc<AtomicU64>,
    senders: Vec<JoinHandle<Result<()>>>,
}

impl Flood {
    /// Each sender goes through all of `unwanted` and `honest`.
    pub fn start(lab: &Lab, senders: usize, unwanted: &[IpAddr], honest: &[IpAddr]) -> Result<Flood> {
        Flood::paced(lab, senders, unwanted, honest, None)
    }

    /// No flood, but always something: all of them a thousand times a second, which leaves the machine to others.
    pub fn trickle(lab: &Lab, unwanted: &[IpAddr]) -> Result<Flood> {
        Flood::paced(lab, 1, unwanted, &[], Some(Duration::from_millis(1)))
    }

    fn paced(
        lab: &Lab,
        senders: usize,
        unwanted: &[IpAddr],
        honest: &[IpAddr],
        pause: Option<Duration>,
    ) -> Result<Flood> {
        let mut flood =
            Flood { over: Arc::default(), honest: Arc::default(), unwanted: Arc::default(), senders: Vec::new() };
        for _ in 0..senders {
            let wire = Wire::new(lab)?;
            let unwanted = unwanted.iter().map(|source| frames(&wire, *source)).collect::<Result<Vec<_>>>()?.concat();
            let honest: Vec<_> =
                honest.iter().map(|source| wire.datagram(*source, 0, &[0; 22])).collect::<Result<_>>()?;
            let (over, sent) = (flood.over.clone(), [flood.unwanted.clone(), flood.honest.clone()]);
            flood.senders.push(thread::spawn(move || send(&wire, [&unwanted, &honest], pause, &over, &sent)));
        }
        Ok(flood)
    }

    /// How many of the unwanted were sent so far.
    pub fn unwanted(&self) -> u64 {
        self.unwanted.load(Ordering::Relaxed)
    }

    /// Ends it; gives how many honest datagrams were sent.
    pub fn end(mut self) -> Result<u64> {
        self.over.store(true, Ordering::Relaxed);
        for sender in self.senders.drain(..) {
            sender.join().map_err(|_| anyhow!("a sender panicked"))??;
        }
        Ok(self.honest.load(Ordering::Relaxed))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.senders.drain(..).for_each(|sender| drop(sender.join()));
    }
}

fn send(
    wire: &Wire,
    [unwanted, honest]: [&[Vec<u8>]; 2],
    pause: Option<Duration>,
    over: &AtomicBool,
    sent: &[Arc<AtomicU64>; 2],
) -> Result<()> {
    let mut turn = honest.iter().cycle();
    while !over.load(Ordering::Relaxed) {
        for _ in 0..ROUNDS {
            unwanted.iter().try_for_each(|frame| wire.send(frame))?;
            sent[0].fetch_add(unwanted.len() as u64, Ordering::Relaxed);
            pause.into_iter().for_each(thread::sleep);
        }
        if let Some(frame) = turn.next() {
            wire.send(frame)?;
            sent[1].fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// What an attacker sends: a datagram, and the begin of a connection.
fn frames(wire: &Wire, source: IpAddr) -> Result<[Vec<u8>; 2]> {
    Ok([wire.datagram(source, 0, &[0; 22])?, wire.syn(source, TCP_PORT)?])
}

/// A UDP service of the guarded host, that counts what it gets by source. Ends when it is dropped.
#[derive(Debug)]
pub struct Sink {
    counted: Arc<Mutex<BTreeMap<IpAddr, u64>>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Sink {
    pub fn new(lab: &Lab) -> Result<Sink> {
        let mut sink = Sink { counted: Arc::default(), over: Arc::default(), threads: Vec::new() };
        for address in [HOST4, HOST6] {
            let socket = lab.host.within(|| Ok(UdpSocket::bind(SocketAddr::new(address, PORT))?))?;
            setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            let (counted, over) = (sink.counted.clone(), sink.over.clone());
            sink.threads.push(thread::spawn(move || {
                let mut buffer = [0; 64];
                while !over.load(Ordering::Relaxed) {
                    let Ok((_, from)) = socket.recv_from(&mut buffer) else { continue };
                    *counted.lock().unwrap_or_else(PoisonError::into_inner).entry(from.ip()).or_default() += 1;
                }
            }));
        }
        Ok(sink)
    }

    /// What came of these.
    pub fn of(&self, sources: &[IpAddr]) -> u64 {
        let counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().filter_map(|source| counted.get(source)).sum()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        net::{ATTACKER4, ATTACKER6, NEIGHBOUR4, NEIGHBOUR6},
        tap::Tap,
        wait_for,
    };

    #[test]
    fn without_a_filter_all_of_it_comes_through() {
        let lab = Lab::new().unwrap();
        let (tap, sink) = (Tap::new(&lab).unwrap(), Sink::new(&lab).unwrap());
        let (unwanted, honest) = ([ATTACKER4, ATTACKER6], [NEIGHBOUR4, NEIGHBOUR6]);
        let flood = Flood::start(&lab, 2, &unwanted, &honest).unwrap();
        let limit = Duration::from_secs(10);
        wait_for("all of them", limit, || Ok((sink.of(&honest) > 10 && sink.of(&unwanted) > 10).then_some(())))
            .unwrap();
        let sent = flood.end().unwrap();
        wait_for("the rest of them", limit, || Ok((sink.of(&honest) == sent).then_some(()))).unwrap();
        assert_eq!(tap.any_of(&unwanted).len(), 2);
    }
}
