//! `[server.tls]` as typed: which certificates, and what goes together.

use std::path::PathBuf;

use super::{
    CertificateFiles, Mode, Tls,
    raw::{Place, Problems, Section},
};

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
    let made = matches!(self_signed, Some((Some(true), _)));
    if let Some((Some(true), place)) = &self_signed {
        if mode == Mode::Production {
            problems.at(place, "is refused in production; write cert_file and key_file, or mode = \"development\"");
        } else if !all.is_empty() {
            problems.at(place, "stands beside certificate files; write either the files or self_signed = true");
        }
    }
    if all.is_empty() && !made && (section.present || !may_be_plain) {
        all.push(by_default(&section));
    }
    section.finish(problems);
    let (files, places) = all.into_iter().unzip();
    (Tls { files, self_signed: made }, places)
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

fn by_default(section: &Section<'_>) -> Placed {
    let files = CertificateFiles {
        cert_file: PathBuf::from("/etc/edge/tls/fullchain.pem"),
        key_file: PathBuf::from("/etc/edge/tls/privkey.pem"),
    };
    let place = |key| Some(section.place(key));
    (files, CertificatePlaces { cert: place("cert_file"), key: place("key_file") })
}
