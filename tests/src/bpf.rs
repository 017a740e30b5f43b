//! The few words of `bpf(2)` that tests and benchmarks need: a program of somebody else, and pins and ids opened without
//! edge's help. By hand, since a library would bring edge's own view of the kernel.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::OnceLock,
};

use anyhow::{Context, Result, ensure};

const MAP_LOOKUP_ELEM: libc::c_long = 1;
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const PROG_TEST_RUN: libc::c_long = 10;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const LINK_DETACH: libc::c_long = 34;

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
        const XDP: u32 = 6;
        // r0 = XDP's pass; exit
        let instructions: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
        let mut load = Load {
            kind: XDP,
            instruction_count: 2,
            instructions: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            ..Load::default()
        };
        load.name[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Program { descriptor: open(PROG_LOAD, &mut load).context("cannot load a program of two instructions")? })
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

    /// The instructions that the verifier walked before it let the program in.
    pub fn verified_instructions(&self) -> Result<u64> {
        field(&self.descriptor, "verified_insns:")?.context("the kernel does not count the verifier's instructions")
    }
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

/// What the kernel holds for a pinned map in bytes; `None`: what is pinned there is no map.
pub fn pinned_map_bytes(path: &Path) -> Result<Option<u64>> {
    let Program { descriptor } = Program::pinned(path)?;
    let is_map = field(&descriptor, "map_type:")?.is_some();
    if is_map { field(&descriptor, "memlock:") } else { Ok(None) }
}

/// Detaches what is pinned there, as `bpftool link detach` does; its pin stays.
pub fn detach_link(pin: &Path) -> Result<()> {
    let Program { descriptor } = Program::pinned(pin)?;
    let mut link = descriptor.as_raw_fd();
    call(LINK_DETACH, &mut link).with_context(|| format!("cannot detach {}", pin.display()))?;
    Ok(())
}

/// A number that the kernel tells of a descriptor.
fn field(descriptor: &OwnedFd, name: &str) -> Result<Option<u64>> {
    let information = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd()))?;
    Ok(information.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()))
}

/// The head of the kernel's `union bpf_attr` for BPF_PROG_LOAD, up to the name.
#[derive(Default)]
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The same for BPF_OBJ_PIN and BPF_OBJ_GET.
#[derive(Default)]
#[repr(C)]
struct Pin {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// The same for BPF_PROG_GET_FD_BY_ID.
#[derive(Default)]
#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// The same for BPF_MAP_LOOKUP_ELEM.
#[derive(Default)]
#[repr(C)]
struct LookUp {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The kernel's `struct xdp_md`.
#[derive(Default)]
#[repr(C)]
struct Parting {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_interface: u32,
    receive_queue: u32,
    egress_interface: u32,
}

/// The same for BPF_PROG_TEST_RUN.
#[derive(Default)]
#[repr(C)]
struct TestRun {
    program: u32,
    verdict: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration_ns: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
}

fn open<A>(command: libc::c_long, attributes: &mut A) -> Result<OwnedFd> {
    let descriptor = i32::try_from(call(command, attributes)?)?;
    // SAFETY: these commands give a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn call<A>(command: libc::c_long, attributes: &mut A) -> Result<libc::c_long> {
    // SAFETY: `attributes` is laid out as `union bpf_attr` for this command, its size is passed along, and what it points
    // to outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<A>()) };
    ensure!(answer >= 0, "bpf({command}): {}", io::Error::last_os_error());
    Ok(answer)
}
