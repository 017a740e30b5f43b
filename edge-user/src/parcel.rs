//! Many blocks on their way into force, or out to who asks for them: sets of targets, each with what is said of all of its
//! members. They are packed into a sealed memory file, whose descriptor is handed over. So the agent neither parses foreign
//! text nor waits for a file or a pipe: what comes is whole, bounded, and cannot change any more.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::fd::OwnedFd,
    sync::Arc,
};

use edge_common::table::Hits;
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use serde::{Deserialize, Serialize};

use crate::{
    block::{Origin, Target},
    clock::Wall,
    targets::Targets,
};

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
    /// What was dropped of those of which anything was, by position and in order.
    pub hits: Vec<(u32, Hits)>,
}

impl Part {
    pub fn new(about: About, targets: Targets) -> Part {
        Part { about, targets, hits: Vec::new() }
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let row = |(position, target)| Row { target, about: &self.about, hits: self.hits_at(position) };
        self.targets.iter().map(row)
    }

    fn hits_at(&self, position: usize) -> Hits {
        let found = self.hits.binary_search_by_key(&position, |(position, _)| *position as usize);
        found.ok().and_then(|at| self.hits.get(at)).map(|(_, hits)| *hits).unwrap_or_default()
    }
}

/// One member of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    pub target: Target,
    pub about: &'a About,
    pub hits: Hits,
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

    /// By target and then origin.
    pub fn rows(&self) -> Vec<Row<'_>> {
        let mut rows: Vec<Row<'_>> = self.parts().iter().flat_map(Part::rows).collect();
        rows.sort_by_key(|row| (row.target, row.about.origin));
        rows
    }

    /// A memory file that nobody can change any more.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        sealed(&self.encode()?)
    }

    /// What [`seal`](Self::seal) made; [`ErrorKind::InvalidData`] for anything else.
    pub fn open(descriptor: OwnedFd) -> io::Result<Parcel> {
        Parcel::decode(&unsealed(descriptor)?)
    }

    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for part in self.parts() {
            let about = serde_json::to_vec(&part.about)?;
            bytes.extend((about.len() as u64).to_le_bytes());
            bytes.extend(about);
            part.targets.encode(&mut bytes);
            bytes.extend((part.hits.len() as u64).to_le_bytes());
            for (position, Hits { packets, bytes: dropped }) in &part.hits {
                bytes.extend([u64::from(*position), *packets, *dropped].map(u64::to_le_bytes).as_flattened());
            }
        }
        Ok(bytes)
    }

    /// What [`encode`](Self::encode) made.
    pub fn decode(mut bytes: &[u8]) -> io::Result<Parcel> {
        let cut = || invalid("the parcel is cut short");
        let mut parts = Vec::new();
        let number = |bytes: &mut &[u8]| {
            let mut number = [0; 8];
            bytes.read_exact(&mut number).map_err(|_| cut())?;
            Ok::<u64, io::Error>(u64::from_le_bytes(number))
        };
        while !bytes.is_empty() {
            let length = usize::try_from(number(&mut bytes)?).map_err(|_| cut())?;
            let about = bytes.split_off(..length).ok_or_else(cut)?;
            let about = serde_json::from_slice(about).map_err(|error| invalid(&format!("the parcel: {error}")))?;
            let targets = Targets::decode(&mut bytes).map_err(|error| invalid(&error.to_string()))?;
            let mut hits = Vec::new();
            for _ in 0..number(&mut bytes)? {
                let [position, packets, dropped] = [number(&mut bytes)?, number(&mut bytes)?, number(&mut bytes)?];
                let position = u32::try_from(position).map_err(|_| cut())?;
                hits.push((position, Hits { packets, bytes: dropped }));
            }
            parts.push(Part { about, targets, hits });
        }
        Ok(Parcel::new(parts))
    }
}

/// A memory file with these bytes that nobody can change any more.
pub fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(too_large());
    }
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create("edge-parcel", flags)?);
    file.write_all(bytes)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals()))?;
    Ok(file.into())
}

/// The bytes of what [`sealed`] made.
pub fn unsealed(descriptor: OwnedFd) -> io::Result<Vec<u8>> {
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
    Ok(bytes)
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
            Part {
                hits: vec![(1, Hits { packets: 3, bytes: 180 })],
                ..Part::new(about("first", End::At(Wall(9))), targets(&["203.0.113.7", "2001:db8::/32"]))
            },
            Part::new(about("", End::After(60)), targets(&[])),
        ])
    }

    #[test]
    fn a_parcel_comes_back_whole() {
        assert_eq!(Parcel::open(parcel().seal().unwrap()).unwrap(), parcel());
        assert_eq!(Parcel::open(Parcel::default().seal().unwrap()).unwrap(), Parcel::default());
    }

    #[test]
    fn rows_are_in_order_with_what_was_dropped() {
        let parcel = parcel();
        let rows: Vec<(String, u64)> =
            parcel.rows().iter().map(|row| (row.target.to_string(), row.hits.packets)).collect();
        assert_eq!(rows, [("203.0.113.7/32".to_owned(), 0), ("2001:db8::/32".to_owned(), 3)]);
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
