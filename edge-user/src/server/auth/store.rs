//! The server's hold on the store of users: opened when first needed and again after a failure, so that a broken store
//! costs answers (503), not the server. Reads have a connection of their own and never wait for a write.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::Denial;
use crate::{error::Failure, server::users::UserStore};

pub struct Store {
    directory: PathBuf,
    reads: Mutex<Option<UserStore>>,
    writes: Mutex<Option<UserStore>>,
    /// Whether the last use failed: a failure is logged once, not at every request, and so is its end. A full disk can be
    /// read and not written.
    failed: [AtomicBool; 2],
}

/// What a use needs of the disk; a write that is done shows that it can be read too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Read,
    Write,
}

impl Store {
    pub fn new(directory: PathBuf) -> Store {
        Store { directory, reads: Mutex::default(), writes: Mutex::default(), failed: Default::default() }
    }

    /// A short look-up, on the calling thread.
    pub fn read<T>(&self, query: impl FnOnce(&mut UserStore) -> Result<T, Failure>) -> Result<T, Denial> {
        self.note(Use::Read, self.with(&self.reads, query))
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
