//! Traffic-control filters on the way out of an interface, below its `clsact` queueing discipline.

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHandle, TcMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{NetlinkError, dump, exchange};

/// Where a filter stands among those of one interface and direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterPlace {
    pub priority: u16,
    pub handle: u32,
}

const EGRESS: TcHandle = TcHandle { major: u16::MAX, minor: TcHandle::MIN_EGRESS };
const WHAT: &str = "the filters of an interface";

/// None where the interface is gone, or has no such queueing discipline.
pub fn egress_filters(index: u32) -> Result<Vec<FilterPlace>, NetlinkError> {
    let answers: Vec<RouteNetlinkMessage> =
        dump(NETLINK_ROUTE, &RouteNetlinkMessage::GetTrafficFilter(below(index)), WHAT)?;
    let places = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewTrafficFilter(filter) => {
            Some(FilterPlace { priority: (filter.header.info >> 16) as u16, handle: filter.header.handle.into() })
        }
        _ => None,
    });
    Ok(places.collect())
}

pub fn remove_egress_filter(index: u32, place: FilterPlace) -> Result<(), NetlinkError> {
    let mut filter = below(index);
    filter.header.handle = place.handle.into();
    // For every protocol (`ETH_P_ALL`), in network byte order.
    filter.header.info = u32::from(place.priority) << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    let request = RouteNetlinkMessage::DelTrafficFilter(filter);
    exchange::<_, RouteNetlinkMessage>(NETLINK_ROUTE, NLM_F_ACK, request, WHAT).map(drop)
}

fn below(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = EGRESS;
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_has_none_and_there_is_nothing_to_remove() {
        let index = u32::MAX >> 1;
        assert!(egress_filters(index).is_ok_and(|found| found.is_empty()));
        assert!(remove_egress_filter(index, FilterPlace { priority: 1, handle: 1 }).is_err());
    }
}
