//! Certificates and keys as the server gets them: from the files that the config names, or made here once and kept.

use std::{fs::read_to_string, net::SocketAddr, path::Path, time::Duration};

use zeroize::Zeroizing;

use crate::{
    clock::Wall,
    config::{Config, Mode, Server},
    error::{Blame, Context, Failure},
    keep::keep,
    server::{
        link::CertificatePem,
        tls::{self, Certificate},
        x509,
    },
};

/// A self-signed one that ends so soon is made anew, at a start or reload.
const RENEWED_BEFORE: Duration = Duration::from_secs(30 * 86_400);

/// All of them, each fit for its key.
pub fn all(config: &Config, server: &Server) -> Result<Vec<CertificatePem>, Failure> {
    let read = |path: &Path| {
        read_to_string(path).blame(Blame::Usage, || format!("server.tls: {} cannot be read", path.display()))
    };
    let mut all = Vec::new();
    for files in &server.tls.files {
        let pem = CertificatePem { chain: read(&files.cert_file)?, key: read(&files.key_file)? };
        let told = |why| Failure::usage(format!("server.tls: {}: {why}", files.cert_file.display()));
        Certificate::from_pem(&pem.chain, &pem.key).map_err(told)?;
        // The files may have changed since the config was checked.
        if config.mode == Mode::Production {
            x509::refused_in_production(&pem.chain).map_or(Ok(()), |why| Err(told(why)))?;
        }
        all.push(pem);
    }
    if server.tls.self_signed {
        all.push(self_signed(&config.store.self_signed(), &own_names(server), Wall::now())?);
    }
    Ok(all)
}

/// Under which a developer's clients may reach it.
fn own_names(server: &Server) -> Vec<String> {
    let mut names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let listened = server.listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
    names.extend(listened.map(|ip| ip.to_string()));
    let issuer = server.auth.issuer.parse::<hyper::Uri>().ok();
    let host = issuer.as_ref().and_then(hyper::Uri::host).filter(|host| is_host(host));
    names.extend(host.map(str::to_ascii_lowercase));
    names.sort();
    names.dedup();
    names
}

fn is_host(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
}

/// Made once and kept, certificate and key in one file that only its owner reads. One that cannot be served, lacks a
/// name or is about to end is made anew.
fn self_signed(path: &Path, names: &[String], now: Wall) -> Result<CertificatePem, Failure> {
    if let Ok(both) = read_to_string(path)
        && Certificate::from_pem(&both, &both).is_ok()
        && x509::is_good_for(&both, names, now.plus(RENEWED_BEFORE))
    {
        return Ok(CertificatePem { chain: both.clone(), key: both });
    }
    let (chain, key) = tls::self_signed(names, now).map_err(Failure::system)?;
    let both = Zeroizing::new(format!("{chain}{key}"));
    keep(path, &both)
        .blame(Blame::System, || format!("the self-signed certificate {} cannot be kept", path.display()))?;
    // As it is read again: a reload must not take it for another.
    Ok(CertificatePem { chain: both.to_string(), key: both.to_string() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_self_signed_pair_is_made_where_nothing_is_yet_and_kept_for_its_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lib/edge/edge.db-self-signed.pem");
        let names = ["localhost".to_owned()];
        let made = self_signed(&path, &names, Wall::now()).unwrap();
        assert!(Certificate::from_pem(&made.chain, &made.key).is_ok());
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(self_signed(&path, &names, Wall::now()).unwrap() == made);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_left_unfinished_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pair.pem");
        std::fs::write(&path, "").unwrap();
        std::fs::write(root.path().join("pair.pem.new"), "-----BEGIN").unwrap();
        let names = ["localhost".to_owned()];
        let made = self_signed(&path, &names, Wall::now()).unwrap();
        assert!(Certificate::from_pem(&made.chain, &made.key).is_ok());
        assert_eq!(read_to_string(&path).unwrap(), made.chain);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn another_name_or_a_near_end_asks_for_another() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pair.pem");
        let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        let now = Wall::now();
        let first = self_signed(&path, &names(&["localhost", "192.0.2.1"]), now).unwrap();
        assert!(self_signed(&path, &names(&["192.0.2.1"]), now).unwrap() == first);
        let second = self_signed(&path, &names(&["edge.test"]), now).unwrap();
        assert!(second != first);
        let days = |days: u64| now.plus(Duration::from_secs(days * 86_400));
        assert!(self_signed(&path, &names(&["edge.test"]), days(360)).unwrap() == second);
        assert!(self_signed(&path, &names(&["edge.test"]), days(370)).unwrap() != second);
    }
}
