//! Passwords: argon2id, and the same work for a name that nobody has.

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};

use super::Account;
use crate::error::Failure;

/// What a login of an unknown user is compared with: the same cost as a real one.
pub(super) const NOBODYS_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$c29tZSBzYWx0IG9mIGVkZ2U$TIjDmXjNRJbcOMRMMBuDRDrOoWyMCWIBaSAVzLdDx3c";

/// Whether the password is the account's; without an account the same work is done, and it never is. Takes some
/// 20 ms of one CPU and 19 MiB.
pub fn matches(account: Option<&Account>, password: &str) -> bool {
    let text = account.map_or(NOBODYS_HASH, |account| &account.hash);
    let Ok(hash) = PasswordHash::new(text) else { return false };
    let equal = Argon2::default().verify_password(password.as_bytes(), &hash).is_ok();
    equal && account.is_some_and(|account| !account.disabled)
}

/// argon2id with the parameters that OWASP recommends and the library defaults to: 19 MiB, 2 passes, 1 lane.
pub(super) fn hash(password: &str) -> Result<String, Failure> {
    if !(8..=1024).contains(&password.len()) {
        return Err(Failure::usage(format!("the password has {} bytes; it must have 8 to 1024", password.len())));
    }
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| Failure::system(format!("no random bytes: {error}")))?;
    let hash: Result<PasswordHash, _> = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
    Ok(hash.map_err(|error| Failure::bug(format!("hashing the password: {error}")))?.to_string())
}
