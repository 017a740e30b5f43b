//! Whoever writes a victim's address into packets changes no count of it, and takes nothing from it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    client::Wire,
    crowd::Crowd,
    endings::pair::Pair,
    forged::{FIN, Segment},
    net::{HOST4, HOST6, Lab},
    packet::{ACK, RST, SYN},
};

use super::{capped, connections, listen, mistakes, nothing_left, open, refused, why};

/// In all, unless `EDGE_FORGED` says another number.
const PACKETS: usize = 100_000;
const CAP: u32 = 6;

#[test]
fn forged_packets_change_no_count() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 1)?;
    let edge = capped(&lab, CAP, |_| {})?;
    let all = std::env::var("EDGE_FORGED").map_or(Ok(PACKETS), |text| text.parse())?;
    let mut random = fastrand::Rng::new();
    let kinds = [SYN, ACK, RST, FIN | ACK, SYN | ACK];
    for (victim, host) in [(crowd.four(0), HOST4), (crowd.six(0), HOST6)] {
        let listener = listen(&lab.host, (host, 0))?;
        let to = listener.local_addr()?;
        let mut pairs = (1..CAP).map(|_| open(&lab, victim, &listener)).collect::<Result<Vec<Pair>>>()?;
        let ends = pairs.iter().map(|pair| Ok(pair.client.local_addr()?)).collect::<Result<Vec<_>>>()?;
        for flags in kinds {
            let flood = Flood { victim, to, flags, ends: &ends };
            flood.send(&lab, &mut random, all / kinds.len() / 2)?;
            unharmed(&edge, &mut pairs, victim).with_context(|| format!("after packets of flags {flags:#x}"))?;
            // There is room for one more, as before, and for no second.
            let sixth = open(&lab, victim, &listener).with_context(|| format!("after packets of flags {flags:#x}"))?;
            refused(&lab, &edge, victim, &listener)?;
            drop(sixth);
            super::counted(&edge, &[victim], &[(victim, u64::from(CAP) - 1)].into())?;
        }
        drop(pairs);
    }
    nothing_left(&edge, &crowd.all())?;
    ensure!(mistakes(&lab)? == [0.0; 2], "{:?}", mistakes(&lab)?);
    Ok(())
}

fn unharmed(edge: &Edge, pairs: &mut [Pair], victim: IpAddr) -> Result<()> {
    let open = (pairs.len() as u64, Some(u64::from(CAP)));
    ensure!(connections(edge, victim)? == open, "{}", why(edge, victim)?);
    pairs.iter_mut().try_for_each(Pair::talk)
}

struct Flood<'a> {
    victim: IpAddr,
    to: SocketAddr,
    flags: u8,
    /// Of connections that the victim has.
    ends: &'a [SocketAddr],
}

impl Flood<'_> {
    /// A tenth carries the two ends of a connection of the victim's, the rest a port at random.
    fn send(&self, lab: &Lab, random: &mut fastrand::Rng, count: usize) -> Result<()> {
        let wire = Wire::new(lab)?;
        for number in 0..count {
            let own = self.ends[number % self.ends.len()];
            let from = if number % 10 == 0 { own } else { SocketAddr::new(self.victim, random.u16(1..)) };
            // What the connections have sent so far is far off with all but a few in a million.
            let segment = Segment {
                from,
                to: self.to,
                flags: self.flags,
                sequence: random.u32(..),
                acknowledged: random.u32(..),
            };
            wire.send(&segment.frame(&wire)?)?;
        }
        Ok(())
    }
}
