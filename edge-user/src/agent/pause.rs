//! How long a server that ended waits before it is started again: at once after a healthy life, else ever longer.

use std::time::Duration;

use tokio::time::Instant;

const LEAST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(5);
/// A server that served for so long is started again without a pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

#[derive(Default)]
pub struct Pause {
    next: Duration,
    /// Since when the server that ended has served; `None` if it never did.
    served_since: Option<Instant>,
}

impl Pause {
    /// A server is ready now.
    pub fn served(&mut self, now: Instant) {
        self.served_since = Some(now);
    }

    /// The server ended, or could not be started; how long to wait before the next.
    pub fn ended(&mut self, now: Instant) -> Duration {
        if self.served_since.take().is_some_and(|since| now.duration_since(since) >= HEALTHY_AFTER) {
            self.next = Duration::ZERO;
        }
        let pause = self.next;
        self.next = (pause * 2).clamp(LEAST, MOST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(pause: &mut Pause, now: Instant, times: usize) -> Vec<u128> {
        (0..times).map(|_| pause.ended(now).as_millis()).collect()
    }

    #[test]
    fn a_server_that_cannot_be_started_again_is_tried_at_most_every_five_seconds() {
        let start = Instant::now();
        let mut pause = Pause::default();
        pause.served(start);
        let healthy = start + HEALTHY_AFTER;
        let expected = [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000];
        assert_eq!(milliseconds(&mut pause, healthy, 9), expected);
        pause.served(healthy);
        assert_eq!(milliseconds(&mut pause, healthy + HEALTHY_AFTER / 2, 1), [5000]);
        pause.served(healthy);
        assert_eq!(milliseconds(&mut pause, healthy + HEALTHY_AFTER, 2), [0, 100]);
    }
}
