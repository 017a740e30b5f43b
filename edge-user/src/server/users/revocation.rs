//! What was ended before its time: single tokens by the digest of what names them, callers of trusted issuers by the
//! second their tokens were issued in, and everything at once. And the signing secrets of before, which verify for a
//! while.

use rusqlite::params;

use super::UserStore;
use crate::{clock::Wall, error::Failure, server::jws::Algorithm};

/// For so long a former secret is known to be one of ours after it verifies no more.
const FORMER_KNOWN_MS: i64 = 30 * 24 * 3600 * 1000;

/// A signing secret that another took the place of.
#[derive(Clone)]
pub struct Former {
    pub algorithm: Algorithm,
    pub key: String,
    /// What it signed is good so long.
    pub until: Wall,
}

impl UserStore {
    /// Revokes the one token that has this digest and would be good until then.
    pub fn revoke_token(&mut self, digest: &[u8], until: Wall, now: Wall) -> Result<(), Failure> {
        self.transact(|db| {
            db.execute("DELETE FROM revoked WHERE until < ?", [now.0])?;
            db.execute(
                "INSERT INTO revoked VALUES(?, ?) ON CONFLICT(hash) DO UPDATE SET until = max(until, excluded.until)",
                params![digest, until.0],
            )
        })
        .map(drop)
    }

    pub fn is_token_revoked(&self, digest: &[u8]) -> Result<bool, Failure> {
        let read = || self.db.prepare_cached("SELECT 1 FROM revoked WHERE hash = ?")?.exists([digest]);
        read().map_err(|error| self.failure(&error))
    }

    /// Revokes what a trusted issuer has issued for this `ISSUER-NAME:SUB` until now, this second included.
    pub fn revoke_external(&mut self, name: &str, now: Wall) -> Result<(), Failure> {
        self.write(|db| revoke_external(db, name, now))
    }

    /// Tokens for this `ISSUER-NAME:SUB` are good if issued then or later; in seconds since 1970.
    pub fn external_not_before(&self, name: &str) -> Result<i64, Failure> {
        let read = || {
            let sql = "SELECT coalesce(max(revoked_before), 0) FROM external WHERE name IN ('', ?)";
            self.db.prepare_cached(sql)?.query_row([name], |row| row.get(0))
        };
        read().map_err(|error| self.failure(&error))
    }

    /// Ends every session and token; users and keys stay. How many sessions were alive.
    pub fn revoke_all(&mut self, now: Wall) -> Result<usize, Failure> {
        let alive = self.sessions(None, now)?.len();
        self.write(|db| {
            let not_before = now.0 / 1000 + 1;
            db.execute("UPDATE families SET ended = 1", [])?;
            // Random, so that none ever comes back.
            for table in ["users", "keys"] {
                let sql = format!("UPDATE {table} SET generation = random() & {}, not_before = ?", i64::MAX);
                db.execute(&sql, [not_before])?;
            }
            revoke_external(db, "", now)
        })?;
        Ok(alive)
    }

    /// Keeps a signing secret that is about to be replaced.
    pub fn keep_former(&mut self, former: &Former, now: Wall) -> Result<(), Failure> {
        let Former { algorithm, key, until } = former;
        self.write(|db| {
            db.execute("DELETE FROM former WHERE until < ?", [now.0 - FORMER_KNOWN_MS])?;
            db.execute(
                "INSERT INTO former VALUES(?, ?, ?) ON CONFLICT DO UPDATE SET until = excluded.until",
                params![algorithm.name(), key, until.0],
            )
        })
        .map(drop)
    }

    /// The former signing secrets, the last one first.
    pub fn former(&self) -> Result<Vec<Former>, Failure> {
        let read = || {
            let mut query = self.db.prepare_cached("SELECT algorithm, key, until FROM former ORDER BY until DESC")?;
            let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, Wall(row.get(2)?))))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let known = |name: &str| Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        let rows = read().map_err(|error| self.failure(&error))?.into_iter();
        Ok(rows.filter_map(|(name, key, until)| Some(Former { algorithm: known(&name)?, key, until })).collect())
    }
}

pub(super) fn revoke_external(db: &rusqlite::Connection, name: &str, now: Wall) -> rusqlite::Result<()> {
    let sql = "INSERT INTO external VALUES(?, ?)
        ON CONFLICT DO UPDATE SET revoked_before = max(revoked_before, excluded.revoked_before)";
    db.execute(sql, params![name, now.0 / 1000 + 1]).map(drop)
}
