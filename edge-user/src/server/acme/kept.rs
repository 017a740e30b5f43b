//! What of ACME outlives the server, in its own directory beside the store: the account, the certificate with its key, the
//! order that is in flight, what failed and when it is tried again, and a lock that one server at a time has while it asks.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use instant_acme::AccountCredentials;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{clock::Wall, keep::keep, server::link::CertificatePem};

pub struct Kept {
    /// Of the server.
    pub folder: PathBuf,
    /// Of what is in flight and what failed, that of another question says nothing.
    pub question: Question,
}

/// Who is asked for what, and how it is proven.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Question {
    pub directory: String,
    pub domains: Vec<String>,
    pub ways: Vec<String>,
}

/// What failed since the last certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Failures {
    /// Of one kind in a row.
    pub count: u32,
    /// That kind: the authority was asked, and counts it.
    pub ordered: bool,
    /// Orders that came to nothing.
    pub refused: usize,
    pub last: String,
    /// When it is tried again.
    pub again: Wall,
}

/// An order in flight: another server can go on with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct InFlight {
    pub url: String,
    /// Of the certificate, in PEM.
    pub key: String,
    pub proofs: Vec<Proof>,
}

/// What the authority may look for at any moment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    Certificate { name: String, digest: Vec<u8> },
    Text { token: String, text: String },
}

/// With the question that it is about.
#[derive(Deserialize, Serialize)]
struct About<T> {
    question: Question,
    what: T,
}

const FAILURES: &str = "acme-failures.json";
const IN_FLIGHT: &str = "acme-order.json";

/// With the directory that it is good for.
#[derive(Deserialize, Serialize)]
struct Account {
    directory: String,
    credentials: AccountCredentials,
}

impl Kept {
    /// The account at this directory; `None` where there is none yet.
    pub fn account(&self, directory: &str) -> Option<AccountCredentials> {
        let text = Zeroizing::new(fs::read_to_string(self.file("acme-account.json")).ok()?);
        let account: Account = serde_json::from_str(&text).ok()?;
        (account.directory == directory).then_some(account.credentials)
    }

    pub fn keep_account(&self, directory: &str, credentials: AccountCredentials) -> io::Result<()> {
        let account = Account { directory: directory.to_owned(), credentials };
        let text = Zeroizing::new(serde_json::to_string(&account)?);
        keep(&self.file("acme-account.json"), &text)
    }

    /// The authority knows it no more.
    pub fn forget_account(&self) {
        let _ = fs::remove_file(self.file("acme-account.json"));
    }

    pub fn certificate(&self) -> Option<CertificatePem> {
        let both = fs::read_to_string(self.file("acme-certificate.pem")).ok()?;
        Some(CertificatePem { chain: both.clone(), key: both })
    }

    pub fn keep_certificate(&self, pem: &CertificatePem) -> io::Result<()> {
        let both = Zeroizing::new(format!("{}\n{}", pem.chain.trim_end(), pem.key));
        keep(&self.file("acme-certificate.pem"), &both)
    }

    /// None, where nothing failed.
    pub fn failures(&self) -> Failures {
        self.about(FAILURES).unwrap_or_default()
    }

    pub fn keep_failures(&self, failures: &Failures) -> io::Result<()> {
        self.keep_about(FAILURES, failures)
    }

    pub fn forget_failures(&self) {
        let _ = fs::remove_file(self.file(FAILURES));
    }

    pub fn in_flight(&self) -> Option<InFlight> {
        self.about(IN_FLIGHT)
    }

    pub fn keep_in_flight(&self, order: &InFlight) -> io::Result<()> {
        self.keep_about(IN_FLIGHT, order)
    }

    pub fn forget_in_flight(&self) {
        let _ = fs::remove_file(self.file(IN_FLIGHT));
    }

    fn about<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let text = Zeroizing::new(fs::read_to_string(self.file(name)).ok()?);
        let kept: About<T> = serde_json::from_str(&text).ok()?;
        (kept.question == self.question).then_some(kept.what)
    }

    fn keep_about<T: Serialize>(&self, name: &str, what: T) -> io::Result<()> {
        let text = serde_json::to_string(&About { question: self.question.clone(), what })?;
        keep(&self.file(name), &Zeroizing::new(text))
    }

    /// Held as long as the file lives; `None`: by another server.
    pub fn lock(&self) -> io::Result<Option<File>> {
        let file = File::options().create(true).append(true).mode(0o600).open(self.file("acme-lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_certificate_is_kept_for_its_owner_alone_and_one_at_a_time_has_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept { folder: folder.path().to_owned(), question: Question::default() };
        assert!(kept.certificate().is_none() && kept.account("https://a.test/").is_none());
        let (chain, key) = crate::server::tls::self_signed(&["a.test".to_owned()], Wall::now()).unwrap();
        kept.keep_certificate(&CertificatePem { chain: chain.clone(), key }).unwrap();
        let again = kept.certificate().unwrap();
        assert!(again.chain.starts_with(chain.trim_end()));
        assert!(crate::server::tls::Certificate::from_pem(&again.chain, &again.key).is_ok());
        let mode = |name: &str| folder.path().join(name).metadata().unwrap().mode() & 0o777;
        let held = kept.lock().unwrap();
        assert!(held.is_some() && kept.lock().unwrap().is_none());
        assert_eq!([mode("acme-certificate.pem"), mode("acme-lock")], [0o600; 2]);
        drop(held);
        assert!(kept.lock().unwrap().is_some());
    }

    #[test]
    fn what_failed_and_what_is_in_flight_is_kept_for_the_same_question() {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str, way: &str| Kept {
            folder: folder.path().to_owned(),
            question: Question {
                directory: "https://a.test/".to_owned(),
                domains: vec![name.to_owned()],
                ways: vec![way.to_owned()],
            },
        };
        let kept = of("a.test", "tls-alpn-01");
        assert_eq!((kept.failures(), kept.in_flight()), (Failures::default(), None));
        let failures = Failures { count: 3, ordered: true, refused: 4, last: "no".to_owned(), again: Wall(5) };
        let proofs = vec![
            Proof::Certificate { name: "a.test".to_owned(), digest: vec![7; 32] },
            Proof::Text { token: "t".to_owned(), text: "t.x".to_owned() },
        ];
        let order = InFlight { url: "https://a.test/1".to_owned(), key: "key".to_owned(), proofs };
        kept.keep_failures(&failures).unwrap();
        kept.keep_in_flight(&order).unwrap();
        assert_eq!((kept.failures(), kept.in_flight()), (failures, Some(order)));
        for other in [of("b.test", "tls-alpn-01"), of("a.test", "http-01")] {
            assert_eq!((other.failures(), other.in_flight()), (Failures::default(), None));
        }
        assert_eq!(folder.path().join("acme-order.json").metadata().unwrap().mode() & 0o777, 0o600);
        kept.forget_failures();
        kept.forget_in_flight();
        assert_eq!((kept.failures(), kept.in_flight()), (Failures::default(), None));
        fs::write(folder.path().join("acme-failures.json"), "{\"question\":").unwrap();
        assert_eq!(kept.failures(), Failures::default());
    }
}
