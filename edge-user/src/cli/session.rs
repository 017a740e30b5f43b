//! `edge session …` and `edge token …`: who is signed in, and the end of it, written straight to the server's store,
//! agent running or not.

use serde_json::json;

use super::{
    args::{Global, Session as Command, Token},
    ask, note,
    output::{Complaint, Outcome, relative, table},
    user::no_store,
};
use crate::{
    audit::event::Name,
    clock::Wall,
    config::Config,
    error::Failure,
    printable::printable,
    server::users::{Begun, UserStore},
};

pub fn session(global: &Global, command: &Command) -> Result<Outcome, Complaint> {
    match command {
        Command::List { user } => carried_out(global, Name::SessionList, user.clone(), |store| {
            let sessions = match store {
                Ok(store) => store.sessions(user.as_deref(), Wall::now())?,
                Err(_) => Vec::new(),
            };
            Ok((None, Outcome::new(json!(sessions), text(&sessions, Wall::now()))))
        }),
        Command::End { id } => carried_out(global, Name::SessionEnd, None, |store| {
            let user = store?.end_named_session(id, Wall::now())?;
            let text = format!("{}: the session is ended, and its tokens", printable(&user));
            Ok((Some(user.clone()), Outcome::new(json!({ "id": id, "user": user }), text)))
        }),
    }
}

pub fn token(global: &Global, command: Token) -> Result<Outcome, Complaint> {
    match command {
        Token::RevokeAll => carried_out(global, Name::TokenRevokeAll, None, |store| {
            let sessions = store?.revoke_all(Wall::now())?;
            let text = format!("every session ({sessions}) and every token is ended; users and keys stay");
            Ok((None, Outcome::new(json!({ "sessions": sessions }), text)))
        }),
    }
}

/// On the store, or knowing that there is none; and told to the audit log: about whom it was, where only that shows.
fn carried_out(
    global: &Global,
    name: Name,
    subject: Option<String>,
    command: impl FnOnce(Result<&mut UserStore, Failure>) -> Result<(Option<String>, Outcome), Failure>,
) -> Result<Outcome, Complaint> {
    let config = Config::load(&ask::config_file(global), &ask::without_interfaces())?;
    let directory = config.store.auth_directory();
    let missing = || Failure::refused(format!("{}; nobody is signed in", no_store(&directory)));
    let done = UserStore::open_existing(&directory).and_then(|mut store| command(store.as_mut().ok_or_else(missing)));
    let subject = done.as_ref().ok().and_then(|(found, _)| found.clone()).or(subject);
    note::done(global, &config, name, subject.as_deref(), done.as_ref().err());
    Ok(done?.1)
}

fn text(sessions: &[Begun], now: Wall) -> String {
    if sessions.is_empty() {
        return "nobody is signed in".to_owned();
    }
    let row = |session: &Begun| {
        vec![
            session.id.clone(),
            printable(&session.user),
            session.kind.clone(),
            session.peer.clone(),
            relative(session.created, now),
            relative(session.last_seen, now),
            relative(session.expires, now),
        ]
    };
    let header = ["ID", "USER", "KIND", "PEER", "BEGUN", "SEEN", "ENDS"];
    table(&header, &sessions.iter().map(row).collect::<Vec<_>>())
}
