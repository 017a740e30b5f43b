//! Whoever serves a port hears no more connections of a client than the cap, in whichever namespace: the others are
//! established now and then, and what they say is dropped before anybody can read it.

use std::{
    collections::HashMap,
    io::{ErrorKind, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    crowd::Crowd,
    endings::pair::{allow_descriptors, knock, reset},
    net::{HOST4, HOST6, Lab},
    places::{Behind, GUEST4, GUEST6, Guest},
    wait_for,
};

use super::{SOON, capped, listen, nothing_left};

const CAP: usize = 20;
const AT_ONCE: usize = 500;
const ROUNDS: usize = 3;

#[test]
fn of_a_storm_a_server_of_this_host_hears_the_cap() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 1)?;
    let edge = capped(&lab, CAP as u32, |_| {})?;
    rounds(&lab, &edge, &crowd, [listen(&lab.host, (HOST4, 0))?, listen(&lab.host, (HOST6, 0))?])?;
    Ok(())
}

#[test]
fn of_a_storm_a_server_in_another_namespace_hears_the_cap() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 1)?;
    let guest = Guest::new(&lab, Behind::Veth)?;
    let edge = capped(&lab, CAP as u32, |_| {})?;
    let listeners = [listen(&guest.namespace, (GUEST4, 0))?, listen(&guest.namespace, (GUEST6, 0))?];
    let mute = rounds(&lab, &edge, &crowd, listeners)?;
    ensure!(mute > 0, "none was established over the cap, so nothing was shown");
    Ok(())
}

/// How many were accepted and not heard.
fn rounds(lab: &Lab, edge: &Edge, crowd: &Crowd, [four, six]: [TcpListener; 2]) -> Result<usize> {
    allow_descriptors(2 * AT_ONCE as u64 + 1_000)?;
    let mut mute = 0;
    for round in 0..ROUNDS {
        for (from, listener) in [(crowd.four(0), &four), (crowd.six(0), &six)] {
            let mut storm = Storm::new(lab, from, listener)?;
            storm.speak().with_context(|| format!("round {round} of {from}"))?;
            let heard = storm.heard();
            ensure!(heard == CAP, "round {round} of {from}: {heard} were heard");
            mute += storm.accepted.len() - heard;
            storm.end()?;
            nothing_left(edge, &[from])?;
        }
    }
    println!("{mute} were accepted and not heard");
    Ok(mute)
}

struct Storm<'a> {
    listener: &'a TcpListener,
    /// By their own ends; whether they spoke.
    clients: HashMap<SocketAddr, (TcpStream, bool)>,
    accepted: Vec<(TcpStream, SocketAddr)>,
}

impl Storm<'_> {
    fn new<'a>(lab: &Lab, from: IpAddr, listener: &'a TcpListener) -> Result<Storm<'a>> {
        listener.set_nonblocking(true)?;
        let to = listener.local_addr()?;
        let clients = lab.client.within(|| {
            let one = |_| {
                let client = knock(SocketAddr::new(from, 0), to)?;
                Ok((client.local_addr()?, (client, false)))
            };
            (0..AT_ONCE).map(one).collect()
        })?;
        Ok(Storm { listener, clients, accepted: Vec::new() })
    }

    /// Until the cap is heard, and what each that was accepted said has arrived.
    fn speak(&mut self) -> Result<()> {
        wait_for("all to have spoken", SOON, || {
            while let Ok(accepted) = self.listener.accept() {
                self.accepted.push(accepted);
            }
            for (client, spoke) in self.clients.values_mut().filter(|(_, spoke)| !spoke) {
                *spoke = match client.write(b"hear me") {
                    Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected),
                    Ok(_) => true,
                };
            }
            let arrived = self.accepted.iter().all(|(_, peer)| self.clients.get(peer).is_some_and(arrived));
            Ok((arrived && self.heard() >= CAP).then_some(()))
        })
    }

    fn heard(&self) -> usize {
        let hears = |server: &TcpStream| server.set_nonblocking(true).and_then(|()| server.peek(&mut [0; 16]));
        self.accepted.iter().filter(|(server, _)| matches!(hears(server), Ok(1..))).count()
    }

    fn end(mut self) -> Result<()> {
        self.clients.drain().try_for_each(|(_, (client, _))| reset(client))?;
        drop(self.accepted);
        // What waits in the queue has ended.
        while self.listener.accept().is_ok() {}
        Ok(())
    }
}

/// It said what it had to say, and all of that is acknowledged, or it was closed.
fn arrived((client, spoke): &(TcpStream, bool)) -> bool {
    let mut unacknowledged: libc::c_int = 0;
    // SAFETY: the kernel writes one int, which outlives the call.
    let answer = unsafe { libc::ioctl(client.as_raw_fd(), libc::TIOCOUTQ, &raw mut unacknowledged) };
    *spoke && (answer != 0 || unacknowledged == 0)
}
