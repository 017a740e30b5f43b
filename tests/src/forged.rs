//! TCP segments that nobody sent: whole frames with any source, every checksum right, so that the kernel's own TCP takes
//! them seriously.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use etherparse::PacketBuilder;

use crate::{
    client::Wire,
    packet::{ACK, RST, SYN},
};

pub const FIN: u8 = 0x01;

/// One segment without data, to the guarded host.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// Any of [`FIN`], `SYN`, `RST` and `ACK`.
    pub flags: u8,
    pub sequence: u32,
    pub acknowledged: u32,
}

impl Segment {
    pub fn frame(&self, wire: &Wire) -> Result<Vec<u8>> {
        let [source, destination] = wire.ends();
        let link = PacketBuilder::ethernet2(source, destination);
        let network = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 64),
            _ => bail!("both ends of a segment are of one family"),
        };
        let mut segment = network.tcp(self.from.port(), self.to.port(), self.sequence, 0xfff0);
        let has = |flag| self.flags & flag != 0;
        segment = if has(FIN) { segment.fin() } else { segment };
        segment = if has(SYN) { segment.syn() } else { segment };
        segment = if has(RST) { segment.rst() } else { segment };
        segment = if has(ACK) { segment.ack(self.acknowledged) } else { segment };
        let mut frame = Vec::with_capacity(segment.size(0));
        segment.write(&mut frame, &[])?;
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, time::Duration};

    use super::*;
    use crate::{
        net::{ATTACKER4, HOST4, Lab},
        sockets::Sockets,
        wait_for,
    };

    #[test]
    fn the_kernel_takes_a_forged_syn_for_true() {
        const SYN_RECEIVED: u8 = 3;
        let lab = Lab::new().unwrap();
        let listener = lab.host.within(|| Ok(TcpListener::bind((HOST4, 0))?)).unwrap();
        let to = listener.local_addr().unwrap();
        // Nobody is there to say that it was not him.
        lab.client.ip(&format!("address delete {ATTACKER4}/24 dev edge-c")).unwrap();
        let wire = Wire::new(&lab).unwrap();
        let from = SocketAddr::new(ATTACKER4, 1_234);
        let syn = Segment { from, to, flags: SYN, sequence: 7, acknowledged: 0 };
        wire.send(&syn.frame(&wire).unwrap()).unwrap();
        let mut sockets = Sockets::of(&lab.host).unwrap();
        wait_for("a half-open connection", Duration::from_secs(10), || {
            let all = sockets.at(&[to.port()])?;
            Ok(all.iter().any(|socket| socket.remote == from && socket.state == SYN_RECEIVED).then_some(()))
        })
        .unwrap();
    }
}
