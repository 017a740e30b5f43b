//! Certificates and keys as the server gets them: from the files that the config names, or made here once and kept.

use std::{fs::read_to_string, path::Path};

use zeroize::Zeroizing;

use super::keep::keep;
use crate::{
    config::{Config, Server},
    error::{Blame, Context, Failure},
    server::{
        link::CertificatePem,
        tls::{self, Certificate},
    },
};

/// All of them, each fit for its key.
pub fn all(config: &Config, server: &Server) -> Result<Vec<CertificatePem>, Failure> {
    let read = |path: &Path| {
        read_to_string(path).blame(Blame::Usage, || format!("server.tls: {} cannot be read", path.display()))
    };
    let mut all = Vec::new();
    for files in &server.tls.files {
        let pem = CertificatePem { chain: read(&files.cert_file)?, key: read(&files.key_file)? };
        Certificate::from_pem(&pem.chain, &pem.key)
            .map_err(|why| Failure::usage(format!("server.tls: {}: {why}", files.cert_file.display())))?;
        all.push(pem);
    }
    if server.tls.self_signed {
        all.push(self_signed(&config.store.self_signed())?);
    }
    Ok(all)
}

/// Made once and kept, certificate and key in one file that only its owner reads. What cannot be served is made anew.
fn self_signed(path: &Path) -> Result<CertificatePem, Failure> {
    if let Ok(both) = read_to_string(path)
        && Certificate::from_pem(&both, &both).is_ok()
    {
        return Ok(CertificatePem { chain: both.clone(), key: both });
    }
    let (chain, key) = tls::self_signed(&["localhost".to_owned()]).map_err(Failure::system)?;
    let both = Zeroizing::new(format!("{chain}{key}"));
    keep(path, &both)
        .blame(Blame::System, || format!("the self-signed certificate {} cannot be kept", path.display()))?;
    Ok(CertificatePem { chain, key })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_self_signed_pair_is_made_where_nothing_is_yet_and_kept_for_its_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lib/edge/edge.db-self-signed.pem");
        let made = self_signed(&path).unwrap();
        assert!(Certificate::from_pem(&made.chain, &made.key).is_ok());
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(self_signed(&path).unwrap().chain.starts_with(&made.chain));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_left_unfinished_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pair.pem");
        std::fs::write(&path, "").unwrap();
        std::fs::write(root.path().join("pair.pem.new"), "-----BEGIN").unwrap();
        let made = self_signed(&path).unwrap();
        assert!(Certificate::from_pem(&made.chain, &made.key).is_ok());
        assert_eq!(read_to_string(&path).unwrap(), format!("{}{}", made.chain, made.key));
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    }
}
