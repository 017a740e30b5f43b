//! Users as a backup keeps them: read from the store, and checked before any of them counts.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    UserStore,
    accounts::{check_name, check_roles, split},
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

/// All users of the store in `directory`; none where there is no store.
pub fn kept(directory: &Path) -> Result<Vec<Kept>, Failure> {
    let Some(store) = UserStore::open_existing(directory)? else { return Ok(Vec::new()) };
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
