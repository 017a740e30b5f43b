//! Links: attaching the programs to interfaces at a start, replacing them in place, and taking everything away again.
//! [`Links`] holds them from then on.
//!
//! A link is pinned as `link-INDEX` directly below `pin_path`: what is pinned outlives the agent.

mod attached;
mod done;
mod held;
mod hook;
mod keep;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::programs::{
    ProgramError, Xdp,
    links::{FdLink, LinkInfo, PinnedLink},
    xdp::XdpLink,
};

pub(super) use self::held::{Held, attach_to_sockets};
pub use self::{
    attached::{Attached, Unfiltered},
    hook::{program_name, remedy},
    keep::{Links, Look, Mended},
};
use self::{done::Done, hook::attach_fresh};
use super::{Generation, Unloaded, egress, generation, wait_for_readers};
use crate::{
    config::Attach,
    error::{Blame, Context, Failure},
    netlink,
};

/// Puts a generation into force on all of `links`: attaches where no link is pinned, then replaces the program in
/// place where one is. One that is attached in another mode than is asked for is attached anew, since the kernel has no
/// way from one to the other. All of them or none: after a failure the programs pinned in the directory `before` are back
/// wherever they were. Links of other interfaces end.
pub fn attach(
    generation: &mut Generation,
    before: Option<&Path>,
    pin_path: &Path,
    links: &[netlink::Link],
    mode: Attach,
) -> Result<Links, Failure> {
    generation.count_connections(before)?;
    let mut done = Done::default();
    let attached = done.attach_all(generation, pin_path, links, mode);
    let held = attached.and_then(|()| Links::of_pins(generation, pin_path, links, mode));
    let held = held.inspect_err(|_| done.undo(before))?;
    for (index, pin) in pinned_links(pin_path) {
        if !links.iter().any(|link| link.index == index) {
            let _ = fs::remove_file(pin);
        }
    }
    let noted = if generation.egress()?.is_some() { links } else { &[] };
    egress::detach_all_but(pin_path, noted);
    wait_for_readers();
    Ok(held)
}

/// What the link of an interface is pinned as.
fn pin_of(pin_path: &Path, index: u32) -> PathBuf {
    pin_path.join(format!("link-{index}"))
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

/// Detaches through the link and removes its pin. Where the first fails, the second detaches all the same.
pub(super) fn end(pin: &Path) -> io::Result<()> {
    if let Ok(link) = Held::of_pin(pin) {
        link.detach();
    }
    fs::remove_file(pin)
}

/// The interfaces that have a pinned link.
pub fn pinned_interfaces(pin_path: &Path) -> Vec<u32> {
    pinned_links(pin_path).into_iter().map(|(index, _)| index).collect()
}

/// Detaches everything and removes every pin, and the directory with them. Done also where there was nothing.
pub fn unload(pin_path: &Path) -> Result<Unloaded, Failure> {
    if !super::is_there(pin_path)? {
        return Ok(Unloaded::default());
    }
    let unloaded = Unloaded::below(pin_path);
    let what = |pin: &Path| format!("the link {} cannot be removed", pin.display());
    for (_, pin) in pinned_links(pin_path) {
        end(&pin).blame(Blame::System, || what(&pin))?;
    }
    for (_, pin) in pinned(pin_path, egress::PREFIX) {
        egress::end(&pin).blame(Blame::System, || what(&pin))?;
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
