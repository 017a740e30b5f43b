//! The program that notes what is sent over UDP, on the way out of each filtered interface: by a link (tcx, Linux 6.6)
//! that is pinned as `sent-INDEX` directly below `pin_path`, else by a filter that is recorded there. Only where ports
//! are limited.

mod filter;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
};
use edge_common::names;

use super::link::{self, Held, pinned};
use crate::{
    error::{Blame, Context, Failure},
    netlink,
};

/// What the pins' names begin with.
pub const PREFIX: &str = "sent-";

/// What the link of an interface is pinned as.
pub fn pin_of(pin_path: &Path, index: u32) -> PathBuf {
    pin_path.join(format!("{PREFIX}{index}"))
}

/// What an attach did so far, so that a failure can undo it. Each by its pin or record.
#[derive(Default)]
pub struct Done {
    /// Made where none was.
    fresh: Vec<PathBuf>,
    /// Whose program was replaced.
    replaced: Vec<(netlink::Link, PathBuf)>,
}

impl Done {
    /// Puts the program on all of `links`: replaces it in place where a link is pinned, attaches it where none is.
    pub fn attach_all(
        &mut self,
        program: &mut SchedClassifier,
        pin_path: &Path,
        links: &[netlink::Link],
    ) -> Result<(), Failure> {
        for link in links {
            let pin = pin_of(pin_path, link.index);
            if pin.exists() && replace(program, link, &pin)? {
                self.replaced.push((link.clone(), pin));
            } else {
                attach_fresh(program, link, &pin)?;
                self.fresh.push(pin);
            }
        }
        Ok(())
    }

    /// `before`: the directory of the generation whose program was replaced.
    pub fn undo(&self, before: Option<&Path>) {
        for pin in &self.fresh {
            let _ = end(pin);
        }
        let Some(before) = before.filter(|_| !self.replaced.is_empty()) else { return };
        let mut program = match SchedClassifier::from_pin(before.join(names::EGRESS_PROGRAM)) {
            Ok(program) => program,
            Err(error) => return tracing::error!("the egress program before cannot be put back into force: {error}"),
        };
        for failed in self.replaced.iter().filter_map(|(link, pin)| replace(&mut program, link, pin).err()) {
            tracing::error!("the egress program before is not back in force: {failed}");
        }
    }
}

/// Takes the program off every interface that is not one of `links`.
pub fn detach_all_but(pin_path: &Path, links: &[netlink::Link]) {
    for (index, pin) in pinned(pin_path, PREFIX) {
        if !links.iter().any(|link| link.index == index) {
            let _ = end(&pin);
        }
    }
}

/// Held by a running agent.
#[derive(Debug)]
pub enum Noting {
    Link(Held),
    Filter,
}

impl Noting {
    pub fn of_pin(pin: &Path) -> Result<Noting, Failure> {
        if pin.is_dir() { Ok(Noting::Filter) } else { hold(pin).map(Noting::Link) }
    }

    /// Whether it is still attached to this interface.
    pub fn is_attached(&self, index: u32) -> bool {
        match self {
            Noting::Link(held) => held.interface() == Some(index),
            Noting::Filter => filter::is_attached(index),
        }
    }

    pub fn detach(&self, index: u32) {
        match self {
            Noting::Link(held) => held.detach(),
            Noting::Filter => filter::detach(index),
        }
    }

    /// Where nothing is.
    pub fn pin(&self, pin: &Path) -> Result<(), Failure> {
        match self {
            Noting::Link(held) => held.pin(pin).blame(Blame::System, || nowhere(pin)),
            Noting::Filter => filter::record_at(pin),
        }
    }
}

/// `false`: the pinned link's interface is gone, so the pin is removed.
fn replace(program: &mut SchedClassifier, interface: &netlink::Link, pin: &Path) -> Result<bool, Failure> {
    if pin.is_dir() {
        return filter::attach(program, interface, pin).map(|()| true);
    }
    let what = || format!("the program cannot be replaced through the link {}", pin.display());
    let link = FdLink::from(PinnedLink::from_pin(pin).blame(Blame::System, what)?);
    let link = SchedClassifierLink::try_from(link).blame(Blame::System, what)?;
    match program.attach_to_link(link) {
        Ok(id) => program.take_link(id).map(|_| true).blame(Blame::System, what),
        Err(ProgramError::SyscallError(call)) if call.io_error.raw_os_error() == Some(libc::ENOLINK) => {
            fs::remove_file(pin).blame(Blame::System, what)?;
            Ok(false)
        }
        Err(error) => Err(error).blame(Blame::System, what),
    }
}

/// Attaches where nothing of edge is: by a link where the kernel has such, else by a filter.
pub fn attach_fresh(program: &mut SchedClassifier, link: &netlink::Link, pin: &Path) -> Result<(), Failure> {
    let name = &link.name;
    let Err(refused) = attach_link(program, name, pin) else { return Ok(()) };
    filter::attach(program, link, pin).map_err(|failure| {
        let Failure { blame, message } = failure;
        let why = format!("answers to what {name} sends could not be told, as `filter.exposed_ports` needs");
        Failure::new(blame, format!("{why}: {message}, and {}", refused.message))
    })?;
    tracing::info!("{name}: {}, so what it sends is noted by a filter of clsact", refused.message);
    Ok(())
}

fn attach_link(program: &mut SchedClassifier, interface: &str, pin: &Path) -> Result<(), Failure> {
    let what = || "a tcx link was refused (there are some from Linux 6.6)".to_owned();
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(interface, TcAttachType::Egress, options).blame(Blame::System, what)?;
    let link: FdLink = program.take_link(id).blame(Blame::System, what)?.try_into().blame(Blame::System, what)?;
    link.pin(pin).blame(Blame::System, || nowhere(pin)).map(drop)
}

/// Detaches and removes the pin or the record. Where the first fails, the second is done all the same.
pub fn end(pin: &Path) -> io::Result<()> {
    if !pin.is_dir() {
        return link::end(pin);
    }
    index_of(pin).inspect(|index| filter::detach(*index));
    fs::remove_dir(pin)
}

/// Removes what is pinned or recorded of an interface that is gone.
pub fn forget(pin: &Path) {
    let _ = if pin.is_dir() { fs::remove_dir(pin) } else { fs::remove_file(pin) };
}

fn index_of(pin: &Path) -> Option<u32> {
    pin.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()
}

fn hold(pin: &Path) -> Result<Held, Failure> {
    Held::of_pin(pin).blame(Blame::System, || format!("the link {} cannot be opened", pin.display()))
}

fn nowhere(pin: &Path) -> String {
    format!("the link cannot be pinned as {}", pin.display())
}
