//! Many blocks on their way into force: sets of targets, each with what is said of all of its members. The caller packs
//! them into a sealed memory file and hands its descriptor to the agent, which neither parses foreign text nor waits for
//! a file or a pipe: what comes is whole, bounded, and cannot change any more.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::fd::OwnedFd,
    sync::Arc,
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use serde::{Deserialize, Serialize};

use crate::{block::Origin, clock::Wall, targets::Targets};

/// The most that is taken from anybody.
const MAX_BYTES: u64 = 1 << 30;

/// What is said of a block but for its target.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    pub origin: Origin,
    pub reason: String,
    /// `None`: now.
    pub created: Option<Wall>,
    pub end: End,
    pub offence: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    UntilLifted,
    /// From now on, in seconds.
    After(u64),
    At(Wall),
}

/// Targets of which the same is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub about: About,
    pub targets: Targets,
}

/// Parts that come into force together or not at all; of two that name the same target and origin the later counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parcel(Arc<Vec<Part>>);

impl Parcel {
    pub fn new(parts: Vec<Part>) -> Parcel {
        Parcel(Arc::new(parts))
    }

    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// A memory file that nobody can change any more.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        let bytes = self.encode()?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(too_large());
        }
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut file = File::from(memfd_create("edge-parcel", flags)?);
        file.write_all(&bytes)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals()))?;
        Ok(file.into())
    }

    /// What [`seal`](Self::seal) made; [`ErrorKind::InvalidData`] for anything else.
    pub fn open(descriptor: OwnedFd) -> io::Result<Parcel> {
        let file = File::from(descriptor);
        let has = fcntl(&file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate).unwrap_or(SealFlag::empty());
        if !has.contains(seals()) {
            return Err(invalid("what was handed over is no sealed memory"));
        }
        let length = file.metadata()?.len();
        if length > MAX_BYTES {
            return Err(too_large());
        }
        let mut bytes = vec![0; length as usize];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0)?;
        Parcel::decode(&bytes)
    }

    fn encode(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for part in self.parts() {
            let about = serde_json::to_vec(&part.about)?;
            bytes.extend((about.len() as u64).to_le_bytes());
            bytes.extend(about);
            part.targets.encode(&mut bytes);
        }
        Ok(bytes)
    }

    fn decode(mut bytes: &[u8]) -> io::Result<Parcel> {
        let cut = || invalid("the parcel is cut short");
        let mut parts = Vec::new();
        while !bytes.is_empty() {
            let mut length = [0; 8];
            bytes.read_exact(&mut length).map_err(|_| cut())?;
            let length = usize::try_from(u64::from_le_bytes(length)).map_err(|_| cut())?;
            let about = bytes.split_off(..length).ok_or_else(cut)?;
            let about = serde_json::from_slice(about).map_err(|error| invalid(&format!("the parcel: {error}")))?;
            let targets = Targets::decode(&mut bytes).map_err(|error| invalid(&error.to_string()))?;
            parts.push(Part { about, targets });
        }
        Ok(Parcel::new(parts))
    }
}

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

fn too_large() -> io::Error {
    invalid(&format!("the parcel is over {MAX_BYTES} bytes; give fewer addresses at once"))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Target;

    fn parcel() -> Parcel {
        let about = |reason: &str, end| About {
            origin: Origin::Feed,
            reason: reason.to_owned(),
            created: Some(Wall(7)),
            end,
            offence: 2,
        };
        let targets = |names: &[&str]| names.iter().map(|name| name.parse::<Target>().unwrap()).collect();
        Parcel::new(vec![
            Part { about: about("first", End::At(Wall(9))), targets: targets(&["203.0.113.7", "2001:db8::/32"]) },
            Part { about: about("", End::After(60)), targets: targets(&[]) },
        ])
    }

    #[test]
    fn a_parcel_comes_back_whole() {
        assert_eq!(Parcel::open(parcel().seal().unwrap()).unwrap(), parcel());
        assert_eq!(Parcel::open(Parcel::default().seal().unwrap()).unwrap(), Parcel::default());
    }

    #[test]
    fn what_could_change_or_is_damaged_is_refused() {
        let open = memfd_create("edge-parcel", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let file = File::open("/proc/self/exe").unwrap();
        let (pipe, _) = nix::unistd::pipe().unwrap();
        for descriptor in [open, file.into(), pipe] {
            assert_eq!(Parcel::open(descriptor).unwrap_err().kind(), ErrorKind::InvalidData);
        }
        let whole = parcel().encode().unwrap();
        let first = Parcel::new(parcel().parts()[..1].to_vec()).encode().unwrap().len();
        for length in (1..whole.len()).filter(|length| *length != first) {
            assert!(Parcel::decode(&whole[..length]).is_err(), "{length}");
        }
    }
}
