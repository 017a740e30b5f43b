//! The store, as far as it can be written. What the kernel took is in force whatever becomes of the disk: a failure is
//! logged once, raises `edge_store_ok`'s alarm, and all is written again when the disk takes it. A file that is damaged,
//! or was changed or removed by others, is set aside and made anew from what the agent knows, if that is all there was.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::again::Again;
use crate::{
    block::Target,
    clock::{Boot, Now},
    datapath::Singles6,
    error::Failure,
    offense::History,
    store::{Blocked, Changes, Store, StoreError},
    targets::Targets,
};

/// How exactly it is known after a reboot what a wall clock that had jumped meant.
const SEEN_EVERY: Duration = Duration::from_secs(60);
/// Between two attempts to write everything again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Longer than most commands take.
const FREE_WITHIN: Duration = Duration::from_secs(2);

pub struct Memory {
    store: Option<Store>,
    path: PathBuf,
    /// Nothing is known to the store alone: it was read, or is new.
    is_complete: bool,
    /// There is none, and whoever asks only reads.
    is_never_made: bool,
    /// What lies at the path is not to be gone on with.
    is_spoilt: bool,
    /// Since when the store lacks something.
    behind: Option<Boot>,
    /// A directory among the pins that is there while the kernel has what the store lacks.
    mark: Option<PathBuf>,
    /// Where a store lies that was spoilt, until it is told.
    aside: Option<PathBuf>,
    /// When the store was told the time.
    seen: Option<Boot>,
    again: Again,
    /// The restore that all of it comes from, until the store has it.
    restored: Option<String>,
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

    fn of(store: &mut Store, now: Now) -> Result<Remembered, StoreError> {
        Ok(Remembered { blocked: store.blocked(now)?, allowed: store.allowed()?, history: store.history()? })
    }
}

impl Memory {
    /// A store that cannot be read stops nothing; one that another agent uses does.
    pub fn open(path: PathBuf) -> Result<Memory, Failure> {
        let store = open_within(&path, FREE_WITHIN);
        match &store {
            Ok(_) => {}
            Err(error @ StoreError::InUse { .. }) => return Err(Failure::refused(error.to_string())),
            Err(error) => tracing::error!("{error}; enforcement goes on without the store"),
        }
        let behind = store.is_err().then(Boot::now);
        Ok(Memory { store: store.ok(), behind, ..Memory::without(path) })
    }

    /// The same for a command that only reads: one that is missing is not made, and holds nothing.
    pub fn open_to_read(path: PathBuf) -> Result<Memory, Failure> {
        match path.try_exists() {
            Ok(false) => Ok(Memory { is_complete: true, is_never_made: true, ..Memory::without(path) }),
            _ => Memory::open(path),
        }
    }

    fn without(path: PathBuf) -> Memory {
        Memory {
            store: None,
            path,
            is_complete: false,
            is_never_made: false,
            is_spoilt: false,
            behind: None,
            mark: None,
            aside: None,
            seen: None,
            again: Again::default(),
            restored: None,
        }
    }

    /// A disk that takes nothing cannot say that it lacks something: the pins can, as long as the kernel has it.
    pub fn marking(mut self, pin_path: &Path) -> Memory {
        self.mark = Some(pin_path.join("store-behind"));
        self
    }

    pub fn is_marked(&self) -> bool {
        self.mark.as_ref().is_some_and(|mark| mark.is_dir())
    }

    fn mark(&self) {
        // Once it is there, or where nothing is pinned, there is nothing to do.
        let _ = self.mark.as_ref().map(fs::create_dir);
    }

    fn unmark(&self) {
        let _ = self.mark.as_ref().map(fs::remove_dir);
    }

    /// `None` where there is nothing to remember: the store cannot be read, or was made just now.
    pub fn recall(&mut self, now: Now) -> Option<Remembered> {
        let remembered = match &mut self.store {
            Some(store) if store.is_new() => {
                self.is_complete = true;
                return None;
            }
            Some(store) => Remembered::of(store, now),
            None if self.is_never_made => return None,
            None => return self.recall_what_cannot_be_written(now),
        };
        match remembered {
            Ok(remembered) => {
                self.is_complete = true;
                Some(remembered)
            }
            Err(error) => {
                tracing::error!("{error}; enforcement goes on without the store");
                self.leave();
                None
            }
        }
    }

    /// A disk that is full or read-only still says what was decided.
    fn recall_what_cannot_be_written(&mut self, now: Now) -> Option<Remembered> {
        let remembered = Store::open_to_read(&self.path).and_then(|mut store| Remembered::of(&mut store, now)).ok()?;
        tracing::warn!("the store {} was read all the same, and is written when it can be", self.path.display());
        self.is_complete = true;
        Some(remembered)
    }

    /// The same for a store that could not be read before and perhaps can be now.
    pub fn recall_late(&mut self, now: Now) -> Option<Remembered> {
        if self.is_complete {
            return None;
        }
        if !self.again.is_due(&self.path, Instant::now()) {
            self.behind = Some(Boot::now());
            return None;
        }
        let mut store = match Store::open(&self.path) {
            Ok(store) => store,
            Err(_) => {
                self.not_recalled();
                return None;
            }
        };
        let remembered = if store.is_new() { Ok(None) } else { Remembered::of(&mut store, now).map(Some) };
        match remembered {
            Ok(remembered) => {
                (self.store, self.is_complete) = (Some(store), true);
                remembered
            }
            Err(_) => {
                store.abandon();
                self.not_recalled();
                None
            }
        }
    }

    /// What was recalled is known to the store alone still.
    pub fn not_merged(&mut self) {
        self.is_complete = false;
        self.leave();
        self.not_recalled();
    }

    fn not_recalled(&mut self) {
        self.behind = Some(Boot::now());
        self.again.failed(&self.path, Instant::now());
    }

    pub fn write(&mut self, write: impl FnOnce(&mut Store) -> Result<(), StoreError>) {
        let Some(store) = &mut self.store else { return self.mark() };
        if let Err(error) = write(store) {
            self.fell_behind(&error);
        }
    }

    /// Everything, in one transaction; a spoilt file is set aside before.
    pub fn rewrite(
        &mut self,
        now: Now,
        blocked: &Changes<'_>,
        allowed: impl Iterator<Item = Target>,
        history: impl Iterator<Item = History>,
    ) {
        if !self.is_complete || self.is_never_made {
            return;
        }
        let restored = self.restored.take();
        let written =
            self.usable().and_then(|store| store.replace(now, blocked, allowed, history, restored.as_deref()));
        if written.is_ok() {
            self.unmark();
        } else {
            self.restored = restored;
        }
        match written {
            Ok(()) if self.behind.take().is_some() => {
                let aside = self.aside.as_deref().map(|aside| format!("; {}", lies_at(aside))).unwrap_or_default();
                tracing::info!("the store {} is whole again{aside}", self.path.display());
            }
            Ok(()) => {}
            Err(error) => self.fell_behind(&error),
        }
    }

    /// The store, opened again or made anew where it has to be.
    fn usable(&mut self) -> Result<&mut Store, StoreError> {
        let store = match self.store.take() {
            Some(store) => store,
            None if self.is_spoilt => {
                let (store, aside) = Store::open_anew(&self.path)?;
                (self.is_spoilt, self.aside) = (false, aside);
                store
            }
            None => Store::open(&self.path)?,
        };
        Ok(self.store.insert(store))
    }

    /// All that there was is given up for what the agent knows now.
    pub fn give_up(&mut self) {
        if !self.is_complete {
            (self.is_complete, self.is_spoilt) = (true, true);
        }
    }

    /// What is written next comes from this restore.
    pub fn is_restored_by(&mut self, id: &str) {
        self.restored = Some(id.to_owned());
    }

    /// The restore that all of it came from last, if any; the outer `None`: the store cannot tell.
    pub fn restored(&self) -> Option<Option<String>> {
        self.store.as_ref().filter(|_| self.is_ok() && self.is_complete)?.restored().ok()
    }

    /// A sentence about a store that was spoilt, once.
    pub fn told_aside(&mut self) -> Option<String> {
        self.aside.take().map(|aside| lies_at(&aside))
    }

    /// Whether all has to be written, so that its ends are of this boot.
    pub fn is_of_another_boot(&self) -> bool {
        self.store.as_ref().is_some_and(|store| !store.is_new() && !store.is_of_this_boot())
    }

    /// Once a minute: what the clocks say.
    pub fn see(&mut self, now: Now) {
        if self.behind.is_none() && self.seen.is_none_or(|seen| seen.plus(SEEN_EVERY) <= now.boot) {
            self.seen = Some(now.boot);
            self.write(|store| store.see(now));
        }
    }

    /// Notices what others did to the file.
    pub fn look(&mut self) {
        if let Some(error) = self.store.as_ref().and_then(|store| store.check_intact().err()) {
            self.fell_behind(&error);
        }
    }

    /// Whether it is time to try [`rewrite`](Self::rewrite).
    pub fn is_due(&self, now: Now) -> bool {
        self.behind.is_some_and(|since| since.plus(AGAIN_AFTER) <= now.boot)
    }

    pub fn is_ok(&self) -> bool {
        self.store.is_some() && self.behind.is_none()
    }

    /// Whether what is lifted or disallowed now may still be in the store.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// What is wrong with the store, and what that means for what is changed meanwhile.
    fn trouble(&self) -> Option<(&str, &str)> {
        match (self.is_ok(), self.is_complete) {
            (true, _) => None,
            (false, true) => Some(("cannot be written", "the next start would undo")),
            (false, false) => Some(("cannot be read", "the next start may undo")),
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

    /// Why not all of the store is known here; `None`: it is.
    pub fn lack(&self) -> Option<String> {
        if self.is_complete { None } else { self.problem() }
    }

    fn fell_behind(&mut self, error: &StoreError) {
        if self.behind.is_none() {
            tracing::error!("{error}; enforcement goes on, the store is written again when it can be");
        }
        self.mark();
        self.behind = Some(Boot::now());
        if error.is_spoilt() {
            self.is_spoilt = true;
            self.leave();
        }
    }

    fn leave(&mut self) {
        if let Some(store) = self.store.take() {
            store.abandon();
        }
        self.behind = self.behind.or_else(|| Some(Boot::now()));
    }
}

/// A command without an agent holds the store for a moment.
fn open_within(path: &Path, patience: Duration) -> Result<Store, StoreError> {
    let until = Instant::now() + patience;
    loop {
        match Store::open(path) {
            Err(StoreError::InUse { .. }) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            opened => return opened,
        }
    }
}

fn lies_at(aside: &Path) -> String {
    format!("the store that could not be used lies at {} now", aside.display())
}
