//! Which certificate a client gets: by the name that it asks for, without case, exact names before wildcards, and where
//! several have that name the first whose key it can verify. Whoever asks for no name, or for one that none has, gets
//! the first of all. The library's own choice by name knows no wildcards, no second kind of key, and has no answer for
//! other names.

use std::{collections::HashMap, sync::Arc};

use rustls::{SignatureScheme, sign::CertifiedKey};

use super::Certificate;

#[derive(Debug)]
pub struct ByName {
    all: Vec<Arc<CertifiedKey>>,
    /// Where in `all` those are that have a name; of a wildcard what follows its star.
    exact: HashMap<String, Vec<usize>>,
    wildcard: HashMap<String, Vec<usize>>,
}

impl ByName {
    pub fn new(certificates: Vec<Certificate>) -> ByName {
        let mut by_name = ByName { all: Vec::new(), exact: HashMap::new(), wildcard: HashMap::new() };
        for (at, certificate) in certificates.into_iter().enumerate() {
            for name in certificate.names {
                let (of, name) = match name.strip_prefix('*') {
                    Some(rest) => (&mut by_name.wildcard, rest.to_owned()),
                    None => (&mut by_name.exact, name),
                };
                of.entry(name).or_default().push(at);
            }
            by_name.all.push(certificate.certified);
        }
        by_name
    }

    pub fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Arc<CertifiedKey>> {
        let named = name.map(|name| self.named(&name.to_ascii_lowercase())).unwrap_or_default();
        let mut named = named.iter().filter_map(|at| self.all.get(*at));
        let any = named.clone().next();
        named.find(|certified| certified.key.choose_scheme(schemes).is_some()).or(any).or(self.all.first())
    }

    fn named(&self, name: &str) -> &[usize] {
        let wildcard = || self.wildcard.get(name.get(name.find('.')?..)?);
        self.exact.get(name).or_else(wildcard).map(Vec::as_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
    const EDDSA: &[SignatureScheme] = &[SignatureScheme::ED25519];

    fn certificate(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> Certificate {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        Certificate::from_pem(&params.self_signed(&key).unwrap().pem(), &key.serialize_pem()).unwrap()
    }

    /// The place in the list of the one that is chosen.
    fn chosen(by_name: &ByName, name: &str, schemes: &[SignatureScheme]) -> usize {
        let found = by_name.choose((!name.is_empty()).then_some(name), schemes).unwrap();
        by_name.all.iter().position(|one| Arc::ptr_eq(one, found)).unwrap()
    }

    #[test]
    fn a_name_chooses_its_certificate() {
        let lists: [&[&str]; 4] =
            [&["first.test"], &["*.example.org", "Example.ORG"], &["api.example.org"], &["first.test", "192.0.2.1"]];
        let by_name = ByName::new(lists.map(|names| certificate(names, &rcgen::PKCS_ECDSA_P256_SHA256)).into());
        for (name, at) in [
            ("", 0),
            ("first.test", 0),
            ("api.example.org", 2),
            ("API.Example.Org", 2),
            ("app.example.org", 1),
            ("example.org", 1),
            ("a.b.example.org", 0),
            (".example.org", 1),
            ("org", 0),
            ("192.0.2.1", 0),
            ("other.test", 0),
            ("*.example.org", 1),
        ] {
            assert_eq!(chosen(&by_name, name, ECDSA), at, "{name}");
        }
        assert!(ByName::new(Vec::new()).choose(Some("x"), ECDSA).is_none());
    }

    #[test]
    fn of_two_kinds_of_keys_the_client_gets_the_one_that_it_knows() {
        let kinds = [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256];
        let by_name = ByName::new(kinds.map(|kind| certificate(&["edge.test"], kind)).into());
        assert_eq!([chosen(&by_name, "edge.test", EDDSA), chosen(&by_name, "edge.test", ECDSA)], [0, 1]);
        assert_eq!(chosen(&by_name, "edge.test", &[]), 0, "where none fits, the handshake says so");
    }
}
