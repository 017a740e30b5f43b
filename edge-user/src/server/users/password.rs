//! Passwords: argon2id for all that edge makes itself, bcrypt or other parameters for what was imported, until its owner
//! signs in. Whoever signs in, and with whatever password, the same work is done: as much of each kind as any user of
//! this store needs, so that time tells neither who is there nor how they are kept.

use std::borrow::Cow;

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};

use super::Account;
use crate::error::Failure;

/// What a user's password is compared with who is not there, after the parameters.
const NOBODYS_SALT_AND_HASH: &str = "$c29tZSBzYWx0IG9mIGVkZ2U$TIjDmXjNRJbcOMRMMBuDRDrOoWyMCWIBaSAVzLdDx3c";
/// The parameters that OWASP recommends and the library defaults to: 19 MiB, 2 passes, 1 lane.
const OURS: &str = "$argon2id$v=19$m=19456,t=2,p=1";
/// Of bcrypt: about a second of work, which every sign-in then costs.
const MAX_BCRYPT_COST: u32 = 14;

/// What a hash costs to try: the parameters it begins with.
pub(super) fn scheme(hash: &str) -> String {
    match bcrypt_cost(hash) {
        Some(cost) => bcrypt_scheme(cost),
        None => hash.split('$').take(4).collect::<Vec<_>>().join("$"),
    }
}

fn bcrypt_scheme(cost: u32) -> String {
    format!("bcrypt {cost:02}")
}

fn bcrypt_cost(hash: &str) -> Option<u32> {
    let rest = ["$2a$", "$2b$", "$2y$"].iter().find_map(|version| hash.strip_prefix(version))?;
    rest.split('$').next()?.parse().ok()
}

/// Whether the password is the account's; without an account, and with any other, the same work is done for all the
/// `schemes` of the store. Takes some 20 ms of one CPU and 19 MiB where all are edge's own.
pub fn matches(account: Option<&Account>, schemes: &[String], password: &str) -> bool {
    let hash = account.map(|account| account.hash.as_str()).unwrap_or_default();
    let by_argon2 = argon2_matches(hash, schemes, password);
    let by_bcrypt = bcrypt_matches(hash, schemes, password);
    (by_argon2 | by_bcrypt) && account.is_some_and(|account| !account.disabled)
}

fn argon2_matches(hash: &str, schemes: &[String], password: &str) -> bool {
    let own = scheme(hash);
    let others =
        schemes.iter().map(String::as_str).filter(|scheme| scheme.starts_with("$argon2id$") && *scheme != OURS);
    let mut equal = false;
    for scheme in others.chain([OURS]) {
        let text = match scheme == own {
            true => Cow::Borrowed(hash),
            false => Cow::Owned(format!("{scheme}{NOBODYS_SALT_AND_HASH}")),
        };
        let Ok(parsed) = PasswordHash::new(&text) else { continue };
        let good = Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok();
        equal |= good && scheme == own;
    }
    equal
}

/// A cost is twice the work of the one below it, so that a hash of a low one and all from there on are together as much
/// as one of the highest.
fn bcrypt_matches(hash: &str, schemes: &[String], password: &str) -> bool {
    let own = bcrypt_cost(hash);
    let costs = schemes.iter().filter_map(|scheme| scheme.strip_prefix("bcrypt ")?.parse().ok());
    let Some(highest) = costs.chain(own).max() else { return false };
    let equal = own.is_some() && bcrypt::verify(password, hash).is_ok_and(|equal| equal);
    let rest = own.map_or(highest..highest + 1, |own| own..highest);
    for cost in rest {
        drop(std::hint::black_box(bcrypt::hash_with_salt(password, cost, [0x65; 16])));
    }
    equal
}

/// Whether another hash is to take its place.
pub fn is_outdated(hash: &str) -> bool {
    scheme(hash) != OURS
}

/// With edge's own parameters, whatever the length: it is a password that was good.
pub fn renewed(password: &str) -> Result<String, Failure> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| Failure::system(format!("no random bytes: {error}")))?;
    let hash: Result<PasswordHash, _> = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
    Ok(hash.map_err(|error| Failure::bug(format!("hashing the password: {error}")))?.to_string())
}

/// Of a new password.
pub(super) fn hash(password: &str) -> Result<String, Failure> {
    if !(8..=1024).contains(&password.len()) {
        return Err(Failure::usage(format!("the password has {} bytes; it must have 8 to 1024", password.len())));
    }
    renewed(password)
}

/// Whether edge takes a hash that comes from elsewhere. It says itself what it costs to try: it could cost all memory at
/// a sign-in, or nothing to guess.
pub(super) fn check(text: &str) -> Result<(), String> {
    if text.starts_with("$2") { check_bcrypt(text) } else { check_argon2(text) }
}

fn check_bcrypt(text: &str) -> Result<(), String> {
    let parts: Result<bcrypt::HashParts, _> = text.parse();
    parts.map_err(|error| format!("is no bcrypt hash: {error}"))?;
    match bcrypt_cost(text) {
        Some(4..=MAX_BCRYPT_COST) => Ok(()),
        Some(_) => Err(format!("has a cost of bcrypt that is not 4 to {MAX_BCRYPT_COST}")),
        None => Err("is of a bcrypt that is not $2a$, $2b$ or $2y$".to_owned()),
    }
}

fn check_argon2(text: &str) -> Result<(), String> {
    let hash = PasswordHash::new(text).map_err(|error| format!("is none: {error}"))?;
    let cost = argon2::Params::try_from(&hash).map_err(|error| format!("has no good parameters: {error}"))?;
    let is_known = hash.algorithm == argon2::ARGON2ID_IDENT && hash.version == Some(argon2::Version::V0x13.into());
    let is_whole = hash.salt.is_some() && hash.hash.is_some();
    let least = argon2::Params::default();
    let costs = [(cost.m_cost(), least.m_cost()), (cost.t_cost(), least.t_cost()), (cost.p_cost(), least.p_cost())];
    let is_priced = costs.iter().all(|(cost, ours)| cost.saturating_mul(4) >= *ours && *cost <= ours.saturating_mul(4));
    match is_known && is_whole && is_priced {
        true => Ok(()),
        false => Err("is not one that edge takes (argon2id of 19 MiB and 2 passes, each within four times, or bcrypt)"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(hash: String) -> Account {
        Account { name: "a".to_owned(), hash, roles: Vec::new(), disabled: false, generation: 1, not_before: 0 }
    }

    #[test]
    fn nobody_costs_what_somebody_does() {
        let (nobody, somebody) = (format!("{OURS}{NOBODYS_SALT_AND_HASH}"), hash("correct horse").unwrap());
        assert_eq!(scheme(&somebody), OURS);
        let (nobody, somebody) = (PasswordHash::new(&nobody).unwrap(), PasswordHash::new(&somebody).unwrap());
        assert_eq!(nobody.params, somebody.params);
        assert_eq!((nobody.algorithm, nobody.version), (somebody.algorithm, somebody.version));
    }

    #[test]
    fn hashes_of_bcrypt_are_good_for_their_password_alone() {
        for version in [bcrypt::Version::TwoA, bcrypt::Version::TwoB, bcrypt::Version::TwoY] {
            let hash = bcrypt::hash_with_result("correct horse", 4).unwrap().format_for_version(version);
            assert_eq!(check(&hash), Ok(()));
            assert_eq!((scheme(&hash).as_str(), is_outdated(&hash)), ("bcrypt 04", true));
            let account = account(hash);
            for schemes in [&[][..], &["bcrypt 04".to_owned(), "bcrypt 06".to_owned(), OURS.to_owned()]] {
                assert!(matches(Some(&account), schemes, "correct horse"));
                assert!(!matches(Some(&account), schemes, "correct horsf"));
                assert!(!matches(None, schemes, "correct horse"));
            }
            assert!(!matches(Some(&Account { disabled: true, ..account }), &[], "correct horse"));
        }
    }

    #[test]
    fn argon2_of_other_parameters_is_good_and_outdated() {
        let foreign = Argon2::new(
            argon2::Algorithm::Argon2id,
            argon2::Version::V0x13,
            argon2::Params::new(8192, 3, 2, None).unwrap(),
        );
        let hash: PasswordHash = foreign.hash_password_with_salt(b"correct horse", &[7; 16]).unwrap();
        let hash = hash.to_string();
        assert_eq!((check(&hash), is_outdated(&hash)), (Ok(()), true));
        let schemes = [scheme(&hash)];
        assert!(matches(Some(&account(hash)), &schemes, "correct horse"));
        assert!(!matches(None, &schemes, "correct horse"));
        assert!(!is_outdated(&renewed("short").unwrap()));
    }

    #[test]
    fn what_would_cost_too_much_or_is_none_is_not_taken() {
        let good = bcrypt::hash_with_result("x", 4).unwrap().format_for_version(bcrypt::Version::TwoB);
        for bad in [
            good.replace("$04$", "$15$"),
            good.replace("$04$", "$31$"),
            good.replace("$2b$", "$2x$"),
            good[..59].to_owned(),
            "$2b$".to_owned(),
            "secret".to_owned(),
            String::new(),
        ] {
            assert!(check(&bad).is_err(), "{bad}");
        }
    }
}
