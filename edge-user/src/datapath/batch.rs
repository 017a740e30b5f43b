//! Many entries of a map in one call (`BPF_MAP_UPDATE_BATCH`, `BPF_MAP_LOOKUP_BATCH`; Linux 5.6, for tries 5.13). aya has
//! no calls for them.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use aya::Pod;

const UPDATE_BATCH: libc::c_int = 26;
const LOOKUP_BATCH: libc::c_int = 24;

/// How many entries a look-up asks for at once.
const AT_ONCE: usize = 4096;

/// `union bpf_attr` of these commands.
#[derive(Default)]
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Writes entries in order; gives how many are written.
pub fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, entries: &[(K, V)]) -> (usize, io::Result<()>) {
    let (keys, values): (Vec<K>, Vec<V>) = entries.iter().copied().unzip();
    if keys.is_empty() {
        return (0, Ok(()));
    }
    let Ok(count) = u32::try_from(keys.len()) else { return (0, Err(io::ErrorKind::InvalidInput.into())) };
    let mut batch = Batch {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count,
        map: map.as_raw_fd() as u32,
        ..Batch::default()
    };
    let written = call(UPDATE_BATCH, &mut batch);
    // Where the command is not known at all, the count is not touched.
    let done = if written.is_err() && batch.count == count { 0 } else { batch.count };
    (done as usize, written)
}

/// Every entry, as far as nobody writes meanwhile.
pub fn all<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut found = Vec::new();
    let mut cursor: Option<K> = None;
    loop {
        let (mut keys, mut values) = (Vec::<K>::with_capacity(AT_ONCE), Vec::<V>::with_capacity(AT_ONCE));
        // A hash is gone on with by four bytes of it.
        let mut next = std::mem::MaybeUninit::<K>::zeroed();
        let mut batch = Batch {
            in_batch: cursor.as_ref().map_or(0, |key| &raw const *key as u64),
            out_batch: next.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: AT_ONCE as u32,
            map: map.as_raw_fd() as u32,
            ..Batch::default()
        };
        let asked = call(LOOKUP_BATCH, &mut batch);
        let is_last = match asked {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let count = (batch.count as usize).min(AT_ONCE);
        // SAFETY: the kernel wrote `count` keys and values, at most the capacity that it was told.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        found.extend(keys.into_iter().zip(values));
        if is_last {
            return Ok(found);
        }
        // SAFETY: a call that did not end the map wrote what to go on from, and K takes zeroes for the rest.
        cursor = Some(unsafe { next.assume_init() });
    }
}

fn call(command: libc::c_int, batch: &mut Batch) -> io::Result<()> {
    // SAFETY: `batch` is laid out as `union bpf_attr` for these commands, and what it points to outlives the call and has
    // room for `count` entries of the map's key and value sizes, which K and V are.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *batch, size_of::<Batch>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
