//! Sessions of browsers: each is held by a cookie, of which the SHA-256 is kept, ends when it is idle for too long, and
//! ends for good after a time.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::{Account, SignIn, UserStore, digest, random_id};
use crate::{clock::Wall, error::Failure, server::secret};

/// Who signs in at a browser.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    Account(&'a Account),
    /// A caller of an OpenID provider, as `NAME:SUB`.
    External {
        name: &'a str,
        email: &'a str,
    },
}

/// Whom a cookie names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cookie {
    Good {
        session: i64,
        user: String,
        generation: i64,
        begun: Wall,
        email: Option<String>,
    },
    /// Edge made it, but the session has ended.
    Ended,
    Unknown,
}

impl UserStore {
    /// Begins a session; the cookie's text. `sign_in.ttl` is how long it may be idle. `None`: the account has changed since
    /// it was looked up.
    pub fn begin_browser(
        &mut self,
        who: Who<'_>,
        sign_in: SignIn,
        absolute: Duration,
    ) -> Result<Option<String>, Failure> {
        let SignIn { kind, peer, now, ttl } = sign_in;
        let (family, text) = (random_id()?, secret::generate()?);
        let (name, generation, email) = match who {
            Who::Account(account) => (account.name.as_str(), account.generation, None),
            Who::External { name, email } => (name, 0, Some(email)),
        };
        let (idle, until) = (i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX), now.plus(absolute).0);
        let begun = self.transact(|db| {
            if let Who::Account(account) = who {
                let sql = "SELECT 1 FROM users WHERE name = ? AND generation = ? AND disabled = 0";
                if !db.prepare_cached(sql)?.exists(params![account.name, account.generation])? {
                    return Ok(false);
                }
            }
            super::sessions::forget_old(db, now)?;
            db.prepare_cached("INSERT INTO families VALUES(?, ?, ?, 0, ?, ?, ?, ?, ?)")?.execute(params![
                family,
                name,
                generation,
                now.0,
                until.min(now.plus(ttl).0),
                kind.name(),
                peer.to_canonical().to_string(),
                now.0
            ])?;
            db.prepare_cached("INSERT INTO cookies VALUES(?, ?, ?, ?, ?)")?.execute(params![
                digest(&text),
                family,
                idle,
                until,
                email
            ])?;
            Ok(true)
        })?;
        Ok(begun.then_some(text))
    }

    /// Whom a cookie names. That the account is still there, and what else it may do, is the caller's to see to.
    pub fn cookie(&self, text: &str, now: Wall) -> Result<Cookie, Failure> {
        let sql = "SELECT c.family, f.user, f.generation, f.created, c.email, f.ended, f.expires
            FROM cookies c LEFT JOIN families f ON f.id = c.family WHERE c.hash = ?";
        let read = |row: &rusqlite::Row<'_>| {
            let alive = row.get(5) == Ok(Some(0)) && row.get::<_, Option<i64>>(6)?.is_some_and(|end| end > now.0);
            if !alive {
                return Ok(Cookie::Ended);
            }
            let begun = Wall(row.get(3)?);
            Ok(Cookie::Good {
                session: row.get(0)?,
                user: row.get(1)?,
                generation: row.get(2)?,
                begun,
                email: row.get(4)?,
            })
        };
        let found = || self.db.prepare_cached(sql)?.query_row([digest(text)], read).optional();
        Ok(found().map_err(|error| self.failure(&error))?.unwrap_or(Cookie::Unknown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::users::{Refreshed, SessionKind};

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_cookie_is_good_until_it_is_idle_or_old_or_its_session_ends() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = UserStore::open(directory.path()).unwrap();
        store.add("alice", "correct horse", &[]).unwrap();
        let alice = store.lookup("alice").unwrap().unwrap();
        let start = Wall::now();
        let at = |minutes: u32| start.plus(MINUTE * minutes);
        let sign_in =
            SignIn { kind: SessionKind::Browser, peer: "203.0.113.7".parse().unwrap(), now: start, ttl: MINUTE * 30 };
        let text = store.begin_browser(Who::Account(&alice), sign_in, MINUTE * 60).unwrap().unwrap();
        let Cookie::Good { session, user, email: None, .. } = store.cookie(&text, at(29)).unwrap() else { panic!() };
        assert_eq!(user, "alice");
        assert_eq!(store.cookie(&text, at(30)).unwrap(), Cookie::Ended);
        store.sessions_seen(&[(session, at(29))]).unwrap();
        assert!(matches!(store.cookie(&text, at(58)).unwrap(), Cookie::Good { .. }));
        store.sessions_seen(&[(session, at(58))]).unwrap();
        assert!(matches!(store.cookie(&text, at(59)).unwrap(), Cookie::Good { .. }));
        assert_eq!(store.cookie(&text, at(60)).unwrap(), Cookie::Ended);
        assert_eq!(store.cookie("another", at(1)).unwrap(), Cookie::Unknown);
        // It is no refresh token.
        assert_eq!(store.refresh(&text, at(1), MINUTE).unwrap(), Refreshed::Unknown);
        let listed = store.sessions(Some("alice"), at(1)).unwrap();
        assert_eq!((listed.len(), listed[0].kind.as_str()), (1, "browser"));
        store.end_session(session).unwrap();
        assert_eq!(store.cookie(&text, at(1)).unwrap(), Cookie::Ended);
        let who = Who::External { name: "corp:42", email: "a@b.test" };
        let text = store.begin_browser(who, sign_in, MINUTE * 60).unwrap().unwrap();
        let Cookie::Good { user, email, .. } = store.cookie(&text, at(1)).unwrap() else { panic!() };
        assert_eq!((user.as_str(), email.as_deref()), ("corp:42", Some("a@b.test")));
    }
}
