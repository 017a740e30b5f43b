//! Keys of programs: 256 random bits each, shown once and kept as their SHA-256. One that is replaced goes on for an
//! overlap; one that has ended stays known, so that whoever still uses it is not taken for somebody who guesses.

use std::time::Duration;

use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    UserStore,
    accounts::{check_roles, joined, split},
    digest, id_of, id_text, random_id, unfit,
};
use crate::{clock::Wall, error::Failure, server::secret};

/// Of a key so much is kept as it is, to recognise it by: 24 of its 256 bits.
const PREFIX_LETTERS: usize = 4;
const COLUMNS: &str = "id, name, kind, roles, expires, generation, not_before, replaced, ended, created";

/// Where a key counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// In `X-API-Key` or as bearer.
    Api,
    /// In `X-Internal-API-Key` alone.
    Internal,
}

/// A key just made, in clear.
pub struct Issued {
    pub id: String,
    pub kind: KeyKind,
    pub prefix: String,
    pub expires: Option<Wall>,
    pub key: Zeroizing<String>,
}

/// One row of `edge key list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListedKey {
    pub id: String,
    pub name: String,
    pub kind: KeyKind,
    pub roles: Vec<String>,
    pub prefix: String,
    pub created: Wall,
    pub expires: Option<Wall>,
    pub last_used: Option<Wall>,
    /// Another took its place, and it goes on for the overlap.
    pub replaced: bool,
}

/// What a request needs to know of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub row: i64,
    pub name: String,
    pub kind: KeyKind,
    pub roles: Vec<String>,
    pub expires: Option<Wall>,
    /// Another one with every change that ends the tokens issued with the key.
    pub generation: i64,
    /// Seconds since 1970: tokens that do not carry a generation are good if issued then or later.
    pub not_before: i64,
    pub created: Wall,
    replaced: bool,
    ended: bool,
}

impl KeyKind {
    pub const ALL: [KeyKind; 2] = [KeyKind::Api, KeyKind::Internal];

    pub const fn name(self) -> &'static str {
        match self {
            KeyKind::Api => "api",
            KeyKind::Internal => "internal",
        }
    }

    /// What every key of the kind begins with, so that one that leaked is found.
    pub const fn prefix(self) -> &'static str {
        match self {
            KeyKind::Api => "edge_api_",
            KeyKind::Internal => "edge_int_",
        }
    }
}

impl Key {
    pub fn is_good(&self, now: Wall) -> bool {
        !self.ended && self.expires.is_none_or(|expires| now < expires)
    }

    pub fn id(&self) -> String {
        id_text(self.row)
    }

    /// Whom it names; no user has a colon in the name.
    pub fn caller(&self) -> String {
        format!("key:{}", self.name)
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Key> {
        Ok(Key {
            row: row.get(0)?,
            name: row.get(1)?,
            kind: kind_of(&row.get::<_, String>(2)?),
            roles: split(&row.get::<_, String>(3)?),
            expires: row.get::<_, Option<i64>>(4)?.map(Wall),
            generation: row.get(5)?,
            not_before: row.get(6)?,
            replaced: row.get(7)?,
            ended: row.get(8)?,
            created: Wall(row.get(9)?),
        })
    }
}

impl UserStore {
    /// Makes a key; a name that is in use is refused.
    pub fn create_key(
        &mut self,
        name: &str,
        kind: KeyKind,
        roles: &[String],
        expires: Option<Wall>,
        now: Wall,
    ) -> Result<Issued, Failure> {
        check_key_name(name)?;
        check_roles(roles)?;
        let new = NewKey::random(kind)?;
        let added = self.write(|db| {
            let removal: i64 = db.query_row("SELECT last FROM removal", [], |row| row.get(0))?;
            let not_before = (now.0 / 1000).max(removal + 1);
            new.insert(db, &Terms { name, roles: &joined(roles), expires, not_before }, now)
        })?;
        if added == 0 {
            return Err(Failure::refused(format!(
                "the key {name} exists already; `edge key rotate {name}` replaces it, `edge key revoke {name}` ends it"
            )));
        }
        Ok(new.issued(expires))
    }

    /// Those that are in force or have just run out, by name, of one name the newest first.
    pub fn keys(&self, now: Wall) -> Result<Vec<ListedKey>, Failure> {
        let sql = "SELECT id, name, kind, roles, prefix, created, expires, last_used, replaced FROM keys
            WHERE ended = 0 AND (replaced = 0 OR expires > ?) ORDER BY name, replaced, created DESC";
        let listed = |row: &Row<'_>| {
            Ok(ListedKey {
                id: id_text(row.get(0)?),
                name: row.get(1)?,
                kind: kind_of(&row.get::<_, String>(2)?),
                roles: split(&row.get::<_, String>(3)?),
                prefix: row.get(4)?,
                created: Wall(row.get(5)?),
                expires: row.get::<_, Option<i64>>(6)?.map(Wall),
                last_used: row.get::<_, Option<i64>>(7)?.map(Wall),
                replaced: row.get(8)?,
            })
        };
        let read = || self.db.prepare_cached(sql)?.query_map([now.0], listed)?.collect::<rusqlite::Result<Vec<_>>>();
        read().map_err(|error| self.failure(&error))
    }

    /// Another key in the place of one: same roles, same end. The old one goes on for the overlap.
    pub fn rotate_key(&mut self, name: &str, overlap: Duration, now: Wall) -> Result<Issued, Failure> {
        let old = self.key_in_force(name)?;
        if !old.is_good(now) {
            return Err(Failure::refused(format!(
                "the key {name} has expired, and a new one would have the same end; revoke it and create another"
            )));
        }
        let new = NewKey::random(old.kind)?;
        let overlap_ends = old.expires.map_or(now.plus(overlap), |expires| expires.min(now.plus(overlap)));
        let replaced = self.write(|db| {
            let sql = "UPDATE keys SET replaced = 1, expires = ? WHERE id = ? AND ended = 0 AND replaced = 0";
            if db.execute(sql, [overlap_ends.0, old.row])? == 0 {
                return Ok(false);
            }
            let terms = Terms { name, roles: &joined(&old.roles), expires: old.expires, not_before: old.not_before };
            Ok(new.insert(db, &terms, now)? > 0)
        })?;
        if replaced { Ok(new.issued(old.expires)) } else { Err(unknown(name)) }
    }

    /// Ends a key, those it replaced, and the tokens issued with them; its id.
    pub fn revoke_key(&mut self, name: &str, now: Wall) -> Result<String, Failure> {
        let key = self.key_in_force(name)?;
        self.write(|db| {
            db.execute("UPDATE removal SET last = max(last, ?)", [now.0 / 1000])?;
            db.execute("UPDATE keys SET ended = 1 WHERE name = ?", [name])
        })?;
        Ok(key.id())
    }

    /// The key of that very text, ended or not.
    pub fn find_key(&self, text: &str) -> Result<Option<Key>, Failure> {
        self.key_where("hash = ?", params![digest(text)])
    }

    /// The key that `edge key list` names so, ended or not.
    pub fn key_by_id(&self, id: &str) -> Result<Option<Key>, Failure> {
        id_of(id).map_or(Ok(None), |row| self.key_by_row(row))
    }

    pub fn key_by_row(&self, row: i64) -> Result<Option<Key>, Failure> {
        self.key_where("id = ?", params![row])
    }

    pub(super) fn key_hash(&self, id: &str) -> Result<Option<Vec<u8>>, Failure> {
        let read = || {
            let mut query = self.db.prepare_cached("SELECT hash FROM keys WHERE id = ?")?;
            query.query_row([id_of(id)], |row| row.get(0)).optional()
        };
        read().map_err(|error| self.failure(&error))
    }

    /// Which of these are ended here, by name.
    pub(super) fn ended_of(&self, ids: impl Iterator<Item = String>, now: Wall) -> Result<Vec<String>, Failure> {
        let mut names = Vec::new();
        for id in ids {
            names.extend(
                self.key_by_id(&id)?.filter(|key| key.ended || key.replaced && !key.is_good(now)).map(|key| key.name),
            );
        }
        names.dedup();
        Ok(names)
    }

    /// The one of that name that nothing has taken the place of.
    pub fn key_named(&self, name: &str) -> Result<Option<Key>, Failure> {
        self.key_where("name = ? AND ended = 0 AND replaced = 0", params![name])
    }

    /// When keys were used last; a later time stays.
    pub fn keys_used(&mut self, used: &[(i64, Wall)]) -> Result<(), Failure> {
        self.transact(|db| {
            let sql = "UPDATE keys SET last_used = max(coalesce(last_used, 0), ?) WHERE id = ?";
            let mut update = db.prepare_cached(sql)?;
            used.iter().try_for_each(|(row, at)| update.execute([at.0, *row]).map(drop))
        })
    }

    fn key_in_force(&self, name: &str) -> Result<Key, Failure> {
        self.key_named(name)?.ok_or_else(|| unknown(name))
    }

    fn key_where(&self, condition: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Option<Key>, Failure> {
        let sql = format!("SELECT {COLUMNS} FROM keys WHERE {condition}");
        let read = || self.db.prepare_cached(&sql)?.query_row(values, Key::read).optional();
        read().map_err(|error| self.failure(&error))
    }
}

/// What a key is given beside its bits.
struct Terms<'a> {
    name: &'a str,
    roles: &'a str,
    expires: Option<Wall>,
    not_before: i64,
}

struct NewKey {
    row: i64,
    generation: i64,
    kind: KeyKind,
    key: Zeroizing<String>,
}

impl NewKey {
    fn random(kind: KeyKind) -> Result<NewKey, Failure> {
        let bits = Zeroizing::new(secret::generate()?);
        let key = Zeroizing::new(format!("{}{}", kind.prefix(), *bits));
        Ok(NewKey { row: random_id()?, generation: random_id()?, kind, key })
    }

    fn prefix(&self) -> &str {
        &self.key[..self.kind.prefix().len() + PREFIX_LETTERS]
    }

    /// Zero where the name is in use.
    fn insert(&self, db: &rusqlite::Connection, terms: &Terms<'_>, now: Wall) -> rusqlite::Result<usize> {
        let Terms { name, roles, expires, not_before } = terms;
        db.execute(
            "INSERT INTO keys VALUES(?, ?, ?, ?, ?, ?, ?, ?, NULL, ?, ?, 0, 0) ON CONFLICT DO NOTHING",
            params![
                self.row,
                name,
                self.kind.name(),
                roles,
                self.prefix(),
                digest(&self.key),
                now.0,
                expires.map(|expires| expires.0),
                self.generation,
                not_before
            ],
        )
    }

    fn issued(self, expires: Option<Wall>) -> Issued {
        let prefix = self.prefix().to_owned();
        Issued { id: id_text(self.row), kind: self.kind, prefix, expires, key: self.key }
    }
}

/// Whether a key can have this name.
pub fn check_key_name(name: &str) -> Result<(), Failure> {
    let wrong = if name.contains(':') {
        "contains ':', which separates the kinds of callers"
    } else if name.starts_with('-') {
        "begins with '-', as options do"
    } else if let Some(wrong) = unfit(name) {
        wrong
    } else {
        return Ok(());
    };
    Err(Failure::usage(format!("the name {name:?} of a key {wrong}")))
}

/// What is written is one of them.
fn kind_of(text: &str) -> KeyKind {
    if text == KeyKind::Internal.name() { KeyKind::Internal } else { KeyKind::Api }
}

fn unknown(name: &str) -> Failure {
    Failure::refused(format!("there is no key {name}; `edge key list` names those there are"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Wall = Wall(1_767_323_045_678);
    const HOUR: Duration = Duration::from_secs(3600);

    fn store() -> (tempfile::TempDir, UserStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = UserStore::open(directory.path()).unwrap();
        (directory, store)
    }

    fn create(store: &mut UserStore, name: &str, expires: Option<Wall>) -> Issued {
        store.create_key(name, KeyKind::Api, &["ci".to_owned()], expires, NOW).unwrap()
    }

    #[test]
    fn a_key_is_shown_once_and_kept_as_its_hash() {
        let (directory, mut store) = store();
        let issued = create(&mut store, "ci", None);
        assert!(issued.key.starts_with("edge_api_") && issued.key.len() == 9 + 43);
        let listed = &store.keys(NOW).unwrap()[0];
        assert_eq!((&*listed.name, &listed.roles[..], listed.last_used), ("ci", &["ci".to_owned()][..], None));
        assert!(issued.key.starts_with(&listed.prefix) && listed.prefix.len() == 13);
        let found = store.find_key(&issued.key).unwrap().unwrap();
        assert_eq!((found.id(), found.is_good(NOW), found.caller()), (issued.id.clone(), true, "key:ci".to_owned()));
        assert_eq!(store.key_by_id(&issued.id).unwrap().unwrap(), found);
        assert_eq!(store.find_key(&issued.key[..51]).unwrap(), None);
        store.keys_used(&[(found.row, NOW)]).unwrap();
        store.keys_used(&[(found.row, Wall(7))]).unwrap();
        assert_eq!(store.keys(NOW).unwrap()[0].last_used, Some(NOW));
        let secret = &issued.key.as_bytes()[13..];
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
        let internal = store.create_key("peer", KeyKind::Internal, &[], None, NOW).unwrap();
        assert!(internal.key.starts_with("edge_int_"));
    }

    #[test]
    fn after_a_rotation_both_are_good_for_the_overlap_and_no_longer_than_the_end() {
        let (_directory, mut store) = store();
        let first = create(&mut store, "ci", Some(NOW.plus(HOUR * 2)));
        let second = store.rotate_key("ci", HOUR, NOW).unwrap();
        let good = |store: &UserStore, key: &Issued, at: Wall| store.find_key(&key.key).unwrap().unwrap().is_good(at);
        assert!(good(&store, &first, NOW) && good(&store, &second, NOW));
        assert!(!good(&store, &first, NOW.plus(HOUR)) && good(&store, &second, NOW.plus(HOUR)));
        assert!(!good(&store, &second, NOW.plus(HOUR * 2)));
        let ids: Vec<String> = store.keys(NOW).unwrap().into_iter().map(|key| key.id).collect();
        assert_eq!(ids, [second.id.clone(), first.id.clone()]);
        assert_eq!(store.keys(NOW.plus(HOUR)).unwrap().len(), 1);
        let third = store.rotate_key("ci", HOUR * 24, NOW).unwrap();
        assert!(!good(&store, &second, NOW.plus(HOUR * 2)), "the overlap is no longer than the key");
        let fourth = store.rotate_key("ci", Duration::ZERO, NOW).unwrap();
        assert!(!good(&store, &third, NOW) && good(&store, &fourth, NOW));
        assert!(store.rotate_key("ci", HOUR, NOW.plus(HOUR * 3)).is_err(), "it has expired");
    }

    #[test]
    fn a_revoked_key_ends_with_those_it_replaced_and_its_name_is_free() {
        let (_directory, mut store) = store();
        let first = create(&mut store, "ci", None);
        assert_eq!(store.create_key("ci", KeyKind::Api, &[], None, NOW).err().unwrap().blame.exit_code(), 1);
        let second = store.rotate_key("ci", HOUR, NOW).unwrap();
        assert_eq!(store.revoke_key("ci", NOW).unwrap(), second.id);
        for key in [&first, &second] {
            assert!(!store.find_key(&key.key).unwrap().unwrap().is_good(NOW), "known, and ended");
        }
        assert_eq!(store.keys(NOW).unwrap(), []);
        assert_eq!(store.revoke_key("ci", NOW).unwrap_err().blame.exit_code(), 1);
        assert_eq!(store.rotate_key("ci", HOUR, NOW).err().unwrap().blame.exit_code(), 1);
        let third = create(&mut store, "ci", None);
        assert!(store.find_key(&third.key).unwrap().unwrap().not_before > NOW.0 / 1000);
        assert!(!store.find_key(&second.key).unwrap().unwrap().is_good(NOW));
    }

    #[test]
    fn names_of_keys_have_bounds() {
        let (_directory, mut store) = store();
        for name in ["", "a:b", "-a", "a\nb", &"x".repeat(129)] {
            let refused = store.create_key(name, KeyKind::Api, &[], None, NOW).err().unwrap();
            assert_eq!(refused.blame.exit_code(), 2, "{name:?}");
        }
    }

    #[test]
    fn revoking_all_ends_tokens_of_keys_and_no_key() {
        let (_directory, mut store) = store();
        let issued = create(&mut store, "ci", None);
        let before = store.find_key(&issued.key).unwrap().unwrap();
        store.revoke_all(NOW).unwrap();
        let after = store.find_key(&issued.key).unwrap().unwrap();
        assert!(after.is_good(NOW) && after.generation != before.generation && after.not_before > before.not_before);
        assert!(store.external_not_before("google:7").unwrap() > NOW.0 / 1000);
    }
}
