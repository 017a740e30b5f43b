//! The few words of `bpf(2)` that tests and benchmarks need: a program of somebody else, and pins and ids opened without
//! edge's help. By hand, since a library would bring edge's own view of the kernel.

mod call;
mod stack;

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context, Result, ensure};
use call::{
    Ask, ById, LINK_CREATE, LINK_DETACH, LINK_GET_FD_BY_ID, Link, Load, LookUp, MAP_GET_FD_BY_ID, MAP_LOOKUP_ELEM,
    OBJ_GET, OBJ_GET_INFO_BY_FD, OBJ_PIN, PROG_GET_FD_BY_ID, PROG_LOAD, PROG_TEST_RUN, Parting, Pin,
    ProgramInformation, TestRun, call, open,
};

/// A loaded XDP program.
#[derive(Debug)]
pub struct Program {
    descriptor: OwnedFd,
}

/// What repeated runs of a program gave.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The action, as XDP numbers it.
    pub verdict: u32,
    /// The mean of one run.
    pub duration_ns: u32,
}

impl Program {
    /// Loads the least that a program can do: it passes everything. At most 15 letters are its name.
    pub fn passing(name: &str) -> Result<Program> {
        Program::returning(name, 2)
    }

    /// The same for another action, as XDP numbers it.
    pub fn returning(name: &str, action: u32) -> Result<Program> {
        // r0 = the action; exit
        Program::load(name, &[u64::from(action) << 32 | 0xb7, 0x95])
    }

    /// Loads an XDP program from its instructions. At most 15 letters are its name.
    pub fn load(name: &str, instructions: &[u64]) -> Result<Program> {
        const XDP: u32 = 6;
        Program::load_as(XDP, name, instructions)
    }

    fn load_as(kind: u32, name: &str, instructions: &[u64]) -> Result<Program> {
        let mut load = Load {
            kind,
            instruction_count: u32::try_from(instructions.len())?,
            instructions: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            ..Load::default()
        };
        load.name[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Program { descriptor: open(PROG_LOAD, &mut load).with_context(|| format!("cannot load {name}"))? })
    }

    pub fn pinned(path: &Path) -> Result<Program> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let descriptor = open(OBJ_GET, &mut Pin { path: name.as_ptr() as u64, ..Pin::default() });
        Ok(Program { descriptor: descriptor.with_context(|| format!("cannot open {}", path.display()))? })
    }

    pub fn by_id(id: u32) -> Result<Program> {
        let descriptor = open(PROG_GET_FD_BY_ID, &mut ById { id, ..ById::default() });
        Ok(Program { descriptor: descriptor.with_context(|| format!("cannot open the program with id {id}"))? })
    }

    pub fn pin(&self, path: &Path) -> Result<()> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let descriptor = self.descriptor.as_raw_fd() as u32;
        call(OBJ_PIN, &mut Pin { path: name.as_ptr() as u64, descriptor, flags: 0 })
            .with_context(|| format!("cannot pin {}", path.display()))?;
        Ok(())
    }

    /// Judges `frame` again and again.
    pub fn test_run(&self, frame: &[u8], repeat: u32) -> Result<Run> {
        let mut test = TestRun {
            program: self.descriptor.as_raw_fd() as u32,
            data_size_in: u32::try_from(frame.len())?,
            data_in: frame.as_ptr() as u64,
            repeat,
            ..TestRun::default()
        };
        call(PROG_TEST_RUN, &mut test).context("BPF_PROG_TEST_RUN failed")?;
        Ok(Run { verdict: test.verdict, duration_ns: test.duration_ns })
    }

    /// Judges a frame of which only so many bytes lie in the first buffer. Linux before 6.18 refuses to part it.
    pub fn test_run_parted(&self, frame: &[u8], readable: usize) -> Result<Run> {
        let mut context = Parting { data_end: u32::try_from(readable)?, ..Parting::default() };
        let mut test = TestRun {
            program: self.descriptor.as_raw_fd() as u32,
            data_size_in: u32::try_from(frame.len())?,
            data_in: frame.as_ptr() as u64,
            repeat: 1,
            context_size_in: size_of::<Parting>() as u32,
            context_in: &raw mut context as u64,
            ..TestRun::default()
        };
        call(PROG_TEST_RUN, &mut test).context("BPF_PROG_TEST_RUN failed")?;
        Ok(Run { verdict: test.verdict, duration_ns: test.duration_ns })
    }

    /// Has copies of `frame` travel on as the program says, batch by batch, as if they had come from an interface of this
    /// network namespace.
    pub fn run_live(&self, frame: &[u8], count: u32) -> Result<()> {
        const LIVE_FRAMES: u32 = 2;
        const BATCH: u32 = 64;
        let mut test = TestRun {
            program: self.descriptor.as_raw_fd() as u32,
            data_size_in: u32::try_from(frame.len())?,
            data_in: frame.as_ptr() as u64,
            repeat: count,
            flags: LIVE_FRAMES,
            batch_size: BATCH,
            ..TestRun::default()
        };
        call(PROG_TEST_RUN, &mut test).context("BPF_PROG_TEST_RUN of live frames failed")?;
        Ok(())
    }

    /// The instructions that the verifier walked before it let the program in.
    pub fn verified_instructions(&self) -> Result<u64> {
        field(&self.descriptor, "verified_insns:")?.context("the kernel does not count the verifier's instructions")
    }

    /// As it was named when it was loaded, at most 15 letters.
    pub fn name(&self) -> Result<String> {
        let name = self.information(&mut [])?.name;
        Ok(name.iter().take_while(|&&letter| letter != 0).map(|&letter| char::from(letter)).collect())
    }

    /// Bytes of stack in the deepest chain of calls.
    pub fn stack_bytes(&self) -> Result<u32> {
        stack::deepest(&self.translated()?)
    }

    /// The instructions that the verifier made of those that were loaded.
    fn translated(&self) -> Result<Vec<u64>> {
        let length = self.information(&mut [])?.translated_bytes as usize / size_of::<u64>();
        let mut instructions = vec![0; length];
        self.information(&mut instructions)?;
        Ok(instructions)
    }

    fn information(&self, translated: &mut [u64]) -> Result<ProgramInformation> {
        let mut information = ProgramInformation {
            translated_bytes: u32::try_from(size_of_val(translated))?,
            translated: translated.as_mut_ptr() as u64,
            ..ProgramInformation::default()
        };
        let mut ask = Ask {
            descriptor: self.descriptor.as_raw_fd() as u32,
            size: size_of::<ProgramInformation>() as u32,
            answer: &raw mut information as u64,
        };
        call(OBJ_GET_INFO_BY_FD, &mut ask).context("the kernel tells nothing of a program")?;
        Ok(information)
    }
}

/// Takes every place for a tcx link on the way out of an interface of this network namespace, as long as the links live.
/// The programs do nothing.
pub fn fill_egress(interface: u32) -> Result<Vec<OwnedFd>> {
    const CLASSIFIER: u32 = 3;
    const TCX_EGRESS: u32 = 47;
    /// `bpf_mprog_max()` (Linux 6.6).
    const PLACES: usize = 63;
    let link = || {
        // r0 = TCX_NEXT; exit
        let program = Program::load_as(CLASSIFIER, "full", &[u64::from(u32::MAX) << 32 | 0xb7, 0x95])?;
        let program = program.descriptor.as_raw_fd() as u32;
        open(LINK_CREATE, &mut Link { program, interface, attach_type: TCX_EGRESS, ..Link::default() })
    };
    (0..PLACES).map(|_| link()).collect::<Result<_>>().context("no tcx link can be made")
}

/// A map of fixed slots.
#[derive(Debug)]
pub struct Map {
    descriptor: OwnedFd,
    value_bytes: u64,
}

impl Map {
    pub fn pinned(path: &Path) -> Result<Map> {
        let Program { descriptor } = Program::pinned(path)?;
        let value_bytes = field(&descriptor, "value_size:")?.context("what is pinned is no map")?;
        Ok(Map { descriptor, value_bytes })
    }

    /// Copies what one index has: a value for each possible CPU. It is for maps that are kept per CPU.
    pub fn read_per_cpu<V>(&self, index: u32, values: &mut [V]) -> Result<()> {
        let expected = self.value_bytes.next_multiple_of(8) * possible_cpus()? as u64;
        ensure!(size_of_val(values) as u64 == expected, "the map's values take {expected} bytes");
        let mut look_up = LookUp {
            map: self.descriptor.as_raw_fd() as u32,
            key: &raw const index as u64,
            value: values.as_mut_ptr() as u64,
            ..LookUp::default()
        };
        call(MAP_LOOKUP_ELEM, &mut look_up).context("a map cannot be read")?;
        Ok(())
    }
}

/// How many CPUs there may ever be: so many values has a map that is kept per CPU.
pub fn possible_cpus() -> Result<usize> {
    static COUNT: OnceLock<usize> = OnceLock::new();
    if let Some(count) = COUNT.get() {
        return Ok(*count);
    }
    let ranges = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = ranges.trim().rsplit([',', '-']).next().unwrap_or_default();
    let count = last.parse::<usize>().with_context(|| format!("no CPUs are named in `{ranges}`"))? + 1;
    Ok(*COUNT.get_or_init(|| count))
}

/// The programs that are pinned at or below a folder, themselves or by what attaches them, each once.
pub fn pinned_programs(folder: &Path) -> Result<Vec<Program>> {
    let mut ids = BTreeSet::new();
    for pin in pins(folder)? {
        let Program { descriptor } = Program::pinned(&pin)?;
        ids.extend(field(&descriptor, "prog_id:")?);
    }
    ids.into_iter().map(|id| Program::by_id(u32::try_from(id)?)).collect()
}

/// Every pin at or below a folder.
pub fn pins(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(pins(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// All that is pinned at or below a folder, by the kernel's own numbers, so that it can be asked for when its pins are gone.
#[derive(Debug, Default)]
pub struct Loaded {
    programs: BTreeSet<u64>,
    maps: BTreeSet<u64>,
    links: BTreeSet<u64>,
}

impl Loaded {
    pub fn below(folder: &Path) -> Result<Loaded> {
        let mut loaded = Loaded::default();
        for pin in pins(folder)? {
            let Program { descriptor } = Program::pinned(&pin)?;
            loaded.programs.extend(field(&descriptor, "prog_id:")?);
            loaded.maps.extend(field(&descriptor, "map_id:")?);
            loaded.links.extend(field(&descriptor, "link_id:")?);
        }
        Ok(loaded)
    }

    /// Programs, maps and links.
    pub fn counts(&self) -> [usize; 3] {
        [&self.programs, &self.maps, &self.links].map(BTreeSet::len)
    }

    /// What of it the kernel still has.
    pub fn left(&self) -> Result<Vec<String>> {
        let kinds = [
            ("program", &self.programs, PROG_GET_FD_BY_ID),
            ("map", &self.maps, MAP_GET_FD_BY_ID),
            ("link", &self.links, LINK_GET_FD_BY_ID),
        ];
        let mut left = Vec::new();
        for (kind, ids, by_id) in kinds {
            for id in ids {
                let mut ask = ById { id: u32::try_from(*id)?, ..ById::default() };
                if open(by_id, &mut ask).is_ok() {
                    left.push(format!("{kind} {id}"));
                }
            }
        }
        Ok(left)
    }
}

/// What the kernel holds for a pinned map in bytes; `None`: what is pinned there is no map.
pub fn pinned_map_bytes(path: &Path) -> Result<Option<u64>> {
    let Program { descriptor } = Program::pinned(path)?;
    let is_map = field(&descriptor, "map_type:")?.is_some();
    if is_map { field(&descriptor, "memlock:") } else { Ok(None) }
}

/// The id of the program that a pinned link attaches.
pub fn attached_by(pin: &Path) -> Result<Option<u64>> {
    let Program { descriptor } = Program::pinned(pin)?;
    field(&descriptor, "prog_id:")
}

/// Detaches what is pinned there, as `bpftool link detach` does; its pin stays.
pub fn detach_link(pin: &Path) -> Result<()> {
    let Program { descriptor } = Program::pinned(pin)?;
    let mut link = descriptor.as_raw_fd();
    call(LINK_DETACH, &mut link).with_context(|| format!("cannot detach {}", pin.display()))?;
    Ok(())
}

/// What the kernel holds for all maps that are pinned at or below a folder, in bytes.
pub fn all_map_bytes(folder: &Path) -> Result<u64> {
    let mut total = 0;
    for pin in pins(folder)? {
        total += pinned_map_bytes(&pin)?.unwrap_or(0);
    }
    Ok(total)
}

/// A number that the kernel tells of a descriptor.
fn field(descriptor: &OwnedFd, name: &str) -> Result<Option<u64>> {
    let information = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd()))?;
    Ok(information.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()))
}
