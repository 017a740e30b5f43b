//! `edge key …`: the keys of programs, written straight to the server's store, agent running or not. A key goes to
//! standard output once, alone, and nowhere else.

use serde_json::{Value, json};

use super::{
    args::{Global, Key as Command},
    ask, note,
    output::{Complaint, Outcome, relative, table},
    user::{no_store, none_waits},
};
use crate::{
    audit::event::Name,
    clock::Wall,
    config::Config,
    error::Failure,
    printable::printable,
    server::users::{Issued, KeyKind, ListedKey, UserStore},
};

pub fn key(global: &Global, command: &Command) -> Result<Outcome, Complaint> {
    let config = Config::load(&ask::config_file(global), &ask::without_interfaces())?;
    let done = execute(&config, command);
    let (name, subject) = noted(command);
    let key_id = done.as_ref().ok().and_then(|done| done.id.clone());
    note::of_key(global, &config, name, (subject, key_id), done.as_ref().err());
    Ok(done?.outcome)
}

/// What came of a command, and the key that it was about.
struct Done {
    id: Option<String>,
    outcome: Outcome,
}

/// What the audit log says of it.
fn noted(command: &Command) -> (Name, Option<&str>) {
    match command {
        Command::Create { name, .. } => (Name::KeyCreate, Some(name)),
        Command::List => (Name::KeyList, None),
        Command::Rotate { name, .. } => (Name::KeyRotate, Some(name)),
        Command::Revoke { name } => (Name::KeyRevoke, Some(name)),
    }
}

fn execute(config: &Config, command: &Command) -> Result<Done, Failure> {
    let directory = config.store.auth_directory();
    if !matches!(command, Command::List) {
        none_waits(&directory)?;
    }
    let opened = match command {
        Command::Create { .. } => Some(UserStore::open_or_create(&directory)?),
        Command::List | Command::Rotate { .. } | Command::Revoke { .. } => UserStore::open_existing(&directory)?,
    };
    let now = Wall::now();
    let mut store = match (opened, command) {
        (Some(store), _) => store,
        (None, Command::List) => return Ok(Done { id: None, outcome: Outcome::new(json!([]), text(&[], now)) }),
        (None, _) => return Err(Failure::refused(format!("{}; the key is not there", no_store(&directory)))),
    };
    match command {
        Command::Create { name, roles, length, internal } => {
            let kind = if *internal { KeyKind::Internal } else { KeyKind::Api };
            let expires = length.map(|length| now.plus(length));
            store.create_key(name, kind, roles, expires, now).map(|issued| shown(name, &issued))
        }
        Command::List => {
            let keys = store.keys(now)?;
            Ok(Done { id: None, outcome: Outcome::new(json!(keys), text(&keys, now)) })
        }
        Command::Rotate { name, overlap } => store.rotate_key(name, *overlap, now).map(|issued| shown(name, &issued)),
        Command::Revoke { name } => {
            let id = store.revoke_key(name, now)?;
            let text = format!("{}: revoked; tokens issued with it are ended", printable(name));
            Ok(Done { outcome: Outcome::new(json!({ "name": name, "id": &id }), text), id: Some(id) })
        }
    }
}

fn shown(name: &str, issued: &Issued) -> Done {
    let Issued { id, kind, prefix, expires, key } = issued;
    let document: Value =
        json!({"id": id, "name": name, "kind": kind, "prefix": prefix, "expires": expires, "key": key.as_str()});
    Done { id: Some(id.clone()), outcome: Outcome::new(document, key.to_string()) }
}

fn text(keys: &[ListedKey], now: Wall) -> String {
    if keys.is_empty() {
        return "there are no keys; make one with `edge key create --name NAME`".to_owned();
    }
    let row = |key: &ListedKey| {
        let ends = key.expires.map_or_else(|| "never".to_owned(), |ends| relative(ends, now));
        let used = key.last_used.map_or_else(|| "never".to_owned(), |used| relative(used, now));
        vec![
            key.id.clone(),
            printable(&key.name),
            key.kind.name().to_owned(),
            printable(&key.roles.join(",")),
            format!("{}…", key.prefix),
            relative(key.created, now),
            if key.replaced { format!("{ends} (replaced)") } else { ends },
            used,
        ]
    };
    let header = ["ID", "NAME", "KIND", "ROLES", "KEY", "CREATED", "ENDS", "USED"];
    table(&header, &keys.iter().map(row).collect::<Vec<_>>())
}
