//! Clients with addresses of their own. An agent with a connection cap counts in every network namespace of the machine,
//! other tests' too, and what is over its cap is muted there, so a test of caps uses addresses that no other test of any
//! process has, drawn at random here, and such tests go one after another: one's few may be another's cap.

use std::{
    fmt::Write as _,
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use anyhow::{Context, Result};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::{
    net::{CLIENT_INTERFACE, HOST_INTERFACE, Lab},
    run,
};

/// A network of each family, its first addresses given to the clients' namespace of a lab.
#[derive(Clone, Debug)]
pub struct Crowd {
    pub network4: Ipv4Net,
    pub network6: Ipv6Net,
    count: u16,
    /// Locked for as long as this crowd is there; `None` where nobody connects.
    _alone: Option<Arc<File>>,
}

impl Crowd {
    /// So many clients of each family; those of IPv6 each in a /64 of its own.
    pub fn new(lab: &Lab, count: u16) -> Result<Crowd> {
        let alone = File::create(std::env::temp_dir().join("edge-test-caps.lock"))?;
        alone.lock()?;
        let crowd = Crowd { _alone: Some(Arc::new(alone)), ..Crowd::draw(count)? };
        let mut addresses = String::new();
        for client in crowd.all() {
            // Neighbours must not wait for a duplicate address detection of theirs.
            let (length, word) = if client.is_ipv4() { (32, "") } else { (128, "nodad") };
            writeln!(addresses, "address add {client}/{length} dev {CLIENT_INTERFACE} {word}")?;
        }
        run(lab.client.command("ip").args(["-batch", "-"]), addresses.as_bytes())?.good().context("addresses")?;
        crowd.route(lab)?;
        Ok(crowd)
    }

    /// The host's way to them; again where the pair of the lab was made anew.
    pub fn route(&self, lab: &Lab) -> Result<()> {
        lab.host.ip(&format!("route replace {} dev {HOST_INTERFACE}", self.network4))?;
        lab.host.ip(&format!("route replace {} dev {HOST_INTERFACE}", self.network6))
    }

    fn draw(count: u16) -> Result<Crowd> {
        let mut random = fastrand::Rng::new();
        let [a, b] = [random.u8(128..), random.u8(..)];
        // A unique local prefix (RFC 4193): forty bits at random.
        let [c, d, e] = [0xfd00 | random.u16(..256), random.u16(..), random.u16(..)];
        let network4 = Ipv4Net::new(Ipv4Addr::new(10, a, b, 0), 24)?;
        let network6 = Ipv6Net::new(Ipv6Addr::new(c, d, e, 0, 0, 0, 0, 0), 48)?;
        Ok(Crowd { network4, network6, count, _alone: None })
    }

    /// Counted from 0.
    pub fn four(&self, number: u16) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(self.network4.addr().to_bits() + u32::from(number) + 1))
    }

    /// Counted from 0, each the neighbouring /64 of the one before.
    pub fn six(&self, number: u16) -> IpAddr {
        self.six_second(number, 1)
    }

    /// Another address of the /64 of a client, which nobody was given.
    pub fn six_second(&self, number: u16, host: u64) -> IpAddr {
        let unit = u128::from(number) << 64;
        IpAddr::V6(Ipv6Addr::from_bits(self.network6.addr().to_bits() | unit | u128::from(host)))
    }

    /// First those of IPv4.
    pub fn all(&self) -> Vec<IpAddr> {
        let four = (0..self.count).map(|number| self.four(number));
        four.chain((0..self.count).map(|number| self.six(number))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_apart_from_each_other_and_from_those_of_a_lab() {
        let crowd = Crowd::draw(3).unwrap();
        let mut all = crowd.all();
        assert_eq!(all.len(), 6);
        all.dedup();
        assert_eq!(all.len(), 6);
        let IpAddr::V4(four) = crowd.four(0) else { panic!() };
        assert!(crowd.network4.contains(&four) && four.octets()[1] != 77 && four.octets()[3] == 1);
        let units = [0, 1].map(|number| match crowd.six(number) {
            IpAddr::V6(six) => six.to_bits() >> 64,
            IpAddr::V4(_) => panic!(),
        });
        assert_eq!(units[0] + 1, units[1]);
    }
}
