//! Commands, with whoever gave them and what came of it, as events.

use super::event::{Actor, Event, Name, Outcome};
use crate::{
    block::Target,
    clock::Wall,
    control::protocol::{Answer, BlockRequest, Changed, Command, ImportRequest, Noted, Reply, UnblockRequest},
};

/// Targets of one command that have a line each; the others are counted in one more.
const NAMED: usize = 100;

/// What a command came to. One line for each address or network that was named, up to a bound.
pub fn events(command: &Command, actor: &Actor, answer: &Answer, time: Wall) -> Vec<(Name, Event)> {
    let name = name(command);
    let outcome = outcome(answer);
    let count = if let Ok(Reply::Imported(imported)) = answer { Some(imported.imported) } else { None };
    let base =
        Event { count, actor: Some(actor.clone()), reason: reason(command, answer), ..Event::new(name, outcome, time) };
    let subjects = subjects(command, answer);
    let mut events: Vec<(Name, Event)> =
        subjects.named.into_iter().map(|subject| (name, Event { subject: Some(subject), ..base.clone() })).collect();
    if subjects.more > 0 {
        events.push((name, Event { count: Some(subjects.more), ..base.clone() }));
    }
    if events.is_empty() {
        events.push((name, base));
    }
    events
}

/// Of a command that the CLI carried out itself.
pub fn noted(noted: &Noted, actor: Actor, time: Wall) -> (Name, Event) {
    let Noted { name, subject, refused } = noted;
    let outcome = if refused.is_some() { Outcome::Failure } else { Outcome::Success };
    let (subject, reason) = (subject.clone(), refused.clone());
    (*name, Event { subject, reason, actor: Some(actor), ..Event::new(*name, outcome, time) })
}

pub fn name(command: &Command) -> Name {
    match command {
        Command::Status => Name::Status,
        Command::Block(_) => Name::Block,
        Command::Import(_) => Name::Import,
        Command::Unblock(_) => Name::Unblock,
        Command::Export { .. } => Name::Export,
        Command::List { .. } => Name::List,
        Command::Why { .. } => Name::Why,
        Command::Allow { .. } => Name::Allow,
        Command::Disallow { .. } => Name::Disallow,
        Command::Reload => Name::Reload,
        Command::Unload => Name::Unload,
        Command::Audit { .. } => Name::Audit,
        Command::Note(noted) => noted.name,
    }
}

fn outcome(answer: &Answer) -> Outcome {
    match answer {
        Err(_) | Ok(Reply::Refused(_)) => Outcome::Failure,
        Ok(_) => Outcome::Success,
    }
}

/// Why it was refused, or what whoever gave it said.
fn reason(command: &Command, answer: &Answer) -> Option<String> {
    match (answer, command) {
        (Err(failure), _) => Some(failure.message.clone()),
        (Ok(Reply::Refused(errors)), _) => Some(errors.to_string()),
        (Ok(Reply::Reloaded(reloaded)), _) => Some(reloaded.told()),
        (Ok(_), Command::Block(BlockRequest { reason, .. })) => reason.clone(),
        (Ok(_), _) => None,
    }
}

#[derive(Default)]
struct Subjects {
    named: Vec<String>,
    /// How many are not named.
    more: u64,
}

fn subjects(command: &Command, answer: &Answer) -> Subjects {
    match (command, answer) {
        (Command::Import(ImportRequest { source, .. }), _) => {
            Subjects { named: vec![source.clone()], ..Subjects::default() }
        }
        (Command::Why { address }, _) => Subjects { named: vec![address.to_string()], ..Subjects::default() },
        (Command::Unblock(UnblockRequest { targets: None, .. }), Ok(Reply::Changed(Changed { changed, more, .. }))) => {
            few(changed, *more)
        }
        (Command::Block(BlockRequest { targets, .. }), _)
        | (Command::Unblock(UnblockRequest { targets: Some(targets), .. }), _)
        | (Command::Allow { targets } | Command::Disallow { targets }, _) => few(targets, 0),
        _ => Subjects::default(),
    }
}

fn few(targets: &[Target], more: u64) -> Subjects {
    let beyond = targets.len().saturating_sub(NAMED) as u64;
    Subjects { named: targets.iter().take(NAMED).map(|target| subject(*target)).collect(), more: more + beyond }
}

/// As people write it: an address without its length.
pub fn subject(target: Target) -> String {
    if target.is_single() { target.net().addr().to_string() } else { target.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{block::Origin, error::Failure};

    fn block(targets: &[&str]) -> Command {
        Command::Block(BlockRequest {
            targets: targets.iter().map(|target| target.parse().unwrap()).collect(),
            for_seconds: None,
            reason: Some("scans".to_owned()),
            origin: Origin::Manual,
            force: false,
        })
    }

    fn root() -> Actor {
        Actor { uid: 0, name: None }
    }

    fn done() -> Answer {
        Ok(Reply::Changed(Changed::default()))
    }

    #[test]
    fn each_address_of_a_command_has_a_line_and_many_are_counted() {
        let told = events(&block(&["203.0.113.7", "2001:db8::/32"]), &root(), &done(), Wall(7));
        let subjects: Vec<_> = told.iter().map(|(_, event)| event.subject.clone().unwrap()).collect();
        assert_eq!(subjects, ["203.0.113.7", "2001:db8::/32"]);
        let (name, event) = &told[0];
        assert_eq!((*name, event.reason.as_deref(), event.actor.as_ref()), (Name::Block, Some("scans"), Some(&root())));
        let many = vec!["203.0.113.7"; 1_000];
        let told = events(&block(&many), &root(), &done(), Wall(7));
        assert_eq!((told.len(), told[100].1.count, told[100].1.subject.as_ref()), (101, Some(900), None));
    }

    #[test]
    fn a_refusal_is_a_failure_with_its_sentence() {
        let refused = Err(Failure::refused("it is protected"));
        let told = events(&block(&["127.0.0.1"]), &root(), &refused, Wall(7));
        let (_, event) = &told[0];
        assert_eq!((event.outcome, event.reason.as_deref()), (Outcome::Failure, Some("it is protected")));
        assert_eq!(events(&Command::Status, &root(), &done(), Wall(7)).len(), 1);
    }
}
