//! RSA keys that Infineon's library made from few bits of chance (CVE-2017-15361, ROCA): modulo each small prime they are a
//! power of 65537. By the authors' fingerprint (Nemec and others, CCS 2017); no library of ours tells them.

/// The primes that every size of such a key was made with.
const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
    113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];
const GENERATOR: u32 = 65_537;

/// Whether a modulus, big-endian, is of such a key. One in some 2^27 others is called so too.
pub fn is_weak(modulus: &[u8]) -> bool {
    PRIMES.iter().all(|prime| is_power(remainder(modulus, *prime), *prime))
}

fn remainder(number: &[u8], prime: u32) -> u32 {
    number.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime)
}

fn is_power(of: u32, prime: u32) -> bool {
    let mut power = 1;
    (0..prime).any(|_| {
        power = power * (GENERATOR % prime) % prime;
        power == of
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_of_the_generator_is_found_and_its_neighbour_is_not() {
        let weak = (u64::from(GENERATOR) * u64::from(GENERATOR)).to_be_bytes();
        assert!(is_weak(&weak) && is_weak(&GENERATOR.to_be_bytes()));
        assert!(!is_weak(&(GENERATOR + 2).to_be_bytes()));
        assert!(!is_weak(&[0xff; 256]));
    }
}
