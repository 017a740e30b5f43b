//! The kernel's samples of drops, out of the ring buffer of one generation.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    path::Path,
    time::Duration,
};

use aya::{
    Pod,
    maps::{Map, MapData, PerCpuArray, RingBuf},
};
use edge_common::{
    event::{Event, Sampler},
    names,
    reason::Reason,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

use super::generation::check_pin;
use crate::{
    clock::{Boot, Now},
    drops::Sample,
    error::{Blame, Context, Failure},
};

/// Between two looks. The ring holds what a flood writes in several of them, and who wakes more often spends more.
const REST: Duration = Duration::from_millis(50);
/// Taken at once, so that a flood holds up nobody.
const AT_ONCE: usize = 1024;

/// Reads the ring buffer of one generation, which stays readable when the generation is gone.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
    sampler: PerCpuArray<MapData, PodSampler>,
    /// What was lost and told of.
    lost: u64,
    rest_until: Instant,
}

/// [`Sampler`] as aya wants to have it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodSampler(Sampler);

// SAFETY: words of 64 bits, no padding.
unsafe impl Pod for PodSampler {}

impl Events {
    /// To be called within the runtime.
    pub(super) fn of_pins(directory: &Path) -> Result<Events, Failure> {
        let what = || format!("the samples of drops in {} cannot be read", directory.display());
        let pinned = |name: &str| MapData::from_pin(directory.join(name)).blame(Blame::System, what);
        check_pin(&directory.join(names::SAMPLER), size_of::<Sampler>() as u32)?;
        let sampler = PerCpuArray::try_from(Map::PerCpuArray(pinned(names::SAMPLER)?)).blame(Blame::System, what)?;
        let ring = RingBuf::try_from(Map::RingBuf(pinned(names::EVENTS)?)).blame(Blame::System, what)?;
        // SAFETY: the ring owns the descriptor that it gives, always the same one, and closes it only when it is dropped.
        let ring = unsafe { AsyncFd::register(ring) }.blame(Blame::System, what)?;
        Ok(Events { ring, sampler, lost: 0, rest_until: Instant::now() })
    }

    /// Waits until there are some, and not without a rest. Cancel-safe.
    pub async fn there(&mut self) {
        sleep_until(self.rest_until).await;
        // The descriptor of a map does not fail; if it does, nobody is woken for nothing.
        if self.ring.readable().await.is_err() {
            std::future::pending().await
        }
    }

    /// Those that are there, up to a bound, whoever waits for them.
    pub fn take(&mut self) -> Vec<Sample> {
        self.rest_until = Instant::now() + REST;
        let (ring, now) = (self.ring.get_mut(), Now::read());
        let mut taken = Vec::new();
        while taken.len() < AT_ONCE {
            let Some(item) = ring.next() else {
                // Until the kernel wakes somebody again: it does for the next, since all before it are taken.
                let _ = self.ring.try_io(Interest::READABLE, |_| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                break;
            };
            let event = <&[u8; Event::BYTES]>::try_from(&*item).map(Event::of_bytes);
            taken.extend(event.ok().and_then(|event| sample(event, now)));
        }
        taken
    }

    /// All that are there; of a generation that no CPU runs any more.
    pub fn take_all(&mut self) -> Vec<Sample> {
        let mut all = Vec::new();
        loop {
            let taken = self.take();
            if taken.is_empty() {
                return all;
            }
            all.extend(taken);
        }
    }

    /// How many more the kernel could not write, since the ring was full.
    pub fn newly_lost(&mut self) -> u64 {
        let Ok(per_cpu) = self.sampler.get(&0, 0) else { return 0 };
        let lost = per_cpu.iter().map(|one| one.0.lost).sum::<u64>();
        lost.saturating_sub(std::mem::replace(&mut self.lost, lost))
    }
}

/// `None`: of another version of the kernel side, which cannot be.
fn sample(event: Event, now: Now) -> Option<Sample> {
    let Event { boot_ns, source: [high, low], reason, interface, bytes } = event;
    let source = IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))).to_canonical();
    Some(Sample {
        at: Boot(boot_ns),
        time: now.wall_of(Boot(boot_ns)),
        source: Some(source).filter(|source| !source.is_unspecified()),
        reason: *Reason::ALL.get(reason as usize)?,
        interface,
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Wall;

    #[test]
    fn an_event_names_its_source_and_reason() {
        let event = Event { boot_ns: 7, source: [0, 0xffff_cb00_7107], reason: 2, interface: 3, bytes: 60 };
        let now = Now { boot: Boot(2_000_007), wall: Wall(9) };
        let sample = |event| sample(event, now);
        let known = sample(event).unwrap();
        assert_eq!((known.at, known.time), (Boot(7), Wall(7)));
        assert_eq!((known.source, known.reason), (Some("203.0.113.7".parse().unwrap()), Reason::Blocked));
        assert_eq!(
            sample(Event { source: [0x2001_0db8 << 32, 7], ..event }).unwrap().source,
            Some("2001:db8::7".parse().unwrap())
        );
        assert_eq!(sample(Event { source: [0; 2], ..event }).unwrap().source, None);
        assert_eq!(sample(Event { reason: 9, ..event }), None);
    }
}
