//! `edge user …`: the users who may log in, written straight to the server's store, agent running or not.

use std::path::Path;

use serde_json::json;

use super::{
    args::{Global, User as Command},
    ask, note,
    output::{Complaint, Outcome, relative, table},
    password,
};
use crate::{
    audit::event::Name,
    clock::Wall,
    config::Config,
    error::Failure,
    printable::printable,
    server::users::{self, User, UserStore, check_name, imported},
};

pub fn user(global: &Global, command: &Command) -> Result<Outcome, Complaint> {
    let config = Config::load(&ask::config_file(global), &ask::without_interfaces())?;
    let done = execute(&config, command);
    let (name, subject) = noted(command);
    note::done(global, &config, name, subject, done.as_ref().err());
    Ok(done?)
}

/// What the audit log says of it.
fn noted(command: &Command) -> (Name, Option<&str>) {
    match command {
        Command::Add { name, .. } => (Name::UserAdd, Some(name)),
        Command::Role { name, .. } => (Name::UserRole, Some(name)),
        Command::List => (Name::UserList, None),
        Command::Passwd { name } => (Name::UserPasswd, Some(name)),
        Command::Disable { name } => (Name::UserDisable, Some(name)),
        Command::Enable { name } => (Name::UserEnable, Some(name)),
        Command::Remove { name } => (Name::UserRemove, Some(name)),
        Command::Import { .. } => (Name::UserImport, None),
    }
}

fn execute(config: &Config, command: &Command) -> Result<Outcome, Failure> {
    let directory = config.store.auth_directory();
    if !matches!(command, Command::List) {
        none_waits(&directory)?;
    }
    // Made by the first users alone: one that is missing is a fault to be told, and not an empty one.
    let store = || {
        UserStore::open_existing(&directory)?
            .ok_or_else(|| Failure::refused(format!("{}; the user is not there", no_store(&directory))))
    };
    match command {
        Command::Add { name, roles } => {
            check_name(name)?;
            let mut store = UserStore::open_or_create(&directory)?;
            store.add(name, &password::ask()?, roles)?;
            Ok(done(name, "added"))
        }
        Command::Role { name, roles } => {
            store()?.set_roles(name, roles)?;
            Ok(done(name, "has these roles now"))
        }
        Command::List => {
            let Some(store) = UserStore::open_existing(&directory)? else {
                return Ok(Outcome::new(json!([]), no_store(&directory)));
            };
            let users = store.list()?;
            Ok(Outcome::new(json!(users), text(&users, Wall::now())))
        }
        Command::Passwd { name } => {
            let mut store = store()?;
            store.set_password(name, &password::ask()?)?;
            Ok(done(name, "has a new password; earlier sessions and tokens are ended"))
        }
        Command::Disable { name } => {
            store()?.set_disabled(name, true)?;
            Ok(done(name, "disabled; earlier sessions and tokens are ended"))
        }
        Command::Enable { name } => {
            store()?.set_disabled(name, false)?;
            Ok(done(name, "enabled"))
        }
        Command::Remove { name } => {
            store()?.remove(name)?;
            Ok(done(name, "removed"))
        }
        Command::Import { file } => {
            let users = imported::read(file)?;
            UserStore::open_or_create(&directory)?.import(&users)?;
            let count = users.len();
            Ok(Outcome::new(json!({ "imported": count }), format!("imported: {count} users")))
        }
    }
}

/// What is changed while a restore waits would be undone by it.
pub(super) fn none_waits(directory: &Path) -> Result<(), Failure> {
    match users::waiting(directory)? {
        Some(source) => Err(Failure::refused(format!(
            "the restore of {} is under way or was cut short; restore it again, or start edge again, which finishes or \
             undoes it",
            printable(&source)
        ))),
        None => Ok(()),
    }
}

pub(super) fn no_store(directory: &Path) -> String {
    format!("there is no store of users in {}; `edge user add NAME` makes it", directory.display())
}

fn done(name: &str, what: &str) -> Outcome {
    Outcome::new(json!({ "name": name }), format!("{}: {what}", printable(name)))
}

fn text(users: &[User], now: Wall) -> String {
    if users.is_empty() {
        return "there are no users; add one with `edge user add NAME`".to_owned();
    }
    let row = |user: &User| {
        let state = if user.disabled { "disabled" } else { "enabled" };
        vec![printable(&user.name), printable(&user.roles.join(",")), state.to_owned(), relative(user.created, now)]
    };
    table(&["NAME", "ROLES", "STATE", "CREATED"], &users.iter().map(row).collect::<Vec<_>>())
}
