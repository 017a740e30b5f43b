//! TLS of the listeners: 1.2 and 1.3 by rustls, HTTP/2 and HTTP/1.1 by ALPN. Also the check of a certificate and its
//! key that `edge check` and the agent make, and the certificate that edge makes itself for development.

use std::sync::Arc;

use rustls::{InconsistentKeys, ServerConfig, crypto::aws_lc_rs, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// What the listeners speak; an error is one sentence about the certificate or the key.
pub fn server_config(cert_pem: &str, key_pem: &str) -> Result<Arc<ServerConfig>, String> {
    let chain = certificates(cert_pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|_| "the key file holds no private key in PEM (PKCS 8, PKCS 1 or SEC 1)".to_owned())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| format!("TLS 1.2 and 1.3 cannot be set up: {error}"))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| explain(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| format!("no session ticket key: {error}"))?;
    Ok(Arc::new(config))
}

/// Whether a certificate and its key can be served; an error is one sentence.
pub fn check_pair(cert_pem: &str, key_pem: &str) -> Result<(), String> {
    server_config(cert_pem, key_pem).map(drop)
}

/// A certificate for these names, signed with its own key, and that key, both in PEM.
pub fn self_signed(names: &[String]) -> Result<(String, String), String> {
    let made = rcgen::generate_simple_self_signed(names)
        .map_err(|error| format!("no certificate can be made for {}: {error}", names.join(", ")))?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem()))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err("the certificate file holds no certificate in PEM".to_owned()),
        Ok(chain) => Ok(chain),
        Err(_) => Err("the certificate file is broken: its PEM cannot be decoded".to_owned()),
    }
}

fn explain(error: &rustls::Error) -> String {
    match error {
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

    fn pair() -> (String, String) {
        self_signed(&["edge.test".to_owned()]).unwrap()
    }

    #[test]
    fn a_pair_is_served_and_a_mismatch_is_named() {
        let ((cert, key), (_, other)) = (pair(), pair());
        assert_eq!(check_pair(&cert, &key), Ok(()));
        assert!(check_pair(&cert, &other).unwrap_err().contains("does not belong"));
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
}
