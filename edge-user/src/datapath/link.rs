//! Links: attaching the program to interfaces, replacing it in place, and taking everything away again.
//!
//! A link is pinned as `link-INDEX` directly below `pin_path`. No process keeps a descriptor of it, so removing the
//! pin detaches.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, LinkInfo, PinnedLink},
    xdp::XdpLink,
};

use edge_common::names;

use super::{Generation, Unloaded, egress, generation, wait_for_readers};
use crate::{
    config::Attach,
    error::{Blame, Context, Failure},
    netlink,
};

/// An interface that is filtered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    pub name: String,
    pub index: u32,
    /// Whether the driver runs the program, and not the network stack on its behalf.
    pub native: bool,
    pub program_id: u32,
}

/// Puts a generation into force on all of `links`: attaches where no link is pinned, then replaces the program in
/// place where one is. All of them or none: after a failure the program pinned as `before` is back on every link that
/// had it. Links of other interfaces end.
pub fn attach(
    generation: &mut Generation,
    before: Option<&Path>,
    pin_path: &Path,
    links: &[netlink::Link],
    mode: Attach,
) -> Result<Vec<Attached>, Failure> {
    let mut done = Done { fresh: Vec::new(), replaced: Vec::new() };
    // Before anything is dropped by it, so that no answer is.
    if let Some(egress) = generation.egress()? {
        egress::attach(egress, pin_path, links)?;
    }
    let program = generation.program()?;
    if let Err(failure) = done.attach_all(program, pin_path, links, mode) {
        done.undo(before);
        return Err(failure);
    }
    for (index, pin) in pinned_links(pin_path) {
        if !links.iter().any(|link| link.index == index) {
            let _ = fs::remove_file(pin);
        }
    }
    if generation.egress()?.is_none() {
        egress::detach_all_but(pin_path, &[]);
    }
    wait_for_readers();
    links.iter().map(|link| attached(&link.name)).collect()
}

/// The pins of links that an [`attach`] made, and of those whose program it replaced.
struct Done {
    fresh: Vec<PathBuf>,
    replaced: Vec<PathBuf>,
}

impl Done {
    fn attach_all(
        &mut self,
        program: &mut Xdp,
        pin_path: &Path,
        links: &[netlink::Link],
        mode: Attach,
    ) -> Result<(), Failure> {
        let pin_of = |link: &netlink::Link| pin_path.join(format!("link-{}", link.index));
        let (pinned, bare): (Vec<_>, Vec<_>) = links.iter().partition(|link| pin_of(link).exists());
        for link in bare {
            self.attach_one(program, link, mode, pin_of(link))?;
        }
        for link in pinned {
            let pin = pin_of(link);
            if replace(program, &pin)? {
                self.replaced.push(pin);
            } else {
                self.attach_one(program, link, mode, pin)?;
            }
        }
        Ok(())
    }

    fn attach_one(
        &mut self,
        program: &mut Xdp,
        link: &netlink::Link,
        mode: Attach,
        pin: PathBuf,
    ) -> Result<(), Failure> {
        attach_fresh(program, link, mode, &pin)?;
        self.fresh.push(pin);
        Ok(())
    }

    fn undo(&self, before: Option<&Path>) {
        for pin in &self.fresh {
            detach_now(pin);
            let _ = fs::remove_file(pin);
        }
        let Some(before) = before.filter(|_| !self.replaced.is_empty()) else { return };
        match Xdp::from_pin(before, aya_obj::programs::XdpAttachType::Interface) {
            Ok(mut program) => {
                for failed in self.replaced.iter().filter_map(|pin| replace(&mut program, pin).err()) {
                    tracing::error!("the program before is not back in force: {failed}");
                }
            }
            Err(error) => tracing::error!("the program before cannot be put back into force: {error}"),
        }
    }
}

/// What the kernel says of an interface now.
fn attached(name: &str) -> Result<Attached, Failure> {
    let link = netlink::link(name).blame(Blame::System, || format!("interface {name} cannot be looked up"))?;
    let hook = link.and_then(|link| link.xdp.map(|hook| (link.index, hook)));
    let Some((index, hook)) = hook else {
        return Err(Failure::system(format!("the program is not attached to {name} though the kernel said so")));
    };
    let native = !matches!(hook.mode, netlink::XdpAttached::Generic);
    Ok(Attached { name: name.to_owned(), index, native, program_id: hook.program_id })
}

/// `false`: the pinned link's interface is gone, so the pin is removed.
fn replace(program: &mut Xdp, pin: &Path) -> Result<bool, Failure> {
    let what = || format!("the program cannot be replaced through the link {}", pin.display());
    let link = FdLink::from(PinnedLink::from_pin(pin).blame(Blame::System, what)?);
    let link = XdpLink::try_from(link).blame(Blame::System, what)?;
    match program.attach_to_link(link) {
        Ok(id) => {
            program.take_link(id).blame(Blame::System, what)?;
            Ok(true)
        }
        Err(ProgramError::SyscallError(call)) if call.io_error.raw_os_error() == Some(libc::ENOLINK) => {
            fs::remove_file(pin).blame(Blame::System, what)?;
            Ok(false)
        }
        Err(error) => Err(error).blame(Blame::System, what),
    }
}

fn attach_fresh(program: &mut Xdp, link: &netlink::Link, mode: Attach, pin: &Path) -> Result<(), Failure> {
    if let Some(hook) = &link.xdp {
        return Err(occupied(link, hook.program_id));
    }
    let modes: &[XdpMode] = match mode {
        Attach::Auto => &[XdpMode::Driver, XdpMode::Skb],
        Attach::Native => &[XdpMode::Driver],
        Attach::Generic => &[XdpMode::Skb],
    };
    let mut refused = String::new();
    for mode in modes {
        match program.attach_to_if_index(link.index, *mode) {
            Ok(id) => return pin_link(program, id, pin),
            Err(error) if is_permission(&error) => {
                return Err(Failure::forbidden(format!(
                    "the kernel does not let this process attach to {}; run as root or with CAP_NET_ADMIN and CAP_BPF",
                    link.name
                )));
            }
            Err(error) if is_busy(&error) => return Err(occupied(link, 0)),
            Err(error) => {
                if matches!(mode, XdpMode::Driver) && modes.len() > 1 {
                    tracing::warn!("{}: native mode refused ({}); generic mode is tried", link.name, reason(&error));
                }
                refused = reason(&error);
            }
        }
    }
    Err(Failure::system(format!("the program cannot be attached to {}: {refused}", link.name)))
}

fn pin_link(program: &mut Xdp, id: aya::programs::xdp::XdpLinkId, pin: &Path) -> Result<(), Failure> {
    let what = || format!("the link cannot be pinned as {}", pin.display());
    let link: FdLink = program
        .take_link(id)
        .blame(Blame::System, what)?
        .try_into()
        .blame(Blame::System, || "the kernel is too old for XDP links (Linux 5.9)".to_owned())?;
    link.pin(pin).blame(Blame::System, what).map(drop)
}

fn occupied(link: &netlink::Link, program_id: u32) -> Failure {
    let id = if program_id == 0 {
        netlink::link(&link.name).ok().flatten().and_then(|link| link.xdp).map_or(0, |hook| hook.program_id)
    } else {
        program_id
    };
    let name = program_name(id);
    let remedy = if name.as_deref() == Some(names::PROGRAM) {
        "an edge with another `filter.pin_path` filters it; `edge unload` with that one's config frees it".to_owned()
    } else {
        format!("detach it (`ip link set dev {} xdp off`) or leave the interface out of `filter.interfaces`", link.name)
    };
    let name = name.map_or(String::new(), |name| format!(" `{name}`"));
    Failure::refused(format!("the XDP hook of {} is taken by program {id}{name}; {remedy}", link.name))
}

/// The name of a loaded program, where this process may ask.
pub fn program_name(id: u32) -> Option<String> {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == id)
        .and_then(|info| info.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty())
}

fn source(error: &ProgramError) -> Option<&io::Error> {
    match error {
        ProgramError::SyscallError(call) => Some(&call.io_error),
        ProgramError::XdpError(aya::programs::xdp::XdpError::NetlinkError(_)) => None,
        _ => None,
    }
}

fn is_permission(error: &ProgramError) -> bool {
    source(error).is_some_and(|error| error.raw_os_error() == Some(libc::EPERM))
}

fn is_busy(error: &ProgramError) -> bool {
    source(error).is_some_and(|error| matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)))
}

fn reason(error: &ProgramError) -> String {
    source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

pub(super) fn pinned_links(pin_path: &Path) -> Vec<(u32, PathBuf)> {
    pinned(pin_path, "link-")
}

/// The pins below `pin_path` whose names are `prefix` and the index of an interface.
pub(super) fn pinned(pin_path: &Path, prefix: &str) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(pin_path) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let index = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((index, entry.path()))
        })
        .collect()
}

/// Whether nothing of edge is pinned: what fails now leaves nothing that was in force.
pub fn is_bare(pin_path: &Path) -> bool {
    pinned_links(pin_path).is_empty() && generation::directories(pin_path).is_ok_and(|found| found.is_empty())
}

/// Ids of the programs that the pinned links run.
pub fn programs_in_force(pin_path: &Path) -> Vec<u32> {
    pinned_links(pin_path)
        .into_iter()
        .filter_map(|(_, pin)| PinnedLink::from_pin(pin).ok())
        .filter_map(|link| FdLink::from(link).info().ok())
        .map(|info: LinkInfo| info.program_id())
        .collect()
}

/// Detaches through the link (`BPF_LINK_DETACH`, Linux 5.9): a link whose pin is removed is freed only later. aya has no
/// call for it. Where it fails, removing the pin detaches all the same.
pub(super) fn detach_now(pin: &Path) {
    const BPF_OBJ_GET: i32 = 7;
    const BPF_LINK_DETACH: i32 = 34;
    /// `union bpf_attr` of `BPF_OBJ_GET`.
    #[repr(C)]
    struct Get {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let Ok(path) = CString::new(pin.as_os_str().as_bytes()) else { return };
    let get = Get { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the attribute and the path it points to outlive the call; the kernel only reads them.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const get, size_of::<Get>()) };
    let Ok(fd @ 0..) = i32::try_from(fd) else { return };
    // SAFETY: a descriptor that the kernel has just made for this process.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let attribute = link.as_raw_fd();
    // SAFETY: the attribute of this command is the link's descriptor alone.
    unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const attribute, size_of::<i32>()) };
}

/// Detaches everything and removes every pin, and the directory with them. Done also where there was nothing.
pub fn unload(pin_path: &Path) -> Result<Unloaded, Failure> {
    if !super::is_there(pin_path)? {
        return Ok(Unloaded::default());
    }
    let unloaded = Unloaded::below(pin_path);
    for (_, pin) in pinned_links(pin_path).into_iter().chain(pinned(pin_path, egress::PREFIX)) {
        detach_now(&pin);
        fs::remove_file(&pin).blame(Blame::System, || format!("the link {} cannot be removed", pin.display()))?;
    }
    let entries = fs::read_dir(pin_path).blame(Blame::System, || format!("{} cannot be read", pin_path.display()))?;
    for entry in entries.filter_map(Result::ok) {
        if entry.path().is_dir() {
            generation::remove(&entry.path());
        } else {
            let _ = fs::remove_file(entry.path());
        }
    }
    fs::remove_dir(pin_path).blame(Blame::System, || format!("{} cannot be removed", pin_path.display()))?;
    Ok(unloaded)
}
