//! The accounts: added, changed and removed by operators, looked up at every request. What ends an account's sessions
//! and tokens gives it another generation.

use rusqlite::{OptionalExtension, params};
use serde::Serialize;

use super::{UserStore, password, random_id, unfit};
use crate::{clock::Wall, error::Failure};

/// One row of `edge user list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    pub name: String,
    pub roles: Vec<String>,
    pub disabled: bool,
    pub created: Wall,
}

/// What a request needs to know of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub hash: String,
    pub roles: Vec<String>,
    pub disabled: bool,
    /// Another one with every change that ends the user's sessions and tokens; random, so that none ever comes back.
    pub generation: i64,
    /// Seconds since 1970: tokens that do not carry a generation are good if issued then or later.
    pub not_before: i64,
}

impl UserStore {
    /// Adds a user; a name that exists is refused.
    pub fn add(&mut self, name: &str, password: &str, roles: &[String]) -> Result<(), Failure> {
        check_name(name)?;
        check_roles(roles)?;
        let hash = password::hash(password)?;
        let (generation, created) = (random_id()?, Wall::now());
        let added = self.write(|db| {
            let removal: i64 = db.query_row("SELECT last FROM removal", [], |row| row.get(0))?;
            db.execute(
                "INSERT INTO users VALUES(?, ?, ?, 0, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                params![
                    name,
                    hash,
                    joined(roles),
                    generation,
                    (created.0 / 1000).max(removal + 1),
                    created.0,
                    password::scheme(&hash)
                ],
            )
        })?;
        if added == 0 {
            return Err(Failure::refused(format!(
                "the user {name} exists already; `edge user passwd {name}` changes the password"
            )));
        }
        Ok(())
    }

    /// All users, by name.
    pub fn list(&self) -> Result<Vec<User>, Failure> {
        let read = || {
            let mut query = self.db.prepare_cached("SELECT name, roles, disabled, created FROM users ORDER BY name")?;
            let rows = query.query_map([], |row| {
                Ok(User {
                    name: row.get(0)?,
                    roles: split(&row.get::<_, String>(1)?),
                    disabled: row.get(2)?,
                    created: Wall(row.get(3)?),
                })
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|error| self.failure(&error))
    }

    /// Changes the password and ends every session and token of the user.
    pub fn set_password(&mut self, name: &str, password: &str) -> Result<(), Failure> {
        let hash = password::hash(password)?;
        let (generation, not_before) = (random_id()?, Wall::now().0 / 1000 + 1);
        let sql = "UPDATE users SET hash = ?, scheme = ?, generation = ?, not_before = ? WHERE name = ?";
        self.change(name, sql, params![hash, password::scheme(&hash), generation, not_before, name])
    }

    /// Disabling ends every session and token of the user.
    pub fn set_disabled(&mut self, name: &str, disabled: bool) -> Result<(), Failure> {
        let (generation, not_before) = (random_id()?, Wall::now().0 / 1000 + 1);
        let sql = "UPDATE users SET disabled = ?, generation = ?, not_before = ? WHERE name = ?";
        self.change(name, sql, params![disabled, generation, not_before, name])
    }

    /// Replaces the roles; they hold for the next request, with the tokens that are out.
    pub fn set_roles(&mut self, name: &str, roles: &[String]) -> Result<(), Failure> {
        check_roles(roles)?;
        self.change(name, "UPDATE users SET roles = ? WHERE name = ?", params![joined(roles), name])
    }

    /// Removes the user, and the name and hash from the files too.
    pub fn remove(&mut self, name: &str) -> Result<(), Failure> {
        let removed = self.write(|db| {
            db.execute("UPDATE families SET user = '', ended = 1 WHERE user = ?", [name])?;
            db.execute("UPDATE removal SET last = max(last, ?)", [Wall::now().0 / 1000])?;
            db.execute("DELETE FROM users WHERE name = ?", [name])
        })?;
        if removed == 0 { Err(unknown(name)) } else { Ok(()) }
    }

    /// The account of that very name.
    pub fn lookup(&self, name: &str) -> Result<Option<Account>, Failure> {
        let read = || {
            let sql = "SELECT name, hash, roles, disabled, generation, not_before FROM users WHERE name = ?";
            let mut query = self.db.prepare_cached(sql)?;
            let account = |row: &rusqlite::Row<'_>| {
                Ok(Account {
                    name: row.get(0)?,
                    hash: row.get(1)?,
                    roles: split(&row.get::<_, String>(2)?),
                    disabled: row.get(3)?,
                    generation: row.get(4)?,
                    not_before: row.get(5)?,
                })
            };
            query.query_row([name], account).optional()
        };
        read().map_err(|error| self.failure(&error))
    }

    /// All the ways that passwords of this store are kept.
    pub fn schemes(&self) -> Result<Vec<String>, Failure> {
        // From one to the next along the index, however many users there are.
        let sql = "WITH RECURSIVE found(scheme) AS (
                SELECT min(scheme) FROM users
                UNION ALL SELECT (SELECT min(scheme) FROM users WHERE scheme > found.scheme) FROM found
                WHERE found.scheme IS NOT NULL)
            SELECT scheme FROM found WHERE scheme IS NOT NULL";
        let read = || {
            let mut query = self.db.prepare_cached(sql)?;
            let rows = query.query_map([], |row| row.get(0))?;
            rows.collect::<rusqlite::Result<Vec<String>>>()
        };
        read().map_err(|error| self.failure(&error))
    }

    /// Puts a hash of the same password in the place of the one that the account was looked up with, which is gone from
    /// the files too.
    pub fn renew_hash(&mut self, account: &Account, hash: &str) -> Result<(), Failure> {
        let sql = "UPDATE users SET hash = ?, scheme = ? WHERE name = ? AND hash = ?";
        let values = params![hash, password::scheme(hash), account.name, account.hash];
        self.write(|db| db.execute(sql, values)).map(drop)
    }

    fn change(&mut self, name: &str, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<(), Failure> {
        let changed = self.write(|db| db.execute(sql, values))?;
        if changed == 0 { Err(unknown(name)) } else { Ok(()) }
    }
}

/// Whether a user can have this name.
pub fn check_name(name: &str) -> Result<(), Failure> {
    let wrong = if name.contains(':') {
        "contains ':', which names of keys and of foreign callers have"
    } else if let Some(wrong) = unfit(name) {
        wrong
    } else {
        return Ok(());
    };
    Err(Failure::usage(format!("the user name {name:?} {wrong}")))
}

pub(super) fn check_roles(roles: &[String]) -> Result<(), Failure> {
    let bad = |role: &&String| role.is_empty() || role.chars().any(|c| c == ',' || c.is_whitespace() || c.is_control());
    match roles.iter().find(bad) {
        Some(role) => Err(Failure::usage(format!(
            "the role {role:?} is empty or contains a comma, white space or a control character"
        ))),
        None => Ok(()),
    }
}

pub(super) fn joined(roles: &[String]) -> String {
    roles.join(",")
}

pub(super) fn split(roles: &str) -> Vec<String> {
    roles.split(',').filter(|role| !role.is_empty()).map(str::to_owned).collect()
}

fn unknown(name: &str) -> Failure {
    Failure::refused(format!("there is no user {name}; `edge user list` names those there are"))
}
