//! Links of the program that notes what is sent over UDP, on the way out of each filtered interface (tcx, Linux 6.6).
//! Pinned as `sent-INDEX` directly below `pin_path`; there only where ports are limited.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLink, TcAttachOptions},
};
use edge_common::names;

use super::link::{end, pinned};
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

/// What an attach did so far, so that a failure can undo it. Links by their pins.
#[derive(Default)]
pub struct Done {
    /// Made where none was.
    fresh: Vec<PathBuf>,
    /// Whose program was replaced.
    replaced: Vec<PathBuf>,
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
            if pin.exists() && replace(program, &pin)? {
                self.replaced.push(pin);
            } else {
                attach_fresh(program, &link.name, &pin)?;
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
        for failed in self.replaced.iter().filter_map(|pin| replace(&mut program, pin).err()) {
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

/// `false`: the pinned link's interface is gone, so the pin is removed.
fn replace(program: &mut SchedClassifier, pin: &Path) -> Result<bool, Failure> {
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

pub fn attach_fresh(program: &mut SchedClassifier, interface: &str, pin: &Path) -> Result<(), Failure> {
    let what = || {
        format!(
            "what {interface} sends cannot be noted, so answers to it could not be told (`filter.exposed_ports` needs Linux 6.6)"
        )
    };
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(interface, TcAttachType::Egress, options).blame(Blame::System, what)?;
    let link: FdLink = program.take_link(id).blame(Blame::System, what)?.try_into().blame(Blame::System, what)?;
    link.pin(pin).blame(Blame::System, || format!("the link cannot be pinned as {}", pin.display())).map(drop)
}
