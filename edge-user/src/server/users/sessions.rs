//! Sessions: each begins with a sign-in, goes on by refresh tokens that are good once, and ends as a whole. Refresh
//! tokens are kept as their SHA-256.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Account, UserStore, random_id};
use crate::{clock::Wall, error::Failure, server::secret};

/// How long an ended or expired session is remembered, so that its refresh token is known to be one of ours.
const REMEMBERED_MS: i64 = 30 * 24 * 3600 * 1000;

/// One sign-in and what follows from it; ends as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub family: i64,
    pub user: String,
    pub generation: i64,
    /// The refresh token: 256 random bits in base64url. Only its hash is kept.
    pub refresh_token: String,
}

/// What became of a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// The next one of the same session.
    Good(Session),
    /// Edge issued it, but it is used up, expired or revoked. A second use has ended the session.
    Spent,
    /// Edge never issued it.
    Unknown,
}

impl UserStore {
    /// Begins a session for an account as it was looked up; `None` if it has changed since then.
    pub fn begin_session(&mut self, account: &Account, now: Wall, ttl: Duration) -> Result<Option<Session>, Failure> {
        let (family, token) = (random_id()?, secret::generate()?);
        let expires = now.plus(ttl).0;
        let begun = self.transact(|db| {
            let sql = "SELECT 1 FROM users WHERE name = ? AND generation = ? AND disabled = 0";
            if !db.prepare_cached(sql)?.exists(params![account.name, account.generation])? {
                return Ok(false);
            }
            forget_old(db, now)?;
            db.prepare_cached("INSERT INTO families VALUES(?, ?, ?, 0, ?, ?)")?.execute(params![
                family,
                account.name,
                account.generation,
                now.0,
                expires
            ])?;
            insert_refresh(db, &token, family, expires)?;
            Ok(true)
        })?;
        let (user, generation) = (account.name.clone(), account.generation);
        Ok(begun.then_some(Session { family, user, generation, refresh_token: token }))
    }

    /// Takes a refresh token for the next one. A second use of the same ends the session.
    pub fn refresh(&mut self, token: &str, now: Wall, ttl: Duration) -> Result<Refreshed, Failure> {
        let next = secret::generate()?;
        let expires = now.plus(ttl).0;
        self.transact(|db| {
            let Some(found) = find_refresh(db, token)? else { return Ok(Refreshed::Unknown) };
            if found.used {
                db.execute("UPDATE families SET ended = 1 WHERE id = ?", [found.family])?;
            }
            if found.used || found.ended || !found.current || found.expires <= now.0 {
                return Ok(Refreshed::Spent);
            }
            db.prepare_cached("UPDATE refresh SET used = 1 WHERE hash = ?")?.execute([digest(token)])?;
            db.prepare_cached("UPDATE families SET expires = ? WHERE id = ?")?.execute([expires, found.family])?;
            insert_refresh(db, &next, found.family, expires)?;
            let Found { family, user, generation, .. } = found;
            Ok(Refreshed::Good(Session { family, user, generation, refresh_token: next.clone() }))
        })
    }

    /// Whether a session goes on. One that was never there does not.
    pub fn session_lives(&self, family: i64) -> Result<bool, Failure> {
        let read = || {
            let mut query = self.db.prepare_cached("SELECT 1 FROM families WHERE id = ? AND ended = 0")?;
            query.exists([family])
        };
        read().map_err(|error| self.failure(&error))
    }

    /// Ends a session: its refresh token and its access tokens.
    pub fn end_session(&mut self, family: i64) -> Result<(), Failure> {
        self.transact(|db| db.execute("UPDATE families SET ended = 1 WHERE id = ?", [family])).map(drop)
    }
}

struct Found {
    family: i64,
    user: String,
    generation: i64,
    used: bool,
    ended: bool,
    /// Its account is there, may sign in, and is of the generation that the session began with.
    current: bool,
    expires: i64,
}

fn find_refresh(db: &Connection, token: &str) -> rusqlite::Result<Option<Found>> {
    let sql = "SELECT f.id, f.user, f.generation, r.used, f.ended, r.expires,
            EXISTS(SELECT 1 FROM users u WHERE u.name = f.user AND u.generation = f.generation AND u.disabled = 0)
        FROM refresh r JOIN families f ON f.id = r.family WHERE r.hash = ?";
    let found = |row: &rusqlite::Row<'_>| {
        Ok(Found {
            family: row.get(0)?,
            user: row.get(1)?,
            generation: row.get(2)?,
            used: row.get(3)?,
            ended: row.get(4)?,
            expires: row.get(5)?,
            current: row.get(6)?,
        })
    };
    db.prepare_cached(sql)?.query_row([digest(token)], found).optional()
}

fn insert_refresh(db: &Connection, token: &str, family: i64, expires: i64) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO refresh VALUES(?, ?, 0, ?)")?
        .execute(params![digest(token), family, expires])
        .map(drop)
}

fn forget_old(db: &Connection, now: Wall) -> rusqlite::Result<()> {
    let before = now.0 - REMEMBERED_MS;
    db.prepare_cached("DELETE FROM refresh WHERE family IN (SELECT id FROM families WHERE expires < ?)")?
        .execute([before])?;
    db.prepare_cached("DELETE FROM families WHERE expires < ?")?.execute([before]).map(drop)
}

fn digest(token: &str) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes()).as_ref().to_vec()
}
