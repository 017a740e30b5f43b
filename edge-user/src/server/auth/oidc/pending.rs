//! Sign-ins that were begun and have not come back: each is good once, and for a while.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::clock::Wall;

/// How long somebody may take at the provider.
pub const SECONDS: u32 = 600;
/// Strangers begin as many as they like; the oldest make room.
const MOST: usize = 10_000;

/// One of them, by its `state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    pub provider: String,
    pub browser: String,
    pub nonce: String,
    pub verifier: String,
    pub next: String,
    pub at: Wall,
}

#[derive(Default)]
pub struct Pending(Mutex<HashMap<String, Begun>>);

impl Pending {
    pub fn insert(&self, state: String, begun: Begun) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            let mut times: Vec<_> = all.values().map(|begun| begun.at).collect();
            let (_, middle, _) = times.select_nth_unstable_by_key(MOST / 10, |at| at.0);
            let oldest = middle.0;
            all.retain(|_, begun| begun.at.0 > oldest);
        }
        all.insert(state, begun);
    }

    /// It is gone with that, whatever comes of it.
    pub fn take(&self, state: &str, now: Wall) -> Option<Begun> {
        let begun = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(state)?;
        let until = begun.at.plus(Duration::from_secs(u64::from(SECONDS)));
        (now.0 < until.0).then_some(begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(at: i64) -> Begun {
        let none = String::new;
        Begun { provider: none(), browser: none(), nonce: none(), verifier: none(), next: none(), at: Wall(at) }
    }

    #[test]
    fn each_is_good_once_and_for_ten_minutes() {
        let pending = Pending::default();
        pending.insert("a".to_owned(), begun(0));
        pending.insert("b".to_owned(), begun(0));
        assert!(pending.take("a", Wall(599_999)).is_some() && pending.take("a", Wall(0)).is_none());
        assert!(pending.take("b", Wall(600_000)).is_none());
    }

    #[test]
    fn the_oldest_make_room() {
        let pending = Pending::default();
        (0..=MOST as i64).for_each(|at| pending.insert(at.to_string(), begun(at)));
        assert!(pending.take("0", Wall(0)).is_none() && pending.take(&MOST.to_string(), Wall(0)).is_some());
        assert!(pending.0.lock().unwrap().len() <= MOST);
    }
}
