//! A pinned link held by a descriptor: it stays attached when its pin is removed, can be pinned anew, and can be
//! detached at once. Four words of `bpf(2)` by hand: aya's `FdLink` is used up by a pin that fails, and tells
//! neither its interface nor detaches.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// The link lives as long as this, or its pin.
#[derive(Debug)]
pub struct Held(OwnedFd);

const BPF_OBJ_PIN: i32 = 6;
const BPF_OBJ_GET: i32 = 7;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_LINK_DETACH: i32 = 34;

/// `union bpf_attr` of `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr` of `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct Information {
    bpf_fd: u32,
    length: u32,
    information: u64,
}

/// The head of `struct bpf_link_info`, for links of XDP and of tcx; those to a cgroup have its id there.
#[derive(Default)]
#[repr(C, align(8))]
struct LinkInformation {
    kind: u32,
    id: u32,
    program: u32,
    _padding: u32,
    interface: u32,
}

impl Held {
    /// Of whatever is pinned there.
    pub fn of_pin(pin: &Path) -> io::Result<Held> {
        let path = c_path(pin)?;
        let get = Object { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
        // SAFETY: the attribute is the whole of this command's, and the path that it points to outlives the call.
        let fd = unsafe { bpf(BPF_OBJ_GET, &get) }?;
        // SAFETY: a descriptor that the kernel has just made for this process.
        Ok(Held(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Pins it there, where nothing may be.
    pub fn pin(&self, pin: &Path) -> io::Result<()> {
        let path = c_path(pin)?;
        let pin = Object { pathname: path.as_ptr() as u64, bpf_fd: self.0.as_raw_fd() as u32, file_flags: 0 };
        // SAFETY: as in `of_pin`; the descriptor is open as long as `self`.
        unsafe { bpf(BPF_OBJ_PIN, &pin) }.map(drop)
    }

    /// The index of the interface that it is attached to; `None` where it is detached, or its interface gone.
    pub fn interface(&self) -> Option<u32> {
        let mut information = LinkInformation::default();
        let ask = Information {
            bpf_fd: self.0.as_raw_fd() as u32,
            length: size_of::<LinkInformation>() as u32,
            information: (&raw mut information) as u64,
        };
        // SAFETY: the kernel writes at most `length` bytes to `information`, which outlives the call.
        unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &ask) }.ok()?;
        Some(information.interface).filter(|index| *index != 0)
    }

    /// Whether a link to an interface, or to a cgroup, still is one to it.
    pub fn is_attached(&self) -> bool {
        self.interface().is_some()
    }

    /// At once (Linux 5.9), whoever else holds it: a link whose last holder goes is freed only later.
    pub fn detach(&self) {
        // SAFETY: the attribute of this command is the link's descriptor alone, which is open as long as `self`.
        let _ = unsafe { bpf(BPF_LINK_DETACH, &self.0.as_raw_fd()) };
    }
}

/// `union bpf_attr` of `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Has a program judge what the sockets of a map receive, for as long as the map lives (Linux 5.10, without a parser). aya
/// takes it off again when its link is dropped.
pub fn attach_to_sockets(program: BorrowedFd<'_>, sockets: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_SK_SKB_STREAM_VERDICT: u32 = 5;
    let [target, program] = [sockets, program].map(|descriptor| descriptor.as_raw_fd() as u32);
    let attach = Attach { target, program, kind: BPF_SK_SKB_STREAM_VERDICT, flags: 0 };
    // SAFETY: the attribute is the whole of this command's, without pointers.
    unsafe { bpf(BPF_PROG_ATTACH, &attach) }.map(drop)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// # Safety
/// `attribute` must be laid out as the head of `union bpf_attr` for `command`, and what it points to be alive.
unsafe fn bpf<A>(command: i32, attribute: &A) -> io::Result<i32> {
    // SAFETY: as the caller says; the kernel only reads, and no more than the size that it is given.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attribute, size_of::<A>()) };
    match i32::try_from(answer) {
        Ok(answer @ 0..) => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}
