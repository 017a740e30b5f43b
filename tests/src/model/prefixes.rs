//! A set of prefixes of both families, each with a value: what covers an address, longest first.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

#[derive(Clone, Debug)]
pub struct Prefixes<T> {
    all: BTreeMap<IpNet, T>,
    /// Those that occur, so that only they are tried.
    lengths4: BTreeSet<u8>,
    lengths6: BTreeSet<u8>,
}

impl<T> Prefixes<T> {
    /// Also in place of what was said of the same prefix.
    pub fn insert(&mut self, net: IpNet, value: T) {
        let net = net.trunc();
        let lengths = if net.addr().is_ipv4() { &mut self.lengths4 } else { &mut self.lengths6 };
        lengths.insert(net.prefix_len());
        self.all.insert(net, value);
    }

    pub fn get_mut(&mut self, net: IpNet) -> Option<&mut T> {
        self.all.get_mut(&net)
    }

    pub fn covers(&self, address: IpAddr) -> bool {
        self.covering(address).next().is_some()
    }

    /// What covers an address, longest first.
    pub fn covering(&self, address: IpAddr) -> impl Iterator<Item = (IpNet, &T)> {
        let lengths = if address.is_ipv4() { &self.lengths4 } else { &self.lengths6 };
        lengths.iter().rev().filter_map(move |length| {
            let net = IpNet::new(address, *length).ok()?.trunc();
            self.all.get(&net).map(|value| (net, value))
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        self.all.iter().map(|(net, value)| (*net, value))
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl<T> Default for Prefixes<T> {
    fn default() -> Prefixes<T> {
        Prefixes { all: BTreeMap::new(), lengths4: BTreeSet::new(), lengths6: BTreeSet::new() }
    }
}

impl<T: Default> FromIterator<IpNet> for Prefixes<T> {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Prefixes<T> {
        let mut prefixes = Prefixes::default();
        for net in nets {
            prefixes.insert(net, T::default());
        }
        prefixes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_comes_first_and_families_are_apart() {
        let nets = ["192.0.2.0/24", "192.0.2.128/25", "192.0.2.129/32", "0.0.0.0/0", "::/0", "2001:db8::/32"];
        let prefixes: Prefixes<()> = nets.iter().map(|text| text.parse().unwrap()).collect();
        let found = |text: &str| -> Vec<String> {
            prefixes.covering(text.parse().unwrap()).map(|(net, ())| net.to_string()).collect()
        };
        assert_eq!(found("192.0.2.129"), ["192.0.2.129/32", "192.0.2.128/25", "192.0.2.0/24", "0.0.0.0/0"]);
        assert_eq!(found("192.0.2.127"), ["192.0.2.0/24", "0.0.0.0/0"]);
        assert_eq!(found("2001:db8::1"), ["2001:db8::/32", "::/0"]);
        assert_eq!(found("::ffff:192.0.2.129"), ["::/0"]);
    }
}
