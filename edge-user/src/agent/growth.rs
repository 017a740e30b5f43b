//! Tables that grow: built anew with more room, and other seeds, beside those in force, and swapped as at a reload; before a
//! long list comes, or where too many found no room in them.

use std::time::Duration;

use tokio::time::Instant;

use super::{Agent, logged};
use crate::{
    control::protocol::Command,
    datapath::Singles6,
    error::{Blame, Context, Failure},
    netlink,
    targets::Targets,
};

/// After an attempt that failed nobody tries again for so long: what finds no room is in force all the same.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Until when nobody tries.
#[derive(Debug, Default)]
pub struct Growth(Option<Instant>);

impl Agent {
    /// Before what a command names is put into force.
    pub(super) fn make_room_for(&mut self, command: &Command) {
        let alone;
        let named: Vec<&Targets> = match command {
            Command::Import(import) => import.parcel.parts().iter().map(|part| &part.targets).collect(),
            Command::Restore(restore) => restore.state.blocks.parts().iter().map(|part| &part.targets).collect(),
            Command::Block(block) => {
                alone = block.targets.iter().copied().collect();
                vec![&alone]
            }
            _ => return,
        };
        let more = named.iter().map(|targets| Singles6::of(targets)).fold(Singles6::default(), Singles6::plus);
        // What is refused needs no room.
        let fits = || self.enforcer.has_room(Targets::union(named.iter().copied()).counts()).is_ok();
        if self.enforcer.is_crowded_by(more) && fits() {
            self.grow(more);
        }
    }

    pub(super) fn grow(&mut self, more: Singles6) {
        if !self.enforcer.is_crowded_by(more) || self.growth.0.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let grown = self.build_anew(more);
        self.growth.0 = grown.is_err().then(|| Instant::now() + AGAIN_AFTER);
        match grown {
            Ok(()) => tracing::info!("the tables were built anew, since too many found no room in them"),
            Err(failure) => tracing::error!("the tables cannot grow, so more is looked up as prefixes are: {failure}"),
        }
    }

    /// Tables from the model, with room for so many more, in place of those in force.
    pub(super) fn build_anew(&mut self, more: Singles6) -> Result<(), Failure> {
        let filter = &self.config.filter;
        // Those that are filtered, by whatever name: who is not, and should be, is `mend`'s.
        let there = netlink::links().blame(Blame::System, || "no interface is known".to_owned())?;
        let is_held = |link: &netlink::Link| self.enforcer.links().attached().any(|held| held.index == link.index);
        let links: Vec<netlink::Link> = there.into_iter().filter(is_held).collect();
        self.enforcer.grow(filter, &self.lock, &links, more)?;
        self.follow_drops();
        logged("watching connections", self.follow_connections());
        Ok(())
    }
}
