//! Users as another program kept them: `username,password_hash[,roles]`, a line each. What is wrong is told by its line,
//! never by what stands there, which is secret.

use std::{collections::HashMap, fs, io::Read, path::Path};

use rusqlite::params;

use super::{
    UserStore,
    accounts::{check_name, check_roles, joined},
    password, random_id,
};
use crate::{clock::Wall, error::Failure, printable::printable};

/// A larger file is no list of users.
const MAX_BYTES: u64 = 256 << 20;

/// One line.
#[derive(Clone, PartialEq, Eq)]
pub struct Imported {
    pub line: u64,
    pub name: String,
    pub hash: String,
    pub roles: Vec<String>,
}

/// All users of a file, each in order.
pub fn read(file: &Path) -> Result<Vec<Imported>, Failure> {
    let name = printable(&file.display().to_string());
    let unread = |error| Failure::usage(format!("{name} cannot be read: {error}"));
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    fs::File::open(file).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(unread)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure::usage(format!("{name} is over {MAX_BYTES} bytes, which no list of users is")));
    }
    parse(&bytes).map_err(|(line, why)| Failure::usage(format!("nothing was changed: {name}, line {line}: {why}")))
}

fn parse(bytes: &[u8]) -> Result<Vec<Imported>, (u64, String)> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let (mut users, mut lines) = (Vec::new(), HashMap::new());
    for (line, text) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let Some(record) = record(text).ok_or_else(|| (line, "it is no line of CSV in UTF-8".to_owned()))? else {
            continue;
        };
        if lines.is_empty() && is_header(&record) {
            continue;
        }
        let user = user(&record, line).map_err(|why| (line, why))?;
        if let Some(before) = lines.insert(user.name.clone(), line) {
            return Err((line, format!("the user of line {before} stands there again; keep one of the two")));
        }
        users.push(user);
    }
    Ok(users)
}

/// One line alone, so that a quote that is not closed takes no other line with it. `Some(None)`: it is empty.
fn record(line: &[u8]) -> Option<Option<csv::StringRecord>> {
    let line = line.trim_ascii();
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(line);
    let mut record = csv::StringRecord::new();
    reader.read_record(&mut record).ok().map(|some| some.then_some(record))
}

fn is_header(record: &csv::StringRecord) -> bool {
    record.get(0) == Some("username") && record.get(1) == Some("password_hash")
}

fn user(record: &csv::StringRecord, line: u64) -> Result<Imported, String> {
    let mut fields = record.iter();
    let (Some(name), Some(hash)) = (fields.next(), fields.next()) else {
        return Err("it has no `username,password_hash`, as every line has".to_owned());
    };
    let mut hash = hash.to_owned();
    // The parameters of argon2 have commas between them, and are seldom quoted for it.
    while hash.starts_with("$argon2") && hash.matches('$').count() < 5 {
        let more = fields.next().unwrap_or("$");
        hash.extend([",", more]);
    }
    check_name(name).map_err(|_| {
        "the user name is empty, longer than 128 characters, or has ':' or a control character".to_owned()
    })?;
    password::check(&hash).map_err(|_| {
        "the password hash is not one that edge takes: bcrypt ($2a$, $2b$, $2y$) of a cost of 4 to 14, or argon2id of \
         about 19 MiB and 2 passes"
            .to_owned()
    })?;
    let separators = |c: char| c == ',' || c == ';' || c.is_whitespace();
    let words = fields.flat_map(|field| field.split(separators));
    let mut roles: Vec<String> = Vec::new();
    for role in words.filter(|role| !role.is_empty()) {
        if !roles.iter().any(|known| known == role) {
            roles.push(role.to_owned());
        }
    }
    check_roles(&roles).map_err(|_| "a role has a control character".to_owned())?;
    Ok(Imported { line, name: name.to_owned(), hash, roles })
}

impl UserStore {
    /// Adds all of them; where one exists already, none.
    pub fn import(&mut self, users: &[Imported]) -> Result<(), Failure> {
        let generations = users.iter().map(|_| random_id()).collect::<Result<Vec<_>, _>>()?;
        let created = Wall::now();
        let taken = self.write_or_leave(|db| {
            let removal: i64 = db.query_row("SELECT last FROM removal", [], |row| row.get(0))?;
            let not_before = (created.0 / 1000).max(removal + 1);
            let mut insert =
                db.prepare_cached("INSERT INTO users VALUES(?, ?, ?, 0, ?, ?, ?, ?) ON CONFLICT DO NOTHING")?;
            for (Imported { line, name, hash, roles }, generation) in users.iter().zip(&generations) {
                let scheme = password::scheme(hash);
                let values = params![name, hash, joined(roles), generation, not_before, created.0, scheme];
                if insert.execute(values)? == 0 {
                    return Ok(Err(*line));
                }
            }
            Ok(Ok(()))
        })?;
        taken.map_err(|line| {
            Failure::refused(format!(
                "nothing was changed: the user of line {line} exists already; take the line out, or remove the user"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::users::password_matches;

    fn bcrypt(password: &str) -> String {
        bcrypt::hash_with_result(password, 4).unwrap().format_for_version(bcrypt::Version::TwoB)
    }

    #[test]
    fn a_list_is_read_with_and_without_header_and_roles() {
        let (one, two) = (bcrypt("correct horse"), password::hash("correct horse").unwrap());
        for head in ["username,password_hash,roles\n", "\u{feff}username,password_hash\r\n", ""] {
            let text = format!(
                "{head}alice,{one},\"chat,admin\"\r\nbob,\"{two}\" \ndave,{two},chat\n\ncarol,{one},chat admin\n"
            );
            let Ok(users) = parse(text.as_bytes()) else { panic!("{head}") };
            let found: Vec<_> = users.iter().map(|user| (user.name.as_str(), user.roles.join(" "))).collect();
            assert_eq!(
                found,
                [
                    ("alice", "chat admin".to_owned()),
                    ("bob", String::new()),
                    ("dave", "chat".to_owned()),
                    ("carol", "chat admin".to_owned())
                ]
            );
            assert_eq!([&users[1].hash, &users[2].hash], [&two; 2]);
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line_and_never_by_its_value() {
        let good = bcrypt("correct horse");
        for (text, line) in [
            (format!("alice,{good}\nbob,secret-of-bob\n"), 2),
            (format!("alice,{good}\n\nbob\n"), 3),
            (format!("secret:alice,{good}\n"), 1),
            (format!(",{good}\n"), 1),
            ("alice,$argon2id$v=19$secret\n".to_owned(), 1),
            (format!("alice,{good}\nbob,{good}\nalice,{good}\n"), 3),
            (format!("username,password_hash\nalice,{}\n", good.replace("$04$", "$20$")), 2),
            (format!("alice,{good},secret\u{7}role\n"), 1),
        ] {
            let Err((found, why)) = parse(text.as_bytes()) else { panic!("{text}") };
            assert_eq!(found, line, "{text}: {why}");
            assert!(!why.contains("secret") && !why.contains(&good), "{why}");
        }
        assert_eq!(parse(b"alice,x\xff\n").err().unwrap().0, 1);
    }

    #[test]
    fn all_of_a_list_is_added_or_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = UserStore::open(directory.path()).unwrap();
        store.add("bob", "correct horse", &[]).unwrap();
        let text = format!("alice,{0}\nbob,{0}\n", bcrypt("correct horse"));
        let Ok(users) = parse(text.as_bytes()) else { panic!() };
        let refused = store.import(&users).unwrap_err();
        assert!(refused.blame.exit_code() == 1 && refused.message.contains("line 2"), "{refused}");
        assert_eq!(store.lookup("alice").unwrap(), None);
        store.import(&users[..1]).unwrap();
        let alice = store.lookup("alice").unwrap();
        assert!(password_matches(alice.as_ref(), &store.schemes().unwrap(), "correct horse"));
    }
}
