//! What proves to an authority that a name leads here, while it is being asked for: certificates for tls-alpn-01 (RFC
//! 8737), texts for http-01 (RFC 8555, section 8.3). Whoever asks for one gets it: it says nothing to others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::PrivatePkcs8KeyDer;

use super::kept::Proof;

#[derive(Debug, Default)]
pub struct Challenges {
    /// By name.
    certificates: Mutex<HashMap<String, Arc<CertifiedKey>>>,
    /// By token.
    proofs: Mutex<HashMap<String, String>>,
}

impl Challenges {
    pub fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        locked(&self.certificates).get(&name.to_ascii_lowercase()).cloned()
    }

    pub fn proof(&self, token: &str) -> Option<String> {
        locked(&self.proofs).get(token).cloned()
    }

    pub(super) fn prove(&self, proof: &Proof) -> Result<(), String> {
        match proof {
            Proof::Certificate { name, digest } => {
                let certified = proving(name, digest)
                    .map_err(|error| format!("no certificate can be made that proves {name}: {error}"))?;
                locked(&self.certificates).insert(name.to_ascii_lowercase(), Arc::new(certified));
            }
            Proof::Text { token, text } => drop(locked(&self.proofs).insert(token.clone(), text.clone())),
        }
        Ok(())
    }

    pub(super) fn forget(&self) {
        locked(&self.certificates).clear();
        locked(&self.proofs).clear();
    }
}

/// The library's check of a certificate does not know the extension that is the proof, so none is made.
fn proving(name: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    let make = || -> Result<_, rcgen::Error> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let key = KeyPair::generate()?;
        Ok((params.self_signed(&key)?, key))
    };
    let (certificate, key) = make().map_err(|error| error.to_string())?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_in_a_critical_extension_beside_the_name_alone() {
        let certified = proving("a.test", &[7; 32]).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&certified.cert[0]).unwrap();
        // RFC 8737, section 3: id-pe-acmeIdentifier, the digest as an octet string in it.
        let proof = certificate.extensions().iter().find(|one| one.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(proof.critical && proof.value == [&[4, 32][..], &[7; 32]].concat());
        assert_eq!(crate::server::x509::names(&certified.cert[0]), ["a.test"]);
        assert!(Challenges::default().certificate("a.test").is_none());
    }
}
