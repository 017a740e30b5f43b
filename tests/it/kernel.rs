//! The few words of `bpf(2)` that a test needs to stand beside edge: a program of somebody else, and a pin opened without
//! edge's help. By hand, since a library would bring edge's own view of the kernel.

use std::{
    ffi::CString,
    fs,
    io::Error,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use anyhow::{Context, Result, ensure};

/// The name of the program that [`pin_foreign`] loads.
pub const FOREIGN: &str = "foreign";

/// Loads an XDP program that passes everything and pins it.
pub fn pin_foreign(path: &Path) -> Result<()> {
    const XDP: u32 = 6;
    // r0 = XDP_PASS; exit
    let instructions: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    let mut name = [0; 16];
    name[..FOREIGN.len()].copy_from_slice(FOREIGN.as_bytes());
    let load = Load {
        kind: XDP,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
    };
    // SAFETY: the command gives a new descriptor that nobody else has.
    let program = unsafe { OwnedFd::from_raw_fd(bpf(PROG_LOAD, &load)?) };
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(OBJ_PIN, &Pin { path: path.as_ptr() as u64, descriptor: program.as_raw_fd() as u32, flags: 0 })?;
    Ok(())
}

/// The instructions that the verifier walked before it let this pinned program in.
pub fn verified_instructions(pin: &Path) -> Result<u64> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let get = Pin { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
    // SAFETY: the command gives a new descriptor that nobody else has.
    let program = unsafe { OwnedFd::from_raw_fd(bpf(OBJ_GET, &get)?) };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd()))?;
    let line = info.lines().find_map(|line| line.strip_prefix("verified_insns:"));
    Ok(line.with_context(|| format!("no count of instructions in {info}"))?.trim().parse()?)
}

const PROG_LOAD: i32 = 5;
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;

/// The head of the kernel's `union bpf_attr` for BPF_PROG_LOAD, up to the name.
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
#[repr(C)]
struct Pin {
    path: u64,
    descriptor: u32,
    flags: u32,
}

fn bpf<T>(command: i32, attributes: &T) -> Result<i32> {
    // SAFETY: attributes are live for the call, their size is theirs, and what they point to outlives the call.
    let code = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    ensure!(code >= 0, "bpf({command}): {}", Error::last_os_error());
    Ok(code as i32)
}

/// Hands a frame to a pinned program `times` times (BPF_PROG_TEST_RUN) and gives its verdict.
pub fn test_run(pin: &Path, frame: &[u8], times: u32) -> Result<u32> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let get = Pin { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
    // SAFETY: the command gives a new descriptor that nobody else has.
    let program = unsafe { OwnedFd::from_raw_fd(bpf(OBJ_GET, &get)?) };
    let mut test = TestRun {
        program: program.as_raw_fd() as u32,
        data_size_in: u32::try_from(frame.len())?,
        data_in: frame.as_ptr() as u64,
        repeat: times,
        ..TestRun::default()
    };
    // SAFETY: the attribute is live for the call, which reads the frame it points to and writes its verdict into it.
    let code = unsafe { libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, &raw mut test, size_of::<TestRun>()) };
    ensure!(code >= 0, "bpf({PROG_TEST_RUN}): {}", Error::last_os_error());
    Ok(test.verdict)
}

const PROG_TEST_RUN: i32 = 10;

/// The same for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    verdict: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
}
