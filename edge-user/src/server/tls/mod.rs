//! TLS of the listeners: 1.2 and 1.3 by rustls, HTTP/2 and HTTP/1.1 by ALPN, the certificate by the name that the client
//! asks for (`sni`). Also the check of a certificate and its key that `edge check` and the agent make, and the
//! certificate that edge makes itself for development (`self_signed`).

mod self_signed;
mod sni;

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    InconsistentKeys, ServerConfig, SignatureAlgorithm,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{acme::Challenges, link::CertificatePem, x509};
pub use self_signed::self_signed;
use sni::ByName;

/// The protocol of a proof (RFC 8737).
pub const PROOF: &[u8] = b"acme-tls/1";

/// What the listeners speak. `proves`: also the protocol in which an authority asks for the proof of a name.
pub fn server_config(certificates: Arc<Certificates>, proves: bool) -> Result<Arc<ServerConfig>, String> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| format!("TLS 1.2 and 1.3 cannot be set up: {error}"))?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // The strongest that both know, whatever an old client puts first.
    config.ignore_client_order = true;
    config.alpn_protocols.extend(proves.then(|| PROOF.to_vec()));
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| format!("no session ticket key: {error}"))?;
    Ok(Arc::new(config))
}

/// Those that are served now.
#[derive(Debug)]
pub struct Certificates {
    files: Vec<Certificate>,
    now: RwLock<Arc<ByName>>,
    /// By which names are proven to an authority.
    pub challenges: Challenges,
}

impl Certificates {
    /// An error is one sentence about a certificate or a key.
    pub fn from_pem(certificates: &[CertificatePem]) -> Result<Certificates, String> {
        let files = certificates.iter().map(|pem| Certificate::from_pem(&pem.chain, &pem.key));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let now = RwLock::new(Arc::new(ByName::new(files.clone())));
        Ok(Certificates { files, now, challenges: Challenges::default() })
    }

    /// One more was issued, in place of the one that was issued before.
    pub fn issued(&self, certificate: Certificate) {
        let all = self.files.iter().cloned().chain([certificate]).collect();
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ByName::new(all));
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // An authority offers nothing else (RFC 8737, section 3).
        if hello.alpn().is_some_and(|offered| offered.eq([PROOF])) {
            return self.challenges.certificate(hello.server_name()?);
        }
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner).clone();
        now.choose(hello.server_name(), hello.signature_schemes()).cloned()
    }
}

/// A chain and its key that can be served.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Of hosts, in lower case; a wildcard as `*.example.org`.
    pub names: Vec<String>,
    pub kind: SignatureAlgorithm,
    certified: Arc<CertifiedKey>,
}

impl Certificate {
    /// An error is one sentence about the one or the other.
    pub fn from_pem(chain: &str, key: &str) -> Result<Certificate, String> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| "the key file holds no private key in PEM (PKCS 8, PKCS 1 or SEC 1)".to_owned())?;
        let version_1 = chain.iter().any(|der| x509::is_version_1(der));
        let names = chain.first().map(|der| x509::names(der)).unwrap_or_default();
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(|error| explain(&error, version_1))?;
        Ok(Certificate { names, kind: certified.key.algorithm(), certified: Arc::new(certified) })
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err("the certificate file holds no certificate in PEM".to_owned()),
        Ok(chain) => Ok(chain),
        Err(_) => Err("the certificate file is broken: its PEM cannot be decoded".to_owned()),
    }
}

fn explain(error: &rustls::Error, version_1: bool) -> String {
    match error {
        rustls::Error::InvalidCertificate(_) if version_1 => {
            "the certificate is of X.509 version 1, which cannot name hosts, so that clients refuse it; make one of \
             version 3, with its names in subjectAltName (`openssl x509 -req` does so with -extfile)"
                .to_owned()
        }
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the key does not belong to the certificate: their public keys differ".to_owned()
        }
        rustls::Error::InvalidCertificate(_) => {
            "the certificate file is broken: what its PEM holds is no X.509 certificate".to_owned()
        }
        other => format!("the certificate or its key cannot be used: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Wall;

    fn pair() -> (String, String) {
        self_signed(&["edge.test".to_owned()], Wall::now()).unwrap()
    }

    fn check_pair(cert: &str, key: &str) -> Result<(), String> {
        Certificate::from_pem(cert, key).map(drop)
    }

    #[test]
    fn a_pair_is_served_and_a_mismatch_is_named() {
        let ((cert, key), (_, other)) = (pair(), pair());
        assert_eq!(check_pair(&cert, &key), Ok(()));
        assert!(check_pair(&cert, &other).unwrap_err().contains("does not belong"));
    }

    #[test]
    fn a_certificate_of_version_1_is_called_so() {
        let error = check_pair(VERSION_1, KEY_OF_VERSION_1).unwrap_err();
        assert!(error.contains("X.509 version 1"), "{error}");
    }

    #[test]
    fn what_is_broken_is_named() {
        let (cert, key) = pair();
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (cert, key, says) in [
            ("", key.as_str(), "no certificate"),
            (broken, &key, "broken"),
            (&cert, "", "no private key"),
            (&cert, &cert, "no private key"),
            (&cert[..cert.len() / 2], &key, "broken"),
        ] {
            let error = check_pair(cert, key).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    /// As `openssl x509 -req` makes it without extensions.
    const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBGDCBvwIUWOeQj4276x/PsGJeoWH0bhBtkOEwCgYIKoZIzj0EAwIwDjEMMAoG
A1UEAwwDb2xkMCAXDTI2MTEyMTE3MDQzNVoYDzIxMjYxMDI4MTcwNDM1WjAOMQww
CgYDVQQDDANvbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARMtOAyNPS4d53m
0a4tP/2jMWPgFJY8AHh5ewZ2gKEN8TF87hsSSSaNUknra6FAIQVkLt7ufeqLDaOj
UVh3wLQHMAoGCCqGSM49BAMCA0gAMEUCIC8jWX3ibNogaZWTzeITMLr4DoPfp7fR
HyLHhIZT1sAcAiEAnNr6IAoLzoo3P4EEInz5nzTirfy0g1P+dnd98DDbM3Y=
-----END CERTIFICATE-----
";
    const KEY_OF_VERSION_1: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg3evktl1/cROSg6xH
Kg+Zhn6rfZrO1pLY/bqwng29VmChRANCAARMtOAyNPS4d53m0a4tP/2jMWPgFJY8
AHh5ewZ2gKEN8TF87hsSSSaNUknra6FAIQVkLt7ufeqLDaOjUVh3wLQH
-----END PRIVATE KEY-----
";
}
