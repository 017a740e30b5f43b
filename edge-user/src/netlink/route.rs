//! Interfaces, addresses and default routes (`NETLINK_ROUTE`).

use std::{collections::BTreeSet, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{self as wire, LinkAttribute, LinkExtentMask, LinkFlags, LinkLayerType, LinkMessage, LinkXdp},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{NetlinkError, dump};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Set up by its administrator, whether or not it has a carrier.
    pub up: bool,
    /// Its frames begin with an Ethernet header (`ARPHRD_ETHER`).
    pub ethernet: bool,
    /// Whose program sits at its XDP hook.
    pub xdp: Option<XdpHook>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpHook {
    pub mode: XdpAttached,
    /// The kernel's id of the program.
    pub program_id: u32,
}

/// Where on the way of a packet the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpAttached {
    /// In the driver.
    Native,
    /// After the kernel made a socket buffer.
    Generic,
    /// On the card.
    Offloaded,
}

pub fn links() -> Result<Vec<Link>, NetlinkError> {
    let mut request = LinkMessage::default();
    // Counting over all CPUs is most of the work, and nobody reads it.
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let answers = ask(RouteNetlinkMessage::GetLink(request), "the interfaces")?;
    let links = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(Link::read(message)),
        _ => None,
    });
    Ok(links.collect())
}

/// The interface of this name, if there is one.
pub fn link(name: &str) -> Result<Option<Link>, NetlinkError> {
    Ok(links()?.into_iter().find(|link| link.name == name))
}

impl Link {
    fn read(message: LinkMessage) -> Link {
        let header = message.header;
        let mut link = Link {
            index: header.index,
            name: String::new(),
            up: header.flags.contains(LinkFlags::Up),
            ethernet: header.link_layer_type == LinkLayerType::Ether,
            xdp: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Xdp(hook) => link.xdp = XdpHook::read(&hook),
                _ => {}
            }
        }
        link
    }
}

impl XdpHook {
    /// Several programs at once are told by the one that sees a packet first.
    fn read(attributes: &[LinkXdp]) -> Option<XdpHook> {
        let find = |pick: fn(&LinkXdp) -> Option<u32>| attributes.iter().find_map(pick).filter(|id| *id != 0);
        let any = find(|attribute| if let LinkXdp::ProgId(id) = attribute { Some(*id) } else { None });
        let hook = |mode, id: Option<u32>| id.map(|program_id| XdpHook { mode, program_id });
        let offloaded = find(|attribute| if let LinkXdp::HwProgId(id) = attribute { Some(*id) } else { None });
        let native = find(|attribute| if let LinkXdp::DrvProgId(id) = attribute { Some(*id) } else { None });
        let generic = find(|attribute| if let LinkXdp::SkbProgId(id) = attribute { Some(*id) } else { None });
        let attached = attributes.iter().find_map(|attribute| match attribute {
            LinkXdp::Attached(wire::XdpAttached::Driver) => Some(XdpAttached::Native),
            LinkXdp::Attached(wire::XdpAttached::SocketBuffer) => Some(XdpAttached::Generic),
            LinkXdp::Attached(wire::XdpAttached::Hardware) => Some(XdpAttached::Offloaded),
            _ => None,
        });
        hook(XdpAttached::Offloaded, offloaded)
            .or(hook(XdpAttached::Native, native))
            .or(hook(XdpAttached::Generic, generic))
            .or_else(|| attached.and_then(|mode| hook(mode, any)))
    }
}

/// The addresses that belong to this host.
pub fn own_addresses() -> Result<Vec<IpAddr>, NetlinkError> {
    let answers = ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()), "the host's addresses")?;
    let addresses: BTreeSet<IpAddr> = answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => own_address(&message.attributes),
            _ => None,
        })
        .collect();
    Ok(addresses.into_iter().collect())
}

/// Of a point-to-point link `Address` is the other end; `Local`, where given, is always ours.
fn own_address(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

/// The interfaces that a default route of the main table, IPv4 or IPv6, leads out of.
pub fn default_route_interfaces() -> Result<Vec<String>, NetlinkError> {
    let indices = default_route_indices()?;
    Ok(links()?.into_iter().filter(|link| indices.contains(&link.index)).map(|link| link.name).collect())
}

/// The same by index.
pub fn default_route_indices() -> Result<BTreeSet<u32>, NetlinkError> {
    let routes = default_routes()?;
    Ok(routes.iter().filter(|route| route.header.table == RouteHeader::RT_TABLE_MAIN).flat_map(outgoing).collect())
}

/// The next hops of the default routes of every table.
pub fn gateways() -> Result<Vec<IpAddr>, NetlinkError> {
    let gateways: BTreeSet<IpAddr> = default_routes()?
        .iter()
        .flat_map(|route| {
            let hops = hops(route).flat_map(|hop| &hop.attributes);
            route.attributes.iter().chain(hops).filter_map(gateway).collect::<Vec<_>>()
        })
        .collect();
    Ok(gateways.into_iter().collect())
}

fn default_routes() -> Result<Vec<RouteMessage>, NetlinkError> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let answers = ask(RouteNetlinkMessage::GetRoute(request), "the routes")?;
        routes.extend(answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) if is_default(&route) => Some(route),
            _ => None,
        }));
    }
    Ok(routes)
}

fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast
}

fn hops(route: &RouteMessage) -> impl Iterator<Item = &netlink_packet_route::route::RouteNextHop> {
    route.attributes.iter().flat_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => hops.as_slice(),
        _ => &[],
    })
}

fn outgoing(route: &RouteMessage) -> Vec<u32> {
    let single = route.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    single.chain(hops(route).map(|hop| hop.interface_index)).collect()
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) | RouteAttribute::Via(RouteVia::Inet(address)) => {
            Some(IpAddr::V4(*address))
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) | RouteAttribute::Via(RouteVia::Inet6(address)) => {
            Some(IpAddr::V6(*address))
        }
        _ => None,
    }
}

fn ask(request: RouteNetlinkMessage, what: &'static str) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
    dump(NETLINK_ROUTE, &request, what)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use netlink_packet_route::route::RouteNextHop;

    use super::*;

    #[test]
    fn the_loopback_is_a_link_and_no_ethernet() {
        let lo = link("lo").unwrap().unwrap();
        assert_eq!((lo.index, lo.ethernet, lo.xdp), (1, false, None));
        assert!(links().unwrap().contains(&lo));
        assert_eq!(link("no such name").unwrap(), None);
    }

    #[test]
    fn the_hosts_own_addresses_are_listed_once_each() {
        let addresses = own_addresses().unwrap();
        let once: BTreeSet<&IpAddr> = addresses.iter().collect();
        assert_eq!(once.len(), addresses.len());
        if link("lo").unwrap().unwrap().up {
            assert!(addresses.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{addresses:?}");
        }
    }

    #[test]
    fn default_routes_agree_with_procfs() {
        let table = std::fs::read_to_string("/proc/net/route").unwrap();
        let interfaces = default_route_interfaces().unwrap();
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[1] == "00000000" && fields[7] == "00000000" {
                assert!(interfaces.contains(&fields[0].to_owned()), "{interfaces:?} lacks {}", fields[0]);
            }
            let gateway = u32::from_str_radix(fields[2], 16).unwrap().to_ne_bytes();
            if fields[1] == "00000000" && fields[2] != "00000000" {
                assert!(gateways().unwrap().contains(&IpAddr::from(gateway)));
            }
        }
    }

    #[test]
    fn a_route_over_several_hops_gives_each() {
        let hop = |interface_index, last| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = interface_index;
            hop.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, last)))];
            hop
        };
        let mut route = RouteMessage::default();
        route.header.kind = RouteType::Unicast;
        route.attributes = vec![RouteAttribute::MultiPath(vec![hop(3, 1), hop(4, 2)])];
        assert!(is_default(&route));
        assert_eq!(outgoing(&route), [3, 4]);
        assert_eq!(hops(&route).flat_map(|hop| &hop.attributes).filter_map(gateway).count(), 2);
    }

    #[test]
    fn a_hook_is_told_with_its_mode_and_program() {
        let hook = XdpHook::read;
        assert_eq!(hook(&[LinkXdp::Attached(wire::XdpAttached::None)]), None);
        let native = [LinkXdp::Attached(wire::XdpAttached::Driver), LinkXdp::ProgId(7), LinkXdp::DrvProgId(7)];
        assert_eq!(hook(&native), Some(XdpHook { mode: XdpAttached::Native, program_id: 7 }));
        let generic = [LinkXdp::Attached(wire::XdpAttached::SocketBuffer), LinkXdp::ProgId(8)];
        assert_eq!(hook(&generic), Some(XdpHook { mode: XdpAttached::Generic, program_id: 8 }));
        let both = [LinkXdp::Attached(wire::XdpAttached::Multiple), LinkXdp::SkbProgId(8), LinkXdp::DrvProgId(7)];
        assert_eq!(hook(&both), Some(XdpHook { mode: XdpAttached::Native, program_id: 7 }));
    }
}
