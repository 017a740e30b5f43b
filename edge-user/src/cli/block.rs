//! `edge block`, `unblock`, `allow` and `disallow`: what changes what is enforced.

use serde_json::json;

use super::{
    args::{Addresses, Block, Global, Length, Unblock},
    ask,
    output::{Complaint, Outcome},
};
use crate::{
    block::Target,
    control::protocol::{BlockRequest, Changed, Command, Reply, UnblockRequest},
};

pub fn block(global: &Global, arguments: &Block) -> Result<Outcome, Complaint> {
    let request = BlockRequest {
        targets: ask::targets(&arguments.addresses)?,
        for_seconds: match arguments.length {
            None | Some(Length::UntilLifted) => None,
            Some(Length::For(length)) => Some(length.as_secs()),
        },
        reason: arguments.reason.clone(),
        origin: arguments.origin,
        force: arguments.force,
    };
    let changed = changed(ask::agent_or_pins(global, Command::Block(request))?)?;
    Ok(told(&changed, "blocked", "blocked already"))
}

pub fn unblock(global: &Global, arguments: &Unblock) -> Result<Outcome, Complaint> {
    let targets = if arguments.all { None } else { Some(ask::targets(&arguments.addresses)?) };
    let request = UnblockRequest { targets, origin: arguments.origin };
    let changed = changed(ask::agent_or_pins(global, Command::Unblock(request))?)?;
    Ok(told(&changed, "lifted", "not blocked"))
}

pub fn allow(global: &Global, arguments: &Addresses) -> Result<Outcome, Complaint> {
    let targets = ask::targets(&arguments.addresses)?;
    let changed = changed(ask::agent_or_pins(global, Command::Allow { targets })?)?;
    Ok(told(&changed, "allowed", "allowed already"))
}

pub fn disallow(global: &Global, arguments: &Addresses) -> Result<Outcome, Complaint> {
    let targets = ask::targets(&arguments.addresses)?;
    let changed = changed(ask::agent_or_pins(global, Command::Disallow { targets })?)?;
    Ok(told(&changed, "taken off the allow list", "not on the allow list"))
}

fn changed(reply: Reply) -> Result<Changed, Complaint> {
    match reply {
        Reply::Changed(changed) => Ok(changed),
        _ => Err(ask::mismatched()),
    }
}

fn told(changed: &Changed, done: &str, already: &str) -> Outcome {
    let lines = [line(&changed.changed, changed.more, done), line(&changed.unchanged, 0, already)];
    let text: Vec<String> = lines.into_iter().flatten().collect();
    let text = if text.is_empty() { "nothing to do".to_owned() } else { text.join("\n") };
    Outcome { warnings: changed.warnings.clone(), ..Outcome::new(json!(changed), text) }
}

/// A few are named, many are counted.
fn line(targets: &[Target], more: u64, what: &str) -> Option<String> {
    match targets {
        [] => None,
        few if few.len() <= 8 && more == 0 => {
            let names: Vec<String> = few.iter().map(ToString::to_string).collect();
            Some(format!("{what}: {}", names.join(", ")))
        }
        many => Some(format!("{what}: {} addresses and networks", many.len() as u64 + more)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_named_and_many_are_counted() {
        let few: Vec<Target> = vec!["203.0.113.7".parse().unwrap()];
        let outcome = told(&Changed { unchanged: few.clone(), ..Changed::default() }, "lifted", "not blocked");
        assert_eq!((outcome.text.as_str(), outcome.exit_code), ("not blocked: 203.0.113.7/32", 0));
        assert_eq!(outcome.json["unchanged"][0], "203.0.113.7/32");
        let many = few.repeat(9);
        assert_eq!(line(&many, 0, "blocked").unwrap(), "blocked: 9 addresses and networks");
        assert_eq!(line(&few, 41, "lifted").unwrap(), "lifted: 42 addresses and networks");
        assert_eq!(told(&Changed::default(), "lifted", "not blocked").text, "nothing to do");
    }
}
