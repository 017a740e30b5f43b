//! JSON: an array, or a document a line. A string is an address; an object has it as `address`, `cidr`, `ip` or `network`
//! and may have the other keys of `edge list`, or Spamhaus's `sblid`. An object of type `metadata` says nothing.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{List, Said, origin, time};
use crate::printable::printable;

/// An entry; what else it has is of no use here.
#[derive(Deserialize)]
#[serde(expecting = "an address in quotes or an object with one")]
struct Row {
    #[serde(alias = "cidr", alias = "ip", alias = "network")]
    address: Option<String>,
    origin: Option<String>,
    reason: Option<String>,
    created: Option<String>,
    expires: Option<String>,
    offence: Option<u32>,
    sblid: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

pub fn read_array(bytes: &[u8], list: &mut List) {
    match serde_json::from_slice::<Vec<&RawValue>>(bytes) {
        Ok(rows) => {
            let mut at = Place { bytes, offset: 0, line: 1 };
            for row in rows {
                let line = at.line_of(row.get());
                entry(row.get(), line, list);
            }
        }
        Err(error) => list.fault(error.line(), format!("it is no JSON: {}", told(&error))),
    }
}

pub fn read_lines(bytes: &[u8], list: &mut List) {
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        match std::str::from_utf8(line) {
            Ok(text) => entry(text, index + 1, list),
            Err(_) => list.fault(index + 1, "it is no JSON: not UTF-8"),
        }
    }
}

/// Counts lines up to values that come in order.
struct Place<'a> {
    bytes: &'a [u8],
    offset: usize,
    line: usize,
}

impl Place<'_> {
    /// `value` lies within the bytes.
    fn line_of(&mut self, value: &str) -> usize {
        let offset = (value.as_ptr() as usize).saturating_sub(self.bytes.as_ptr() as usize);
        let passed = self.bytes.get(self.offset..offset).unwrap_or_default();
        self.line += passed.iter().filter(|byte| **byte == b'\n').count();
        self.offset = self.offset.max(offset);
        self.line
    }
}

fn entry(text: &str, line: usize, list: &mut List) {
    if text.starts_with('"') {
        return match serde_json::from_str::<String>(text) {
            Ok(address) => {
                let part = list.part(Said::default());
                list.add_text(part, &address, line);
            }
            Err(error) => list.fault(line, format!("it is no JSON: {}", told(&error))),
        };
    }
    match serde_json::from_str::<Row>(text) {
        Ok(row) if row.address.is_none() && row.kind.as_deref() == Some("metadata") => {}
        Ok(row) => match (said(&row), row.address) {
            (Ok(said), Some(address)) => {
                let part = list.part(said);
                list.add_text(part, &address, line);
            }
            (Err(message), _) => list.fault(line, message),
            (Ok(_), None) => list.fault(line, "it has no `address`, `cidr`, `ip` or `network`"),
        },
        Err(error) if error.is_data() => list.fault(line, format!("it is no entry: {}", told(&error))),
        Err(error) => list.fault(line, format!("it is no JSON: {}", told(&error))),
    }
}

/// Without the place within the entry, since the line in the list is named already.
fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let told = text.strip_suffix(&format!(" at line {} column {}", error.line(), error.column())).unwrap_or(&text);
    match told {
        "duplicate field `address`" => "it has several of `address`, `cidr`, `ip` and `network`; leave one".to_owned(),
        other => printable(&other.replace(", expected u32", ", expected a whole number")),
    }
}

fn said(row: &Row) -> Result<Said, String> {
    Ok(Said {
        origin: row.origin.as_deref().map(origin).transpose()?,
        reason: row.reason.clone().or(row.sblid.clone()),
        created: row.created.as_deref().map(time).transpose()?,
        expires: row.expires.as_deref().map(time).transpose()?,
        offence: row.offence,
    })
}
