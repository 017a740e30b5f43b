//! How many connections each client has: the tables that the kernel side counts in, and how they go on from one
//! generation to the next. Entries are those of both sides at once: each is changed by compare-and-swap, and whoever
//! removes a connection from the list counts it off.

mod attach;
mod compare;
mod excess;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd as _, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use aya::{
    Pod,
    maps::{Map, MapData, MapError, hash_map::HashMap},
};
use edge_common::{
    address::Addr6,
    connection::{Counted, ENTRIES, Held, LineHeld, Step, Tally, place, shared_place},
    names,
    ports::Capped,
    rate::{Place, RateGeometry},
    settings::word,
};

pub(super) use self::attach::{Counting, load};
pub use self::{
    compare::{Compared, Comparison},
    excess::Excesses,
};
use super::{Connected, Generation, batch, descriptor, generation::check_pin, mapping::Mapping};
use crate::error::{Blame, Context, Failure};

/// Fails of a key that is there.
const ONLY_NEW: u64 = 1;
/// Attempts at one word: the CPUs that count this line at this moment contend, and no more.
const ATTEMPTS: usize = 64;

/// Of one generation that caps connections.
pub struct Connections {
    lines: Mapping,
    tally: Mapping,
    capped: Mapping,
    open: HashMap<MapData, u64, PodCounted>,
    open_descriptor: OwnedFd,
    capacity: u64,
    geometry: RateGeometry,
    cap: u64,
    /// Where the ring of those over the cap is pinned.
    excess: PathBuf,
}

/// What came of an attempt to count a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entered {
    Now,
    /// Somebody else did.
    Before,
    NoRoom,
}

/// [`Counted`] as aya wants to have it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodCounted(Counted);

// SAFETY: integers, no padding.
unsafe impl Pod for PodCounted {}

impl Connections {
    /// `None`: the generation caps nothing.
    pub(super) fn of(generation: &Generation) -> Result<Option<Connections>, Failure> {
        let cap = generation.settings.load(word::CONNECTIONS);
        if cap == 0 {
            return Ok(None);
        }
        let directory = generation.directory();
        let what = || format!("the tables of connections in {} cannot be opened", directory.display());
        let geometry = generation.rate_geometry();
        let lines = check_pin(&directory.join(names::CONNECTED), size_of::<LineHeld>() as u32)?;
        if u64::from(lines) != 1 << geometry.lines_log2.min(31) {
            return Err(Failure::system(format!("{}: their sizes contradict each other", what())));
        }
        let capacity = u64::from(check_pin(&directory.join(names::OPEN), size_of::<Counted>() as u32)?);
        let open = MapData::from_pin(directory.join(names::OPEN)).blame(Blame::System, what)?;
        let open_descriptor = descriptor(&open).try_clone_to_owned().blame(Blame::System, what)?;
        Ok(Some(Connections {
            lines: super::generation::mapping(directory, names::CONNECTED, lines as usize * ENTRIES)?,
            tally: super::generation::mapping(directory, names::TALLY, Tally::WORDS as usize)?,
            capped: super::generation::mapping(directory, names::PORTS_CAPPED, Capped::WORDS as usize)?,
            open: Map::HashMap(open).try_into().blame(Blame::System, what)?,
            open_descriptor,
            capacity,
            geometry,
            cap,
            excess: directory.join(names::EXCESS),
        }))
    }

    /// Those over their client's cap; one reader at a time. To be called within the runtime.
    pub fn excesses(&self) -> Result<Excesses, Failure> {
        Excesses::of_pin(&self.excess)
    }

    pub fn cap(&self) -> u64 {
        self.cap
    }

    /// Of an address, of IPv6 its unit; where a full line has no entry for it, of all of its /48 that have none.
    pub fn of_address(&self, address: IpAddr) -> u64 {
        let remote = mapped(address);
        let Some(place) = place(remote, &self.geometry) else { return 0 };
        let found = self.line(place).find(place.tag);
        let shared = shared_place(remote, &self.geometry).filter(|_| found.count == 0 && found.full);
        shared.map_or(found.count, |shared| self.line(shared).find(shared.tag).count)
    }

    pub fn connected(&self) -> Connected {
        let [uncounted, excess] = [Tally::Miscounted, Tally::Excess].map(|what| self.tallied(what));
        let mut connected = Connected { uncounted, excess, ..Connected::default() };
        for line in self.lines.words().chunks_exact(ENTRIES) {
            let held =
                line.iter().map(|word| Held::from_bits(word.load(Ordering::Relaxed))).filter(|held| held.count() > 0);
            let mut tags: Vec<u32> =
                held.inspect(|held| connected.total += held.count()).map(|held| held.tag()).collect();
            // One client may have several entries.
            tags.sort_unstable();
            tags.dedup();
            connected.addresses += tags.len() as u64;
        }
        connected
    }

    /// Connections that found no room.
    pub(super) fn miscounted(&self, connections: u64) {
        self.tally.add(Tally::Miscounted as usize, connections);
    }

    /// Connections over their cap that could not be muted, since the tables were made.
    pub fn audible(&self) -> u64 {
        self.tallied(Tally::Audible)
    }

    /// What the kernel side counted of this since the tables were made.
    fn tallied(&self, what: Tally) -> u64 {
        self.tally.load(what as usize)
    }

    /// How many connections can be listed.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    fn caps(&self, port: u32) -> bool {
        let (index, bit) = Capped::place(port as u16);
        self.capped.load(index as usize) & bit != 0
    }

    /// Connections by their cookies.
    fn all(&self) -> Result<BTreeMap<u64, Counted>, Failure> {
        let all = batch::all::<u64, PodCounted>(self.open_descriptor.as_fd());
        let all = all.blame(Blame::System, || format!("the map {} cannot be read", names::OPEN))?;
        Ok(all.into_iter().map(|(cookie, counted)| (cookie, counted.0)).collect())
    }

    /// Who has how many.
    fn counts(&self) -> impl Iterator<Item = (Place, u64)> {
        let lines = (0..).zip(self.lines.words().chunks_exact(ENTRIES));
        let held = lines.flat_map(|(line, words)| words.iter().map(move |word| (line, word.load(Ordering::Relaxed))));
        let held = held.map(|(line, bits)| (line, Held::from_bits(bits))).filter(|(_, held)| *held != Held::NONE);
        held.map(|(line, held)| (Place { line, tag: held.tag() }, held.count()))
    }

    fn is_open(&self, cookie: u64) -> bool {
        !matches!(self.open.get(&cookie, 0), Err(MapError::KeyNotFound))
    }

    /// Counts a connection where it belongs here.
    fn enter(&mut self, cookie: u64, connection: Counted) -> Result<Entered, Failure> {
        let remote = Addr6::from_halves(connection.remote[0], connection.remote[1]);
        let places = [place(remote, &self.geometry), shared_place(remote, &self.geometry)];
        let Some(place) = places.into_iter().flatten().find(|place| self.swap(*place, LineHeld::one_more)) else {
            return Ok(Entered::NoRoom);
        };
        let counted = Counted { line: place.line, tag: place.tag, ..connection };
        let Err(error) = self.open.insert(cookie, PodCounted(counted), ONLY_NEW) else { return Ok(Entered::Now) };
        self.swap(place, LineHeld::one_fewer);
        match io_of(&error).and_then(io::Error::raw_os_error) {
            Some(libc::EEXIST) => Ok(Entered::Before),
            Some(libc::E2BIG | libc::ENOMEM) => Ok(Entered::NoRoom),
            _ => Err(error).blame(Blame::System, || format!("the map {} cannot be written", names::OPEN)),
        }
    }

    /// Counts a connection off; `false` where somebody else did.
    fn leave(&mut self, cookie: u64) -> bool {
        let Ok(PodCounted(counted)) = self.open.get(&cookie, 0) else { return false };
        self.open.remove(&cookie).is_ok() && self.swap(counted.place(), LineHeld::one_fewer)
    }

    /// Takes so many off a count, or adds them; gives how many.
    fn correct(&self, place: Place, by: i64) -> u64 {
        let step = if by > 0 { LineHeld::one_fewer } else { LineHeld::one_more };
        (0..by.unsigned_abs()).take_while(|_| self.swap(place, step)).count() as u64
    }

    fn is_over(&self, place: Place) -> bool {
        self.line(place).find(place.tag).count > self.cap
    }

    fn line(&self, place: Place) -> LineHeld {
        let start = place.line as usize * ENTRIES;
        LineHeld { clients: std::array::from_fn(|slot| Held::from_bits(self.lines.load(start + slot))) }
    }

    fn swap(&self, place: Place, step: impl Fn(&LineHeld, u32) -> Option<Step>) -> bool {
        for _ in 0..ATTEMPTS {
            let Some(Step { slot, from, to, .. }) = step(&self.line(place), place.tag) else { return false };
            let Some(word) = self.lines.words().get(place.line as usize * ENTRIES + slot) else { return false };
            if word.compare_exchange(from.bits(), to.bits(), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return true;
            }
        }
        false
    }

    /// Takes over what `before` counts, whose programs still count beside these.
    fn carry(&mut self, before: &Connections) -> Result<(), Failure> {
        let mut carried = Vec::new();
        for (cookie, counted) in before.all()? {
            if self.caps(counted.port) && self.enter(cookie, counted)? == Entered::Now {
                carried.push(cookie);
            }
        }
        // What closed since then was counted off there alone.
        for cookie in carried.into_iter().filter(|cookie| !before.is_open(*cookie)) {
            self.leave(cookie);
        }
        Ok(())
    }
}

/// Which connections are capped, in the map of a generation.
pub(super) fn write_ports(directory: &Path, ports: &[u16]) -> Result<(), Failure> {
    let capped = super::generation::mapping(directory, names::PORTS_CAPPED, Capped::WORDS as usize)?;
    if ports.is_empty() {
        (0..Capped::WORDS as usize).for_each(|index| capped.store(index, u64::MAX));
    }
    for (index, bit) in ports.iter().map(|port| Capped::place(*port)) {
        capped.set_bits(index as usize, bit);
    }
    Ok(())
}

/// The cookie of this network namespace (Linux 5.14).
pub(super) fn namespace() -> Result<u64, Failure> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let what = || "the kernel does not tell this network namespace's cookie (Linux 5.14 does)".to_owned();
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).blame(Blame::System, what)?;
    let (mut cookie, mut length) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `length` bytes to `cookie`; both outlive the call.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if answer == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()).blame(Blame::System, what) }
}

fn mapped(address: IpAddr) -> Addr6 {
    Addr6::from(match address {
        IpAddr::V4(four) => four.to_ipv6_mapped(),
        IpAddr::V6(six) => six,
    })
}

fn address_of([high, low]: [u64; 2]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))).to_canonical()
}

fn io_of(error: &MapError) -> Option<&io::Error> {
    match error {
        MapError::SyscallError(call) => Some(&call.io_error),
        MapError::IoError(error) => Some(error),
        _ => None,
    }
}
