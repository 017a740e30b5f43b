//! What an interface is to an agent that filters it, or would.

use crate::{
    error::{Blame, Context, Failure},
    netlink::{self, Link, XdpAttached, XdpHook},
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

/// An interface that is to be filtered and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfiltered {
    pub name: String,
    pub reason: String,
    /// The mode that it was filtered in last, or would be.
    pub native: bool,
    /// Whose program has its hook.
    pub(super) taken_by: Option<u32>,
}

impl Attached {
    pub(super) fn of(link: &Link, hook: XdpHook) -> Attached {
        let native = !matches!(hook.mode, XdpAttached::Generic);
        Attached { name: link.name.clone(), index: link.index, native, program_id: hook.program_id }
    }

    /// What the kernel says of an interface now.
    pub(super) fn ask(link: &Link) -> Result<Attached, Failure> {
        let what = || format!("interface {} cannot be looked up", link.name);
        let now = netlink::links().blame(Blame::System, what)?.into_iter().find(|now| now.index == link.index);
        let lost =
            || Failure::system(format!("the program is not attached to {} though the kernel said so", link.name));
        Ok(Attached::of(link, now.and_then(|now| now.xdp).ok_or_else(lost)?))
    }

    pub const fn mode(&self) -> &'static str {
        mode(self.native)
    }
}

impl Unfiltered {
    pub const fn mode(&self) -> &'static str {
        mode(self.native)
    }
}

const fn mode(native: bool) -> &'static str {
    if native { "native" } else { "generic" }
}
