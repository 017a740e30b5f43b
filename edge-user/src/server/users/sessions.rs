//! Sessions: each begins with a sign-in, goes on by refresh tokens that are good once, and ends as a whole. Refresh
//! tokens are kept as their SHA-256.

use std::{net::IpAddr, time::Duration};

use rusqlite::{Connection, OptionalExtension, params};

use super::{Account, UserStore, digest, id_of, id_text, random_id};
use serde::Serialize;

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

/// How somebody signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// With a password, for tokens.
    Password,
    /// With a password, on the sign-in page.
    Browser,
    /// At an OpenID provider.
    Oidc,
}

impl SessionKind {
    pub const fn name(self) -> &'static str {
        match self {
            SessionKind::Password => "password",
            SessionKind::Browser => "browser",
            SessionKind::Oidc => "oidc",
        }
    }
}

/// Who signs in how, and how long the session lasts without more.
#[derive(Clone, Copy, Debug)]
pub struct SignIn {
    pub kind: SessionKind,
    pub peer: IpAddr,
    pub now: Wall,
    pub ttl: Duration,
}

/// One row of `edge session list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Begun {
    pub id: String,
    pub user: String,
    pub kind: String,
    pub peer: String,
    pub created: Wall,
    pub last_seen: Wall,
    pub expires: Wall,
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

/// What a refresh token is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peeked {
    Good {
        user: String,
        begun: Wall,
        expires: Wall,
    },
    /// Edge issued it, but it is used up, expired or revoked.
    Ended,
    Unknown,
}

impl UserStore {
    /// Begins a session for an account as it was looked up; `None` if it has changed since then.
    pub fn begin_session(&mut self, account: &Account, sign_in: SignIn) -> Result<Option<Session>, Failure> {
        let SignIn { kind, peer, now, ttl } = sign_in;
        let (family, token) = (random_id()?, secret::generate()?);
        let expires = now.plus(ttl).0;
        let begun = self.transact(|db| {
            let sql = "SELECT 1 FROM users WHERE name = ? AND generation = ? AND disabled = 0";
            if !db.prepare_cached(sql)?.exists(params![account.name, account.generation])? {
                return Ok(false);
            }
            forget_old(db, now)?;
            db.prepare_cached("INSERT INTO families VALUES(?, ?, ?, 0, ?, ?, ?, ?, ?)")?.execute(params![
                family,
                account.name,
                account.generation,
                now.0,
                expires,
                kind.name(),
                peer.to_canonical().to_string(),
                now.0
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
            if !found.is_good(now) {
                return Ok(Refreshed::Spent);
            }
            db.prepare_cached("UPDATE refresh SET used = 1 WHERE hash = ?")?.execute([digest(token)])?;
            db.prepare_cached("UPDATE families SET expires = ?, last_seen = ? WHERE id = ?")?.execute([
                expires,
                now.0,
                found.family,
            ])?;
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

    /// The sessions that go on, of one user or of all, the latest first.
    pub fn sessions(&self, user: Option<&str>, now: Wall) -> Result<Vec<Begun>, Failure> {
        let sql = "SELECT f.id, f.user, f.kind, f.peer, f.created, f.last_seen, f.expires FROM families f
            WHERE f.ended = 0 AND f.expires > ?1 AND (?2 IS NULL OR f.user = ?2) AND (instr(f.user, ':') > 0 OR EXISTS(
                SELECT 1 FROM users u WHERE u.name = f.user AND u.generation = f.generation AND u.disabled = 0))
            ORDER BY f.created DESC, f.id";
        let begun = |row: &rusqlite::Row<'_>| {
            Ok(Begun {
                id: id_text(row.get(0)?),
                user: row.get(1)?,
                kind: row.get(2)?,
                peer: row.get(3)?,
                created: Wall(row.get(4)?),
                last_seen: Wall(row.get(5)?),
                expires: Wall(row.get(6)?),
            })
        };
        let read = || {
            self.db.prepare_cached(sql)?.query_map(params![now.0, user], begun)?.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|error| self.failure(&error))
    }

    /// Ends the session that `edge session list` names so; whose it was.
    pub fn end_named_session(&mut self, id: &str, now: Wall) -> Result<String, Failure> {
        let unknown =
            || Failure::refused(format!("there is no session {id}; `edge session list` names those there are"));
        let family = id_of(id).ok_or_else(unknown)?;
        let session = self.sessions(None, now)?.into_iter().find(|session| session.id == id_text(family));
        let user = session.ok_or_else(unknown)?.user;
        self.write(|db| db.execute("UPDATE families SET ended = 1 WHERE id = ?", [family]))?;
        Ok(user)
    }

    /// What a refresh token is good for; nothing is used up.
    pub fn peek_refresh(&self, token: &str, now: Wall) -> Result<Peeked, Failure> {
        let found = find_refresh(&self.db, token).map_err(|error| self.failure(&error))?;
        Ok(match found {
            None => Peeked::Unknown,
            Some(found) if found.is_good(now) => {
                Peeked::Good { user: found.user, begun: Wall(found.created), expires: Wall(found.expires) }
            }
            Some(_) => Peeked::Ended,
        })
    }

    /// Ends the session that a refresh token belongs to; whether there is one.
    pub fn end_session_of(&mut self, token: &str) -> Result<bool, Failure> {
        self.transact(|db| {
            let sql = "UPDATE families SET ended = 1 WHERE id = (SELECT family FROM refresh WHERE hash = ?)";
            Ok(db.execute(sql, [digest(token)])? > 0)
        })
    }

    /// When sessions were used last; a later time stays.
    pub fn sessions_seen(&mut self, seen: &[(i64, Wall)]) -> Result<(), Failure> {
        self.transact(|db| {
            let mut update = db.prepare_cached("UPDATE families SET last_seen = max(last_seen, ?) WHERE id = ?")?;
            // What a browser holds goes on from its last use.
            let mut prolong = db.prepare_cached(
                "UPDATE families SET expires = max(expires, (SELECT min(until, ?1 + idle) FROM cookies WHERE family = ?2))
                WHERE id = ?2 AND EXISTS(SELECT 1 FROM cookies WHERE family = ?2)",
            )?;
            seen.iter().try_for_each(|(id, at)| {
                update.execute([at.0, *id])?;
                prolong.execute([at.0, *id]).map(drop)
            })
        })
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
    created: i64,
}

impl Found {
    fn is_good(&self, now: Wall) -> bool {
        !self.used && !self.ended && self.current && self.expires > now.0
    }
}

fn find_refresh(db: &Connection, token: &str) -> rusqlite::Result<Option<Found>> {
    let sql = "SELECT f.id, f.user, f.generation, r.used, f.ended, r.expires, f.created,
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
            created: row.get(6)?,
            current: row.get(7)?,
        })
    };
    db.prepare_cached(sql)?.query_row([digest(token)], found).optional()
}

fn insert_refresh(db: &Connection, token: &str, family: i64, expires: i64) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO refresh VALUES(?, ?, 0, ?)")?
        .execute(params![digest(token), family, expires])
        .map(drop)
}

pub(super) fn forget_old(db: &Connection, now: Wall) -> rusqlite::Result<()> {
    let before = now.0 - REMEMBERED_MS;
    db.prepare_cached("DELETE FROM refresh WHERE family IN (SELECT id FROM families WHERE expires < ?)")?
        .execute([before])?;
    db.prepare_cached("DELETE FROM cookies WHERE until < ?")?.execute([before])?;
    db.prepare_cached("DELETE FROM families WHERE expires < ?")?.execute([before]).map(drop)
}
