//! What a certificate says of itself: its version, its names, and from when to when it is good, and whether it vouches for
//! itself. Nothing else is verified here.

use std::net::IpAddr;

use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{
    asn1_rs::Oid,
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::{ASN1Time, FromDer},
    x509::X509Version,
};

use crate::{clock::Wall, printable::quotable};

/// One sentence about the first certificate of a chain that is not good now, with its date. What cannot be read is not
/// judged.
pub fn out_of_date(pem: &str, now: Wall) -> Option<String> {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes());
    chain.filter_map(Result::ok).find_map(|der| {
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let validity = certificate.validity();
        let (begin, end) = (wall(validity.not_before), wall(validity.not_after));
        let name = name(&certificate);
        if end < now {
            Some(format!("the certificate of {name} expired at {end}; put a renewed one in its place"))
        } else if begin > now {
            Some(format!("the certificate of {name} is good from {begin} only; wait until then, or set the clock"))
        } else {
            None
        }
    })
}

/// Version 1 has no extensions, and with them no names that a client could check.
pub fn is_version_1(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| certificate.version() == X509Version::V1)
}

/// Those of hosts, in lower case.
pub fn names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    hosts(&certificate).map(str::to_ascii_lowercase).collect()
}

/// The names of the first certificate of a chain, of hosts before addresses, else its subject; and when it ends.
pub fn names_and_end(pem: &str) -> Option<(Vec<String>, Wall)> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let mut names: Vec<String> = hosts(&certificate).map(quotable).collect();
    names.extend(addresses(&certificate).map(|address| address.to_string()));
    if names.is_empty() {
        names.push(name(&certificate));
    }
    Some((names, wall(certificate.validity().not_after)))
}

/// From when to when the first certificate of a chain is good.
pub fn validity(pem: &str) -> Option<(Wall, Wall)> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let validity = certificate.validity();
    Some((wall(validity.not_before), wall(validity.not_after)))
}

/// By which its authority knows the first certificate of a chain (RFC 9773, section 4.1): the key identifier of the
/// authority, and the serial number.
pub fn renewal_id(pem: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    let authority = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(found) => found.key_identifier.as_ref().map(|key| key.0.to_vec()),
        _ => None,
    })?;
    Some((authority, certificate.raw_serial().to_vec()))
}

/// Whether the first certificate of a chain has all these names, of hosts and addresses, and is good at this time.
pub fn is_good_for(pem: &str, wanted: &[String], at: Wall) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return false };
    let has = |name: &String| match name.parse::<IpAddr>() {
        Ok(address) => addresses(&certificate).any(|one| one == address),
        Err(_) => hosts(&certificate).any(|host| host.eq_ignore_ascii_case(name)),
    };
    let validity = certificate.validity();
    wanted.iter().all(has) && wall(validity.not_before) <= at && at < wall(validity.not_after)
}

/// One sentence about a chain that may be served in development only.
pub fn refused_in_production(pem: &str) -> Option<String> {
    is_self_signed(pem).then(|| {
        "the certificate is signed by itself, which production refuses, since no client can tell it from another's; have \
         an authority sign it, a private one will do, or let `acme` have one issued"
            .to_owned()
    })
}

/// Whether nobody but its own key vouches for the first certificate of a chain. A signature that cannot be checked is
/// taken for its own where the names say so.
fn is_self_signed(pem: &str) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { return false };
    X509Certificate::from_der(&der).is_ok_and(|(_, certificate)| {
        certificate.issuer() == certificate.subject() && is_signed_by_own_key(&certificate) != Some(false)
    })
}

/// `None`: not by an algorithm that is known here.
fn is_signed_by_own_key(certificate: &X509Certificate<'_>) -> Option<bool> {
    let (key, signed) = (&certificate.public_key().subject_public_key.data, certificate.tbs_certificate.as_ref());
    let algorithm = certificate.signature_algorithm.oid();
    let known = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let mut fitting =
        known.iter().filter(|one| oid(one.signature_alg_id().as_ref()).as_ref() == Some(algorithm)).peekable();
    fitting.peek()?;
    Some(fitting.any(|one| one.verify_signature(key, signed, &certificate.signature_value.data).is_ok()))
}

/// Of an algorithm with its parameters, in DER without the sequence around it.
fn oid(algorithm: &[u8]) -> Option<Oid<'_>> {
    Oid::from_der(algorithm).ok().map(|(_, oid)| oid)
}

fn wall(time: ASN1Time) -> Wall {
    Wall(time.timestamp().saturating_mul(1000))
}

/// The first name of a host, else the subject.
fn name(certificate: &X509Certificate<'_>) -> String {
    hosts(certificate).next().map_or_else(|| quotable(&certificate.subject().to_string()), quotable)
}

fn hosts<'a>(certificate: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a str> {
    alternatives(certificate).iter().filter_map(|name| match name {
        GeneralName::DNSName(host) => Some(*host),
        _ => None,
    })
}

fn addresses<'a>(certificate: &'a X509Certificate<'_>) -> impl Iterator<Item = IpAddr> + 'a {
    alternatives(certificate).iter().filter_map(|name| match name {
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok()
        }
        _ => None,
    })
}

fn alternatives<'a>(certificate: &'a X509Certificate<'_>) -> &'a [GeneralName<'a>] {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    alternative.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn pem(from: i32, to: i32) -> String {
        let mut params = CertificateParams::new(vec!["edge.test".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 2), date_time_ymd(to, 1, 2));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn a_certificate_vouches_for_itself_by_name_and_key() {
        let named = |name: &str| {
            let mut params = CertificateParams::new(vec!["edge.test".to_owned()]).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params
        };
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = || KeyPair::generate_for(algorithm).unwrap();
            let own = named("edge.test").self_signed(&key()).unwrap().pem();
            assert!(is_self_signed(&own) && is_self_signed(&(own.clone() + &pem(2026, 2027))));
            for authority in ["a private authority", "edge.test"] {
                let issuer = rcgen::Issuer::new(named(authority), key());
                let signed = named("edge.test").signed_by(&key(), &issuer).unwrap().pem();
                assert!(!is_self_signed(&signed), "{authority}");
                assert!(!is_self_signed(&(signed + &own)), "the rest of a chain may vouch for itself");
            }
        }
        assert!(!is_self_signed(""));
    }

    #[test]
    fn a_certificate_is_good_from_its_first_date_to_its_last() {
        let now: Wall = serde_json::from_str("\"2026-07-01T00:00:00.000Z\"").unwrap();
        assert_eq!(out_of_date(&pem(2026, 2027), now), None);
        let expired = out_of_date(&pem(2025, 2026), now).unwrap();
        assert!(expired.contains("of edge.test expired at 2026-01-02T00:00:00.000Z"), "{expired}");
        let early = out_of_date(&pem(2027, 2028), now).unwrap();
        assert!(early.contains("of edge.test is good from 2027-01-02T00:00:00.000Z only"), "{early}");
        assert!(out_of_date(&(pem(2026, 2027) + &pem(2025, 2026)), now).is_some(), "the rest of a chain counts too");
        let (names, end) = names_and_end(&pem(2026, 2027)).unwrap();
        assert_eq!((&*names, end.to_string().as_str()), (&["edge.test".to_owned()][..], "2027-01-02T00:00:00.000Z"));
        let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        let both = CertificateParams::new(names(&["edge.test", "::1", "192.0.2.1"])).unwrap();
        let both = both.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        assert_eq!(names_and_end(&both).unwrap().0, ["edge.test", "::1", "192.0.2.1"]);
        assert!(is_good_for(&both, &names(&["EDGE.test", "0:0::1", "192.0.2.1"]), now) && is_self_signed(&both));
        assert!(!is_good_for(&both, &names(&["192.0.2.2"]), now) && !is_good_for(&both, &names(&["a.test"]), now));
        assert!(!is_good_for(&pem(2025, 2026), &[], now) && !is_good_for("", &[], now));
        assert_eq!(out_of_date("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", now), None);
    }
}
