//! What a check of an access token costs under each algorithm: a line `NAME NANOSECONDS`, the median of rounds.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use edge_user::{
    clock::Wall,
    server::{
        auth::token::{Stamp, Tokens},
        jws::{Algorithm, SigningKey},
    },
};

const ROUNDS: usize = 31;
const EACH: u32 = 1_000;

fn main() {
    for algorithm in Algorithm::ALL {
        match measured(algorithm) {
            Ok(nanoseconds) => println!("{} {nanoseconds}", algorithm.name()),
            Err(why) => eprintln!("{}: {why}", algorithm.name()),
        }
    }
}

fn measured(algorithm: Algorithm) -> Result<f64, String> {
    let hour = Duration::from_secs(3_600);
    let key = SigningKey::new(algorithm, &key(algorithm)?)?;
    let tokens = Tokens::new(key, Vec::new(), "https://edge.test".to_owned(), "api".to_owned(), hour, Duration::ZERO);
    let now = Wall::now();
    let stamp = Stamp { generation: 1 << 50, family: 1 << 50 };
    let token = tokens.issue("alice", stamp, now).map_err(|failure| failure.message)?;
    let mut rounds: Vec<u128> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            (0..EACH).for_each(|_| drop(black_box(tokens.verify(black_box(&token), now))));
            begin.elapsed().as_nanos()
        })
        .collect();
    tokens.verify(&token, now).map_err(|bad| format!("{bad:?}"))?;
    rounds.sort_unstable();
    Ok(rounds[ROUNDS / 2] as f64 / f64::from(EACH))
}

fn key(algorithm: Algorithm) -> Result<String, String> {
    let kind = match algorithm {
        Algorithm::HS256 => return Ok("9lWjO0cQ2nVwXhT5sUeR7yBzKdMfGaLp".to_owned()),
        Algorithm::RS256 | Algorithm::PS256 => &rcgen::PKCS_RSA_SHA256,
        Algorithm::ES256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        Algorithm::EdDSA => &rcgen::PKCS_ED25519,
    };
    rcgen::KeyPair::generate_for(kind).map(|key| key.serialize_pem()).map_err(|error| error.to_string())
}
