//! A backup as bytes: what the agent keeps ([`State`]) the users and the keys, in named sections under a version and a checksum. The
//! same form, without these, carries a state between agent and command line. What is read is checked whole before
//! anything of it counts.
//!
//! The layout is edge's own, since blocks are kept as they are packed elsewhere (a million in megabytes, read in
//! milliseconds), and a database file could not be refused whole when a byte of it was changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{block::Target, clock::Wall, offense::History, parcel::Parcel, server::users::Holders};

/// Begins every backup of every version.
const MAGIC: &[u8; 12] = b"edge backup\n";
/// Counted up with every section that an earlier edge must not pass over.
const VERSION: u32 = 2;
const SUM: usize = 32;

/// What the agent decided and its store keeps, but for what the config names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub blocks: Parcel,
    pub allowed: Vec<Target>,
    pub history: Vec<History>,
}

/// All that a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    pub made: Made,
    pub state: State,
    pub holders: Holders,
}

/// When and by which edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    pub time: Wall,
    pub version: String,
}

/// Why bytes are no backup that can be restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotABackup {
    #[error("it is no backup of edge; name a file that `edge backup` wrote")]
    Foreign,
    #[error(
        "it was made by a newer edge (its layout is {0}, this edge knows up to {VERSION}); restore it with that edge"
    )]
    Newer(u32),
    #[error("it is cut short or was altered, since its checksum does not fit; take another copy of it")]
    Altered,
    #[error("its checksum fits, but {0}, which no edge writes")]
    Content(String),
}

impl State {
    pub fn encode(&self) -> std::io::Result<Vec<u8>> {
        let mut sections = Sections::default();
        self.write(&mut sections)?;
        Ok(sections.sealed())
    }

    pub fn decode(bytes: &[u8]) -> Result<State, NotABackup> {
        let mut sections = opened(bytes)?;
        let state = State::read(&mut sections)?;
        nothing_more(&sections)?;
        Ok(state)
    }

    fn write(&self, sections: &mut Sections) -> std::io::Result<()> {
        let State { blocks, allowed, history } = self;
        sections.add("blocks", &blocks.encode()?);
        sections.add("allowed", &serde_json::to_vec(allowed)?);
        sections.add("history", &serde_json::to_vec(history)?);
        Ok(())
    }

    fn read(sections: &mut BTreeMap<String, &[u8]>) -> Result<State, NotABackup> {
        let blocks = Parcel::decode(take(sections, "blocks")?);
        Ok(State {
            blocks: blocks.map_err(|error| NotABackup::Content(format!("of its blocks {error}")))?,
            allowed: json(sections, "allowed")?,
            history: json(sections, "history")?,
        })
    }
}

impl Backup {
    pub fn encode(&self) -> std::io::Result<Vec<u8>> {
        let Backup { made, state, holders: Holders { users, keys } } = self;
        let mut sections = Sections::default();
        sections.add("made", &serde_json::to_vec(made)?);
        state.write(&mut sections)?;
        sections.add("users", &serde_json::to_vec(users)?);
        sections.add("keys", &serde_json::to_vec(keys)?);
        Ok(sections.sealed())
    }

    pub fn decode(bytes: &[u8]) -> Result<Backup, NotABackup> {
        let mut sections = opened(bytes)?;
        let backup = Backup {
            made: json(&mut sections, "made")?,
            state: State::read(&mut sections)?,
            holders: Holders {
                users: json(&mut sections, "users")?,
                // Version 1 had none.
                keys: if sections.contains_key("keys") { json(&mut sections, "keys")? } else { Vec::new() },
            },
        };
        nothing_more(&sections)?;
        Ok(backup)
    }
}

/// Magic, version, and each section as the length of its name (u8), its name, its own length (u64) and its bytes; at the
/// end the SHA-256 of all that goes before. Numbers in little endian.
struct Sections(Vec<u8>);

impl Default for Sections {
    fn default() -> Sections {
        Sections([MAGIC.as_slice(), &VERSION.to_le_bytes()].concat())
    }
}

impl Sections {
    fn add(&mut self, name: &'static str, body: &[u8]) {
        self.0.push(name.len() as u8);
        self.0.extend(name.as_bytes());
        self.0.extend((body.len() as u64).to_le_bytes());
        self.0.extend(body);
    }

    fn sealed(mut self) -> Vec<u8> {
        let sum = sum(&self.0);
        self.0.extend(sum);
        self.0
    }
}

fn sum(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

/// The sections, of bytes that are as they were written.
fn opened(bytes: &[u8]) -> Result<BTreeMap<String, &[u8]>, NotABackup> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(NotABackup::Foreign)?;
    let (version, _) = rest.split_first_chunk().ok_or(NotABackup::Altered)?;
    match u32::from_le_bytes(*version) {
        1..=VERSION => {}
        newer if newer > VERSION => return Err(NotABackup::Newer(newer)),
        _ => return Err(NotABackup::Altered),
    }
    let (whole, found) = bytes.split_at_checked(bytes.len().saturating_sub(SUM)).ok_or(NotABackup::Altered)?;
    if sum(whole) != found {
        return Err(NotABackup::Altered);
    }
    let mut rest = whole.get(MAGIC.len() + version.len()..).ok_or(NotABackup::Altered)?;
    let mut sections = BTreeMap::new();
    while !rest.is_empty() {
        let (name, body) =
            section(&mut rest).ok_or_else(|| NotABackup::Content("a section ends too early".to_owned()))?;
        if sections.contains_key(&name) {
            return Err(NotABackup::Content(format!("it has two sections `{}`", name.escape_default())));
        }
        sections.insert(name, body);
    }
    Ok(sections)
}

fn section<'a>(rest: &mut &'a [u8]) -> Option<(String, &'a [u8])> {
    let length = rest.split_off_first()?;
    let name = std::str::from_utf8(rest.split_off(..usize::from(*length))?).ok()?;
    let length = usize::try_from(u64::from_le_bytes(*rest.split_off(..8)?.as_array()?)).ok()?;
    Some((name.to_owned(), rest.split_off(..length)?))
}

fn take<'a>(sections: &mut BTreeMap<String, &'a [u8]>, name: &str) -> Result<&'a [u8], NotABackup> {
    sections.remove(name).ok_or_else(|| NotABackup::Content(format!("it has no section `{name}`")))
}

fn json<T: DeserializeOwned>(sections: &mut BTreeMap<String, &[u8]>, name: &str) -> Result<T, NotABackup> {
    let wrong = |error| NotABackup::Content(format!("its section `{name}` is wrong ({error})"));
    serde_json::from_slice(take(sections, name)?).map_err(wrong)
}

/// What is not understood is not passed over.
fn nothing_more(sections: &BTreeMap<String, &[u8]>) -> Result<(), NotABackup> {
    match sections.keys().next() {
        Some(name) => Err(NotABackup::Content(format!("it has a section `{}`", name.escape_default()))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        block::Origin,
        parcel::{About, End, Part},
        server::users::{Kept, KeptKey, KeyKind},
    };

    fn backup() -> Backup {
        let target = |text: &str| text.parse::<Target>().unwrap();
        let about = About {
            origin: Origin::Auth,
            reason: "a \"reason\"".to_owned(),
            created: Some(Wall(7)),
            end: End::At(Wall(1_767_323_045_007)),
            offence: 2,
        };
        let targets = [target("203.0.113.7"), target("2001:db8::/32")].into_iter().collect();
        Backup {
            made: Made { time: Wall(1_767_323_045_000), version: "0.1.0".to_owned() },
            state: State {
                blocks: Parcel::new(vec![Part::new(about, targets)]),
                allowed: vec![target("192.0.2.0/24")],
                history: vec![History { client: target("203.0.113.7"), number: 2, ended: Wall(9) }],
            },
            holders: Holders {
                users: vec![Kept {
                    name: "alice".to_owned(),
                    hash: "$argon2id$…".to_owned(),
                    roles: vec!["chat".to_owned()],
                    disabled: true,
                    created: Wall(11),
                }],
                keys: vec![KeptKey {
                    id: "00000000000000ff".to_owned(),
                    name: "ci".to_owned(),
                    kind: KeyKind::Internal,
                    roles: Vec::new(),
                    prefix: "edge_int_AbCd".to_owned(),
                    hash: "A".repeat(43),
                    created: Wall(13),
                    expires: Some(Wall(17)),
                    last_used: None,
                    replaced: true,
                }],
            },
        }
    }

    #[test]
    fn a_backup_comes_back_whole() {
        assert_eq!(Backup::decode(&backup().encode().unwrap()), Ok(backup()));
        let state = State::default();
        assert_eq!(State::decode(&state.encode().unwrap()), Ok(state));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_refused() {
        let whole = backup().encode().unwrap();
        for length in 0..whole.len() {
            assert!(Backup::decode(&whole[..length]).is_err(), "cut to {length}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(Backup::decode(&changed).is_err(), "byte {at} changed");
        }
        let longer = [whole.as_slice(), b"\n"].concat();
        assert_eq!(Backup::decode(&longer), Err(NotABackup::Altered));
    }

    #[test]
    fn what_is_none_and_what_is_newer_are_told_apart() {
        assert_eq!(Backup::decode(b"SQLite format 3\0"), Err(NotABackup::Foreign));
        assert_eq!(Backup::decode(b""), Err(NotABackup::Foreign));
        let mut newer = backup().encode().unwrap();
        newer[MAGIC.len()] = VERSION as u8 + 1;
        assert_eq!(Backup::decode(&newer), Err(NotABackup::Newer(VERSION + 1)));
    }

    #[test]
    fn sections_that_are_missing_or_unknown_are_named() {
        let state = State::default().encode().unwrap();
        let error = Backup::decode(&state).unwrap_err().to_string();
        assert!(error.contains("no section `made`"), "{error}");
        let more = State::decode(&backup().encode().unwrap()).unwrap_err().to_string();
        assert!(more.contains("has a section `keys`"), "{more}");
        let mut sections = Sections::default();
        sections.add("made", b"{");
        let error = Backup::decode(&sections.sealed()).unwrap_err().to_string();
        assert!(error.contains("section `made` is wrong"), "{error}");
        let mut sections = Sections::default();
        State::default().write(&mut sections).unwrap();
        sections.add("allowed", b"[]");
        let error = State::decode(&sections.sealed()).unwrap_err().to_string();
        assert!(error.contains("two sections `allowed`"), "{error}");
    }
}
