//! One generation of tables: building it aside, or opening the one that is in force.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, Pod,
    maps::{Map, MapData, MapInfo, PerCpuArray, lpm_trie::LpmTrie},
    programs::{SchedClassifier, Xdp},
};
use edge_common::{
    connection::Counted,
    names,
    opening::{LineOpening, Noted, Opening},
    ports::{Capped, Exposure},
    rate::{Limit, RateGeometry},
    reason::Counters,
    settings::{Settings, word},
    table::{AreaFlags, Geometry, Hits, Narrow},
    time::Jiffies,
};

use super::{
    Events, Links, Lock, Look, Mended,
    amend::Amender,
    areas::Areas,
    clock,
    connections::{self, Connections, Counting},
    descriptor,
    mapping::Mapping,
    nets::Nets,
    object::{self, Plan},
    spilled::Spilled,
    table::{Layout, Table},
};
use crate::{
    clock::Boot,
    error::{Blame, Context, Failure},
};

/// The tables of one generation.
pub struct Generation {
    directory: PathBuf,
    pub(super) settings: Mapping,
    pub(super) table4: Table,
    pub(super) units6: Table,
    pub(super) hosts6: Table,
    pub(super) nets4: Nets<u64>,
    pub(super) nets6: Nets<[u64; 2]>,
    pub(super) counters: PerCpuArray<MapData, PodCounters>,
    /// Of connections, where they are capped.
    pub(super) connections: Option<Connections>,
    /// What is written once: ports.
    fixed: Vec<Mapping>,
    /// The loaded object, where this process built the generation.
    pub(super) object: Option<Ebpf>,
    /// What counts connections, from when it is put into force.
    pub(super) counting: Option<Counting>,
    /// Whether it counts connections in the maps of the generation before.
    pub(super) counts_go_on: bool,
}

/// [`Counters`] as aya wants to have it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct PodCounters(pub(super) Counters);

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
    /// What the generation `before` counted and knows of rates goes on where it means the same.
    pub fn build(lock: &Lock, plan: &Plan, before: Option<&Generation>) -> Result<Generation, Failure> {
        let number = directories(lock.path())?.last().map_or(1, |(number, _)| number + 1);
        let directory = lock.path().join(format!("gen-{number}"));
        let adopted = before.map(|before| before.adoptable(plan)).unwrap_or_default();
        let built = object::load(lock.path(), plan, &adopted).and_then(|mut object| {
            object::pin(&mut object, &directory)?;
            Ok(object)
        });
        let result = built.and_then(|object| {
            let mut generation = Generation::of_pins(&directory)?;
            generation.object = Some(object);
            let has = |map| adopted.iter().any(|(name, _)| *name == map);
            generation.counts_go_on = has(names::OPEN);
            generation.introduce(plan, before)?;
            if before.is_some_and(|before| before.connections.is_some()) && !has(names::OPENING) {
                generation.forget_openings()?;
            }
            generation.settings = generation.settings.remembering();
            for (name, words) in [(names::PORTS, Exposure::WORDS), (names::PORTS_CAPPED, Capped::WORDS)] {
                generation.fixed.push(mapping(&directory, name, words as usize)?.remembering());
            }
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
        generation.connections = Connections::of(&generation)?;
        Ok(Some(generation))
    }

    /// Whose SYN passed is in a table that this generation does not go on with: whoever is established in the next minutes
    /// may have come by a filter.
    fn forget_openings(&self) -> Result<(), Failure> {
        let openings = mapping(&self.directory, names::OPENING, Opening::WORDS)?;
        let now = Noted::now(Boot::now().0).bits();
        let words = size_of::<LineOpening>() / size_of::<u64>();
        (0..Opening::WORDS).step_by(words).for_each(|line| openings.store(line + LineOpening::FORGOT, now));
        Ok(())
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

    /// Pins what is pinned no more: to remove pins takes nothing out of force that this process holds. Gives how many
    /// were gone.
    pub fn pin_again(&mut self) -> Result<u64, Failure> {
        let Some(object) = self.object.as_mut() else { return Ok(0) };
        let missing = object::pin_missing(object, &self.directory)?;
        let counting = self.counting.as_ref().map_or(Ok(0), |counting| counting.pin_again(&self.directory));
        Ok(missing + counting?)
    }

    /// Puts right what came loose of the links: see `Links::mend`.
    pub fn mend(&mut self, links: &mut Links, look: &Look) -> Result<Mended, Failure> {
        let recounting = self.count_again();
        let mended = links.mend(self, look)?;
        Ok(Mended { detached: mended.detached + recounting?, ..mended })
    }

    /// Whether settings and ports are what this process wrote; nothing can be said where it did not build the generation.
    pub fn settings_are_as_written(&self) -> bool {
        self.settings.is_as_written() && self.fixed.iter().all(Mapping::is_as_written)
    }

    /// Removes the pins of a generation that did not come into force.
    pub fn discard(&self) {
        remove(&self.directory);
    }

    /// The loaded program, to be attached.
    pub(super) fn program(&mut self) -> Result<&mut Xdp, Failure> {
        let object =
            self.object.as_mut().ok_or_else(|| Failure::bug("a generation that was only opened is attached"))?;
        object::program(object, names::PROGRAM)
    }

    /// The program that notes what is sent, where ports are limited.
    pub(super) fn egress(&mut self) -> Result<Option<&mut SchedClassifier>, Failure> {
        let object =
            self.object.as_mut().ok_or_else(|| Failure::bug("a generation that was only opened is attached"))?;
        let program = object::egress(object)?;
        Ok(program.fd().is_ok().then_some(program))
    }

    /// The samples of what this generation drops. To be called within the runtime.
    pub fn events(&self) -> Result<Events, Failure> {
        Events::of_pins(&self.directory)
    }

    /// Its tables of connections once more, for who compares them; `None` where none are capped.
    pub fn open_connections(&self) -> Result<Option<Connections>, Failure> {
        Connections::of(self)
    }

    pub(super) fn pin_path(&self) -> &Path {
        self.directory.parent().unwrap_or(&self.directory)
    }

    /// Where its maps and programs are pinned.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Measures jiffies against boot time once more: they stand still in suspend. Only where this process built the
    /// generation.
    pub fn set_clock(&mut self) -> Result<(), Failure> {
        let Some(object) = self.object.as_mut() else { return Ok(()) };
        let clock_map = mapping(&self.directory, names::CLOCK, 2)?;
        let tick_ns = self.settings.load(word::CLOCK);
        let offset_ns = clock::offset(object::program(object, names::CLOCK_PROGRAM)?, &clock_map, tick_ns)?;
        self.write_clock(Jiffies { tick_ns, offset_ns });
        Ok(())
    }

    /// Which maps of this generation another one, of this plan, can go on with: all counters, and the state of rates
    /// that stay the same.
    fn adoptable(&self, plan: &Plan) -> Vec<(&'static str, PathBuf)> {
        let tick_ns = self.settings.load(word::CLOCK);
        let same_places = self.rate_geometry().lines_log2 == plan.rate_lines_log2()
            && self.rate_geometry().unit_mask == plan.unit_mask();
        let of_rate = |at, wanted: Option<Limit>| same_places && wanted.is_some_and(|wanted| wanted == self.limit(at));
        let mut names = vec![(names::COUNTERS, self.pin_path().join(names::COUNTERS))];
        let mut adopt = |name, same: bool| names.extend(same.then(|| (name, self.directory.join(name))));
        adopt(names::SYN_RATES, of_rate(word::SYNS, plan.syns(tick_ns)));
        adopt(names::PACKET_RATES, of_rate(word::PACKETS, plan.packets(tick_ns)));
        let flows = check_pin(&self.directory.join(names::FLOWS), 8);
        adopt(names::FLOWS, flows.is_ok_and(|entries| entries == plan.flows));
        let open = check_pin(&self.directory.join(names::OPEN), size_of::<Counted>() as u32);
        let capped = self.connections.is_some() && plan.limits.connections.is_some();
        // Which connections are of this namespace is told by its cookie.
        let capped = capped && connections::namespace().is_ok_and(|own| own == self.settings.load(word::NAMESPACE));
        let same_places = capped && same_places && open.is_ok_and(|entries| entries == plan.counted().1);
        adopt(names::CONNECTED, same_places);
        adopt(names::OPEN, same_places);
        adopt(names::OPENING, same_places);
        adopt(names::SILENCED, capped);
        adopt(names::EXCESS, capped);
        adopt(names::TALLY, capped);
        names
    }

    pub(super) fn limit(&self, at: usize) -> Limit {
        let [units, interval, tolerance] = [0, 1, 2].map(|offset| self.settings.load(at + offset));
        Limit { units, interval, tolerance }
    }

    pub(super) fn rate_geometry(&self) -> RateGeometry {
        let [lines_log2, seed_a, seed_b, high, low] = [0, 1, 2, 3, 4].map(|at| self.settings.load(word::RATES + at));
        RateGeometry { lines_log2, seed_a, seed_b, unit_mask: [high, low] }
    }

    /// Limits of rates and exposed ports. Where sources lie stays as it was as long as their number and unit do.
    fn introduce_limits(&mut self, plan: &Plan, before: Option<&Generation>, tick_ns: u64) -> Result<(), Failure> {
        let (lines_log2, unit_mask) = (plan.rate_lines_log2(), plan.unit_mask());
        let former = before.map(Generation::rate_geometry);
        let geometry = match former.filter(|former| former.lines_log2 == lines_log2 && former.unit_mask == unit_mask) {
            Some(former) => former,
            None => RateGeometry { lines_log2, seed_a: random()? | 1, seed_b: random()? | 1, unit_mask },
        };
        let RateGeometry { lines_log2, seed_a, seed_b, unit_mask: [high, low] } = geometry;
        self.store_all(word::RATES, &[lines_log2, seed_a, seed_b, high, low]);
        for (at, limit) in [(word::SYNS, plan.syns(tick_ns)), (word::PACKETS, plan.packets(tick_ns))] {
            let Limit { units, interval, tolerance } = limit.unwrap_or_default();
            self.store_all(at, &[units, interval, tolerance]);
        }
        if let Some(connections) = plan.limits.connections {
            self.settings.store(word::CONNECTIONS, u64::from(connections));
            self.settings.store(word::NAMESPACE, connections::namespace()?);
            connections::write_ports(&self.directory, &plan.capped_ports)?;
        }
        let ports = mapping(&self.directory, names::PORTS, Exposure::WORDS as usize)?;
        for exposure in &plan.exposed {
            let (index, bit) = exposure.place();
            ports.store(index as usize, ports.load(index as usize) | bit);
        }
        Ok(())
    }

    fn store_all(&self, at: usize, values: &[u64]) {
        values.iter().enumerate().for_each(|(offset, value)| self.settings.store(at + offset, *value));
    }

    /// First settings: seeds, sizes and clock; the word that says they are valid last.
    fn introduce(&mut self, plan: &Plan, before: Option<&Generation>) -> Result<(), Failure> {
        let object = self.object.as_mut().ok_or_else(|| Failure::bug("no object to measure clocks with"))?;
        let clock_map = mapping(&self.directory, names::CLOCK, 2)?;
        let clock = clock::measure(object::program(object, names::CLOCK_PROGRAM)?, &clock_map)?;
        self.write_clock(clock);
        self.introduce_limits(plan, before, clock.tick_ns)?;
        for (at, table) in
            [(word::BLOCKED4, &mut self.table4), (word::UNITS6, &mut self.units6), (word::HOSTS6, &mut self.hosts6)]
        {
            table.geometry.seed_a = random()? | 1;
            table.geometry.seed_b = random()? | 1;
            let Geometry { lines, seed_a, seed_b } = table.geometry;
            [lines, seed_a, seed_b]
                .into_iter()
                .enumerate()
                .for_each(|(offset, value)| self.settings.store(at + offset, value));
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
            table.recall(Geometry { lines, seed_a, seed_b });
        }
        self.nets4.recall(0);
        self.nets6.recall(self.settings.load(word::AREAS6_SEED));
        Ok(())
    }

    /// What a map of this generation is pinned as.
    pub(super) fn pin(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn jiffies(&self) -> Jiffies {
        Jiffies { tick_ns: self.settings.load(word::CLOCK), offset_ns: self.settings.load(word::CLOCK + 1) }
    }

    fn write_clock(&self, clock: Jiffies) {
        self.settings.store(word::CLOCK, clock.tick_ns);
        self.settings.store(word::CLOCK + 1, clock.offset_ns);
    }

    pub(super) fn of_pins(directory: &Path) -> Result<Generation, Failure> {
        let table = |layout: Layout, lines: &str| -> Result<Table, Failure> {
            let count = check_pin(&directory.join(lines), 64)?;
            let entries = mapping(directory, lines, count as usize * 8)?;
            Ok(Table::new(layout, count, entries, spilled(directory)?))
        };
        check_pin(&directory.join(names::SETTINGS), size_of::<Settings>() as u32)?;
        Ok(Generation {
            directory: directory.to_owned(),
            settings: mapping(directory, names::SETTINGS, word::COUNT)?,
            table4: table(Layout::Four, names::BLOCKED4)?,
            units6: table(Layout::Unit, names::UNITS6)?,
            hosts6: table(Layout::Host, names::HOSTS6)?,
            nets4: nets(
                directory,
                names::NETS4,
                names::TRUST4,
                areas(directory, names::AREAS4, names::NARROW4, Narrow::WORDS4)?,
            )?,
            nets6: nets(
                directory,
                names::NETS6,
                names::TRUST6,
                areas(directory, names::AREAS6, names::NARROW6, Narrow::WORDS6)?,
            )?,
            counters: open_counters(directory.parent().unwrap_or(directory))?,
            connections: None,
            fixed: Vec::new(),
            object: None,
            counting: None,
            counts_go_on: false,
        })
    }
}

pub(super) fn mapping(directory: &Path, name: &str, words: usize) -> Result<Mapping, Failure> {
    let what = || format!("the pinned map {} cannot be opened", directory.join(name).display());
    let data = MapData::from_pin(directory.join(name)).blame(Blame::System, what)?;
    Mapping::new(descriptor(&data), words).blame(Blame::System, what)
}

fn spilled(directory: &Path) -> Result<Spilled, Failure> {
    let path = directory.join(names::SPILLED);
    let what = || format!("the pinned map {} cannot be opened", path.display());
    check_pin(&path, size_of::<Hits>() as u32)?;
    let map = Map::HashMap(MapData::from_pin(&path).blame(Blame::System, what)?);
    Ok(Spilled::new(map.try_into().blame(Blame::System, what)?))
}

fn areas(directory: &Path, flags: &str, narrow: &str, narrow_words: u32) -> Result<Areas, Failure> {
    check_pin(&directory.join(flags), 8)?;
    check_pin(&directory.join(narrow), 8)?;
    let flags = mapping(directory, flags, AreaFlags::WORDS as usize)?;
    Ok(Areas::new(flags, mapping(directory, narrow, narrow_words as usize)?))
}

fn nets<K: super::nets::Data>(
    directory: &Path,
    blocked: &str,
    trusted: &str,
    areas: Areas,
) -> Result<Nets<K>, Failure> {
    let what = || format!("the pinned maps in {} cannot be opened", directory.display());
    let capacities = [check_pin(&directory.join(blocked), 24)?, check_pin(&directory.join(trusted), 8)?];
    let open = |name: &str| MapData::from_pin(directory.join(name)).blame(Blame::System, what);
    let (blocked, trusted) = (open(blocked)?, open(trusted)?);
    let copied = |map| descriptor(map).try_clone_to_owned().blame(Blame::System, what);
    let descriptors = [copied(&blocked)?, copied(&trusted)?];
    Ok(Nets::new(
        LpmTrie::try_from(Map::LpmTrie(blocked)).blame(Blame::System, what)?,
        descriptors,
        Amender::of_pins(directory),
        LpmTrie::try_from(Map::LpmTrie(trusted)).blame(Blame::System, what)?,
        areas,
        capacities.map(u64::from),
    ))
}

/// aya opens a pinned map and compares nothing; a value of another size would be read past its end. Gives the number
/// of entries.
pub(super) fn check_pin(path: &Path, value_size: u32) -> Result<u32, Failure> {
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
