//! What of ACME outlives the server, in its own directory beside the store: the account, the certificate with its key, and
//! a lock that one server at a time has while it asks for one.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use instant_acme::AccountCredentials;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{keep::keep, server::link::CertificatePem};

pub struct Kept {
    /// Of the server.
    pub folder: PathBuf,
}

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
        let kept = Kept { folder: folder.path().to_owned() };
        assert!(kept.certificate().is_none() && kept.account("https://a.test/").is_none());
        let (chain, key) = crate::server::tls::self_signed(&["a.test".to_owned()], crate::clock::Wall::now()).unwrap();
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
}
