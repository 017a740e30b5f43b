//! Commands, with whoever gave them and what came of it, as events.

use super::event::{Actor, Event, Name, Outcome};
use crate::{
    block::Target,
    clock::Wall,
    control::protocol::{
        Answer, BlockRequest, Changed, Command, ImportRequest, Noted, Reply, RestoreRequest, UnblockRequest,
    },
};

/// What a command came to. Its lines are made one by one, since there may be millions of them.
#[derive(Clone, Debug)]
pub struct Commanded {
    pub name: Name,
    /// What all lines say; the only one where nothing is named.
    base: Event,
    named: Vec<Target>,
    /// How many were changed that are not named.
    more: u64,
}

impl Commanded {
    pub fn new(command: &Command, actor: &Actor, answer: &Answer, time: Wall) -> Commanded {
        let name = name(command);
        let (named, more) = targets(command, answer);
        let base = Event {
            subject: subject_of(command),
            count: counted(answer),
            actor: Some(actor.clone()),
            reason: reason(command, answer),
            ..Event::new(name, outcome(answer), time)
        };
        Commanded { name, base: base.bounded(), named, more }
    }

    pub fn outcome(&self) -> Outcome {
        self.base.outcome
    }

    /// The same, by a user who has a name.
    pub fn by(mut self, name: impl FnOnce(Event) -> Event) -> Commanded {
        self.base = name(self.base);
        self
    }

    /// How many lines it has.
    pub fn count(&self) -> usize {
        (self.named.len() + usize::from(self.more > 0)).max(1)
    }

    /// One for each address or network that was named, and one that counts the others.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        let Commanded { base, named, more, .. } = self;
        let named = named.iter().map(|target| Event { subject: Some(subject(*target)), ..base.clone() });
        let more = (*more > 0).then(|| Event { count: Some(*more), ..base.clone() });
        let alone = (self.named.is_empty() && more.is_none()).then(|| base.clone());
        named.chain(more).chain(alone)
    }
}

/// Of a command that the CLI carried out itself.
pub fn noted(noted: &Noted, actor: Actor, time: Wall) -> (Name, Event) {
    let Noted { name, subject, key_id, refused } = noted;
    let outcome = if refused.is_some() { Outcome::Failure } else { Outcome::Success };
    let (subject, key_id, reason) = (subject.clone(), key_id.clone(), refused.clone());
    (*name, Event { subject, key_id, reason, actor: Some(actor), ..Event::new(*name, outcome, time) })
}

pub fn name(command: &Command) -> Name {
    match command {
        Command::Status => Name::Status,
        Command::Block(_) => Name::Block,
        Command::Import(_) => Name::Import,
        Command::Backup { .. } => Name::Backup,
        Command::Restore(_) => Name::Restore,
        Command::Unblock(_) => Name::Unblock,
        Command::Export { .. } => Name::Export,
        Command::List { .. } => Name::List,
        Command::Why { .. } => Name::Why,
        Command::Allow { .. } => Name::Allow,
        Command::Disallow { .. } => Name::Disallow,
        Command::Reload { .. } | Command::Keep => Name::Reload,
        Command::Unload => Name::Unload,
        Command::Audit(_) => Name::Audit,
        Command::Rotate(_) => Name::SecretRotate,
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
        (Ok(Reply::Kept(_)), _) => Some("confirmed".to_owned()),
        (Ok(_), Command::Block(BlockRequest { reason, .. })) => reason.clone(),
        (Ok(_), _) => None,
    }
}

/// How many came into force, where they have no lines of their own.
fn counted(answer: &Answer) -> Option<u64> {
    match answer {
        Ok(Reply::Imported(imported)) => Some(imported.imported),
        Ok(Reply::Restored(restored)) => Some(restored.imported.imported),
        _ => None,
    }
}

/// What it is about, where that is no list.
fn subject_of(command: &Command) -> Option<String> {
    match command {
        Command::Import(ImportRequest { source, .. }) | Command::Restore(RestoreRequest { source, .. }) => {
            Some(source.clone())
        }
        Command::Backup { file } => Some(file.clone()),
        Command::Why { address } => Some(address.to_string()),
        _ => None,
    }
}

/// Those that have a line, and how many more there are.
fn targets(command: &Command, answer: &Answer) -> (Vec<Target>, u64) {
    match (command, answer) {
        (Command::Unblock(UnblockRequest { targets: None, .. }), Ok(Reply::Changed(Changed { changed, more, .. }))) => {
            (changed.clone(), *more)
        }
        (Command::Block(BlockRequest { targets, .. }), _)
        | (Command::Unblock(UnblockRequest { targets: Some(targets), .. }), _)
        | (Command::Allow { targets } | Command::Disallow { targets }, _) => (targets.clone(), 0),
        _ => (Vec::new(), 0),
    }
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

    fn told(command: &Command, answer: &Answer) -> Vec<Event> {
        let commanded = Commanded::new(command, &root(), answer, Wall(7));
        let events: Vec<Event> = commanded.events().collect();
        assert_eq!(events.len(), commanded.count());
        events
    }

    #[test]
    fn each_address_of_a_command_has_a_line() {
        let blocked = told(&block(&["203.0.113.7", "2001:db8::/32"]), &done());
        let subjects: Vec<_> = blocked.iter().map(|event| event.subject.clone().unwrap()).collect();
        assert_eq!(subjects, ["203.0.113.7", "2001:db8::/32"]);
        let event = &blocked[0];
        let expected = ("block", Some("scans"), Some(&root()));
        assert_eq!((&*event.event, event.reason.as_deref(), event.actor.as_ref()), expected);
        assert_eq!(told(&block(&vec!["203.0.113.7"; 1_000]), &done()).len(), 1_000);
    }

    #[test]
    fn of_all_that_is_lifted_those_that_the_answer_names_have_a_line_and_one_counts_the_others() {
        let all = Command::Unblock(UnblockRequest { targets: None, origin: None });
        let changed = Changed { changed: vec!["203.0.113.7".parse().unwrap()], more: 900, ..Changed::default() };
        let lifted = told(&all, &Ok(Reply::Changed(changed)));
        let lines: Vec<_> = lifted.iter().map(|event| (event.subject.as_deref(), event.count)).collect();
        assert_eq!(lines, [(Some("203.0.113.7"), None), (None, Some(900))]);
    }

    #[test]
    fn a_refusal_is_a_failure_with_its_sentence() {
        let refused = Err(Failure::refused("it is protected"));
        let events = told(&block(&["127.0.0.1"]), &refused);
        let expected = (Outcome::Failure, Some("it is protected"));
        assert_eq!((events[0].outcome, events[0].reason.as_deref()), expected);
        assert_eq!(told(&Command::Status, &done()).len(), 1);
    }
}
