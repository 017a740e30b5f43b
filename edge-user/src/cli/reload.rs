//! `edge reload`: the agent reads its config again, for good or on trial.

use std::{fs, path::Path};

use serde_json::json;

use super::{
    args::{self, Global},
    ask,
    output::{Complaint, Outcome},
};
use crate::control::protocol::{Command, LastResult, Reloaded, Reply};

pub fn reload(global: &Global, arguments: &args::Reload) -> Result<Outcome, Complaint> {
    let command = if arguments.keep { Command::Keep } else { Command::Reload { confirm: arguments.confirm } };
    match ask::agent(global, command)? {
        Reply::Reloaded(done) => Ok(told(&done, global.config.as_deref())),
        Reply::Kept(now) => Ok(Outcome::new(json!(now), "what was reloaded stays in force".to_owned())),
        Reply::Refused(errors) => Err(errors.into()),
        _ => Err(ask::mismatched()),
    }
}

/// `asked`: the config that the caller named.
fn told(done: &Reloaded, asked: Option<&Path>) -> Outcome {
    let read = done.config.display();
    let text = if done.applied.is_empty() {
        format!("{read} was read again, nothing of it had to be changed")
    } else {
        format!("{read} was read again, in force: {}", done.applied.join(", "))
    };
    let exit_code = if done.now.last_result == LastResult::Ok { 0 } else { 1 };
    let another = asked.filter(|asked| fs::canonicalize(asked).ok().as_deref() != Some(&done.config));
    let another = another.map(|asked| {
        format!("{} was not looked at: the agent runs with {read}, and reads that again", asked.display())
    });
    let warnings = another.into_iter().chain(done.warnings.clone()).collect();
    Outcome { warnings, exit_code, ..Outcome::new(json!(done), text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Reload;

    #[test]
    fn what_is_in_force_is_named_and_not_all_of_it_is_no_success() {
        let mut done = Reloaded {
            now: Reload { generation: 2, last_result: LastResult::Ok, reverts_at: None },
            config: "/etc/edge/edge.toml".into(),
            applied: vec!["filter.allow".to_owned()],
            warnings: vec!["it cost".to_owned()],
        };
        let outcome = told(&done, None);
        let text = "/etc/edge/edge.toml was read again, in force: filter.allow";
        assert_eq!((outcome.exit_code, outcome.text.as_str()), (0, text));
        let other = told(&done, Some(Path::new("/no/such/edge.toml")));
        assert!(other.warnings[0].starts_with("/no/such/edge.toml was not looked at"), "{:?}", other.warnings);
        assert_eq!(outcome.json["generation"], 2);
        assert_eq!(outcome.json["last_result"], "ok");
        done.now.last_result = LastResult::Partial;
        let outcome = told(&done, None);
        assert_eq!((outcome.exit_code, outcome.warnings.as_slice()), (1, ["it cost".to_owned()].as_slice()));
    }
}
