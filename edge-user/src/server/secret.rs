//! Random secrets as text: what signs tokens, and refresh tokens.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::error::Failure;

/// 256 random bits in base64url: 43 letters.
pub fn generate() -> Result<String, Failure> {
    let mut bits = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bits)
        .map_err(|error| Failure::system(format!("the kernel gives no random bytes: {error}")))?;
    Ok(URL_SAFE_NO_PAD.encode(*bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_43_letters_and_none_comes_twice() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert_eq!(one.len(), 43);
        assert_ne!(one, two);
    }
}
