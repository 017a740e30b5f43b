//! Packets at random, of every shape that a wire can carry: forty and more classes, true and lying, from sources that
//! are blocked, beside what is blocked, allowed, our own, or nobody in particular.

mod four;
mod link;
mod odd;
mod six;
mod sources;

use std::net::IpAddr;

use fastrand::Rng;

pub use self::sources::Sources;
use crate::{
    model::{Flow, Policy},
    packet::{Packet, SERVICE, Upper, VLAN},
};

/// Makes one packet of its class.
type Make = fn(&mut Generator) -> Made;

/// Name and maker of each class.
pub const CLASSES: [(&str, Make); 47] = [
    ("IPv4, SYN", four::syn),
    ("IPv4, TCP with any flags", four::tcp),
    ("IPv4, UDP", four::udp),
    ("IPv4, ICMP and IGMP", four::control),
    ("IPv4, another protocol", four::other),
    ("IPv4, options", four::options),
    ("IPv4, DHCP and what is like it", four::dhcp),
    ("IPv4, a header length that lies", four::header_lies),
    ("IPv4, another version", four::version_lies),
    ("IPv4, shorter than its header", four::length_below_header),
    ("IPv4, longer than its frame", four::length_beyond_frame),
    ("IPv4, shorter than its frame", four::length_within_frame),
    ("IPv4, a first fragment", four::first_fragment),
    ("IPv4, a later fragment", four::later_fragment),
    ("IPv4, a tiny first fragment", four::tiny_fragment),
    ("IPv4, a TCP offset that lies", four::offset_lies),
    ("IPv4, a UDP length that lies", four::udp_length_lies),
    ("IPv6, SYN", six::syn),
    ("IPv6, TCP with any flags", six::tcp),
    ("IPv6, UDP", six::udp),
    ("IPv6, ICMPv6 and neighbour discovery", six::control),
    ("IPv6, another next header", six::other),
    ("IPv6, DHCP and what is like it", six::dhcp),
    ("IPv6, another version", six::version_lies),
    ("IPv6, longer than its frame", six::length_beyond_frame),
    ("IPv6, shorter than its frame", six::length_within_frame),
    ("IPv6, payload length 0", six::length_zero),
    ("IPv6, one to six extension headers", six::extended),
    ("IPv6, more than six extension headers", six::over_extended),
    ("IPv6, an extension header that lies", six::extension_lies),
    ("IPv6, a first fragment", six::first_fragment),
    ("IPv6, a later fragment", six::later_fragment),
    ("IPv6, an atomic fragment", six::atomic_fragment),
    ("IPv6, an offset or length that lies", six::upper_lies),
    ("IPv6, an IPv4-mapped source", six::mapped),
    ("IPv6, addresses of tunnels and translators", six::translated),
    ("one or two tags", link::tagged),
    ("three tags and more", link::over_tagged),
    ("tags that are none", link::mistagged),
    ("ARP", link::arp),
    ("another EtherType, or a length", link::other_type),
    ("an answer over UDP, and what is like it", odd::answer),
    ("a tunnel", odd::tunnel),
    ("a jumbo frame", odd::jumbo),
    ("cut short", odd::cut),
    ("a few bytes changed", odd::changed),
    ("noise", odd::noise),
];

/// What a class makes.
pub enum Made {
    Packet(Packet),
    Frame(Vec<u8>),
}

/// A source of packets that fit a policy. The same seed gives the same packets.
#[derive(Debug)]
pub struct Generator {
    random: Rng,
    sources: Sources,
    /// Ports that say something, and their neighbours.
    ports: Vec<u16>,
    protocols: Vec<u8>,
    /// Where this host sent something over UDP.
    flows: Vec<Flow>,
}

impl Generator {
    pub fn new(policy: &Policy, seed: u64) -> Generator {
        let mut random = Rng::with_seed(seed);
        let sources = Sources::around(policy, &mut random);
        let exposed = policy.exposed.clone().unwrap_or_default();
        let named = exposed.tcp.iter().chain(&exposed.udp).chain(&[22, 53, 67, 68, 443, 546, 547]);
        let ports = named.flat_map(|&port| [port, port, port.wrapping_sub(1), port.wrapping_add(1), port.swap_bytes()]);
        let ports = ports.chain([0, u16::MAX]).collect();
        let protocols = exposed.protocols.into_iter().chain([41, 47, 50, 51, 59, 89, 132, 253]).collect();
        let flows = policy.sent.flows().collect();
        Generator { random, sources, ports, protocols, flows }
    }

    /// Puts the next packet in place of what is in `frame`; gives its class.
    pub fn next(&mut self, frame: &mut Vec<u8>) -> &'static str {
        let (class, make) = CLASSES[self.random.usize(..CLASSES.len())];
        frame.clear();
        match make(self) {
            Made::Packet(mut packet) => {
                self.dress(&mut packet);
                packet.write(frame);
            }
            Made::Frame(bytes) => frame.extend(bytes),
        }
        // The kernel hands no frame over that is shorter than an Ethernet header.
        frame.resize(frame.len().max(14), 0);
        class
    }

    /// What any packet may have besides its class.
    fn dress(&mut self, packet: &mut Packet) {
        if packet.tags.is_empty() && self.one_in(8) {
            packet.tags = self.some_tags(1..3);
        }
        if self.one_in(4) {
            packet.trailer = self.random.usize(..50);
        }
    }

    fn one_in(&mut self, times: u32) -> bool {
        self.random.u32(..times) == 0
    }

    fn some_tags(&mut self, count: std::ops::Range<usize>) -> Vec<u16> {
        let count = self.random.usize(count);
        (0..count).map(|_| if self.random.bool() { VLAN } else { SERVICE }).collect()
    }

    fn four(&mut self) -> Packet {
        Packet::new(self.sources.four(&mut self.random)).payload(self.random.usize(..40))
    }

    fn six(&mut self) -> Packet {
        Packet::new(self.sources.six(&mut self.random)).payload(self.random.usize(..40))
    }

    fn either(&mut self) -> Packet {
        if self.random.bool() { self.four() } else { self.six() }
    }

    fn port(&mut self) -> u16 {
        if self.one_in(4) { self.random.u16(..) } else { self.ports[self.random.usize(..self.ports.len())] }
    }

    fn protocol(&mut self) -> u8 {
        if self.one_in(4) { self.random.u8(..) } else { self.protocols[self.random.usize(..self.protocols.len())] }
    }

    fn tcp(&mut self) -> Upper {
        Upper::Tcp { from: self.port(), to: self.port(), flags: self.random.u8(..), words: 5 }
    }

    fn udp(&mut self) -> Upper {
        Upper::Udp { from: self.port(), to: self.port(), length: None }
    }

    /// TCP, UDP or something else.
    fn upper(&mut self) -> Upper {
        match self.random.u8(..4) {
            0 | 1 => self.tcp(),
            2 => self.udp(),
            _ => self.other(),
        }
    }

    fn other(&mut self) -> Upper {
        let length = self.random.usize(..24);
        Upper::Other { protocol: self.protocol(), bytes: self.bytes(length) }
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.random.fill(&mut bytes);
        bytes
    }

    /// The frame of any other class.
    fn any(&mut self) -> Vec<u8> {
        let mut frame = Vec::new();
        let ordinary = CLASSES.iter().position(|class| class.0 == "a tunnel").unwrap_or(CLASSES.len());
        match CLASSES[self.random.usize(..ordinary)].1(self) {
            Made::Packet(packet) => packet.write(&mut frame),
            Made::Frame(bytes) => frame.extend(bytes),
        }
        frame
    }

    fn destination(&mut self, packet: Packet) -> Packet {
        let random: IpAddr = match packet.source {
            IpAddr::V4(_) => IpAddr::V4(self.random.u32(..).into()),
            IpAddr::V6(_) => IpAddr::V6(self.random.u128(..).into()),
        };
        if self.one_in(4) { packet.to(random) } else { packet }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::{
        model::{Frame, Reason},
        scene::{Scene, Setting},
    };

    #[test]
    fn a_seed_gives_the_same_packets_again_and_every_class_comes_up() {
        let policy = Policy::default();
        let (mut one, mut two) = (Generator::new(&policy, 7), Generator::new(&policy, 7));
        let (mut frame, mut again) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for _ in 0..10_000 {
            let class = one.next(&mut frame);
            assert_eq!(class, two.next(&mut again));
            assert_eq!(frame, again);
            seen.insert(class);
        }
        assert_eq!(seen.len(), CLASSES.len());
    }

    #[test]
    fn hits_near_misses_and_all_reasons_come_up() {
        let setting =
            Setting { exposed: ["443/tcp", "53/udp", "gre"].map(str::to_owned).to_vec(), ..Setting::default() };
        let own = ["10.77.0.1".parse().unwrap(), "2001:db8:1::1".parse().unwrap()];
        let mut seen: BTreeMap<Reason, usize> = BTreeMap::new();
        for seed in 0..20 {
            let drops_fragments = seed % 2 == 0;
            let scene =
                Scene::draw(&Setting { drops_fragments, ..setting.clone() }, &own, &[], &mut Rng::with_seed(seed));
            let mut policy = scene.policy(&own, &[]);
            let mut generator = Generator::new(&policy, seed);
            let mut frame = Vec::new();
            for _ in 0..1000 {
                generator.next(&mut frame);
                *seen.entry(policy.judge(Frame::whole(&frame), Default::default()).reason).or_default() += 1;
            }
        }
        println!("{seen:?}");
        for reason in [Reason::Passed, Reason::Allowed, Reason::Blocked, Reason::PortClosed, Reason::Malformed] {
            assert!(seen.get(&reason).is_some_and(|count| *count > 400), "{reason:?} of {seen:?}");
        }
        assert!(seen[&Reason::Fragment] > 100, "{seen:?}");
    }
}
