//! A set as bytes: four counts (u64), then the members, sorted, everything in little endian. What is read is checked
//! whole, so that no foreign bytes make a set that is none.

use super::{Targets, net4, net6};
use crate::block::Target;

/// The bytes are not of a set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the packed addresses are damaged: {0}")]
pub struct Damaged(&'static str);

impl Targets {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let counts = [self.hosts4.len(), self.hosts6.len(), self.nets4.len(), self.nets6.len()];
        out.reserve(32 + counts[0] * 4 + counts[1] * 16 + counts[2] * 5 + counts[3] * 17);
        counts.iter().for_each(|count| out.extend((*count as u64).to_le_bytes()));
        self.hosts4.iter().for_each(|host| out.extend(host.to_le_bytes()));
        self.hosts6.iter().for_each(|host| out.extend(host.to_le_bytes()));
        for (bits, length) in &self.nets4 {
            out.extend(bits.to_le_bytes());
            out.push(*length);
        }
        for (bits, length) in &self.nets6 {
            out.extend(bits.to_le_bytes());
            out.push(*length);
        }
    }

    /// Takes a set from the front of `bytes`.
    pub fn decode(bytes: &mut &[u8]) -> Result<Targets, Damaged> {
        let mut counts = [0; 4];
        for count in &mut counts {
            *count =
                usize::try_from(u64::from_le_bytes(array(bytes.split_off(..8).ok_or(SHORT)?))).map_err(|_| SHORT)?;
        }
        let [hosts4, hosts6, nets4, nets6] = counts;
        let targets = Targets {
            hosts4: members(bytes, hosts4, |chunk: &[u8; 4]| u32::from_le_bytes(*chunk))?,
            hosts6: members(bytes, hosts6, |chunk: &[u8; 16]| u128::from_le_bytes(*chunk))?,
            nets4: members(bytes, nets4, |chunk: &[u8; 5]| (u32::from_le_bytes(array(&chunk[..4])), chunk[4]))?,
            nets6: members(bytes, nets6, |chunk: &[u8; 17]| (u128::from_le_bytes(array(&chunk[..16])), chunk[16]))?,
        };
        if targets.is_sound() { Ok(targets) } else { Err(Damaged("they are no sorted set of addresses and networks")) }
    }

    /// Each member in its one normal form, in order, once.
    fn is_sound(&self) -> bool {
        self.hosts4.is_sorted_by(|a, b| a < b)
            && self.hosts6.is_sorted_by(|a, b| a < b)
            && self.nets4.is_sorted_by(|a, b| a < b)
            && self.nets6.is_sorted_by(|a, b| a < b)
            && self.hosts6.iter().all(|host| host >> 32 != 0xffff)
            && self.nets4.iter().all(|net| net.1 < 32 && is_normal(net4(*net), net.0.into(), net.1))
            && self.nets6.iter().all(|net| net.1 < 128 && is_normal(net6(*net), net.0, net.1))
    }
}

const SHORT: Damaged = Damaged("they end too early");

fn is_normal(target: Target, bits: u128, length: u8) -> bool {
    let net = target.net();
    let found = match net.addr() {
        std::net::IpAddr::V4(four) => four.to_bits().into(),
        std::net::IpAddr::V6(six) => six.to_bits(),
    };
    (found, net.prefix_len()) == (bits, length)
}

fn members<T, const N: usize>(bytes: &mut &[u8], count: usize, read: fn(&[u8; N]) -> T) -> Result<Vec<T>, Damaged> {
    let length = count.checked_mul(N).ok_or(SHORT)?;
    let (chunks, _) = bytes.split_off(..length).ok_or(SHORT)?.as_chunks::<N>();
    Ok(chunks.iter().map(read).collect())
}

/// `bytes` has the length of the array.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(names: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        names.iter().map(|name| name.parse::<Target>().unwrap()).collect::<Targets>().encode(&mut bytes);
        bytes
    }

    const NAMES: [&str; 6] = ["203.0.113.7", "203.0.113.8", "2001:db8::1", "10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32"];

    #[test]
    fn what_is_encoded_comes_back_and_what_follows_is_left() {
        let mut bytes = encoded(&NAMES);
        bytes.extend(b"more");
        let mut rest = bytes.as_slice();
        let found = Targets::decode(&mut rest).unwrap();
        assert_eq!(found, NAMES.iter().map(|name| name.parse().unwrap()).collect());
        assert_eq!(rest, b"more");
    }

    #[test]
    fn every_cut_and_what_is_no_set_is_refused() {
        let whole = encoded(&NAMES);
        for length in 0..whole.len() {
            assert!(Targets::decode(&mut &whole[..length]).is_err(), "{length}");
        }
        let of = |targets: Targets| {
            let mut bytes = Vec::new();
            targets.encode(&mut bytes);
            Targets::decode(&mut bytes.as_slice())
        };
        let none = Targets::default();
        for unsound in [
            Targets { hosts4: vec![2, 1], ..none.clone() },
            Targets { hosts4: vec![1, 1], ..none.clone() },
            Targets { hosts6: vec![0xffff << 32 | 1], ..none.clone() },
            Targets { nets4: vec![(1, 24)], ..none.clone() },
            Targets { nets4: vec![(0, 32)], ..none.clone() },
            Targets { nets6: vec![(1, 64)], ..none.clone() },
            Targets { nets6: vec![(0, 200)], ..none.clone() },
            Targets { nets6: vec![(0xffff << 32, 120)], ..none.clone() },
        ] {
            assert!(of(unsound.clone()).is_err(), "{unsound:?}");
        }
        assert_eq!(of(none.clone()).unwrap(), none);
        let huge = [u64::MAX.to_le_bytes(), [0; 8], [0; 8], [0; 8]].concat();
        assert!(Targets::decode(&mut huge.as_slice()).is_err());
    }
}
