//! The few `bpf(2)` calls of the benchmarks. By hand, since aya belongs to the datapath alone, and these look at programs
//! of others too.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result, ensure};

const PROG_LOAD: libc::c_long = 5;
const OBJ_GET: libc::c_long = 7;
const PROG_TEST_RUN: libc::c_long = 10;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const TYPE_XDP: u32 = 6;

/// A loaded XDP program.
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
    pub fn by_id(id: u32) -> Result<Program> {
        #[derive(Default)]
        #[repr(C)]
        struct ById {
            id: u32,
            next_id: u32,
            open_flags: u32,
        }
        let descriptor = open(PROG_GET_FD_BY_ID, &mut ById { id, ..ById::default() });
        Ok(Program { descriptor: descriptor.with_context(|| format!("cannot open the program with id {id}"))? })
    }

    /// The least that a program can do: it passes everything.
    pub fn returning_only() -> Result<Program> {
        #[repr(C)]
        struct Load {
            kind: u32,
            instruction_count: u32,
            instructions: u64,
            license: u64,
            log: [u64; 2],
            rest: [u64; 8],
        }
        // r0 = XDP's pass; exit
        let instructions: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
        let mut load = Load {
            kind: TYPE_XDP,
            instruction_count: 2,
            instructions: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log: [0; 2],
            rest: [0; 8],
        };
        Ok(Program { descriptor: open(PROG_LOAD, &mut load).context("cannot load a program of two instructions")? })
    }

    /// Judges `frame` again and again.
    pub fn test_run(&self, frame: &[u8], repeat: u32) -> Result<Run> {
        #[derive(Default)]
        #[repr(C)]
        struct TestRun {
            program: u32,
            verdict: u32,
            size_in: u32,
            size_out: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration_ns: u32,
            rest: [u64; 5],
        }
        let mut test = TestRun {
            program: self.descriptor.as_raw_fd() as u32,
            size_in: u32::try_from(frame.len())?,
            data_in: frame.as_ptr() as u64,
            repeat,
            ..TestRun::default()
        };
        call(PROG_TEST_RUN, &mut test).context("BPF_PROG_TEST_RUN failed")?;
        Ok(Run { verdict: test.verdict, duration_ns: test.duration_ns })
    }
}

/// What the kernel holds for a pinned map in bytes; `None`: what is pinned there is no map.
pub fn pinned_map_bytes(path: &Path) -> Result<Option<u64>> {
    #[repr(C)]
    struct Get {
        path: u64,
        descriptor: u32,
        flags: u32,
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    let descriptor = open(OBJ_GET, &mut Get { path: name.as_ptr() as u64, descriptor: 0, flags: 0 })
        .with_context(|| format!("cannot open {}", path.display()))?;
    let information = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd()))?;
    let field = |name: &str| information.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Ok(field("map_type:").and_then(|_: u64| field("memlock:")))
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
    ensure!(answer >= 0, io::Error::last_os_error());
    Ok(answer)
}
