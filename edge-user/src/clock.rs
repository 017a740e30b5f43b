//! The two clocks of edge. Boot time orders what the kernel enforces and never jumps; wall time is for people and for
//! the disk. Nothing else in the crate reads a clock.

use std::{fmt, time::Duration};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nanoseconds since boot, suspend included (`CLOCK_BOOTTIME`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Boot(pub u64);

impl Boot {
    pub fn now() -> Boot {
        Boot(nanoseconds(ClockId::CLOCK_BOOTTIME) as u64)
    }

    pub fn plus(self, duration: Duration) -> Boot {
        Boot(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    pub fn since(self, earlier: Boot) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Milliseconds since 1970, UTC. Written as RFC 3339 with milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wall(pub i64);

impl Wall {
    pub fn now() -> Wall {
        Wall((nanoseconds(ClockId::CLOCK_REALTIME) / 1_000_000) as i64)
    }

    pub fn plus(self, duration: Duration) -> Wall {
        Wall(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    pub fn minus(self, duration: Duration) -> Wall {
        Wall(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// Both clocks read together, as everything that must convert between them is handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    pub boot: Boot,
    pub wall: Wall,
}

impl Now {
    pub fn read() -> Now {
        Now { boot: Boot::now(), wall: Wall::now() }
    }

    /// What the wall clock would have said then, by its word now.
    pub fn wall_of(self, earlier: Boot) -> Wall {
        let age = i64::try_from(self.boot.since(earlier).as_millis()).unwrap_or(i64::MAX);
        Wall(self.wall.0.saturating_sub(age))
    }
}

fn nanoseconds(clock: ClockId) -> i128 {
    // These clocks exist on every kernel that edge runs on; a failure would be a libc that lies.
    clock_gettime(clock).map_or(0, |time| i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec()))
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => f.write_str("9999-12-30T22:00:00.000Z"),
        }
    }
}

impl Serialize for Wall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Wall {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Wall, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Wall(time.as_millisecond()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_is_rfc_3339_with_milliseconds() {
        assert_eq!(Wall(1_767_323_045_000).to_string(), "2026-01-02T03:04:05.000Z");
        assert_eq!(Wall(1_767_323_045_007).to_string(), "2026-01-02T03:04:05.007Z");
        let json = serde_json::to_string(&Wall(1_767_323_045_120)).unwrap();
        assert_eq!(serde_json::from_str::<Wall>(&json).unwrap(), Wall(1_767_323_045_120));
    }
}
