//! What is blocked, as it lies on the disk: a row for each block that is kept alone, and one for each batch, since a
//! million rows take seconds and a million packed addresses milliseconds. What is lifted from a batch is a row beside it.

use std::collections::BTreeMap;

use rusqlite::{Row, Transaction, params};

use super::{Store, StoreError, seen::between, shown, target};
use crate::{
    batch::{Batch, BatchId, Terms},
    block::{Block, Origin, Target},
    clock::{Boot, Now, Wall},
    targets::Targets,
};

/// What schema 2 adds.
pub const BATCHES: &str = "
    CREATE TABLE batch (
        id      INTEGER PRIMARY KEY,
        origin  TEXT NOT NULL,
        reason  TEXT NOT NULL,
        created INTEGER NOT NULL,
        expires INTEGER,
        boot_id TEXT NOT NULL,
        until   INTEGER,
        offence INTEGER NOT NULL,
        targets BLOB NOT NULL
    ) STRICT;
    CREATE TABLE lifted (
        batch  INTEGER NOT NULL,
        target TEXT NOT NULL,
        PRIMARY KEY (batch, target)
    ) STRICT, WITHOUT ROWID;
";

/// All that is blocked.
#[derive(Debug, Default)]
pub struct Blocked {
    pub blocks: Vec<Block>,
    pub batches: Vec<(BatchId, Batch)>,
}

/// What changes of it at once: first what goes, then what comes. What is not there goes without an error, what is there
/// is replaced.
#[derive(Debug, Default)]
pub struct Changes<'a> {
    pub removed: Vec<(Target, Origin)>,
    pub lifted: Vec<(BatchId, Target)>,
    pub ended: Vec<BatchId>,
    pub blocks: Vec<&'a Block>,
    pub batches: Vec<(BatchId, &'a Batch)>,
}

impl Store {
    /// All that has not ended. What was stored in this boot keeps its exact end; of what was stored before, it has as much
    /// left as it had when that boot was seen last, less the time that has passed since by the wall clock. What has ended
    /// is removed.
    pub fn blocked(&mut self, now: Now) -> Result<Blocked, StoreError> {
        let mut ended = Changes::default();
        let blocked = Blocked { blocks: self.blocks(now, &mut ended)?, batches: self.batches(now, &mut ended)? };
        if self.sole.is_some() && (!ended.removed.is_empty() || !ended.ended.is_empty()) {
            self.change(&ended)?;
        }
        Ok(blocked)
    }

    /// All of it or nothing.
    pub fn change(&mut self, changes: &Changes<'_>) -> Result<(), StoreError> {
        let boot_id = self.boot_id.clone();
        self.write("write blocks", |transaction| changes.write(transaction, &boot_id))
    }

    fn blocks(&self, now: Now, ended: &mut Changes<'_>) -> Result<Vec<Block>, StoreError> {
        let sql = "SELECT target, origin, reason, created, expires, boot_id, until, offence FROM block";
        let stored = self.rows("read the blocks", sql, |row| Ok((row.get::<_, String>(0)?, Stored::read(row)?)))?;
        let mut blocks = Vec::with_capacity(stored.len());
        for (name, terms) in stored {
            let target = target(&name).map_err(|what| self.content(what))?;
            let terms = terms.revive(self, now).map_err(|what| self.content(what))?;
            if terms.hold(now) {
                blocks.push(terms.block(target));
            } else {
                ended.removed.push((target, terms.origin));
            }
        }
        Ok(blocks)
    }

    fn batches(&self, now: Now, ended: &mut Changes<'_>) -> Result<Vec<(BatchId, Batch)>, StoreError> {
        let sql = "SELECT id, origin, reason, created, expires, boot_id, until, offence, targets FROM batch";
        let read = |row: &Row<'_>| Ok((BatchId(row.get(0)?), Stored::read(row)?, row.get::<_, Vec<u8>>(8)?));
        let mut lifted = self.lifted()?;
        let mut batches = Vec::new();
        for (id, terms, bytes) in self.rows("read the blocks", sql, read)? {
            let terms = terms.revive(self, now).map_err(|what| self.content(what))?;
            if terms.hold(now) {
                let targets =
                    Targets::decode(&mut bytes.as_slice()).map_err(|error| self.content(error.to_string()))?;
                let mut batch = Batch::new(terms, targets);
                for target in lifted.remove(&id).into_iter().flatten() {
                    batch.lift(target);
                }
                batches.push((id, batch));
            } else {
                ended.ended.push(id);
            }
        }
        Ok(batches)
    }

    fn lifted(&self) -> Result<BTreeMap<BatchId, Vec<Target>>, StoreError> {
        let read = |row: &Row<'_>| Ok((BatchId(row.get(0)?), row.get::<_, String>(1)?));
        let mut lifted: BTreeMap<BatchId, Vec<Target>> = BTreeMap::new();
        for (id, name) in self.rows("read the blocks", "SELECT batch, target FROM lifted", read)? {
            lifted.entry(id).or_default().push(target(&name).map_err(|what| self.content(what))?);
        }
        Ok(lifted)
    }
}

impl Changes<'_> {
    pub(super) fn write(&self, transaction: &Transaction<'_>, boot_id: &str) -> rusqlite::Result<()> {
        let mut remove = transaction.prepare_cached("DELETE FROM block WHERE target = ?1 AND origin = ?2")?;
        for (target, origin) in &self.removed {
            remove.execute(params![target.to_string(), origin.name()])?;
        }
        let mut lift = transaction.prepare_cached("INSERT OR IGNORE INTO lifted VALUES (?1, ?2)")?;
        for (batch, target) in &self.lifted {
            lift.execute(params![batch.0, target.to_string()])?;
        }
        self.ended.iter().try_for_each(|id| remove_batch(transaction, *id))?;
        insert_blocks(transaction, &self.blocks, boot_id)?;
        self.batches.iter().try_for_each(|(id, batch)| insert_batch(transaction, *id, batch, boot_id))
    }
}

pub(super) fn clear(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch("DELETE FROM block; DELETE FROM batch; DELETE FROM lifted")
}

/// What the config names is in the config.
fn insert_blocks(transaction: &Transaction<'_>, blocks: &[&Block], boot_id: &str) -> rusqlite::Result<()> {
    let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO block VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
    for block in blocks.iter().filter(|block| block.origin != Origin::Config) {
        put.execute(params![
            block.target.to_string(),
            block.origin.name(),
            block.reason,
            block.created.0,
            block.expires.map(|expires| expires.0),
            boot_id,
            stored_end(block.until),
            block.offence,
        ])?;
    }
    Ok(())
}

fn insert_batch(transaction: &Transaction<'_>, id: BatchId, batch: &Batch, boot_id: &str) -> rusqlite::Result<()> {
    remove_batch(transaction, id)?;
    let mut put = transaction.prepare_cached("INSERT INTO batch VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?;
    let Terms { origin, reason, created, until, expires, offence } = &batch.terms;
    let (expires, until) = (expires.map(|expires| expires.0), stored_end(*until));
    let mut targets = Vec::new();
    batch.rest().encode(&mut targets);
    put.execute(params![id.0, origin.name(), reason, created.0, expires, boot_id, until, offence, targets]).map(drop)
}

fn remove_batch(transaction: &Transaction<'_>, id: BatchId) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM lifted WHERE batch = ?1")?.execute([id.0])?;
    transaction.prepare_cached("DELETE FROM batch WHERE id = ?1")?.execute([id.0]).map(drop)
}

fn stored_end(until: Option<Boot>) -> Option<i64> {
    until.map(|until| i64::try_from(until.0).unwrap_or(i64::MAX))
}

/// [`Terms`] as they lie on the disk: columns 1 to 7 of both tables.
struct Stored {
    origin: String,
    reason: String,
    created: Wall,
    expires: Option<Wall>,
    boot_id: String,
    until: Option<i64>,
    offence: u32,
}

impl Stored {
    fn read(row: &Row<'_>) -> rusqlite::Result<Stored> {
        Ok(Stored {
            origin: row.get(1)?,
            reason: row.get(2)?,
            created: Wall(row.get(3)?),
            expires: row.get::<_, Option<i64>>(4)?.map(Wall),
            boot_id: row.get(5)?,
            until: row.get(6)?,
            offence: row.get(7)?,
        })
    }

    fn revive(self, store: &Store, now: Now) -> Result<Terms, String> {
        let origin = Origin::named(&self.origin).ok_or_else(|| format!("the origin `{}`", shown(&self.origin)))?;
        let until = match (self.expires, self.until) {
            (None, _) => None,
            (Some(_), Some(until)) if self.boot_id == store.boot_id => Some(boot(until)),
            (Some(expires), until) => {
                let seen = store.seen.as_ref().filter(|seen| seen.boot_id == self.boot_id);
                let by_boot = seen.zip(until).map(|(seen, until)| seen.left(boot(until), now));
                let left = by_boot.unwrap_or_else(|| between(now.wall, expires));
                Some(now.boot.plus(left.min(between(self.created, expires))))
            }
        };
        let Stored { reason, created, expires, offence, .. } = self;
        Ok(Terms { origin, reason, created, until, expires, offence })
    }
}

fn boot(until: i64) -> Boot {
    Boot(until.try_into().unwrap_or(0))
}
