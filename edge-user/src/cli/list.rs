//! `edge list`: what is blocked now.

use serde_json::json;

use super::{
    args::{Global, List},
    ask,
    output::{Complaint, Outcome, relative, table},
};
use crate::{
    clock::Wall,
    control::protocol::{Command, Entry, Reply},
    printable::printable,
};

pub fn list(global: &Global, arguments: &List) -> Result<Outcome, Complaint> {
    // One more is asked for than is shown, to know whether that is all.
    let asked = arguments.limit.map(|limit| limit.saturating_add(1));
    let command = Command::List { origin: arguments.origin, limit: asked };
    let Reply::List(mut entries) = ask::agent_or_pins(global, command)? else { return Err(ask::mismatched()) };
    let cut = arguments.limit.filter(|limit| entries.len() > *limit);
    entries.truncate(cut.unwrap_or(usize::MAX));
    Ok(Outcome::new(json!(entries), text(&entries, cut, Wall::now())))
}

/// `cut`: the limit, where there are more than it lets show.
fn text(entries: &[Entry], cut: Option<usize>, now: Wall) -> String {
    let rows: Vec<Vec<String>> = entries.iter().map(|entry| row(entry, now)).collect();
    let table = || table(&["ADDRESS", "ORIGIN", "SINCE", "ENDS", "OFFENCE", "PACKETS", "REASON"], &rows);
    match (entries, cut) {
        ([], None) => "nothing is blocked".to_owned(),
        ([], Some(limit)) => format!("none is shown, though there are blocks: --limit {limit}"),
        (_, None) => table(),
        (_, Some(limit)) => format!("{}\n… and more: --limit {limit} cut the list", table()),
    }
}

fn row(entry: &Entry, now: Wall) -> Vec<String> {
    vec![
        entry.address.to_string(),
        entry.origin.to_string(),
        relative(entry.created, now),
        ends(entry, now),
        entry.offence.to_string(),
        entry.packets.to_string(),
        printable(&entry.reason),
    ]
}

pub fn ends(entry: &Entry, now: Wall) -> String {
    entry.expires.map_or_else(|| "when lifted".to_owned(), |expires| relative(expires, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Origin;

    #[test]
    fn a_row_says_who_why_and_until_when() {
        let entry = Entry {
            address: "203.0.113.7".parse().unwrap(),
            origin: Origin::Auth,
            reason: "5 failed\nlogins".to_owned(),
            created: Wall(0),
            expires: Some(Wall(900_000)),
            offence: 2,
            packets: 12,
            bytes: 720,
        };
        let one = std::slice::from_ref(&entry);
        let shown = |cut| text(one, cut, Wall(300_000));
        assert_eq!(shown(Some(1)), shown(None) + "\n… and more: --limit 1 cut the list");
        let text = shown(None);
        let row = text.lines().nth(1).unwrap();
        assert_eq!(row, "203.0.113.7/32  auth    5 min ago  in 10 min  2        12       5 failed\u{fffd}logins");
        assert_eq!(ends(&Entry { expires: None, ..entry }, Wall(0)), "when lifted");
        assert_eq!(super::text(&[], None, Wall(0)), "nothing is blocked");
        assert_eq!(super::text(&[], Some(0), Wall(0)), "none is shown, though there are blocks: --limit 0");
    }
}
