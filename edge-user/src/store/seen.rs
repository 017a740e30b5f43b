//! What both clocks said last, and with it how long a block of another boot still has to last. Boot time begins anew at a
//! boot, and the wall clock may be wrong before or after it, as where no battery holds it: then a block lasts as long as
//! it had left, and never longer than it was made for.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::clock::{Boot, Now, Wall};

/// What schema 3 adds. Its one row comes with the first time that all is written.
pub const SEEN: &str = "
    CREATE TABLE seen (
        boot_id TEXT NOT NULL,
        boot    INTEGER NOT NULL,
        wall    INTEGER NOT NULL
    ) STRICT;
";

/// For a file that was filled by an earlier edge, which did not note it.
pub const SEEN_NEVER: &str = "INSERT INTO seen VALUES ('', 0, 0)";

/// A machine that is off for longer is rarer than a clock that is wrong, and a block that goes on for what it had left does
/// less harm than all of them gone.
const BELIEVED: Duration = Duration::from_secs(365 * 86_400);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub boot_id: String,
    boot: Boot,
    wall: Wall,
}

impl Seen {
    pub fn now(boot_id: &str, now: Now) -> Seen {
        Seen { boot_id: boot_id.to_owned(), boot: now.boot, wall: now.wall }
    }

    pub fn last(connection: &Connection) -> rusqlite::Result<Option<Seen>> {
        let read = |row: &rusqlite::Row<'_>| {
            let boot = Boot(row.get::<_, i64>(1)?.try_into().unwrap_or(0));
            Ok(Seen { boot_id: row.get(0)?, boot, wall: Wall(row.get(2)?) })
        };
        connection.query_row("SELECT boot_id, boot, wall FROM seen", [], read).optional()
    }

    pub fn write(&self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        transaction.execute("DELETE FROM seen", [])?;
        let boot = i64::try_from(self.boot.0).unwrap_or(i64::MAX);
        transaction.execute("INSERT INTO seen VALUES (?1, ?2, ?3)", params![self.boot_id, boot, self.wall.0]).map(drop)
    }

    /// Of what ends at `until` of the boot that was seen. A wall clock that has gone back, or years ahead, tells nothing of
    /// the time since: nobody has set it yet.
    pub fn left(&self, until: Boot, now: Now) -> Duration {
        let since = Some(between(self.wall, now.wall)).filter(|since| *since < BELIEVED);
        until.since(self.boot).saturating_sub(since.unwrap_or_default())
    }
}

/// Nothing where the second is not later.
pub fn between(earlier: Wall, later: Wall) -> Duration {
    Duration::from_millis(u64::try_from(later.0.saturating_sub(earlier.0)).unwrap_or(0))
}
