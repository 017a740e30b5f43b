//! One generation of tables: building it aside, or opening the one that is in force.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Map, MapData, MapInfo, PerCpuArray, lpm_trie::LpmTrie},
    programs::{ProgramError, Xdp},
};
use edge_common::{
    address::{Addr4, Addr6},
    names,
    reason::Counters,
    settings::{InUse, Settings, word},
    table::{AreaFlags, Geometry, Hits, Trust},
    time::{Jiffies, Until},
};
use ipnet::IpNet;

use super::{
    Lock, Tables, clock, descriptor,
    mapping::Mapping,
    nets::{Nets, with_covering},
    sum,
    table::{Key, Layout, Table},
    trace,
};
use crate::{
    block::Target,
    config,
    error::{Blame, Context, Failure},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/edge"));

/// How large the tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub lines4: u32,
    pub unit_lines6: u32,
    pub host_lines6: u32,
    pub prefixes: u32,
}

impl Sizes {
    /// IPv4: twice as many slots as addresses, so that both lines of one are hardly ever full. IPv6: half and an
    /// eighth as many; what finds no room becomes a prefix.
    pub fn of(filter: &config::Filter) -> Sizes {
        let lines = |share: u32| (filter.max_blocked / share).max(64);
        Sizes { lines4: lines(4), unit_lines6: lines(8), host_lines6: lines(16), prefixes: filter.max_prefixes.max(64) }
    }

    fn entries(&self, name: &str) -> Option<u32> {
        match name {
            names::BLOCKED4 => Some(self.lines4),
            names::HITS4 => Some(self.lines4 * 8),
            names::UNITS6 => Some(self.unit_lines6),
            names::UNIT_HITS6 => Some(self.unit_lines6 * 4),
            names::HOSTS6 => Some(self.host_lines6),
            names::HOST_HITS6 => Some(self.host_lines6 * 2),
            names::NETS4 | names::NETS6 => Some(self.prefixes),
            names::TRUST4 | names::TRUST6 => Some(TRUSTED),
            _ => None,
        }
    }
}

/// Allowed, protected and own prefixes of one family.
const TRUSTED: u32 = 65_536;

/// The tables of one generation.
pub struct Generation {
    directory: PathBuf,
    settings: Mapping,
    table4: Table,
    units6: Table,
    hosts6: Table,
    nets4: Nets<u64>,
    nets6: Nets<[u64; 2]>,
    counters: PerCpuArray<MapData, PodCounters>,
    /// The loaded object, where this process built the generation.
    object: Option<Ebpf>,
}

/// [`Counters`] as aya wants to have it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodCounters(Counters);

// SAFETY: words of 64 bits, no padding.
unsafe impl Pod for PodCounters {}

fn open_counters(pin_path: &Path) -> Result<PerCpuArray<MapData, PodCounters>, Failure> {
    let path = pin_path.join(names::COUNTERS);
    let what = || format!("the counters {} cannot be opened", path.display());
    check_pin(&path, size_of::<Counters>() as u32)?;
    Map::PerCpuArray(MapData::from_pin(&path).blame(Blame::System, what)?).try_into().blame(Blame::System, what)
}

impl Generation {
    /// Loads the object, with tables of these sizes and nothing in them, and pins them as the next generation. It is
    /// not in force yet.
    ///
    /// The counters by reason go on where they are of this ABI, which `adopt_counters` says; else they begin anew.
    pub fn build(lock: &Lock, sizes: Sizes, adopt_counters: bool) -> Result<Generation, Failure> {
        let number = directories(lock.path())?.last().map_or(1, |(number, _)| number + 1);
        let directory = lock.path().join(format!("gen-{number}"));
        let built = load(lock.path(), sizes, adopt_counters).and_then(|mut object| {
            pin(&mut object, &directory)?;
            Ok(object)
        });
        let result = built.and_then(|object| {
            let mut generation = Generation::of_pins(&directory)?;
            generation.object = Some(object);
            generation.introduce()?;
            Ok(generation)
        });
        if result.is_err() {
            remove(&directory);
        }
        result
    }

    /// The generation that is in force, if this build can read it.
    pub fn live(lock: &Lock) -> Result<Option<Generation>, Failure> {
        let in_force = super::link::programs_in_force(lock.path());
        let mut found = directories(lock.path())?;
        found.reverse();
        let newest = found.first().map(|(_, directory)| directory.clone());
        let matching = found.into_iter().map(|(_, directory)| directory).find(|directory| {
            aya::programs::ProgramInfo::from_pin(directory.join(names::PROGRAM))
                .is_ok_and(|info| in_force.contains(&info.id()))
        });
        let Some(directory) = matching.or(newest) else { return Ok(None) };
        let mut generation = Generation::of_pins(&directory)?;
        if generation.settings.load(word::VALID) != Settings::VALID {
            return Err(Failure::refused(format!(
                "the pinned maps in {} are of another version of edge; `edge run` replaces them, `edge unload` removes them",
                directory.display()
            )));
        }
        generation.recall()?;
        Ok(Some(generation))
    }

    /// Every other generation is removed; to be called once this one is in force.
    pub fn forget_others(&self, lock: &Lock) -> Result<(), Failure> {
        for (_, directory) in directories(lock.path())? {
            if directory != self.directory {
                remove(&directory);
            }
        }
        Ok(())
    }

    /// Removes the pins of a generation that did not come into force.
    pub fn discard(&self) {
        remove(&self.directory);
    }

    /// Takes over what was counted in an earlier generation, which no CPU may run any more.
    pub fn add_hits(&mut self, target: Target, hits: Hits) -> Result<(), Failure> {
        if hits == Hits::default() {
            return Ok(());
        }
        match self.place(target) {
            Place::Table(table, key) if table.until(key).is_some() => {
                table.add_hits(key, hits);
                Ok(())
            }
            _ => match target.net() {
                IpNet::V4(_) => self.nets4.add_hits(target.net(), hits),
                IpNet::V6(_) => self.nets6.add_hits(target.net(), hits),
            },
        }
    }

    /// Every entry that the kernel holds.
    pub fn entries(&self) -> Vec<(Target, Until)> {
        let singles = [&self.table4, &self.units6, &self.hosts6];
        let mut all: Vec<(Target, Until)> =
            singles.into_iter().flat_map(Table::entries).map(|(key, until)| (target_of(key), until)).collect();
        let nets = self.nets4.entries().chain(self.nets6.entries());
        all.extend(nets.map(|(net, until)| (Target::from(net), until)));
        all
    }

    /// The allow list as the kernel has it, without what a wider entry covers.
    pub fn allowed(&self) -> Vec<Target> {
        let trusted = self.nets4.trusted().chain(self.nets6.trusted());
        let listed: Vec<IpNet> = trusted.filter(|(_, trust)| trust.has(Trust::ALLOWED)).map(|(net, _)| net).collect();
        let covered = |net: &IpNet| listed.iter().any(|cover| cover != net && cover.contains(net));
        listed.iter().filter(|net| !covered(net)).map(|net| Target::from(*net)).collect()
    }

    /// The loaded program, to be attached.
    pub(super) fn program(&mut self) -> Result<&mut Xdp, Failure> {
        let object =
            self.object.as_mut().ok_or_else(|| Failure::bug("a generation that was only opened is attached"))?;
        program(object, names::PROGRAM)
    }

    fn pin_path(&self) -> &Path {
        self.directory.parent().unwrap_or(&self.directory)
    }

    /// What this generation's program is pinned as.
    pub fn program_pin(&self) -> PathBuf {
        self.directory.join(names::PROGRAM)
    }

    /// Measures jiffies against boot time once more: they stand still in suspend. Only where this process built the
    /// generation.
    pub fn set_clock(&mut self) -> Result<(), Failure> {
        let Some(object) = self.object.as_mut() else { return Ok(()) };
        let clock_map = mapping(&self.directory, names::CLOCK, 2)?;
        let tick_ns = self.settings.load(word::CLOCK);
        let offset_ns = clock::offset(program(object, names::CLOCK_PROGRAM)?, &clock_map, tick_ns)?;
        self.write_clock(Jiffies { tick_ns, offset_ns });
        Ok(())
    }

    /// First settings: seeds, sizes and clock; the word that says they are valid last.
    fn introduce(&mut self) -> Result<(), Failure> {
        let object = self.object.as_mut().ok_or_else(|| Failure::bug("no object to measure clocks with"))?;
        let clock_map = mapping(&self.directory, names::CLOCK, 2)?;
        let clock = clock::measure(program(object, names::CLOCK_PROGRAM)?, &clock_map)?;
        self.write_clock(clock);
        for (at, table) in
            [(word::BLOCKED4, &mut self.table4), (word::UNITS6, &mut self.units6), (word::HOSTS6, &mut self.hosts6)]
        {
            table.geometry.seed_a = random()? | 1;
            table.geometry.seed_b = random()? | 1;
            let Geometry { lines, seed_a, seed_b } = table.geometry;
            for (offset, value) in [lines, seed_a, seed_b].into_iter().enumerate() {
                self.settings.store(at + offset, value);
            }
        }
        let seed = random()? | 1;
        self.nets6.seed(seed);
        self.settings.store(word::AREAS6_SEED, seed);
        self.settings.store(word::VALID, Settings::VALID);
        Ok(())
    }

    /// What an opened generation says of itself.
    fn recall(&mut self) -> Result<(), Failure> {
        for (at, table) in
            [(word::BLOCKED4, &mut self.table4), (word::UNITS6, &mut self.units6), (word::HOSTS6, &mut self.hosts6)]
        {
            let [lines, seed_a, seed_b] = [0, 1, 2].map(|offset| self.settings.load(at + offset));
            if lines != table.geometry.lines {
                return Err(Failure::system(format!(
                    "the pinned maps in {} contradict each other; `edge run` replaces them",
                    self.directory.display()
                )));
            }
            table.geometry = Geometry { lines, seed_a, seed_b };
        }
        self.nets4.recall(0);
        self.nets6.recall(self.settings.load(word::AREAS6_SEED));
        Ok(())
    }

    fn write_clock(&self, clock: Jiffies) {
        self.settings.store(word::CLOCK, clock.tick_ns);
        self.settings.store(word::CLOCK + 1, clock.offset_ns);
    }

    fn of_pins(directory: &Path) -> Result<Generation, Failure> {
        let table = |layout: Layout, lines: &str, hits: &str| -> Result<Table, Failure> {
            let count = check_pin(&directory.join(lines), 64)?;
            check_pin(&directory.join(hits), 16)?;
            Ok(Table {
                layout,
                geometry: Geometry { lines: u64::from(count), ..Geometry::default() },
                lines: mapping(directory, lines, count as usize * 8)?,
                hits: mapping(directory, hits, count as usize * layout.slots() * 2)?,
            })
        };
        check_pin(&directory.join(names::SETTINGS), size_of::<Settings>() as u32)?;
        Ok(Generation {
            directory: directory.to_owned(),
            settings: mapping(directory, names::SETTINGS, word::COUNT)?,
            table4: table(Layout::Four, names::BLOCKED4, names::HITS4)?,
            units6: table(Layout::Unit, names::UNITS6, names::UNIT_HITS6)?,
            hosts6: table(Layout::Host, names::HOSTS6, names::HOST_HITS6)?,
            nets4: nets(directory, names::NETS4, names::TRUST4, names::AREAS4)?,
            nets6: nets(directory, names::NETS6, names::TRUST6, names::AREAS6)?,
            counters: open_counters(directory.parent().unwrap_or(directory))?,
            object: None,
        })
    }

    fn place(&self, target: Target) -> Place<'_> {
        match target.net() {
            IpNet::V4(four) if four.prefix_len() == 32 => {
                Place::Table(&self.table4, Key::Four(Addr4::from(four.addr())))
            }
            IpNet::V6(six) if six.prefix_len() == 128 => Place::Table(&self.hosts6, Key::Host(Addr6::from(six.addr()))),
            IpNet::V6(six) if six.prefix_len() == 64 => {
                Place::Table(&self.units6, Key::Unit(Addr6::from(six.network()).unit()))
            }
            _ => Place::Trie,
        }
    }

    /// An address that found no room in its table once, and does now: the trie's entry would outlast a shorter end.
    fn leave_trie(&mut self, target: Target) -> Result<(), Failure> {
        let hits = match target.net() {
            IpNet::V4(_) => self.nets4.hits(target.net()),
            IpNet::V6(_) => self.nets6.hits(target.net()),
        };
        let Some(hits) = hits else { return Ok(()) };
        match target.net() {
            IpNet::V4(_) => self.nets4.clear(target.net())?,
            IpNet::V6(_) => self.nets6.clear(target.net())?,
        }
        self.add_hits(target, hits)
    }

    fn use_table(&self, layout: Layout) {
        let bit = match layout {
            Layout::Four => InUse::BLOCKED4,
            Layout::Unit => InUse::UNITS6,
            Layout::Host => InUse::HOSTS6,
        };
        let in_use = self.settings.load(word::IN_USE);
        self.settings.store(word::IN_USE, in_use | bit);
    }
}

enum Place<'a> {
    Table(&'a Table, Key),
    Trie,
}

impl Tables for Generation {
    fn set(&mut self, target: Target, until: Until) -> Result<(), Failure> {
        if let Place::Table(table, key) = self.place(target) {
            self.use_table(table.layout);
            if table.set(key, until).is_ok() {
                return self.leave_trie(target);
            }
        }
        match target.net() {
            IpNet::V4(_) => self.nets4.set(target.net(), until),
            IpNet::V6(_) => self.nets6.set(target.net(), until),
        }
    }

    fn clear(&mut self, target: Target) -> Result<(), Failure> {
        if let Place::Table(table, key) = self.place(target) {
            table.clear(key);
        }
        match target.net() {
            IpNet::V4(_) => self.nets4.clear(target.net()),
            IpNet::V6(_) => self.nets6.clear(target.net()),
        }
    }

    fn until(&self, target: Target) -> Option<Until> {
        if let Place::Table(table, key) = self.place(target)
            && let Some(until) = table.until(key)
        {
            return Some(until);
        }
        match target.net() {
            IpNet::V4(_) => self.nets4.until(target.net()),
            IpNet::V6(_) => self.nets6.until(target.net()),
        }
    }

    fn hits(&self, target: Target) -> Hits {
        if let Place::Table(table, key) = self.place(target)
            && let Some(hits) = table.hits(key)
        {
            return hits;
        }
        let hits = match target.net() {
            IpNet::V4(_) => self.nets4.hits(target.net()),
            IpNet::V6(_) => self.nets6.hits(target.net()),
        };
        hits.unwrap_or_default()
    }

    fn held(&self) -> u64 {
        let singles: usize =
            [&self.table4, &self.units6, &self.hosts6].map(|table| table.entries().count()).iter().sum();
        singles as u64 + self.nets4.held() + self.nets6.held()
    }

    fn capacities(&self) -> Vec<(&'static str, u64, u64)> {
        let of = |name, table: &Table| {
            let capacity = table.geometry.lines * table.layout.slots() as u64;
            (name, table.entries().count() as u64, capacity)
        };
        let mut all =
            vec![of(names::BLOCKED4, &self.table4), of(names::UNITS6, &self.units6), of(names::HOSTS6, &self.hosts6)];
        all.extend(self.nets4.capacities([names::NETS4, names::TRUST4]));
        all.extend(self.nets6.capacities([names::NETS6, names::TRUST6]));
        all
    }

    fn counters(&self) -> Result<Counters, Failure> {
        let values = self.counters.get(&0, 0).blame(Blame::System, || "the counters cannot be read".to_owned())?;
        Ok(sum(values.iter().map(|value| value.0)))
    }

    fn unload(&mut self) -> Result<(), Failure> {
        super::unload(self.pin_path())
    }

    fn trust(&mut self, prefixes: &[(Target, Trust)]) -> Result<(), Failure> {
        self.nets4.replace_trust(with_covering(prefixes, |net| matches!(net, IpNet::V4(_))))?;
        self.nets6.replace_trust(with_covering(prefixes, |net| matches!(net, IpNet::V6(_))))
    }
}

fn target_of(key: Key) -> Target {
    match key {
        Key::Four(address) => Target::of(std::net::Ipv4Addr::from(address).into()),
        Key::Host(address) => Target::of(std::net::Ipv6Addr::from(address).into()),
        Key::Unit(unit) => {
            let network = std::net::Ipv6Addr::from(u128::from(unit) << 64);
            Target::client(network.into(), 64)
        }
    }
}

fn load(pin_path: &Path, sizes: Sizes, adopt_counters: bool) -> Result<Ebpf, Failure> {
    let counters = pin_path.join(names::COUNTERS);
    if !adopt_counters || check_pin(&counters, size_of::<Counters>() as u32).is_err() {
        // Scrapers know resets. What is not there need not go.
        let _ = fs::remove_file(&counters);
    }
    let mut loader = EbpfLoader::new();
    loader.map_pin_path(names::COUNTERS, counters);
    for name in names::MAPS {
        if let Some(entries) = sizes.entries(name) {
            loader.map_max_entries(name, entries);
        }
    }
    let traced = u8::from(trace::wanted());
    loader.override_global("TRACE", &traced, true);
    let mut object = loader.load(OBJECT).map_err(|error| not_loaded(&error.to_string(), permission(&error)))?;
    for name in [names::PROGRAM, names::CLOCK_PROGRAM] {
        program(&mut object, name)?.load().map_err(|error| {
            let denied = matches!(&error, ProgramError::LoadError { io_error, .. }
                if io_error.raw_os_error() == Some(libc::EPERM));
            not_loaded(&error.to_string(), denied)
        })?;
    }
    if traced == 1 {
        trace::start(&mut object);
    }
    Ok(object)
}

fn permission(error: &aya::EbpfError) -> bool {
    matches!(error, aya::EbpfError::MapError(aya::maps::MapError::CreateError { io_error, .. })
        if io_error.raw_os_error() == Some(libc::EPERM))
}

fn not_loaded(error: &str, denied: bool) -> Failure {
    tracing::debug!("{error}");
    let line = error.lines().next().unwrap_or(error);
    if denied {
        Failure::forbidden(format!(
            "the kernel does not let this process load programs ({line}); run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        ))
    } else {
        Failure::system(format!("the kernel did not take the program: {line}; `edge doctor` says what it lacks"))
    }
}

fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp, Failure> {
    let missing = || Failure::bug(format!("the object has no XDP program {name}"));
    object.program_mut(name).ok_or_else(missing)?.try_into().map_err(|_| missing())
}

fn pin(object: &mut Ebpf, directory: &Path) -> Result<(), Failure> {
    let what = || format!("nothing can be pinned in {}", directory.display());
    fs::create_dir(directory).blame(Blame::System, what)?;
    for name in names::MAPS.into_iter().filter(|name| *name != names::COUNTERS) {
        let map = object.map(name).ok_or_else(|| Failure::bug(format!("the object has no map {name}")))?;
        let data = match map {
            Map::Array(data) | Map::LpmTrie(data) => data,
            _ => return Err(Failure::bug(format!("the map {name} is of another type"))),
        };
        data.pin(directory.join(name)).blame(Blame::System, what)?;
    }
    program(object, names::PROGRAM)?.pin(directory.join(names::PROGRAM)).blame(Blame::System, what)
}

fn mapping(directory: &Path, name: &str, words: usize) -> Result<Mapping, Failure> {
    let what = || format!("the pinned map {} cannot be opened", directory.join(name).display());
    let data = MapData::from_pin(directory.join(name)).blame(Blame::System, what)?;
    Mapping::new(descriptor(&data), words).blame(Blame::System, what)
}

fn nets<K: super::nets::Data>(directory: &Path, blocked: &str, trusted: &str, areas: &str) -> Result<Nets<K>, Failure> {
    let what = || format!("the pinned maps in {} cannot be opened", directory.display());
    let capacities = [check_pin(&directory.join(blocked), 24)?, check_pin(&directory.join(trusted), 8)?];
    check_pin(&directory.join(areas), 8)?;
    let open = |name: &str| MapData::from_pin(directory.join(name)).blame(Blame::System, what);
    Ok(Nets::new(
        LpmTrie::try_from(Map::LpmTrie(open(blocked)?)).blame(Blame::System, what)?,
        LpmTrie::try_from(Map::LpmTrie(open(trusted)?)).blame(Blame::System, what)?,
        mapping(directory, areas, AreaFlags::WORDS as usize)?,
        capacities.map(u64::from),
    ))
}

/// aya opens a pinned map and compares nothing; a value of another size would be read past its end. Gives the number
/// of entries.
fn check_pin(path: &Path, value_size: u32) -> Result<u32, Failure> {
    let info = MapInfo::from_pin(path)
        .blame(Blame::System, || format!("the pinned map {} cannot be opened", path.display()))?;
    if info.value_size() == value_size {
        Ok(info.max_entries())
    } else {
        Err(Failure::refused(format!(
            "the pinned map {} has values of {} bytes, this edge wants {value_size}: it is of another version; `edge run` replaces it, `edge unload` removes it",
            path.display(),
            info.value_size()
        )))
    }
}

/// The generations below `pin_path`, oldest first.
pub(super) fn directories(pin_path: &Path) -> Result<Vec<(u32, PathBuf)>, Failure> {
    let entries = fs::read_dir(pin_path).blame(Blame::System, || format!("{} cannot be read", pin_path.display()))?;
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("gen-")?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    found.sort();
    Ok(found)
}

/// Removes a directory of pins.
pub(super) fn remove(directory: &Path) {
    if let Ok(entries) = fs::read_dir(directory) {
        for entry in entries.filter_map(Result::ok) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}

fn random() -> Result<u64, Failure> {
    getrandom::u64().blame(Blame::System, || "the kernel gives no random numbers".to_owned())
}
