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
    let command = Command::List { origin: arguments.origin, limit: arguments.limit };
    let Reply::List(entries) = ask::agent_or_pins(global, command)? else { return Err(ask::mismatched()) };
    Ok(Outcome::new(json!(entries), text(&entries, Wall::now())))
}

fn text(entries: &[Entry], now: Wall) -> String {
    if entries.is_empty() {
        return "nothing is blocked".to_owned();
    }
    let rows: Vec<Vec<String>> = entries.iter().map(|entry| row(entry, now)).collect();
    table(&["ADDRESS", "ORIGIN", "SINCE", "ENDS", "OFFENCE", "PACKETS", "REASON"], &rows)
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
        let text = text(std::slice::from_ref(&entry), Wall(300_000));
        let row = text.lines().nth(1).unwrap();
        assert_eq!(row, "203.0.113.7/32  auth    5 min ago  in 10 min  2        12       5 failed\u{fffd}logins");
        assert_eq!(ends(&Entry { expires: None, ..entry }, Wall(0)), "when lifted");
        assert_eq!(super::text(&[], Wall(0)), "nothing is blocked");
    }
}
