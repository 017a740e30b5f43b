//! More places where a guarded host is met than the pair of a [`Lab`] has: a second interface, and a third namespace behind
//! the host, as a container is.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::Result;

use crate::{
    net::{CLIENT_INTERFACE, HOST_INTERFACE, HOST4, HOST6, Lab, Namespace},
    wait_for,
};

/// The guarded host on its second interface.
pub const SECOND4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 1));
pub const SECOND_HOST_INTERFACE: &str = "edge-h2";
const SECOND_CLIENT_INTERFACE: &str = "edge-c2";

/// The container.
pub const GUEST4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 79, 0, 2));
pub const GUEST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2));
const GATEWAY4: &str = "10.79.0.1";
const GATEWAY6: &str = "2001:db8:2::1";
const LINKED_WITHIN: Duration = Duration::from_secs(30);

/// Makes the second pair. The same clients reach [`SECOND4`] over it; what the host sends goes by the first.
pub fn add_second_interface(lab: &Lab) -> Result<()> {
    let pair =
        format!("{SECOND_HOST_INTERFACE} type veth peer name {SECOND_CLIENT_INTERFACE} netns {}", lab.client.name);
    lab.host.ip(&format!("link add {pair}"))?;
    for (namespace, interface) in [(&lab.host, SECOND_HOST_INTERFACE), (&lab.client, SECOND_CLIENT_INTERFACE)] {
        namespace.ip(&format!("link set {interface} up"))?;
    }
    // Answers take another way than what they answer.
    for (namespace, interface) in [
        (&lab.host, SECOND_HOST_INTERFACE),
        (&lab.host, HOST_INTERFACE),
        (&lab.client, SECOND_CLIENT_INTERFACE),
        (&lab.client, CLIENT_INTERFACE),
    ] {
        set(namespace, &format!("ipv4/conf/{interface}/rp_filter"), "0")?;
        set(namespace, "ipv4/conf/all/rp_filter", "0")?;
    }
    lab.host.ip(&format!("address add {SECOND4}/24 dev {SECOND_HOST_INTERFACE}"))?;
    lab.client.ip(&format!("route add 10.78.0.0/24 dev {SECOND_CLIENT_INTERFACE}"))
}

/// How the host reaches the third namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    Veth,
    Bridge,
}

/// A namespace behind the host, to which the host forwards; removed with this value.
#[derive(Debug)]
pub struct Guest {
    pub namespace: Namespace,
}

impl Guest {
    pub fn new(lab: &Lab, behind: Behind) -> Result<Guest> {
        let guest = Guest { namespace: Namespace::make(&format!("{}-g", lab.name))? };
        let Lab { host, client, .. } = lab;
        host.ip(&format!("link add edge-g type veth peer name edge-i netns {}", guest.namespace.name))?;
        let gateway = match behind {
            Behind::Veth => "edge-g",
            Behind::Bridge => {
                host.ip("link add edge-b type bridge")?;
                host.ip("link set edge-g master edge-b")?;
                "edge-b"
            }
        };
        for interface in ["edge-g", gateway] {
            host.ip(&format!("link set {interface} up"))?;
        }
        host.ip(&format!("address add {GATEWAY4}/24 dev {gateway}"))?;
        host.ip(&format!("address add {GATEWAY6}/64 dev {gateway} nodad"))?;
        guest.furnish()?;
        set(host, "ipv4/ip_forward", "1")?;
        set(host, "ipv6/conf/all/forwarding", "1")?;
        client.ip(&format!("route replace 10.79.0.0/24 via {HOST4}"))?;
        client.ip(&format!("route replace 2001:db8:2::/64 via {HOST6}"))?;
        // What is asked for an address before is lost, on a busy machine for longer than it is asked again.
        wait_for("the links to the guest", LINKED_WITHIN, || {
            let ends = [(host, gateway), (host, "edge-g"), (&guest.namespace, "edge-i")];
            let up = ends.map(|(namespace, name)| namespace.link(name).map(|link| link["operstate"] == "UP"));
            let up: Vec<bool> = up.into_iter().collect::<Result<_>>()?;
            Ok(up.into_iter().all(|up| up).then_some(()))
        })?;
        Ok(guest)
    }

    /// Takes away the way there, and the namespace's name; it lives on as long as somebody has a socket in it.
    pub fn leave(self, lab: &Lab) -> Result<()> {
        lab.host.ip("link delete edge-g")
    }

    fn furnish(&self) -> Result<()> {
        for interface in ["lo", "edge-i"] {
            self.namespace.ip(&format!("link set {interface} up"))?;
        }
        self.namespace.ip(&format!("address add {GUEST4}/24 dev edge-i"))?;
        self.namespace.ip(&format!("address add {GUEST6}/64 dev edge-i nodad"))?;
        self.namespace.ip(&format!("route add default via {GATEWAY4}"))?;
        self.namespace.ip(&format!("-6 route add default via {GATEWAY6}"))
    }
}

/// Sets what `/proc/sys/net` has for a namespace.
pub fn set(namespace: &Namespace, name: &str, value: &str) -> Result<()> {
    // Of the namespace of the thread that opens it.
    namespace.within(|| Ok(fs::write(format!("/proc/sys/net/{name}"), value)?))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{SocketAddr, TcpListener},
        time::Duration,
    };

    use super::*;
    use crate::{client::connect, crowd::Crowd};

    fn reaches(lab: &Lab, server: &Namespace, from: IpAddr, to: IpAddr) {
        let listener = server.within(|| Ok(TcpListener::bind((to, 0))?)).unwrap();
        let to = SocketAddr::new(to, listener.local_addr().unwrap().port());
        let mut client = connect(lab, from, to, Duration::from_secs(5)).unwrap().unwrap();
        let (mut accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), from);
        accepted.write_all(b"hello").unwrap();
        let mut word = [0; 5];
        client.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"hello");
    }

    #[test]
    fn each_place_is_reached_from_a_crowd() {
        for behind in [Behind::Veth, Behind::Bridge] {
            let lab = Lab::new().unwrap();
            let crowd = Crowd::new(&lab, 1).unwrap();
            add_second_interface(&lab).unwrap();
            let guest = Guest::new(&lab, behind).unwrap();
            reaches(&lab, &lab.host, crowd.four(0), HOST4);
            reaches(&lab, &lab.host, crowd.six(0), HOST6);
            reaches(&lab, &lab.host, crowd.four(0), SECOND4);
            reaches(&lab, &guest.namespace, crowd.four(0), GUEST4);
            reaches(&lab, &guest.namespace, crowd.six(0), GUEST6);
        }
    }
}
