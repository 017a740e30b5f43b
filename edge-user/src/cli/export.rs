//! `edge export`: all that is blocked, as `edge import` reads it. Written as it is made, since it may be long.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

use super::{
    args::{Export, Exported, Format, Global},
    ask,
    output::{Complaint, Outcome},
};
use crate::{
    block::{Origin, Target},
    clock::Wall,
    control::protocol::{Command, Reply},
    parcel::{About, End, Parcel},
};

/// As `edge list` has it, but for the counts, which are the kernel's.
#[derive(Serialize)]
struct Row<'a> {
    address: Target,
    origin: Origin,
    reason: &'a str,
    created: Option<Wall>,
    expires: Option<Wall>,
    offence: u32,
}

impl<'a> Row<'a> {
    fn of(address: Target, about: &'a About) -> Row<'a> {
        let About { origin, reason, created, end, offence } = about;
        let expires = if let End::At(expires) = end { Some(*expires) } else { None };
        Row { address, origin: *origin, reason, created: *created, expires, offence: *offence }
    }
}

pub fn export(global: &Global, arguments: &Export) -> Result<Outcome, Complaint> {
    let reply = ask::agent_or_pins(global, Command::Export { origin: arguments.origin })?;
    let Reply::Exported(parcel) = reply else { return Err(ask::mismatched()) };
    let mut out = BufWriter::new(io::stdout().lock());
    // A closed pipe is no failure.
    drop(write(&mut out, &parcel, global.output, arguments.format).and_then(|()| out.flush()));
    Ok(Outcome::printed())
}

fn write(out: &mut impl Write, parcel: &Parcel, output: Format, format: Exported) -> io::Result<()> {
    let rows = in_order(parcel);
    match (output, format) {
        (Format::Json, _) => {
            let mut opening = "[";
            for (address, about) in &rows {
                out.write_all(opening.as_bytes())?;
                serde_json::to_writer(&mut *out, &Row::of(*address, about))?;
                opening = ",\n";
            }
            out.write_all(if rows.is_empty() { b"[]\n" } else { b"]\n" })
        }
        (Format::Text, Exported::Jsonl) => rows.iter().try_for_each(|(address, about)| {
            serde_json::to_writer(&mut *out, &Row::of(*address, about))?;
            out.write_all(b"\n")
        }),
        (Format::Text, Exported::Plain) => {
            let mut addresses: Vec<Target> = rows.into_iter().map(|(address, _)| address).collect();
            addresses.dedup();
            addresses.iter().try_for_each(|address| writeln!(out, "{address}"))
        }
    }
}

/// In the order of `edge list`: by target and then origin.
fn in_order(parcel: &Parcel) -> Vec<(Target, &About)> {
    let parts = parcel.parts().iter();
    let mut rows: Vec<(Target, &About)> =
        parts.flat_map(|part| part.targets.iter().map(|(_, target)| (target, &part.about))).collect();
    rows.sort_by_key(|(target, about)| (*target, about.origin));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lists, parcel::Part};

    fn parcel() -> Parcel {
        let part = |origin, reason: &str, end, names: &[&str]| Part {
            about: About { origin, reason: reason.to_owned(), created: Some(Wall(1_767_323_045_000)), end, offence: 2 },
            targets: names.iter().map(|name| name.parse::<Target>().unwrap()).collect(),
        };
        Parcel::new(vec![
            part(Origin::Feed, "a\n\"b\"", End::At(Wall(1_767_323_945_007)), &["203.0.113.7", "2001:db8::/32"]),
            part(Origin::Manual, "", End::UntilLifted, &["203.0.113.7", "10.0.0.0/8"]),
        ])
    }

    fn written(output: Format, format: Exported) -> String {
        let mut out = Vec::new();
        write(&mut out, &parcel(), output, format).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_as_it_was() {
        for text in [written(Format::Text, Exported::Jsonl), written(Format::Json, Exported::Jsonl)] {
            let read = lists::read(text.as_bytes(), "a", lists::Format::Auto, lists::Given::default()).unwrap();
            assert_eq!(in_order(&Parcel::new(read)), in_order(&parcel()));
        }
        let array: serde_json::Value = serde_json::from_str(&written(Format::Json, Exported::Jsonl)).unwrap();
        assert_eq!(array[1]["address"], "203.0.113.7/32");
        assert_eq!((&array[1]["origin"], &array[2]["origin"]), (&"manual".into(), &"feed".into()));
    }

    #[test]
    fn plain_is_each_address_once() {
        assert_eq!(written(Format::Text, Exported::Plain), "10.0.0.0/8\n203.0.113.7/32\n2001:db8::/32\n");
        let mut out = Vec::new();
        write(&mut out, &Parcel::default(), Format::Json, Exported::Jsonl).unwrap();
        assert_eq!(out, b"[]\n");
    }
}
