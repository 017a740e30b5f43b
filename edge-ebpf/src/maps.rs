//! The maps, and how the judge looks into them. Sizes are the loader's (`map_max_entries`); what stands here is the
//! least. Names are checked against `edge_common::names` by a test that opens the object.

use core::ptr::read_volatile;

use aya_ebpf::{
    Global,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockHash, lpm_trie::Key},
    helpers::generated::{bpf_jiffies64, bpf_map_lookup_elem},
    macros::btf_map,
};
use edge_common::{
    address::{Addr4, Addr6},
    connection::{self, Counted, Excess, Found, LineHeld, Tally, shared_place},
    event::{Event, REMEMBERED, RING_BYTES, Sampler},
    flow::{ANSWERED_WITHIN_NS, End, Flow},
    opening::{LineOpening, Opening},
    ports::{Capped, Exposure},
    rate::{LineRates, Place},
    reason::Counters,
    settings::{InUse, Settings},
    table::{AreaFlags, Hits, Line4, LineHost6, LineUnit6, Narrow, NetEntry, Trust},
    time::{ClockSample, Until},
};
use edge_ebpf::judge::{Block, Lists, Tables};

use crate::{
    atomic, connections,
    find::find,
    limit::{Limited, admits},
    openings,
};

/// `BPF_F_MMAPABLE`.
pub const MAPPED: usize = 1 << 10;
/// `BPF_F_NO_PREALLOC`.
const ON_DEMAND: usize = 1;

#[btf_map]
static SETTINGS: Array<Settings, 1, MAPPED> = Array::new();
#[btf_map]
static BLOCKED4: Array<Line4, 1, MAPPED> = Array::new();
#[btf_map]
static UNITS6: Array<LineUnit6, 1, MAPPED> = Array::new();
#[btf_map]
static HOSTS6: Array<LineHost6, 1, MAPPED> = Array::new();
#[btf_map]
pub static SPILLED: HashMap<u64, Hits, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
static AREAS4: Array<u64, { AreaFlags::WORDS as usize }, MAPPED> = Array::new();
#[btf_map]
static AREAS6: Array<u64, { AreaFlags::WORDS as usize }, MAPPED> = Array::new();
#[btf_map]
static NARROW4: Array<u64, { Narrow::WORDS4 as usize }, MAPPED> = Array::new();
#[btf_map]
static NARROW6: Array<u64, { Narrow::WORDS6 as usize }, MAPPED> = Array::new();
#[btf_map]
pub static NETS4: LpmTrie<u64, NetEntry, 1> = LpmTrie::new();
#[btf_map]
pub static NETS6: LpmTrie<[u64; 2], NetEntry, 1> = LpmTrie::new();
#[btf_map]
static TRUST4: LpmTrie<u64, u64, 1> = LpmTrie::new();
#[btf_map]
static TRUST6: LpmTrie<[u64; 2], u64, 1> = LpmTrie::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<Counters, 1> = PerCpuArray::new();
#[btf_map]
pub static CLOCK: Array<ClockSample, 1, MAPPED> = Array::new();
#[btf_map]
static PORTS_EXPOSED: Array<u64, { Exposure::WORDS as usize }, MAPPED> = Array::new();
#[btf_map]
pub static FLOWS: LruHashMap<Flow, u64, 1> = LruHashMap::new();
#[btf_map]
pub static SYN_RATES: Array<LineRates, 1, MAPPED> = Array::new();
#[btf_map]
pub static PACKET_RATES: Array<LineRates, 1, MAPPED> = Array::new();
#[btf_map]
static PORTS_CAPPED: Array<u64, { Capped::WORDS as usize }, MAPPED> = Array::new();
#[btf_map]
pub static CONNECTED: Array<LineHeld, 1, MAPPED> = Array::new();
#[btf_map]
pub static OPEN: HashMap<u64, Counted, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static SILENCED: SockHash<u64, 1> = SockHash::new();
#[btf_map]
pub static OPENING: Array<LineOpening, { 1 << Opening::LINES_LOG2 }, MAPPED> = Array::new();
#[btf_map]
pub static EXCESS: RingBuf<Excess, { connection::RING_BYTES as usize }> = RingBuf::new();
#[btf_map]
pub static TALLY: Array<u64, { Tally::WORDS as usize }, MAPPED> = Array::new();
#[btf_map]
pub static EVENTS: RingBuf<Event, { RING_BYTES as usize }> = RingBuf::new();
#[btf_map]
pub static SAMPLED: Array<u64, { REMEMBERED as usize }> = Array::new();
#[btf_map]
pub static SAMPLER: PerCpuArray<Sampler, 1> = PerCpuArray::new();

/// Read-only once loaded, so that the verifier removes what is switched off. The names are
/// `edge_common::settings::switch`'s.
#[unsafe(no_mangle)]
static DRY_RUN: Global<u8> = Global::new(0);
#[unsafe(no_mangle)]
static DROP_FRAGMENTS: Global<u8> = Global::new(0);
#[unsafe(no_mangle)]
static PORTS: Global<u8> = Global::new(0);
#[unsafe(no_mangle)]
static SYNS: Global<u8> = Global::new(0);
#[unsafe(no_mangle)]
static PACKETS: Global<u8> = Global::new(0);
#[unsafe(no_mangle)]
static CONNECTIONS: Global<u8> = Global::new(0);

/// The maps as they are now.
pub struct Live;

impl Tables for Live {
    #[inline(always)]
    fn drops_fragments(&self) -> bool {
        DROP_FRAGMENTS.load() == 1
    }

    #[inline(always)]
    fn limits_ports(&self) -> bool {
        PORTS.load() == 1
    }

    #[inline(always)]
    fn limits_syns(&self) -> bool {
        SYNS.load() == 1
    }

    #[inline(always)]
    fn limits_packets(&self) -> bool {
        PACKETS.load() == 1
    }

    #[inline(always)]
    fn caps_connections(&self) -> bool {
        CONNECTIONS.load() == 1
    }

    #[inline(always)]
    fn caps(&self, port: u16) -> bool {
        caps_port(port)
    }

    #[inline(always)]
    fn exposes(&self, what: Exposure) -> bool {
        let (index, bit) = what.place();
        // SAFETY: a word of an array map; the agent writes it whole.
        PORTS_EXPOSED.get_ptr(index).is_some_and(|word| unsafe { read_volatile(word) } & bit != 0)
    }

    #[inline(always)]
    fn answers(&self, flow: &Flow) -> bool {
        let (Some(settings), Some(sent)) = (settings(), FLOWS.get_ptr(flow)) else { return false };
        let now = settings.clock.boot_ns(jiffies());
        // SAFETY: a word of a map's value, written whole.
        now.wrapping_sub(unsafe { read_volatile(sent) }) <= ANSWERED_WITHIN_NS
    }
}

impl Lists<Addr4> for Live {
    #[inline(always)]
    fn trust(&self, source: Addr4) -> Trust {
        if !area4(source).has(AreaFlags::TRUST) {
            return Trust::NONE;
        }
        trust(TRUST4.get(&Key::new(32, source.trie_data())))
    }

    #[inline(always)]
    fn blocked(&self, source: Addr4, bytes: u64) -> Block {
        let Some(settings) = settings() else { return Block::None };
        if settings.in_use & InUse::BLOCKED4 != 0
            && let Some(found) = find(&BLOCKED4, settings.blocked4.candidates(u64::from(source.bits())), source)
            && holds(settings, found.until)
        {
            return found.hit(bytes);
        }
        let (index, bit) = Narrow::place4(source);
        if !asks_trie(area4(source), NARROW4.get_ptr(index), bit) {
            return Block::None;
        }
        net(settings, &NETS4, Key::new(32, source.trie_data()), bytes)
    }

    #[inline(always)]
    fn admits_syn(&self, source: Addr4) -> bool {
        let Some(settings) = settings() else { return true };
        let place = settings.rates.place4(source);
        admits(Limited::Syns, SYN_RATES.get_ptr_mut(place.line), &settings.syns, place)
    }

    #[inline(always)]
    fn admits_packet(&self, source: Addr4) -> bool {
        let Some(settings) = settings() else { return true };
        let place = settings.rates.place4(source);
        admits(Limited::Packets, PACKET_RATES.get_ptr_mut(place.line), &settings.packets, place)
    }

    #[inline(always)]
    fn is_at_cap(&self, source: Addr4) -> bool {
        let Some(settings) = settings() else { return false };
        is_full(settings, settings.rates.place4(source), None)
    }

    #[inline(always)]
    fn note_opening(&self, source: Addr4, port: u16) {
        openings::note(source.halves(), port);
    }
}

impl Lists<Addr6> for Live {
    #[inline(always)]
    fn trust(&self, source: Addr6) -> Trust {
        let Some(settings) = settings() else { return Trust::NONE };
        if !area6(settings, source).has(AreaFlags::TRUST) {
            return Trust::NONE;
        }
        trust(TRUST6.get(&Key::new(128, source.trie_data())))
    }

    #[inline(always)]
    fn blocked(&self, source: Addr6, bytes: u64) -> Block {
        let Some(settings) = settings() else { return Block::None };
        if settings.in_use & InUse::HOSTS6 != 0
            && let Some(found) = find(&HOSTS6, settings.hosts6.candidates(settings.hosts6.fold(source)), source)
            && holds(settings, found.until)
        {
            return found.hit(bytes);
        }
        if settings.in_use & InUse::UNITS6 != 0
            && let Some(found) = find(&UNITS6, settings.units6.candidates(source.unit()), source.unit())
            && holds(settings, found.until)
        {
            return found.hit(bytes);
        }
        let (index, bit) = Narrow::place6(source, settings.areas6_seed);
        if !asks_trie(area6(settings, source), NARROW6.get_ptr(index), bit) {
            return Block::None;
        }
        net(settings, &NETS6, Key::new(128, source.trie_data()), bytes)
    }

    #[inline(always)]
    fn admits_syn(&self, source: Addr6) -> bool {
        let Some(settings) = settings() else { return true };
        let place = settings.rates.place6(source.unit(), source.low());
        admits(Limited::Syns, SYN_RATES.get_ptr_mut(place.line), &settings.syns, place)
    }

    #[inline(always)]
    fn admits_packet(&self, source: Addr6) -> bool {
        let Some(settings) = settings() else { return true };
        let place = settings.rates.place6(source.unit(), source.low());
        admits(Limited::Packets, PACKET_RATES.get_ptr_mut(place.line), &settings.packets, place)
    }

    #[inline(always)]
    fn is_at_cap(&self, source: Addr6) -> bool {
        let Some(settings) = settings() else { return false };
        let place = settings.rates.place6(source.unit(), source.low());
        is_full(settings, place, shared_place(source, &settings.rates))
    }

    #[inline(always)]
    fn note_opening(&self, source: Addr6, port: u16) {
        openings::note(source.halves(), port);
    }
}

#[inline(always)]
pub fn is_dry_run() -> bool {
    DRY_RUN.load() == 1
}

/// Whether connections to this TCP port are counted.
#[inline(always)]
pub fn caps_port(port: u16) -> bool {
    let (index, bit) = Capped::place(port);
    // SAFETY: a word of an array map; the agent writes it whole.
    PORTS_CAPPED.get_ptr(index).is_some_and(|word| unsafe { read_volatile(word) } & bit != 0)
}

/// Whether a source of an IPv6 unit has as many connections as it may. One without an entry of its own in a full line
/// shares its /48's.
#[inline(always)]
fn is_full(settings: &Settings, place: Place, shared: Option<Place>) -> bool {
    let found = held(place);
    let own = found.count;
    match shared {
        Some(shared) if own == 0 && found.full => held(shared).count >= settings.connections,
        _ => own >= settings.connections,
    }
}

#[inline(always)]
fn held(place: Place) -> Found {
    match CONNECTED.get_ptr(place.line) {
        Some(line) => connections::read(line).find(place.tag),
        None => Found { count: 0, full: false },
    }
}

/// `None` where nothing that the agent wrote can be believed.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0).filter(|settings| settings.is_valid())
}

#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: a helper without arguments, which the verifier turns into a load.
    unsafe { bpf_jiffies64() }
}

#[inline(always)]
fn area4(source: Addr4) -> AreaFlags {
    let area = source.area();
    flags(AREAS4.get_ptr(AreaFlags::place(area).0), area)
}

#[inline(always)]
fn area6(settings: &Settings, source: Addr6) -> AreaFlags {
    let area = AreaFlags::area6(source.top(), settings.areas6_seed);
    flags(AREAS6.get_ptr(AreaFlags::place(area).0), area)
}

#[inline(always)]
fn flags(word: Option<*const u64>, area: u32) -> AreaFlags {
    // SAFETY: a word of an array map; the agent writes it whole.
    word.map_or(AreaFlags::default(), |word| AreaFlags::in_word(unsafe { read_volatile(word) }, area))
}

/// Whether a blocked prefix can cover an address of this area and with this narrow bit.
#[inline(always)]
fn asks_trie(area: AreaFlags, narrow: Option<*const u64>, bit: u64) -> bool {
    // SAFETY: a word of an array map; the agent writes it whole.
    area.has(AreaFlags::WIDE)
        || (area.has(AreaFlags::NARROW) && narrow.is_some_and(|word| unsafe { read_volatile(word) } & bit != 0))
}

#[inline(always)]
fn trust(found: Option<&u64>) -> Trust {
    found.map_or(Trust::NONE, |bits| Trust::from_bits(*bits))
}

#[inline(always)]
fn net<K>(settings: &Settings, trie: &LpmTrie<K, NetEntry, 1>, key: Key<K>, bytes: u64) -> Block {
    // SAFETY: the trie is a map and the key of its type; what comes back is null or a value that lives until the program
    // ends (RCU). Not `LpmTrie::get`: its shared reference may not be written through.
    let entry = unsafe { bpf_map_lookup_elem((&raw const *trie).cast_mut().cast(), (&raw const key).cast()) };
    let entry = entry.cast::<NetEntry>();
    if entry.is_null() {
        return Block::None;
    }
    // SAFETY: not null; the agent writes the word whole.
    let ends = unsafe { read_volatile(&raw const (*entry).ends) };
    if !holds(settings, NetEntry::end_of(ends)) {
        return Block::None;
    }
    // SAFETY: a field of that value.
    hit(unsafe { &raw mut (*entry).hits }, bytes)
}

#[inline(always)]
fn holds(settings: &Settings, until: Until) -> bool {
    until.holds_at(settings.clock.boot_ns(jiffies()))
}

/// Counts a packet in a value of a map.
#[inline(always)]
pub fn hit(place: *mut Hits, bytes: u64) -> Block {
    // SAFETY: a value of a map, aligned as its type is.
    let packets = unsafe {
        atomic::add(&raw mut (*place).bytes, bytes);
        atomic::fetch_add(&raw mut (*place).packets, 1)
    };
    if packets == 0 { Block::First } else { Block::Again }
}
