//! Certificate and key as the server gets them: from the files that the config names, or made here once and kept.

use std::{fs::read_to_string, path::Path};

use zeroize::Zeroizing;

use super::keep::keep;
use crate::{
    config::{Config, Server, Tls},
    error::{Blame, Context, Failure},
    server::tls,
};

/// Both in PEM, and fit for each other.
pub fn pair(config: &Config, server: &Server) -> Result<(String, String), Failure> {
    let read = |path: &Path, key: &str| {
        read_to_string(path).blame(Blame::Usage, || format!("server.tls.{key}: {} cannot be read", path.display()))
    };
    let (certificate, key) = match &server.tls {
        Tls::Files { cert_file, key_file } => (read(cert_file, "cert_file")?, read(key_file, "key_file")?),
        Tls::SelfSigned => self_signed(&config.store.self_signed())?,
    };
    tls::check_pair(&certificate, &key).map_err(Failure::usage)?;
    Ok((certificate, key))
}

/// Made once and kept, certificate and key in one file that only its owner reads. What cannot be served is made anew.
fn self_signed(path: &Path) -> Result<(String, String), Failure> {
    if let Ok(both) = read_to_string(path)
        && tls::check_pair(&both, &both).is_ok()
    {
        return Ok((both.clone(), both));
    }
    let (certificate, key) = tls::self_signed(&["localhost".to_owned()]).map_err(Failure::system)?;
    let both = Zeroizing::new(format!("{certificate}{key}"));
    keep(path, &both)
        .blame(Blame::System, || format!("the self-signed certificate {} cannot be kept", path.display()))?;
    Ok((certificate, key))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_self_signed_pair_is_made_where_nothing_is_yet_and_kept_for_its_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lib/edge/edge.db-self-signed.pem");
        let (certificate, key) = self_signed(&path).unwrap();
        assert_eq!(tls::check_pair(&certificate, &key), Ok(()));
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let (again, _) = self_signed(&path).unwrap();
        assert!(again.starts_with(&certificate));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_left_unfinished_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pair.pem");
        std::fs::write(&path, "").unwrap();
        std::fs::write(root.path().join("pair.pem.new"), "-----BEGIN").unwrap();
        let (certificate, key) = self_signed(&path).unwrap();
        assert_eq!(tls::check_pair(&certificate, &key), Ok(()));
        assert_eq!(read_to_string(&path).unwrap(), format!("{certificate}{key}"));
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    }
}
