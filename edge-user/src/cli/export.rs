//! `edge export`: all that is blocked, as `edge import` reads it. Written as it is made, since it may be long.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

use super::{
    args::{Export, Exported, Format, Global},
    ask,
    list::write_json,
    output::{Complaint, Outcome, whole},
};
use crate::{
    block::{Origin, Target},
    clock::Wall,
    control::protocol::{Command, Reply},
    parcel::{About, End, Parcel, Row},
};

/// As `edge list` has it, but for the counts, which are the kernel's.
#[derive(Serialize)]
struct Exportable<'a> {
    address: Target,
    origin: Origin,
    reason: &'a str,
    created: Option<Wall>,
    expires: Option<Wall>,
    offence: u32,
}

impl<'a> Exportable<'a> {
    fn of(row: &Row<'a>) -> Exportable<'a> {
        let Row { target: address, about: About { origin, reason, created, end, offence }, hits: _ } = *row;
        let expires = if let End::At(expires) = end { Some(*expires) } else { None };
        Exportable { address, origin: *origin, reason, created: *created, expires, offence: *offence }
    }
}

pub fn export(global: &Global, arguments: &Export) -> Result<Outcome, Complaint> {
    let reply = ask::agent_or_pins(global, Command::Export { origin: arguments.origin })?;
    let Reply::Listed(parcel) = reply else { return Err(ask::mismatched()) };
    let mut out = BufWriter::new(io::stdout().lock());
    whole("the list", write(&mut out, &parcel, global.output, arguments.format).and_then(|()| out.flush()))
}

fn write(out: &mut impl Write, parcel: &Parcel, output: Format, format: Exported) -> io::Result<()> {
    let rows = parcel.rows();
    match (output, format) {
        (Format::Json, _) => write_json(out, rows.iter().map(Exportable::of)),
        (Format::Text, Exported::Jsonl) => rows.iter().try_for_each(|row| {
            serde_json::to_writer(&mut *out, &Exportable::of(row))?;
            out.write_all(b"\n")
        }),
        (Format::Text, Exported::Plain) => {
            let mut addresses: Vec<Target> = rows.iter().map(|row| row.target).collect();
            addresses.dedup();
            addresses.iter().try_for_each(|address| writeln!(out, "{address}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lists, parcel::Part};

    fn parcel() -> Parcel {
        let part = |origin, reason: &str, end, names: &[&str]| {
            let created = Some(Wall(1_767_323_045_000));
            let about = About { origin, reason: reason.to_owned(), created, end, offence: 2 };
            Part::new(about, names.iter().map(|name| name.parse::<Target>().unwrap()).collect())
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
            assert_eq!(Parcel::new(read).rows(), parcel().rows());
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
