//! When sessions and keys were used last: noted in memory at each request, written together once a second, so that no
//! request costs a write.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::{clock::Wall, error::Failure, server::users::UserStore};

#[derive(Default)]
pub struct Seen(Mutex<Uses>);

/// By id.
#[derive(Default)]
pub struct Uses {
    keys: HashMap<i64, Wall>,
    sessions: HashMap<i64, Wall>,
}

impl Seen {
    pub fn key(&self, row: i64, now: Wall) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys.insert(row, now);
    }

    pub fn session(&self, id: i64, now: Wall) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sessions.insert(id, now);
    }

    /// All since the last call; `None`: there were none.
    pub fn take(&self) -> Option<Uses> {
        let uses = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        (!uses.keys.is_empty() || !uses.sessions.is_empty()).then_some(uses)
    }
}

impl Uses {
    pub fn write(self, store: &mut UserStore) -> Result<(), Failure> {
        let Uses { keys, sessions } = self;
        store.keys_used(&keys.into_iter().collect::<Vec<_>>())?;
        store.sessions_seen(&sessions.into_iter().collect::<Vec<_>>())
    }
}
