//! `edge list`: what is blocked now. Written as it is made, since it may be long.

use std::io::{self, BufWriter, Write};

use super::{
    args::{Format, Global, List},
    ask,
    output::{Complaint, Outcome, relative, whole, write_table},
};
use crate::{
    clock::Wall,
    control::protocol::{Command, Entry, Reply},
    parcel::Row,
    printable::printable,
};

const HEADER: [&str; 7] = ["ADDRESS", "ORIGIN", "SINCE", "ENDS", "OFFENCE", "PACKETS", "REASON"];

pub fn list(global: &Global, arguments: &List) -> Result<Outcome, Complaint> {
    // One more is asked for than is shown, to know whether that is all.
    let asked = arguments.limit.map(|limit| limit.saturating_add(1));
    let command = Command::List { origin: arguments.origin, limit: asked };
    let Reply::Listed(parcel) = ask::agent_or_pins(global, command)? else { return Err(ask::mismatched()) };
    let mut rows = parcel.rows();
    let cut = arguments.limit.filter(|limit| rows.len() > *limit);
    rows.truncate(cut.unwrap_or(usize::MAX));
    let mut out = BufWriter::new(io::stdout().lock());
    let written = match global.output {
        Format::Json => write_json(&mut out, rows.iter().map(Entry::of)),
        Format::Text => write_text(&mut out, &rows, cut, Wall::now()),
    };
    whole("the list", written.and_then(|()| out.flush()))
}

/// One array, an entry a line.
pub fn write_json<T: serde::Serialize>(out: &mut impl Write, rows: impl Iterator<Item = T>) -> io::Result<()> {
    let mut opening = "[";
    for row in rows {
        out.write_all(opening.as_bytes())?;
        serde_json::to_writer(&mut *out, &row)?;
        opening = ",\n";
    }
    out.write_all(if opening == "[" { b"[]\n" } else { b"]\n" })
}

/// `cut`: the limit, where there are more than it lets show.
fn write_text(out: &mut impl Write, rows: &[Row<'_>], cut: Option<usize>, now: Wall) -> io::Result<()> {
    if let (true, limit) = (rows.is_empty(), cut) {
        return match limit {
            None => writeln!(out, "nothing is blocked"),
            Some(limit) => writeln!(out, "none is shown, though there are blocks: --limit {limit}"),
        };
    }
    write_table(out, &HEADER, rows.iter().map(|row| cells(&Entry::of(row), now)))?;
    cut.map_or(Ok(()), |limit| writeln!(out, "… and more: --limit {limit} cut the list"))
}

fn cells(entry: &Entry, now: Wall) -> Vec<String> {
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
    use edge_common::table::Hits;

    use super::*;
    use crate::{
        block::Origin,
        parcel::{About, End},
    };

    fn text(rows: &[Row<'_>], cut: Option<usize>, now: Wall) -> String {
        let mut out = Vec::new();
        write_text(&mut out, rows, cut, now).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_row_says_who_why_and_until_when() {
        let about = About {
            origin: Origin::Auth,
            reason: "5 failed\nlogins".to_owned(),
            created: Some(Wall(0)),
            end: End::At(Wall(900_000)),
            offence: 2,
        };
        let hits = Hits { packets: 12, bytes: 720 };
        let row = Row { target: "203.0.113.7".parse().unwrap(), about: &about, hits };
        let shown = |cut| text(&[row], cut, Wall(300_000));
        assert_eq!(shown(Some(1)), shown(None) + "… and more: --limit 1 cut the list\n");
        let only = shown(None);
        let line = only.lines().nth(1).unwrap();
        assert_eq!(line, "203.0.113.7/32  auth    5 min ago  in 10 min  2        12       5 failed\u{fffd}logins");
        assert_eq!(ends(&Entry { expires: None, ..Entry::of(&row) }, Wall(0)), "when lifted");
        assert_eq!(text(&[], None, Wall(0)), "nothing is blocked\n");
        assert_eq!(text(&[], Some(0), Wall(0)), "none is shown, though there are blocks: --limit 0\n");
        let mut out = Vec::new();
        write_json(&mut out, [row, row].iter().map(Entry::of)).unwrap();
        let array: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&array[1]["bytes"], &array[0]["created"]), (&720.into(), &"1970-01-01T00:00:00.000Z".into()));
    }
}
