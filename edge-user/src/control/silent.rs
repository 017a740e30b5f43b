//! Connections that have said nothing yet. Each has only a moment for its first words, and where no place is left, the
//! one that has been silent for longest loses its own: who holds connections open keeps nobody else out.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tracing::warn;

/// The CLI writes as soon as it is connected, so that its words are there before it is accepted.
const FIRST_WORDS_WITHIN: Duration = Duration::from_secs(2);
/// Between two lines of the log that say the same.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(60);

#[derive(Clone, Default)]
pub struct Silent(Arc<Mutex<Listed>>);

#[derive(Default)]
struct Listed {
    next: u64,
    /// By age, the oldest first.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
    told: Option<Instant>,
}

impl Silent {
    /// For a connection that was accepted just now.
    pub fn seat(&self) -> Seat {
        let (hang_up, hung_up) = oneshot::channel();
        let mut listed = self.listed();
        let id = listed.next;
        listed.next += 1;
        listed.waiting.insert(id, hang_up);
        Seat { silent: self.clone(), id, hung_up }
    }

    /// Ends the wait of the one that has been silent for longest, if there is one.
    pub fn make_room(&self) {
        let mut listed = self.listed();
        let Some((_, oldest)) = listed.waiting.pop_first() else { return };
        let _ = oldest.send(());
        if listed.told.is_none_or(|told| told.elapsed() > TOLD_AGAIN_AFTER) {
            listed.told = Some(Instant::now());
            warn!("admin socket: every place is taken by a connection; those that say nothing are closed to make room");
        }
    }

    fn listed(&self) -> MutexGuard<'_, Listed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that is silent; it is no more when this ends.
pub struct Seat {
    silent: Silent,
    id: u64,
    hung_up: oneshot::Receiver<()>,
}

impl Seat {
    /// What `words` come to; an error where they are not there in time, or the place is needed before.
    pub async fn until<T>(self, words: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        self.within(FIRST_WORDS_WITHIN, words).await
    }

    async fn within<T>(mut self, moment: Duration, words: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        tokio::select! {
            biased;
            heard = timeout(moment, words) => heard?,
            _ = &mut self.hung_up => Err(io::Error::new(ErrorKind::ConnectionAborted, "its place was needed")),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.silent.listed().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> impl Future<Output = io::Result<()>> {
        std::future::pending()
    }

    #[tokio::test]
    async fn who_says_nothing_waits_no_longer_than_a_moment() {
        let silent = Silent::default();
        let waited = silent.seat().within(Duration::from_millis(1), nothing()).await;
        assert_eq!(waited.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(silent.seat().until(async { Ok(7) }).await.unwrap(), 7);
        assert!(silent.listed().waiting.is_empty());
    }

    #[tokio::test]
    async fn the_oldest_makes_room_and_who_has_spoken_keeps_its_place() {
        let silent = Silent::default();
        silent.make_room();
        let (spoken, first, second) = (silent.seat(), silent.seat(), silent.seat());
        assert_eq!(spoken.until(async { Ok(7) }).await.unwrap(), 7);
        silent.make_room();
        assert_eq!(first.until(nothing()).await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert_eq!(silent.listed().waiting.len(), 1);
        silent.make_room();
        let said_meanwhile = second.until(async { Ok(8) });
        assert_eq!(said_meanwhile.await.unwrap(), 8);
    }
}
