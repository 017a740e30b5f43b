//! The files that the config names: the signing secret, certificate and key; what production forbids of them.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{
    AuditTo, Auth, CertificateFiles, Config, KeysFrom, Mode, raw::Problems, tls::CertificatePlaces, validate::Places,
};
use crate::{
    audit,
    clock::Wall,
    error::{Blame, Failure},
    server::{issuers::jwks::KeySet, jws::SigningKey, tls::Certificate, x509},
};

const SECRET_VARIABLE: &str = "EDGE_AUTH_SECRET";
const MAX_BYTES: u64 = 1 << 20;
/// RFC 7518, section 3.2: a key for HS256 has at least the size of the hash.
const MIN_SECRET_BYTES: usize = 32;

/// Examples that stand in well-known documentation, or begin what their tools generate as a placeholder; in lower case.
const PUBLISHED: [&str; 26] = [
    // jwt.io, now and before
    "your-256-bit-secret",
    "your-384-bit-secret",
    "your-512-bit-secret",
    "a-string-secret-at-least-256-bits-long",
    "a-valid-string-secret-that-is-at-least-",
    "qwertyuiopasdfghjklzxcvbnm123456",
    // RFC 7515, appendix A.1
    "aym1sysppbydfgzld3umj1qzkobwvmkoqq-estjqlr_t-1qs0gzh75aktmn3yj0ips4hcguutwjazzr1z9caow",
    // FastAPI, Flask
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",
    // Django
    "django-insecure-",
    "!!!set django_secret_key!!!",
    // Rails
    "3b7cd727ee24e8444053437c36cc66c3",
    // Laravel
    "base64:",
    "somerandomstring",
    "ackfsecxivnk5r28gviwuaxmbbsjtsmf",
    // Supabase
    "super-secret-jwt-token-with-at-least-32-characters-long",
    "your-super-secret",
    "upnvntn3cdxhjpq99ymc1t1aqgqpc8kfyturgbiya15blrx8etqoxz3gzv1/u2oq",
    "your-encryption-key-32-chars-min",
    // Guides to Spring
    "404e635266556a586e3272357538782f413f4428472b4b6250645367566b5970",
    "changeme",
    "changethis",
    "change-me",
    "change_me",
    "replace-me",
    "replace_me",
];

/// The signing secret: `EDGE_AUTH_SECRET`, else the systemd credential with the file's name, else the file; white
/// space around it does not belong to it. With an asymmetric algorithm the private key, by credential or file.
pub fn read_signing_key(auth: &Auth) -> Result<SecretString, Failure> {
    if let Some(secret) = secret_of_environment(auth) {
        return trimmed(Zeroizing::new(secret), SECRET_VARIABLE);
    }
    let file = signing_path(auth);
    let text = read_small(&file).map_err(|error| {
        let (what, way) = if auth.algorithm.is_symmetric() {
            ("secret", "`edge secret generate`".to_owned())
        } else {
            ("key", format!("`openssl genpkey`: {}", auth.algorithm.key()))
        };
        // What is there and closed to the caller must not be replaced.
        let right = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "run this as root, or as who owns it".to_owned(),
            _ => format!("write one with {way}"),
        };
        let message = format!("the signing {what} {} cannot be read: {error}; {right}", file.display());
        Failure::new(Blame::Usage, message)
    })?;
    trimmed(text, &file.display().to_string())
}

/// What an OpenID provider knows this server by; white space around it does not belong to it.
pub fn read_client_secret(file: &Path) -> Result<SecretString, Failure> {
    let wrong = |why: &str| {
        Failure::new(Blame::Usage, format!("{} {why}; write the secret that the provider gave", file.display()))
    };
    let text = read_small(file).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    match text.trim() {
        "" => Err(wrong("is empty")),
        secret if secret.chars().any(char::is_control) => Err(wrong("has a control character in it")),
        secret => Ok(SecretString::from(secret)),
    }
}

/// The JSON Web Key set of a trusted issuer, as its file has it.
pub fn read_keys(file: &Path) -> Result<String, Failure> {
    let right = "write the issuer's JSON Web Key set, as its jwks_uri gives it";
    let text = read_small(file)
        .map_err(|error| Failure::new(Blame::Usage, format!("{} cannot be read: {error}; {right}", file.display())))?;
    KeySet::public(text.as_bytes())
        .map_err(|why| Failure::new(Blame::Usage, format!("{} {why}; {right}", file.display())))?;
    Ok(text.to_string())
}

/// Where the signing secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SigningFrom {
    Variable(&'static str),
    Credential(PathBuf),
    File(PathBuf),
}

/// Where it comes from for this very process.
pub fn signing_from(auth: &Auth) -> SigningFrom {
    let file = signing_path(auth);
    if secret_of_environment(auth).is_some() {
        SigningFrom::Variable(SECRET_VARIABLE)
    } else if file == auth.signing_file {
        SigningFrom::File(file)
    } else {
        SigningFrom::Credential(file)
    }
}

/// Adds what is wrong with each file, at the key that names it.
pub fn check(config: &Config, places: &Places, problems: &mut Problems<'_>) {
    if let (AuditTo::File(path), Some(place)) = (&config.log.audit, &places.audit)
        && let Some(warning) = audit::unwritable(path)
    {
        problems.warn(place, warning);
    }
    let Some(server) = &config.server else { return };
    let production = config.mode == Mode::Production;
    check_signing_key(&server.auth, production, places, problems);
    check_certificates(&server.tls.files, &places.certificates, production, problems);
    for (provider, place) in server.auth.oidc.iter().zip(&places.oidc) {
        if let Err(failure) = read_client_secret(&provider.client_secret_file) {
            problems.at(place, failure.message);
        } else if production && open_to_others(&provider.client_secret_file) {
            problems.at(place, readable(&provider.client_secret_file));
        }
    }
    for (issuer, place) in server.auth.trusted_issuers.iter().zip(&places.issuers) {
        if let KeysFrom::File(file) = &issuer.keys
            && let Err(failure) = read_keys(file)
        {
            problems.at(place, failure.message);
        }
    }
}

fn check_signing_key(auth: &Auth, production: bool, places: &Places, problems: &mut Problems<'_>) {
    let file = signing_path(auth);
    if auth.signing_file.as_os_str().is_empty() && secret_of_environment(auth).is_none() {
        // It was told that none is named.
        return;
    }
    let good = read_signing_key(auth).map_err(|failure| failure.message).and_then(|key| {
        let key = key.expose_secret();
        match auth.algorithm.is_symmetric() {
            true if production => strong(key),
            true => Ok(()),
            false => SigningKey::new(auth.algorithm, key).map(drop).map_err(|why| format!("{} {why}", file.display())),
        }
    });
    if let Err(message) = good {
        problems.at(&places.signing, message);
    }
    if production && secret_of_environment(auth).is_none() && open_to_others(&file) {
        problems.at(&places.signing, readable(&file));
    }
}

fn check_certificates(
    files: &[CertificateFiles],
    places: &[CertificatePlaces],
    production: bool,
    problems: &mut Problems<'_>,
) {
    let mut good: Vec<(&Path, Certificate)> = Vec::new();
    for (pair, places) in files.iter().zip(places) {
        if let (Some(certificate), Some(place)) = (check_pair(pair, places, production, problems), &places.cert) {
            let before = good.iter().map(|(path, before)| (*path, before));
            if let Some(warning) = never_chosen(&certificate, before) {
                problems.warn(place, format!("{}: {warning}", pair.cert_file.display()));
            }
            good.push((&pair.cert_file, certificate));
        }
        if let Some(place) = &places.key
            && production
            && open_to_others(&pair.key_file)
        {
            problems.at(place, readable(&pair.key_file));
        }
    }
}

/// Why clients do not get this certificate, for all or one of its names, where others go `before`.
fn never_chosen<'a>(
    certificate: &Certificate,
    mut before: impl Iterator<Item = (&'a Path, &'a Certificate)> + Clone,
) -> Option<String> {
    // The first needs no name.
    before.clone().next()?;
    if certificate.names.is_empty() {
        return Some(
            "it names no host in subjectAltName, so that no client gets it; name a certificate that does".into(),
        );
    }
    before.find_map(|(path, other)| {
        let name = certificate.names.iter().find(|name| other.names.contains(name))?;
        let right = "leave one of the two out";
        (other.kind == certificate.kind)
            .then(|| format!("{name} is in {} too, which goes before; {right}", path.display()))
    })
}

fn check_pair(
    CertificateFiles { cert_file, key_file }: &CertificateFiles,
    places: &CertificatePlaces,
    production: bool,
    problems: &mut Problems<'_>,
) -> Option<Certificate> {
    let cert = places.cert.as_ref().and_then(|place| {
        read_pem(cert_file)
            .map_err(|error| problems.at(place, format!("{error}; write a certificate chain in PEM")))
            .ok()
    });
    let key = places.key.as_ref().and_then(|place| {
        read_pem(key_file).map_err(|error| problems.at(place, format!("{error}; write its private key in PEM"))).ok()
    });
    let (place, cert) = (places.cert.as_ref()?, cert?);
    if let Some(warning) = x509::out_of_date(&cert, Wall::now()) {
        problems.warn(place, format!("{}: {warning}", cert_file.display()));
    }
    if production && let Some(refused) = x509::refused_in_production(&cert) {
        problems.at(place, format!("{}: {refused}", cert_file.display()));
    }
    let checked = Certificate::from_pem(&cert, &key?);
    checked
        .map_err(|message| {
            let right = "name a certificate chain and its private key, both in PEM";
            problems.at(place, format!("{} with {}: {message}; {right}", cert_file.display(), key_file.display()));
        })
        .ok()
}

fn read_pem(file: &Path) -> Result<Zeroizing<String>, String> {
    read_small(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
}

/// Whether it could be guessed; the error says what would be right.
fn strong(secret: &str) -> Result<(), String> {
    let right = "make one with `edge secret generate`";
    let lower = secret.to_ascii_lowercase();
    let wrong = if PUBLISHED.iter().any(|known| lower.starts_with(known)) {
        "is an example that was published".to_owned()
    } else if secret.len() < MIN_SECRET_BYTES {
        format!("has {} bytes, under {MIN_SECRET_BYTES}", secret.len())
    } else if repeats(secret.as_bytes()) {
        "repeats itself".to_owned()
    } else if is_sequence(secret.as_bytes()) {
        "is a sequence".to_owned()
    } else if is_words(secret) {
        "is made of words".to_owned()
    } else {
        return Ok(());
    };
    Err(format!("the signing secret {wrong}; {right}"))
}

/// One pattern over and over, or hardly any different bytes.
fn repeats(secret: &[u8]) -> bool {
    let period = (1..=secret.len() / 2).any(|period| secret.iter().zip(&secret[period..]).all(|(a, b)| a == b));
    let mut seen = [false; 256];
    secret.iter().for_each(|byte| seen[usize::from(*byte)] = true);
    period || seen.iter().filter(|seen| **seen).count() < 8
}

/// Most steps from byte to byte are the same small one: `0123…`, `abcd…`, `zyxw…`.
fn is_sequence(secret: &[u8]) -> bool {
    let steps = secret.len().saturating_sub(1);
    let small = secret.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
    steps > 0 && small * 4 >= steps * 3
}

/// Letters in one case with separators between, no digit among them: a phrase. A random text of this length has both.
fn is_words(secret: &str) -> bool {
    let letters = secret.chars().all(|c| c.is_alphabetic() || matches!(c, '-' | '_' | ' ' | '.'));
    let mixed = secret.chars().any(char::is_uppercase) && secret.chars().any(char::is_lowercase);
    letters && !mixed
}

fn secret_of_environment(auth: &Auth) -> Option<String> {
    if auth.algorithm.is_symmetric() { std::env::var(SECRET_VARIABLE).ok() } else { None }
}

fn signing_path(auth: &Auth) -> PathBuf {
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY")
        .and_then(|directory| auth.signing_file.file_name().map(|name| PathBuf::from(directory).join(name)));
    match credential {
        Some(file) if file.exists() => file,
        _ => auth.signing_file.clone(),
    }
}

/// Only of a file: what else has a name may never end, or never begin.
fn read_small(file: &Path) -> std::io::Result<Zeroizing<String>> {
    let data = fs::metadata(file)?;
    if !data.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let length = data.len();
    if length > MAX_BYTES {
        return Err(std::io::Error::other(format!("it has {length} bytes, over {MAX_BYTES}")));
    }
    fs::read_to_string(file).map(Zeroizing::new)
}

fn trimmed(text: Zeroizing<String>, from: &str) -> Result<SecretString, Failure> {
    match text.trim() {
        "" => Err(Failure::usage(format!("{from} is empty; write a signing secret, as `edge secret generate` prints"))),
        secret => Ok(SecretString::from(secret)),
    }
}

fn open_to_others(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|data| data.is_file() && data.mode() & 0o006 != 0)
}

fn readable(file: &Path) -> String {
    format!("{0} is open to every user; run chmod 600 {0}", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tls;

    #[test]
    fn weak_secrets_are_told_from_random_ones() {
        for weak in [
            "short",
            "0123456789012345678901234567890",
            "01234567890123456789012345678901",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "abababababababababababababababababab",
            "abcdefghijklmnopqrstuvwxyz0123456789",
            "correct-horse-battery-staple-correct",
            "your-256-bit-secret",
            "a-string-secret-at-least-256-bits-long",
            "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
            "super-secret-jwt-token-with-at-least-32-characters-long",
            "UpNVntn3cDxHJpq99YMc1T1AQgQpc8kfYTuRgBiYa15BLrx8etQoXz3gZv1/u2oq",
            "SomeRandomStringWith32Characters",
            "404E635266556A586E3272357538782F413F4428472B4B6250645367566B5970",
            "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
            "django-insecure-4k3j5h34kj5h3k4jh534k5jh3k4jh5",
        ] {
            assert!(strong(weak).is_err(), "{weak}");
        }
        for good in ["k3JX0vQm1d9yR7sT5uW2xZ8aBcDeFgHi4jKlMnOpQrS", "8f14e45fceea167a5a36dedd4bea2543c9f0f895fb98ab91"]
        {
            assert_eq!(strong(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn published_examples_are_compared_without_case() {
        assert!(PUBLISHED.iter().all(|known| *known == known.to_ascii_lowercase()));
    }

    #[test]
    fn white_space_around_a_secret_does_not_belong_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("jwt");
        fs::write(&file, "  the-secret\n").unwrap();
        let text = read_small(&file).unwrap();
        assert_eq!(trimmed(text, "x").unwrap().expose_secret(), "the-secret");
        assert!(trimmed(Zeroizing::new(" \n".to_owned()), "x").is_err());
    }

    #[test]
    fn a_certificate_that_has_expired_is_warned_of_with_its_date() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut params = rcgen::CertificateParams::new(vec!["edge.test".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2020, 1, 2);
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(path("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(path("key.pem"), key.serialize_pem()).unwrap();
        fs::write(path("jwt"), "k3JX0vQm1d9yR7sT5uW2xZ8aBcDeFgHi4jKlMnOpQrS").unwrap();
        let [cert, key, jwt] = ["cert.pem", "key.pem", "jwt"].map(|name| path(name).display().to_string());
        let text = format!(
            "mode = \"development\"\n[filter]\ninterfaces = [\"eth0\"]\n[server.tls]\ncert_file = \"{cert}\"\n\
             key_file = \"{key}\"\n[auth]\nsecret_file = \"{jwt}\"\n"
        );
        fs::write(path("edge.toml"), text).unwrap();
        let config = Config::load_with_files(&path("edge.toml"), &super::super::Overrides::default()).unwrap();
        let told: Vec<String> = config.warnings.iter().map(|warning| warning.told(&config.file)).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains(":5:1: server.tls.cert_file: ") && told[0].contains("2020-01-02T00:00:00"),
            "{told:?}"
        );
    }

    #[test]
    fn each_certificate_is_judged_at_its_line_and_what_no_client_gets_is_warned_of() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let pair = |file: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let (cert, key) = tls::self_signed(&names, Wall::now()).unwrap();
            fs::write(path(&format!("{file}.pem")), cert).unwrap();
            fs::write(path(&format!("{file}.key")), key).unwrap();
        };
        pair("one", &["one.test", "*.one.test"]);
        pair("again", &["two.test", "one.test"]);
        pair("address", &["192.0.2.1"]);
        fs::write(path("jwt"), "k3JX0vQm1d9yR7sT5uW2xZ8aBcDeFgHi4jKlMnOpQrS").unwrap();
        let table = |cert: &str, key: &str| {
            format!(
                "[[server.tls.certificate]]\ncert_file = {:?}\nkey_file = {:?}\n",
                path(&format!("{cert}.pem")),
                path(&format!("{key}.key"))
            )
        };
        let text = format!(
            "mode = \"development\"\n[filter]\ninterfaces = [\"eth0\"]\n[server]\n{}{}{}{}{}[auth]\nsecret_file = {:?}\n",
            table("one", "one"),
            table("again", "again"),
            table("address", "address"),
            table("one", "again"),
            table("gone", "one"),
            path("jwt"),
        );
        fs::write(path("edge.toml"), text).unwrap();
        let errors = Config::load_with_files(&path("edge.toml"), &super::super::Overrides::default()).unwrap_err();
        let told = |found: &[super::super::Problem]| -> Vec<(usize, String)> {
            found.iter().map(|one| (one.line, format!("{}: {}", one.key, one.message))).collect()
        };
        let (problems, warnings) = (told(&errors.problems), told(&errors.warnings));
        assert!(
            matches!(&problems[..], [(15, mismatch), (18, gone)]
            if mismatch.contains("does not belong") && gone.contains("gone.pem cannot be read")),
            "{problems:?}"
        );
        assert!(
            matches!(&warnings[..], [(9, twice), (12, nameless)]
            if twice.contains("one.test is in") && nameless.contains("names no host")),
            "{warnings:?}"
        );
        assert!(problems[0].1.starts_with("server.tls.certificate.cert_file: "));
    }
}
