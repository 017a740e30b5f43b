//! `edge reload`: the agent reads its config again.

use serde_json::json;

use super::{
    args::Global,
    ask,
    output::{Complaint, Outcome},
};
use crate::control::protocol::{Command, LastResult, Reloaded, Reply};

pub fn reload(global: &Global) -> Result<Outcome, Complaint> {
    match ask::agent(global, Command::Reload)? {
        Reply::Reloaded(done) => Ok(told(&done)),
        Reply::Refused(errors) => Err(errors.into()),
        _ => Err(ask::mismatched()),
    }
}

fn told(done: &Reloaded) -> Outcome {
    let text = if done.applied.is_empty() {
        "the config was read again, nothing of it had to be changed".to_owned()
    } else {
        format!("in force: {}", done.applied.join(", "))
    };
    let exit_code = if done.now.last_result == LastResult::Ok { 0 } else { 1 };
    Outcome { warnings: done.sentences(), exit_code, ..Outcome::new(json!(done), text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Reload;

    #[test]
    fn what_is_not_in_force_is_named_and_is_no_success() {
        let mut done = Reloaded {
            now: Reload { generation: 2, last_result: LastResult::Ok },
            applied: vec!["filter.allow".to_owned()],
            at_restart: Vec::new(),
            warnings: vec!["it cost".to_owned()],
        };
        let outcome = told(&done);
        assert_eq!((outcome.exit_code, outcome.text.as_str()), (0, "in force: filter.allow"));
        assert_eq!(outcome.json["generation"], 2);
        assert_eq!(outcome.json["last_result"], "ok");
        done.now.last_result = LastResult::Partial;
        done.at_restart = vec!["learn.window".to_owned()];
        let outcome = told(&done);
        assert_eq!(outcome.exit_code, 1);
        assert_eq!(outcome.warnings.len(), 2);
        assert!(outcome.warnings[1].ends_with("learn.window"), "{:?}", outcome.warnings);
    }
}
