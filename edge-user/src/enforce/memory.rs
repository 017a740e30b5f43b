//! The store, as far as it can be written. What the kernel took is in force whatever becomes of the disk: a failure is
//! logged once, raises `edge_store_ok`'s alarm, and all is written again when the disk takes it.

use std::{path::PathBuf, time::Duration};

use crate::{
    block::Target,
    clock::{Boot, Now},
    datapath::Singles6,
    error::Failure,
    offense::History,
    store::{Blocked, Changes, Store, StoreError},
    targets::Targets,
};

/// Between two attempts to write everything again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

pub struct Memory {
    store: Option<Store>,
    path: PathBuf,
    /// Since when the store lacks something.
    behind: Option<Boot>,
}

/// All that the store holds.
pub struct Remembered {
    pub blocked: Blocked,
    pub allowed: Vec<Target>,
    pub history: Vec<History>,
}

impl Remembered {
    pub fn singles6(&self) -> Singles6 {
        let alone: Targets = self.blocked.blocks.iter().map(|block| block.target).collect();
        let batches = self.blocked.batches.iter().map(|(_, batch)| Singles6::of(batch.targets()));
        batches.fold(Singles6::of(&alone), Singles6::plus)
    }
}

impl Memory {
    /// A store that cannot be read stops nothing; one that another agent uses does.
    pub fn open(path: PathBuf) -> Result<Memory, Failure> {
        let store = Store::open(&path);
        match &store {
            Ok(_) => {}
            Err(error @ StoreError::InUse { .. }) => return Err(Failure::refused(error.to_string())),
            Err(error) => tracing::error!("{error}; enforcement goes on without the store"),
        }
        Ok(Memory { store: store.ok(), path, behind: None })
    }

    /// `None` where there is nothing to remember: the store cannot be read, or was made just now.
    pub fn recall(&mut self, now: Now) -> Option<Remembered> {
        let store = self.store.as_mut().filter(|store| !store.is_new())?;
        let mut read = || -> Result<Remembered, StoreError> {
            Ok(Remembered { blocked: store.blocked(now)?, allowed: store.allowed()?, history: store.history()? })
        };
        let error = match read() {
            Ok(remembered) => return Some(remembered),
            Err(error) => error,
        };
        tracing::error!("{error}; enforcement goes on without the store");
        self.store = None;
        None
    }

    pub fn write(&mut self, write: impl FnOnce(&mut Store) -> Result<(), StoreError>) {
        let Some(store) = &mut self.store else { return };
        if let Err(error) = write(store) {
            self.fell_behind(&error);
        }
    }

    /// Everything, in one transaction.
    pub fn rewrite(
        &mut self,
        blocked: &Changes<'_>,
        allowed: impl Iterator<Item = Target>,
        history: impl Iterator<Item = History>,
    ) {
        let Some(store) = &mut self.store else { return };
        match store.replace(blocked, allowed, history) {
            Ok(()) if self.behind.take().is_some() => {
                tracing::info!("the store {} is whole again", self.path.display())
            }
            Ok(()) => {}
            Err(error) => self.fell_behind(&error),
        }
    }

    /// Makes a store anew where the one that lies there could not be read; that one is set aside. Gives a sentence for the
    /// user.
    pub fn renew(&mut self) -> Option<String> {
        if self.store.is_some() {
            return None;
        }
        match Store::open_anew(&self.path) {
            Ok((store, aside)) => {
                tracing::info!("the store {} is made anew", self.path.display());
                self.store = Some(store);
                aside.map(|aside| format!("the store that could not be read lies at {} now", aside.display()))
            }
            Err(error) => {
                tracing::error!("{error}; enforcement goes on without the store");
                None
            }
        }
    }

    /// Whether it is time to try [`rewrite`](Self::rewrite).
    pub fn is_due(&self, now: Now) -> bool {
        self.behind.is_some_and(|since| since.plus(AGAIN_AFTER) <= now.boot)
    }

    pub fn is_ok(&self) -> bool {
        self.store.is_some() && self.behind.is_none()
    }

    /// What is wrong with the store, and what that means for what is changed meanwhile.
    fn trouble(&self) -> Option<(&str, &str)> {
        match (&self.store, self.behind) {
            (Some(_), None) => None,
            (Some(_), Some(_)) => Some(("cannot be written", "a reboot would undo")),
            (None, _) => Some(("cannot be read", "the next start may undo")),
        }
    }

    /// For the user who has just changed something.
    pub fn warning(&self) -> Option<String> {
        let (trouble, undone) = self.trouble()?;
        Some(format!("in force, but the store {} {trouble}; {undone} it", self.path.display()))
    }

    /// For the user who asks how things stand.
    pub fn problem(&self) -> Option<String> {
        let (trouble, undone) = self.trouble()?;
        Some(format!("the store {} {trouble}; {undone} what is changed meanwhile", self.path.display()))
    }

    fn fell_behind(&mut self, error: &StoreError) {
        if self.behind.is_none() {
            tracing::error!("{error}; enforcement goes on, the store is written again when it can be");
        }
        self.behind = Some(Boot::now());
    }
}
