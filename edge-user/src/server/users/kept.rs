//! Users and keys as a backup keeps them: read from the store, and checked before any of them counts.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{
    UserStore,
    accounts::{check_name, check_roles, split},
    id_of,
    keys::{KeyKind, ListedKey, check_key_name},
    password,
};
use crate::{clock::Wall, error::Failure};

/// One user, without what a session or a token could be bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    pub name: String,
    pub hash: String,
    pub roles: Vec<String>,
    pub disabled: bool,
    pub created: Wall,
}

impl Kept {
    /// Whether an edge wrote it.
    pub fn check(&self) -> Result<(), Failure> {
        check_name(&self.name)?;
        check_roles(&self.roles)?;
        password::check(&self.hash)
            .map_err(|why| Failure::usage(format!("the password hash of the user {:?} {why}", self.name)))
    }
}

/// One key in force, as its hash; without what a token could be bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptKey {
    pub id: String,
    pub name: String,
    pub kind: KeyKind,
    pub roles: Vec<String>,
    pub prefix: String,
    /// SHA-256 in base64url.
    pub hash: String,
    pub created: Wall,
    pub expires: Option<Wall>,
    pub last_used: Option<Wall>,
    pub replaced: bool,
}

/// All that a backup has of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holders {
    pub users: Vec<Kept>,
    #[serde(default)]
    pub keys: Vec<KeptKey>,
}

impl KeptKey {
    /// The row and the hash; the error says why no edge wrote it.
    pub(super) fn check(&self) -> Result<(i64, Vec<u8>), Failure> {
        check_key_name(&self.name)?;
        check_roles(&self.roles)?;
        let wrong = || Failure::usage(format!("the key {:?} has an id or a hash that edge does not make", self.name));
        let hash = URL_SAFE_NO_PAD.decode(&self.hash).ok().filter(|hash| hash.len() == 32).ok_or_else(wrong)?;
        Ok((id_of(&self.id).ok_or_else(wrong)?, hash))
    }
}

impl Holders {
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.keys.is_empty()
    }

    /// Whether an edge wrote it.
    pub fn check(&self) -> Result<(), Failure> {
        self.users.iter().try_for_each(Kept::check)?;
        self.keys.iter().try_for_each(|key| key.check().map(drop))
    }
}

/// All users and keys of the store in `directory`; none where there is no store.
pub fn kept(directory: &Path) -> Result<Holders, Failure> {
    let Some(store) = UserStore::open_existing(directory)? else { return Ok(Holders::default()) };
    Ok(Holders { users: users(&store)?, keys: keys(&store)? })
}

fn keys(store: &UserStore) -> Result<Vec<KeptKey>, Failure> {
    let kept = |listed: ListedKey| {
        let ListedKey { id, name, kind, roles, prefix, created, expires, last_used, replaced } = listed;
        let hash = store.key_hash(&id)?.map(|hash| URL_SAFE_NO_PAD.encode(hash)).unwrap_or_default();
        Ok(KeptKey { id, name, kind, roles, prefix, hash, created, expires, last_used, replaced })
    };
    store.keys(Wall::now())?.into_iter().map(kept).collect()
}

fn users(store: &UserStore) -> Result<Vec<Kept>, Failure> {
    let read = || {
        let mut query = store.db.prepare("SELECT name, hash, roles, disabled, created FROM users ORDER BY name")?;
        let rows = query.query_map([], |row| {
            Ok(Kept {
                name: row.get(0)?,
                hash: row.get(1)?,
                roles: split(&row.get::<_, String>(2)?),
                disabled: row.get(3)?,
                created: Wall(row.get(4)?),
            })
        })?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    };
    read().map_err(|error| store.failure(&error))
}

pub(super) fn path_in(directory: &Path) -> PathBuf {
    directory.join("users.db")
}
