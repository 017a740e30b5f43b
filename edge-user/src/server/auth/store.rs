//! The server's hold on the store of users: opened when first needed and again after a failure, so that a broken store
//! costs answers (503), not the server. Reads have a connection of their own and never wait for a write.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    Denial,
    credential::{Bearer, Found},
};
use crate::{
    clock::Wall,
    error::Failure,
    server::users::{UserStore, Version},
};

pub struct Store {
    directory: PathBuf,
    reads: Mutex<Option<UserStore>>,
    writes: Mutex<Option<UserStore>>,
    known: Mutex<Known>,
    /// Whether the last use failed: a failure is logged once, not at every request, and so is its end. A full disk can be
    /// read and not written.
    failed: [AtomicBool; 2],
}

/// Tokens that were good, and until when they are while nothing of the store changes.
#[derive(Default)]
struct Known {
    version: Option<Version>,
    tokens: HashMap<Box<str>, (Bearer, Wall)>,
}

/// A store where nothing changes for long, under many tokens: more than that begin anew.
const MOST_KNOWN: usize = 8_192;
/// In bytes; edge's own are some 400. A longer one is looked up each time.
const LONGEST_KNOWN: usize = 2_048;

/// What a use needs of the disk; a write that is done shows that it can be read too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Read,
    Write,
}

impl Known {
    /// What is known of the store as it is now.
    fn of(&mut self, version: Version) -> &HashMap<Box<str>, (Bearer, Wall)> {
        if self.version != Some(version) || self.tokens.len() >= MOST_KNOWN {
            *self = Known { version: Some(version), tokens: HashMap::new() };
        }
        &self.tokens
    }
}

impl Store {
    pub fn new(directory: PathBuf) -> Store {
        Store {
            directory,
            reads: Mutex::default(),
            writes: Mutex::default(),
            known: Mutex::default(),
            failed: Default::default(),
        }
    }

    /// A short look-up, on the calling thread.
    pub fn read<T>(&self, query: impl FnOnce(&mut UserStore) -> Result<T, Failure>) -> Result<T, Denial> {
        self.note(Use::Read, self.with(&self.reads, query))
    }

    /// Whom a token names: as it was found last, where nothing of the store has changed since. To find it takes a
    /// signature and several queries, and most requests come with a token that was there before.
    pub fn known(
        &self,
        token: &str,
        now: Wall,
        look_up: impl FnOnce() -> Result<Found, Denial>,
    ) -> Result<Bearer, Denial> {
        // Before the look-up, so that what changes during it makes what was found void. Of a store that cannot be read
        // nothing is known, and what is no token of anybody's is found to be none without it.
        let Ok(version) = self.read(|store| store.version()) else { return Ok(look_up()?.bearer) };
        let known = self.all_known().of(version).get(token).filter(|(_, until)| now < *until).cloned();
        if let Some((bearer, _)) = known {
            return Ok(bearer);
        }
        let Found { bearer, until } = look_up()?;
        let mut known = self.all_known();
        let is_kept = known.version == Some(version) && token.len() <= LONGEST_KNOWN;
        if let Some(until) = until.filter(|_| is_kept) {
            known.tokens.insert(token.into(), (bearer.clone(), until));
        }
        Ok(bearer)
    }

    fn all_known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it can be used now; a failure is logged as that of any use is.
    pub async fn probe(self: &Arc<Store>) {
        let store = self.clone();
        let probe = move || {
            let can_be_read = store.read(|users| users.lookup("")).is_ok();
            if can_be_read && store.failed(Use::Write).load(Ordering::Relaxed) {
                drop(store.note(Use::Write, store.with(&store.writes, UserStore::touch)));
            }
        };
        drop(tokio::task::spawn_blocking(probe).await);
    }

    /// Whether it could not be read, or not be written, when that was tried last.
    pub fn has_failed(&self) -> bool {
        self.failed.iter().any(|failed| failed.load(Ordering::Relaxed))
    }

    fn failed(&self, of: Use) -> &AtomicBool {
        &self.failed[of as usize]
    }

    /// A change, on a thread that may block.
    pub async fn write<T: Send + 'static>(
        self: &Arc<Store>,
        change: impl FnOnce(&mut UserStore) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Denial> {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || store.with(&store.writes, change)).await;
        self.note(
            Use::Write,
            done.unwrap_or_else(|error| Err(Failure::bug(format!("a change of the store ended early: {error}")))),
        )
    }

    /// A change that nobody waits for: where it cannot be made it is lost, and says nothing of what can.
    pub async fn try_write(
        self: &Arc<Store>,
        change: impl FnOnce(&mut UserStore) -> Result<(), Failure> + Send + 'static,
    ) {
        let store = self.clone();
        if let Ok(Err(failure)) = tokio::task::spawn_blocking(move || store.with(&store.writes, change)).await {
            tracing::debug!("{failure}; when sessions and keys were used last is not known");
        }
    }

    fn with<T>(
        &self,
        store: &Mutex<Option<UserStore>>,
        use_it: impl FnOnce(&mut UserStore) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut slot = store.lock().unwrap_or_else(PoisonError::into_inner);
        // A restore may have put another file in its place.
        let mut open = match slot.take().filter(UserStore::is_current) {
            Some(open) => open,
            None => UserStore::open(&self.directory)?,
        };
        let result = use_it(&mut open)?;
        if open.is_read_only() {
            // Kept open it would stay so when the disk no more is.
            let failure =
                Failure::system(format!("the store of users in {} can only be read", self.directory.display()));
            drop(self.note::<()>(Use::Write, Err(failure)));
        } else {
            *slot = Some(open);
        }
        Ok(result)
    }

    fn note<T>(&self, of: Use, result: Result<T, Failure>) -> Result<T, Denial> {
        let had_failed = self.has_failed();
        self.failed(of).store(result.is_err(), Ordering::Relaxed);
        if result.is_ok() && of == Use::Write {
            self.failed(Use::Read).store(false, Ordering::Relaxed);
        }
        if had_failed && !self.has_failed() {
            tracing::info!("the store of users in {} can be used again", self.directory.display());
        }
        result.map_err(|failure| {
            if !had_failed {
                tracing::error!("{failure}; /auth/ answers 503 until it can be used");
            }
            Denial::Unavailable
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::server::auth::credential::{Identity, Kind};

    fn found(until: Option<Wall>) -> Found {
        let kind = Kind::User { session: None };
        let identity = Identity { name: "alice".to_owned(), roles: Vec::new(), email: None, kind, token: None };
        let (issuer, subject) = ("https://a.test".to_owned(), "alice".to_owned());
        Found { bearer: Bearer { identity, issuer, subject, audience: Vec::new(), issued: 0, expires: 9 }, until }
    }

    #[test]
    fn a_token_is_looked_up_again_when_the_store_changed_or_its_time_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let mut users = UserStore::open(directory.path()).unwrap();
        let store = Store::new(directory.path().to_owned());
        let looked = Cell::new(0);
        let ask = |token: &str, now: i64, until: Option<i64>| {
            let look_up = || {
                looked.set(looked.get() + 1);
                Ok(found(until.map(Wall)))
            };
            store.known(token, Wall(now), look_up).unwrap();
            looked.get()
        };
        assert_eq!((ask("one", 0, Some(10)), ask("one", 9, Some(10)), ask("other", 0, Some(10))), (1, 1, 2));
        assert_eq!((ask("one", 10, Some(20)), ask("one", 19, None)), (3, 3), "its time was over");
        users.add("bob", "correct horse", &[]).unwrap();
        assert_eq!((ask("one", 0, None), ask("one", 0, None)), (4, 5), "something changed, and nothing is known of it");
        assert_eq!((ask("one", 0, Some(10)), ask("one", 0, None)), (6, 6));
        drop(users);
        std::fs::rename(directory.path().join("users.db"), directory.path().join("old.db")).unwrap();
        UserStore::open(directory.path()).unwrap();
        assert_eq!(ask("one", 0, None), 7, "another file has another history");
    }

    #[test]
    fn what_is_refused_is_not_kept_and_what_is_good_is_kept_up_to_a_bound() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().to_owned());
        let refused = || Err(Denial::Token { guessed: true, account: None });
        assert!(store.known("bad", Wall(0), refused).is_err() && store.all_known().tokens.is_empty());
        for number in 0..=MOST_KNOWN {
            store.known(&number.to_string(), Wall(0), || Ok(found(Some(Wall(1))))).unwrap();
        }
        assert_eq!(store.all_known().tokens.len(), 1);
        store.known(&"x".repeat(LONGEST_KNOWN + 1), Wall(0), || Ok(found(Some(Wall(1))))).unwrap();
        assert_eq!(store.all_known().tokens.len(), 1);
    }

    #[test]
    fn a_store_that_cannot_be_read_hides_no_guess() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("users.db")).unwrap();
        let store = Store::new(directory.path().to_owned());
        let guess = Denial::Token { guessed: true, account: None };
        assert_eq!(store.known("bad", Wall(0), || Err(guess.clone())), Err(guess));
    }
}
