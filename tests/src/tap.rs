//! All that the guarded host's stack is handed on its interface, counted by source: what comes by the filter, whoever
//! listens. A packet socket sees it behind XDP, in the driver as in the stack.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::SystemTime,
};

use anyhow::{Result, ensure};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike as _},
};

use crate::{
    client::packet_socket,
    net::{HOST_INTERFACE, Lab},
};

/// What came of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    pub packets: u64,
    pub first: SystemTime,
}

type Sources = Arc<Mutex<BTreeMap<IpAddr, Passed>>>;

/// Counts from when it was made until it is dropped.
#[derive(Debug)]
pub struct Tap {
    socket: Arc<OwnedFd>,
    sources: Sources,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    pub fn new(lab: &Lab) -> Result<Tap> {
        let interface = i32::try_from(lab.host.index(HOST_INTERFACE)?)?;
        let socket = Arc::new(lab.host.within(|| listening(interface))?);
        let (sources, over) = (Sources::default(), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (socket, sources, over) = (socket.clone(), sources.clone(), over.clone());
            move || count(&socket, &sources, &over)
        });
        Ok(Tap { socket, sources, over, thread: Some(thread) })
    }

    /// What came of this source since the start, or since it was forgotten.
    pub fn passed(&self, source: IpAddr) -> Option<Passed> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).get(&source).copied()
    }

    /// The sources of these of which anything came.
    pub fn any_of(&self, sources: &[IpAddr]) -> Vec<(IpAddr, Passed)> {
        sources.iter().filter_map(|source| Some((*source, self.passed(*source)?))).collect()
    }

    pub fn forget(&self) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Fails where more came than could be counted, so that nothing can be said.
    pub fn missed_nothing(&self) -> Result<()> {
        let mut statistics = [0u32; 2];
        let mut length = size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, the size of `statistics`, and both live for the call.
        let code = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                statistics.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        ensure!(code == 0, "the packet socket's statistics: {}", io::Error::last_os_error());
        ensure!(statistics[1] == 0, "{} packets came by uncounted", statistics[1]);
        Ok(())
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listening(interface: i32) -> Result<OwnedFd> {
    const ROOM: usize = 64 << 20;
    let socket = packet_socket()?;
    setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
    let yes: libc::c_int = 1;
    // SAFETY: the option's value is a live int of the given size.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const yes).cast(),
            size_of_val(&yes) as libc::socklen_t,
        )
    };
    ensure!(code == 0, "what is sent cannot be left out: {}", io::Error::last_os_error());
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut at: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    at.sll_family = libc::AF_PACKET as u16;
    at.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    at.sll_ifindex = interface;
    let length = size_of_val(&at) as libc::socklen_t;
    // SAFETY: the address is live for the call, and the length is its own.
    let code = unsafe { libc::bind(socket.as_raw_fd(), (&raw const at).cast(), length) };
    ensure!(code == 0, "the packet socket cannot be bound: {}", io::Error::last_os_error());
    Ok(socket)
}

fn count(socket: &OwnedFd, sources: &Sources, over: &AtomicBool) {
    let mut frame = [0; 128];
    while !over.load(Ordering::Relaxed) {
        let Ok(length) = nix::unistd::read(socket, &mut frame) else { continue };
        let Some(source) = source(&frame[..length.min(frame.len())]) else { continue };
        let now = SystemTime::now();
        let mut sources = sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.entry(source).or_insert(Passed { packets: 0, first: now }).packets += 1;
    }
}

/// The source of an untagged Ethernet frame with an IP packet.
fn source(frame: &[u8]) -> Option<IpAddr> {
    match frame.get(12..14)? {
        [0x08, 0x00] => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(26..30)?).ok()?))),
        [0x86, 0xdd] => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(22..38)?).ok()?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        client::Wire,
        net::{ATTACKER4, ATTACKER6, NEIGHBOUR4},
        wait_for,
    };

    #[test]
    fn what_comes_is_counted_by_source() {
        let lab = Lab::new().unwrap();
        let tap = Tap::new(&lab).unwrap();
        let wire = Wire::new(&lab).unwrap();
        for source in [ATTACKER4, ATTACKER6, ATTACKER6] {
            wire.send(&wire.datagram(source, 0, &[0; 22]).unwrap()).unwrap();
        }
        // The host asks for who sent, and hears it.
        let counted = || Ok(tap.passed(ATTACKER6).filter(|passed| passed.packets >= 2));
        wait_for("the packets", Duration::from_secs(5), counted).unwrap();
        assert!(tap.passed(ATTACKER4).is_some());
        assert_eq!(tap.any_of(&[NEIGHBOUR4, ATTACKER4]).len(), 1);
        tap.missed_nothing().unwrap();
        tap.forget();
        assert_eq!(tap.passed(ATTACKER4), None);
    }
}
