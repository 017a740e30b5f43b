//! The program that counts connections. Its link is pinned with the generation and ends with it: the next one's program is
//! attached beside it before, and since a connection is named by its cookie, what both see is counted once.

use std::{fs::File, os::fd::AsFd as _, path::Path};

use aya::{
    Ebpf,
    maps::Map,
    programs::{CgroupAttachMode, ProgramError, SkSkb, SockOps, links::FdLink},
};
use edge_common::names;

use super::Connections;
use crate::{
    cgroup,
    datapath::{
        Generation, descriptor,
        link::{Held, attach_to_sockets},
        wait_for_readers,
    },
    error::{Blame, Context, Failure},
};

/// What the link is pinned as, beside the program.
const LINK: &str = "edge_count_link";

/// The link, which stays as long as somebody holds it or its pin.
pub struct Counting(Held);

/// Loads what counts, and what silences connections over the cap, which lasts as long as the map of their sockets.
pub fn load(object: &mut Ebpf) -> Result<(), ProgramError> {
    program(object)?.load()?;
    let silence: &mut SkSkb = object.program_mut(names::SILENCE_PROGRAM).ok_or(ProgramError::NotLoaded)?.try_into()?;
    silence.load()
}

fn silence(object: &mut Ebpf) -> Result<(), Failure> {
    let what = || "connections over the cap cannot be silenced (CONFIG_BPF_STREAM_PARSER)".to_owned();
    let missing = || Failure::bug("the object lacks what silences connections");
    let sockets = object.map(names::SILENCED).ok_or_else(missing)?;
    let Map::SockHash(sockets) = sockets else { return Err(missing()) };
    let sockets = descriptor(sockets).try_clone_to_owned().blame(Blame::System, what)?;
    let program: &SkSkb =
        object.program(names::SILENCE_PROGRAM).and_then(|program| program.try_into().ok()).ok_or_else(missing)?;
    attach_to_sockets(program.fd().blame(Blame::System, what)?.as_fd(), sockets.as_fd()).blame(Blame::System, what)
}

fn program(object: &mut Ebpf) -> Result<&mut SockOps, ProgramError> {
    object.program_mut(names::COUNT_PROGRAM).ok_or(ProgramError::NotLoaded)?.try_into()
}

impl Counting {
    /// Attaches and pins.
    fn attach(object: &mut Ebpf, directory: &Path) -> Result<Counting, Failure> {
        let root = cgroup::root()?;
        let what = || format!("connections cannot be counted: the cgroup {}", root.display());
        let cgroup = File::open(&root).blame(Blame::System, what)?;
        let program = program(object).blame(Blame::System, what)?;
        let id = program.attach(cgroup, CgroupAttachMode::Single).blame(Blame::System, what)?;
        let link: FdLink = program.take_link(id).blame(Blame::System, what)?.try_into().blame(Blame::System, what)?;
        let pin = directory.join(LINK);
        let what = || nowhere(&pin);
        link.pin(&pin).blame(Blame::System, what)?;
        Held::of_pin(&pin).blame(Blame::System, what).map(Counting)
    }

    /// Pins it where it is pinned no more; gives how many were not.
    pub fn pin_again(&self, directory: &Path) -> Result<u64, Failure> {
        let pin = directory.join(LINK);
        if pin.exists() {
            return Ok(0);
        }
        self.0.pin(&pin).blame(Blame::System, || nowhere(&pin)).map(|()| 1)
    }
}

impl Generation {
    /// Attaches again what somebody detached; gives how many. What was opened meanwhile is found when counts are compared
    /// with sockets.
    pub(in crate::datapath) fn count_again(&mut self) -> Result<u64, Failure> {
        let directory = self.directory().to_owned();
        let (Some(counting), Some(object)) = (&mut self.counting, &mut self.object) else { return Ok(0) };
        if counting.0.is_attached() {
            return Ok(0);
        }
        let _ = std::fs::remove_file(directory.join(LINK));
        *counting = Counting::attach(object, &directory)?;
        tracing::warn!("connections were counted no more, by something from outside; they are again");
        Ok(1)
    }

    /// Counts connections from here on, those that are open included, where they are capped. `before`: the directory of
    /// the generation that is in force, whose counts go on.
    pub(in crate::datapath) fn count_connections(&mut self, before: Option<&Path>) -> Result<(), Failure> {
        let Some(mut connections) = Connections::of(self)? else { return Ok(()) };
        let directory = self.directory().to_owned();
        let object =
            self.object.as_mut().ok_or_else(|| Failure::bug("a generation that was only opened is attached"))?;
        silence(object)?;
        self.counting = Some(Counting::attach(object, &directory)?);
        // What a CPU counts now by the programs before alone is in their list by then.
        wait_for_readers();
        if let Some(before) = before.filter(|_| !self.counts_go_on) {
            let before = Generation::of_pins(before).and_then(|before| Connections::of(&before));
            match before {
                Ok(Some(before)) => connections.carry(&before)?,
                Ok(None) => {}
                Err(failure) => tracing::warn!("{failure}; connections are counted from the kernel's sockets"),
            }
        }
        let left_out = super::compare::enter_open(&mut connections)?;
        connections.miscounted(left_out);
        self.connections = Some(connections);
        Ok(())
    }
}

fn nowhere(pin: &Path) -> String {
    format!("the link cannot be pinned as {}", pin.display())
}
