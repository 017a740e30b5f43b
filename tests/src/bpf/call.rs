//! `bpf(2)` itself: its commands and the attributes of each, as the kernel lays them out.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

use anyhow::{Result, ensure};

pub const MAP_LOOKUP_ELEM: libc::c_long = 1;
pub const PROG_LOAD: libc::c_long = 5;
pub const OBJ_PIN: libc::c_long = 6;
pub const OBJ_GET: libc::c_long = 7;
pub const PROG_TEST_RUN: libc::c_long = 10;
pub const PROG_GET_FD_BY_ID: libc::c_long = 13;
pub const MAP_GET_FD_BY_ID: libc::c_long = 14;
pub const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
pub const LINK_CREATE: libc::c_long = 28;
pub const LINK_GET_FD_BY_ID: libc::c_long = 30;
pub const LINK_DETACH: libc::c_long = 34;

/// The head of the kernel's `union bpf_attr` for BPF_PROG_LOAD, up to the name.
#[derive(Default)]
#[repr(C)]
pub struct Load {
    pub kind: u32,
    pub instruction_count: u32,
    pub instructions: u64,
    pub license: u64,
    pub log_level: u32,
    pub log_size: u32,
    pub log: u64,
    pub kernel_version: u32,
    pub flags: u32,
    pub name: [u8; 16],
}

/// The same for BPF_OBJ_PIN and BPF_OBJ_GET.
#[derive(Default)]
#[repr(C)]
pub struct Pin {
    pub path: u64,
    pub descriptor: u32,
    pub flags: u32,
}

/// The same for BPF_PROG_GET_FD_BY_ID and its likes.
#[derive(Default)]
#[repr(C)]
pub struct ById {
    pub id: u32,
    pub next_id: u32,
    pub open_flags: u32,
}

/// The same for BPF_MAP_LOOKUP_ELEM.
#[derive(Default)]
#[repr(C)]
pub struct LookUp {
    pub map: u32,
    pub padding: u32,
    pub key: u64,
    pub value: u64,
    pub flags: u64,
}

/// The kernel's `struct xdp_md`.
#[derive(Default)]
#[repr(C)]
pub struct Parting {
    pub data: u32,
    pub data_end: u32,
    pub data_meta: u32,
    pub ingress_interface: u32,
    pub receive_queue: u32,
    pub egress_interface: u32,
}

/// The same for BPF_PROG_TEST_RUN.
#[derive(Default)]
#[repr(C)]
pub struct TestRun {
    pub program: u32,
    pub verdict: u32,
    pub data_size_in: u32,
    pub data_size_out: u32,
    pub data_in: u64,
    pub data_out: u64,
    pub repeat: u32,
    pub duration_ns: u32,
    pub context_size_in: u32,
    pub context_size_out: u32,
    pub context_in: u64,
    pub context_out: u64,
    pub flags: u32,
    pub cpu: u32,
    pub batch_size: u32,
    pub padding: u32,
}

/// The same for BPF_OBJ_GET_INFO_BY_FD.
#[derive(Default)]
#[repr(C)]
pub struct Ask {
    pub descriptor: u32,
    pub size: u32,
    pub answer: u64,
}

/// The same for BPF_LINK_CREATE, of a link that needs no more.
#[derive(Default)]
#[repr(C)]
pub struct Link {
    pub program: u32,
    pub interface: u32,
    pub attach_type: u32,
    pub flags: u32,
    pub relative: u32,
    pub padding: u32,
    pub revision: u64,
}

/// The head of the kernel's `struct bpf_prog_info`.
#[derive(Default)]
#[repr(C)]
pub struct ProgramInformation {
    pub kind: u32,
    pub id: u32,
    pub tag: [u8; 8],
    pub native_bytes: u32,
    pub translated_bytes: u32,
    pub native: u64,
    pub translated: u64,
    pub load_time: u64,
    pub user: u32,
    pub map_count: u32,
    pub maps: u64,
    pub name: [u8; 16],
}

pub fn open<A>(command: libc::c_long, attributes: &mut A) -> Result<OwnedFd> {
    let descriptor = i32::try_from(call(command, attributes)?)?;
    // SAFETY: these commands give a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

pub fn call<A>(command: libc::c_long, attributes: &mut A) -> Result<libc::c_long> {
    // SAFETY: `attributes` is laid out as `union bpf_attr` for this command, its size is passed along, and what it points
    // to outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<A>()) };
    ensure!(answer >= 0, "bpf({command}): {}", io::Error::last_os_error());
    Ok(answer)
}
