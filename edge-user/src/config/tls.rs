//! `[server.tls]` as typed: which certificates, and what goes together.

use std::{net::IpAddr, path::PathBuf};

use hyper::Uri;

use super::{
    Acme, CertificateFiles, Mode, Tls,
    raw::{Node, Place, Problems, Section},
};

const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Where the text names a certificate and its key. `None`: it is missing beside the other, which is reported already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificatePlaces {
    pub cert: Option<Place>,
    pub key: Option<Place>,
}

type Placed = (CertificateFiles, CertificatePlaces);

/// `may_be_plain`: where nothing is said, plain HTTP is meant.
pub fn tls(
    mut section: Section<'_>,
    mode: Mode,
    may_be_plain: bool,
    problems: &mut Problems<'_>,
) -> (Tls, Vec<CertificatePlaces>) {
    let first = pair(&mut section, problems);
    let self_signed = section.read_placed("self_signed", problems, |node, p| node.flag(p));
    let mut all: Vec<Placed> = first.into_iter().collect();
    for mut table in section.sections("certificate", problems) {
        match pair(&mut table, problems) {
            Some(pair) => all.push(pair),
            None => problems.at(&table.place("cert_file"), "is missing; write cert_file and key_file"),
        }
        table.finish(problems);
    }
    let acme = acme(section.section("acme", problems), mode, problems);
    let made = matches!(self_signed, Some((Some(true), _)));
    if let Some((Some(true), place)) = &self_signed {
        if mode == Mode::Production {
            problems.at(place, "is refused in production; write cert_file and key_file, or mode = \"development\"");
        } else if !all.is_empty() || acme.is_some() {
            let right = "write one of them: files, acme, or self_signed = true";
            problems.at(place, format!("stands beside certificate files or acme; {right}"));
        }
    }
    if all.is_empty() && !made && acme.is_none() && (section.present || !may_be_plain) {
        all.push(by_default(&section));
    }
    section.finish(problems);
    let (files, places) = all.into_iter().unzip();
    (Tls { files, self_signed: made, acme }, places)
}

/// `None`: neither of the two is there.
fn pair(section: &mut Section<'_>, problems: &mut Problems<'_>) -> Option<Placed> {
    let mut file = |key| match section.read_placed(key, problems, |node, p| node.path(p)) {
        Some((path, place)) => (path.unwrap_or_default(), Some(place)),
        None => (PathBuf::new(), None),
    };
    let ((cert_file, cert), (key_file, key)) = (file("cert_file"), file("key_file"));
    let (missing, beside) = match (&cert, &key) {
        (None, None) => return None,
        (None, Some(place)) => ("cert_file", Some(place)),
        (Some(place), None) => ("key_file", Some(place)),
        (Some(_), Some(_)) => ("", None),
    };
    if let Some(beside) = beside {
        let place = Place { offset: beside.offset, ..section.place(missing) };
        problems.missing(&place, "is missing; write cert_file and key_file together");
    }
    Some((CertificateFiles { cert_file, key_file }, CertificatePlaces { cert, key }))
}

fn acme(mut section: Section<'_>, mode: Mode, problems: &mut Problems<'_>) -> Option<Acme> {
    let domains = section.read_placed("domains", problems, |node, p| {
        let domains = node.list(p, domain)?;
        if domains.is_empty() { node.wrong(p, "names no host; write [\"api.example.org\"]") } else { Some(domains) }
    });
    let contact = section.read("contact", problems, None, |node, p| {
        let contact = node.text(p)?;
        let is_address = contact.strip_prefix("mailto:").is_some_and(|address| address.contains('@'));
        if is_address {
            Some(Some(contact.to_owned()))
        } else {
            node.wrong(p, "is no address; write mailto:ops@example.org")
        }
    });
    let directory = section.read("directory", problems, LETS_ENCRYPT.to_owned(), |node, p| {
        let text = node.text(p)?;
        let uri = text.parse::<Uri>().ok().filter(|uri| uri.host().is_some());
        match uri.as_ref().and_then(Uri::scheme_str) {
            Some("https") => Some(text.to_owned()),
            Some("http") if mode == Mode::Development => Some(text.to_owned()),
            _ => node.wrong(p, "is no address of an ACME directory; write one that begins with https://"),
        }
    });
    if !section.present {
        return None;
    }
    if domains.is_none() {
        problems.missing(&section.place("domains"), "is missing; write the hosts that the certificate is for");
    }
    section.finish(problems);
    Some(Acme { domains: domains.and_then(|(domains, _)| domains).unwrap_or_default(), contact, directory })
}

/// The challenges that edge answers prove no wildcard (RFC 8737, RFC 8555 section 8.3).
fn domain(node: &Node<'_, '_>, problems: &mut Problems<'_>) -> Option<String> {
    let text = node.text(problems)?;
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if text.len() <= 253 && text.contains('.') && text.split('.').all(is_label) && text.parse::<IpAddr>().is_err() {
        return Some(text.to_ascii_lowercase());
    }
    node.wrong(problems, format!("`{text}` is no name of a host, without wildcards; write it as api.example.org"))
}

fn by_default(section: &Section<'_>) -> Placed {
    let files = CertificateFiles {
        cert_file: PathBuf::from("/etc/edge/tls/fullchain.pem"),
        key_file: PathBuf::from("/etc/edge/tls/privkey.pem"),
    };
    let place = |key| Some(section.place(key));
    (files, CertificatePlaces { cert: place("cert_file"), key: place("key_file") })
}
