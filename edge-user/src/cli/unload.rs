//! `edge unload`: takes everything out of the kernel, agent running or not.

use serde_json::json;

use super::{
    args::Global,
    ask,
    output::{Complaint, Outcome},
};
use crate::{
    control::protocol::{Command, Reply},
    datapath::Unloaded,
};

pub fn unload(global: &Global) -> Result<Outcome, Complaint> {
    let Reply::Unloaded(what) = ask::agent_or_pins(global, Command::Unload)? else { return Err(ask::mismatched()) };
    Ok(told(&what))
}

fn told(what: &Unloaded) -> Outcome {
    let Unloaded { detached, unpinned } = what;
    let document = json!({"unloaded": true, "detached": detached, "unpinned": unpinned});
    let kept = "the store keeps the blocks, and the next `edge run` enforces them again";
    let text = if *unpinned == 0 { what.told() } else { format!("{}; {kept}", what.told()) };
    Outcome::new(document, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_told_and_that_the_blocks_come_back() {
        let done = told(&Unloaded { detached: vec!["eth0".to_owned(), "eth1".to_owned()], unpinned: 23 });
        assert!(done.text.starts_with("detached from eth0, eth1, 23 pins removed; the store keeps"), "{}", done.text);
        assert_eq!(done.json, json!({"unloaded": true, "detached": ["eth0", "eth1"], "unpinned": 23}));
        assert_eq!(told(&Unloaded::default()).text, "nothing of edge was attached or pinned");
    }
}
