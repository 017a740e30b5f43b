//! `edge secret …`: signing secrets, made and replaced. The file is written by the caller; the former secret is kept in
//! the store first, so that what it signed stays good wherever this ends.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

use secrecy::ExposeSecret;
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    args::{Global, Secret as Command},
    ask, note,
    output::{Complaint, Outcome},
};
use crate::{
    agent::rotatable,
    audit::event::Name,
    clock::Wall,
    config::{self, Auth, Config},
    control::protocol::{self, Rotate},
    error::{Blame, Failure},
    printable::printable,
    server::{
        jws::SigningKey,
        secret::generate,
        users::{Former, UserStore},
    },
};

pub fn secret(global: &Global, command: &Command) -> Result<Outcome, Complaint> {
    match command {
        Command::Generate => {
            let secret = generate()?;
            Ok(Outcome::new(json!({ "secret": secret }), secret))
        }
        Command::Rotate => {
            let config = Config::load(&ask::config_file(global), &ask::without_interfaces())?;
            rotate(global, &config)
        }
    }
}

fn rotate(global: &Global, config: &Config) -> Result<Outcome, Complaint> {
    let written = write_another(global, config);
    let (auth, kid) = match written {
        Ok(written) => written,
        Err(failure) => {
            note::done(global, config, Name::SecretRotate, None, Some(&failure));
            return Err(failure.into());
        }
    };
    let take_up = Rotate { file: auth.signing_file.clone(), take_up: true };
    match ask::agent_if_any(global, protocol::Command::Rotate(take_up)) {
        Some(answer) => drop(answer?),
        None => note::done(global, config, Name::SecretRotate, None, None),
    }
    let file = printable(&auth.signing_file.display().to_string());
    let lasts = (auth.access_ttl + auth.leeway).as_secs();
    let text = format!("{file}: a new secret signs (kid {kid}); the former verifies for another {lasts} s");
    Ok(Outcome::new(json!({ "file": auth.signing_file, "kid": kid, "former_verifies_seconds": lasts }), text))
}

/// What signs from the next start on, or as soon as the agent takes it up.
fn write_another<'a>(global: &Global, config: &'a Config) -> Result<(&'a Auth, String), Failure> {
    let server = config.server.as_ref();
    let auth = &server
        .ok_or_else(|| Failure::refused("nothing is signed, since the config has no [server]; nothing was changed"))?
        .auth;
    rotatable(auth)?;
    if let Some(answer) =
        ask::agent_if_any(global, protocol::Command::Rotate(Rotate { file: auth.signing_file.clone(), take_up: false }))
    {
        answer?;
    }
    let former = config::read_signing_key(auth)?;
    let secret = Zeroizing::new(generate()?);
    let key = SigningKey::new(auth.algorithm, &secret).map_err(Failure::bug)?;
    let (now, path) = (Wall::now(), real(&auth.signing_file)?);
    let beside = Beside::write(&path, &secret)?;
    let until = now.plus(auth.access_ttl).plus(auth.leeway);
    let former = Former { algorithm: auth.algorithm, key: former.expose_secret().to_owned(), until };
    UserStore::open_or_create(&config.store.auth_directory())?.keep_former(&former, now)?;
    beside.take_place(&path)?;
    Ok((auth, key.verifying().kid().unwrap_or_default().to_owned()))
}

/// What a link points to is replaced, not the link.
fn real(file: &Path) -> Result<PathBuf, Failure> {
    fs::canonicalize(file).map_err(|error| unwritten(file, &error))
}

/// The new file, which is removed again where it does not take its place.
struct Beside(PathBuf);

impl Beside {
    /// With the owner and the rights of that which it is to replace.
    fn write(path: &Path, secret: &str) -> Result<Beside, Failure> {
        let data = fs::metadata(path).map_err(|error| unwritten(path, &error))?;
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let beside = Beside(PathBuf::from(name));
        let write = || {
            remove(&beside.0)?;
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(data.mode() & 0o600).open(&beside.0)?;
            let own = file.metadata()?;
            if (own.uid(), own.gid()) != (data.uid(), data.gid()) {
                fchown(&file, Some(data.uid()), Some(data.gid()))?;
            }
            file.set_permissions(data.permissions())?;
            file.write_all(secret.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()
        };
        write().map_err(|error| unwritten(path, &error))?;
        Ok(beside)
    }

    fn take_place(self, path: &Path) -> Result<(), Failure> {
        let place = || {
            fs::rename(&self.0, path)?;
            path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
        };
        place().map_err(|error| unwritten(path, &error))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // After it took its place there is none.
        let _ = remove(&self.0);
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    let blame = if error.kind() == io::ErrorKind::PermissionDenied { Blame::Forbidden } else { Blame::Refused };
    Failure::new(
        blame,
        format!("nothing was changed: the signing secret {} cannot be replaced: {error}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_rights_behind_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("jwt"), directory.path().join("link"));
        fs::write(&file, "former\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("jwt", &link).unwrap();
        let path = real(&link).unwrap();
        drop(Beside::write(&path, "dropped").unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), "former\n");
        Beside::write(&path, "new").unwrap().take_place(&path).unwrap();
        assert_eq!(fs::read_to_string(&link).unwrap(), "new\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is left beside it");
        assert!(real(&directory.path().join("none")).unwrap_err().message.contains("nothing was changed"));
    }
}
