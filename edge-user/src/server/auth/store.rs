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
    /// Whether the last use failed: a failure is logged once, not at every request, and so is its end.
    failed: AtomicBool,
}

impl Store {
    pub fn new(directory: PathBuf) -> Store {
        Store { directory, reads: Mutex::default(), writes: Mutex::default(), failed: AtomicBool::new(false) }
    }

    /// A short look-up, on the calling thread.
    pub fn read<T>(&self, query: impl FnOnce(&mut UserStore) -> Result<T, Failure>) -> Result<T, Denial> {
        self.note(self.with(&self.reads, query))
    }

    /// Whether it can be used now; a failure is logged as that of any use is.
    pub async fn probe(self: &Arc<Store>) {
        let store = self.clone();
        let probed = tokio::task::spawn_blocking(move || store.read(|users| users.lookup(""))).await;
        drop(probed);
    }

    /// Whether the last use failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// A change, on a thread that may block.
    pub async fn write<T: Send + 'static>(
        self: &Arc<Store>,
        change: impl FnOnce(&mut UserStore) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Denial> {
        let store = self.clone();
        let done = tokio::task::spawn_blocking(move || store.with(&store.writes, change)).await;
        self.note(done.unwrap_or_else(|error| Err(Failure::bug(format!("a change of the store ended early: {error}")))))
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
        *slot = Some(open);
        Ok(result)
    }

    fn note<T>(&self, result: Result<T, Failure>) -> Result<T, Denial> {
        let failed = self.failed.swap(result.is_err(), Ordering::Relaxed);
        if failed && result.is_ok() {
            tracing::info!("the store of users in {} can be used again", self.directory.display());
        }
        result.map_err(|failure| {
            if !failed {
                tracing::error!("{failure}; /auth/ answers 503 until it can be used");
            }
            Denial::Unavailable
        })
    }
}
