//! The program as a traffic-control filter of the `clsact` queueing discipline, where the kernel has no tcx (before Linux
//! 6.6) or refuses it. Such a filter is no link and cannot be pinned: an empty directory in the place of the link's pin
//! records it, so that the next start, a reload and an unload find it. The queueing discipline stays: others may have
//! come to use it, and empty it costs nothing.

use std::{fs, mem, path::Path};

use aya::programs::{
    SchedClassifier, TcAttachType,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
};

use crate::{
    error::{Blame, Context, Failure},
    netlink::{self, FilterPlace},
};

/// Before others: one that ends the walk over the filters would hide from it what is sent.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0xed9e);
const PLACE: FilterPlace = FilterPlace { priority: PRIORITY, handle: 0xed9e };

/// Puts the program in its place and records it; in one step where a former one is there.
pub fn attach(program: &mut SchedClassifier, link: &netlink::Link, record: &Path) -> Result<(), Failure> {
    let what = || format!("a filter for what {} sends cannot be attached", link.name);
    match qdisc_add_clsact(&link.name) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        added => added.blame(Blame::System, what)?,
    }
    let id = if is_attached(link.index) {
        let former = SchedClassifierLink::attached(&link.name, TcAttachType::Egress, PRIORITY, HANDLE, None);
        program.attach_to_link(former.blame(Blame::System, what)?)
    } else {
        let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
        program.attach_with_options(&link.name, TcAttachType::Egress, TcAttachOptions::Netlink(options))
    };
    // It would detach as it is dropped, and is nothing but the filter's place.
    mem::forget(id.and_then(|id| program.take_link(id)).blame(Blame::System, what)?);
    record_at(record)
}

pub fn is_attached(index: u32) -> bool {
    netlink::egress_filters(index).is_ok_and(|found| found.contains(&PLACE))
}

/// Nothing can be done about a failure; a filter that is left notes, and drops nothing.
pub fn detach(index: u32) {
    let _ = netlink::remove_egress_filter(index, PLACE);
}

pub fn record_at(record: &Path) -> Result<(), Failure> {
    fs::create_dir_all(record).blame(Blame::System, || format!("the record {} cannot be made", record.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_one_and_the_same_for_both_sides() {
        assert_eq!(u32::from(HANDLE), PLACE.handle);
    }
}
