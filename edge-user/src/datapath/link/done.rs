//! What an attach did so far, so that a failure can undo it.

use std::path::{Path, PathBuf};

use aya::programs::Xdp;
use edge_common::names;

use super::{Generation, attach_fresh, egress, end, pin_of, replace};
use crate::{
    config::Attach,
    error::Failure,
    netlink::{Link, XdpAttached},
};

/// Links by their pins.
#[derive(Default)]
pub struct Done {
    /// Made where none was.
    fresh: Vec<PathBuf>,
    /// Whose program was replaced.
    replaced: Vec<PathBuf>,
    /// Which ended, to be made again in another mode: the interface, free, and the mode that it had.
    moved: Vec<(Link, Attach, PathBuf)>,
    egress: egress::Done,
}

impl Done {
    pub fn attach_all(
        &mut self,
        generation: &mut Generation,
        pin_path: &Path,
        links: &[Link],
        mode: Attach,
    ) -> Result<(), Failure> {
        // Before anything is dropped by the filter, so that no answer is.
        if let Some(egress) = generation.egress()? {
            self.egress.attach_all(egress, pin_path, links)?;
        }
        self.filter_all(generation.program()?, pin_path, links, mode)
    }

    /// What can fail at no cost goes first; what leaves an interface without a program for a moment, last.
    fn filter_all(&mut self, program: &mut Xdp, pin_path: &Path, links: &[Link], mode: Attach) -> Result<(), Failure> {
        let pin_of = |link: &Link| pin_of(pin_path, link.index);
        let (pinned, bare): (Vec<_>, Vec<_>) = links.iter().partition(|link| pin_of(link).exists());
        let (to_move, to_replace): (Vec<_>, Vec<_>) = pinned.into_iter().partition(|link| leaves(link, mode).is_some());
        for link in bare {
            self.attach_one(program, link, mode, pin_of(link))?;
        }
        for link in to_replace {
            let pin = pin_of(link);
            if replace(program, &pin)? {
                self.replaced.push(pin);
            } else {
                self.attach_one(program, link, mode, pin)?;
            }
        }
        to_move.into_iter().try_for_each(|link| self.move_one(program, link, mode, pin_of(link)))
    }

    fn attach_one(&mut self, program: &mut Xdp, link: &Link, mode: Attach, pin: PathBuf) -> Result<(), Failure> {
        attach_fresh(program, link, mode, &pin)?;
        self.fresh.push(pin);
        Ok(())
    }

    fn move_one(&mut self, program: &mut Xdp, link: &Link, mode: Attach, pin: PathBuf) -> Result<(), Failure> {
        let Some(former) = leaves(link, mode) else { return Ok(()) };
        let free = Link { xdp: None, ..link.clone() };
        let _ = end(&pin);
        self.moved.push((free.clone(), former, pin.clone()));
        attach_fresh(program, &free, mode, &pin)?;
        tracing::warn!("{} changed its mode; until it had, for a moment nothing was dropped there", link.name);
        Ok(())
    }

    /// `before`: the directory of the generation whose programs were replaced.
    pub fn undo(&self, before: Option<&Path>) {
        self.undo_filter(before);
        // After what drops.
        self.egress.undo(before);
    }

    fn undo_filter(&self, before: Option<&Path>) {
        for pin in self.fresh.iter().chain(self.moved.iter().map(|(_, _, pin)| pin)) {
            let _ = end(pin);
        }
        let Some(before) = before.filter(|_| !(self.replaced.is_empty() && self.moved.is_empty())) else { return };
        let pin = before.join(names::PROGRAM);
        let mut program = match Xdp::from_pin(pin, aya_obj::programs::XdpAttachType::Interface) {
            Ok(program) => program,
            Err(error) => return tracing::error!("the program before cannot be put back into force: {error}"),
        };
        for failed in self.replaced.iter().filter_map(|pin| replace(&mut program, pin).err()) {
            tracing::error!("the program before is not back in force: {failed}");
        }
        for (link, former, pin) in &self.moved {
            if let Err(failed) = attach_fresh(&mut program, link, *former, pin) {
                tracing::error!("the program before is not back in force: {failed}");
            }
        }
    }
}

/// The mode that an interface has, where it may not stay in it.
fn leaves(link: &Link, asked: Attach) -> Option<Attach> {
    let is_generic = matches!(link.xdp?.mode, XdpAttached::Generic);
    match asked {
        Attach::Native if is_generic => Some(Attach::Generic),
        Attach::Generic if !is_generic => Some(Attach::Native),
        Attach::Auto | Attach::Native | Attach::Generic => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::XdpHook;

    #[test]
    fn only_who_is_told_so_leaves_its_mode() {
        let link = |mode| Link {
            index: 2,
            name: "eth0".to_owned(),
            up: true,
            ethernet: true,
            xdp: Some(XdpHook { mode, program_id: 7 }),
        };
        let (native, generic) = (link(XdpAttached::Native), link(XdpAttached::Generic));
        assert_eq!((leaves(&native, Attach::Auto), leaves(&generic, Attach::Auto)), (None, None));
        assert_eq!(leaves(&native, Attach::Native), None);
        assert_eq!(leaves(&native, Attach::Generic), Some(Attach::Native));
        assert_eq!(leaves(&generic, Attach::Native), Some(Attach::Generic));
        assert_eq!(leaves(&Link { xdp: None, ..native }, Attach::Generic), None);
    }
}
