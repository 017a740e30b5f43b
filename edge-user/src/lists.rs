//! Lists of addresses as files have them: plain, CSV, JSON, and as list keepers publish them. Bytes go in; out come sets
//! of targets with what is said of them, or every line that is wrong. Pure.

mod csv;
mod json;
mod plain;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use crate::{
    block::{Origin, Target},
    clock::Wall,
    parcel::{About, End, Part},
    printable::quotable,
    targets::Targets,
};

/// So many wrong lines are named; the rest is counted.
pub const NAMED: usize = 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Told by the first words
    #[default]
    Auto,
    /// An address or CIDR a line; `#` and `;` begin a comment
    Plain,
    /// Columns parted by commas, semicolons or tabs; a header may name them `address` (or `ip`, `cidr`, `network` …),
    /// `origin`, `reason`, `created`, `expires`, `offence`, else the first that holds an address counts
    Csv,
    /// As `edge export` and `edge list -o json` write it: an array, or an object a line
    Json,
    /// Spamhaus DROP, as JSON lines or text
    Spamhaus,
    /// FireHOL's .netset and .ipset
    Netset,
}

/// What the caller says of every entry; it goes before what the list says.
#[derive(Clone, Debug, Default)]
pub struct Given {
    pub origin: Option<Origin>,
    pub reason: Option<String>,
    pub end: Option<End>,
}

/// A line that is no entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// From 1.
    pub line: usize,
    pub message: String,
}

/// Everything that is wrong with a list; the first [`NAMED`] by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub named: Vec<Fault>,
    pub count: usize,
}

impl Faults {
    fn add(&mut self, line: usize, message: String) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(Fault { line, message });
        }
    }
}

/// Reads a list. `name` is what its entries' reason says they are from.
pub fn read(bytes: &[u8], name: &str, format: Format, given: Given) -> Result<Vec<Part>, Faults> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut list = List::new(given, format!("imported from {name}"));
    match (format, first(bytes)) {
        (Format::Csv, _) | (Format::Auto, First::Columns) => csv::read(bytes, &mut list),
        (Format::Json | Format::Auto, First::Array) => json::read_array(bytes, &mut list),
        (Format::Json, _) | (Format::Spamhaus | Format::Auto, First::Object) => json::read_lines(bytes, &mut list),
        (Format::Plain | Format::Netset | Format::Spamhaus | Format::Auto, _) => plain::read(bytes, &mut list),
    }
    list.finish()
}

/// What a list begins with.
enum First {
    Array,
    Object,
    /// A line with a comma in it.
    Columns,
    Other,
}

fn first(bytes: &[u8]) -> First {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(plain::without_comment);
    match lines.find(|line| !line.is_empty()) {
        Some([b'[', ..]) => First::Array,
        Some([b'{', ..]) => First::Object,
        Some(line) if line.contains(&b',') => First::Columns,
        _ => First::Other,
    }
}

/// What was read so far.
struct List {
    given: Given,
    default_reason: String,
    parts: Vec<Part>,
    known: HashMap<About, usize>,
    /// What was said of the entry before, and its part: long lists say the same again and again.
    last: Option<(Said, usize)>,
    faults: Faults,
}

/// What a list may say of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Said {
    origin: Option<Origin>,
    reason: Option<String>,
    created: Option<Wall>,
    expires: Option<Wall>,
    offence: Option<u32>,
}

impl List {
    fn new(given: Given, default_reason: String) -> List {
        let (parts, known) = (Vec::new(), HashMap::new());
        List { given, default_reason, parts, known, last: None, faults: Faults::default() }
    }

    /// The part of those of which the same is said.
    fn part(&mut self, said: Said) -> usize {
        if let Some((_, part)) = self.last.as_ref().filter(|(last, _)| *last == said) {
            return *part;
        }
        let part = self.part_of(said.clone());
        self.last = Some((said, part));
        part
    }

    fn part_of(&mut self, said: Said) -> usize {
        let Given { origin, reason, end } = &self.given;
        let about = About {
            origin: origin.or(said.origin).unwrap_or(Origin::Manual),
            reason: reason.clone().or(said.reason).unwrap_or_else(|| self.default_reason.clone()),
            // A length that is given begins now.
            created: if end.is_some() { None } else { said.created },
            end: end.or(said.expires.map(End::At)).unwrap_or(End::UntilLifted),
            offence: said.offence.unwrap_or(1),
        };
        *self.known.entry(about).or_insert_with_key(|about| {
            self.parts.push(Part::new(about.clone(), Targets::default()));
            self.parts.len() - 1
        })
    }

    fn add(&mut self, part: usize, target: Target) {
        self.parts[part].targets.push(target);
    }

    /// What was typed in place of an address, or of anything else that has a form.
    fn add_text(&mut self, part: usize, text: &str, line: usize) {
        match text.parse() {
            Ok(target) => self.add(part, target),
            Err(error) => self.faults.add(line, error.to_string()),
        }
    }

    fn fault(&mut self, line: usize, message: impl Into<String>) {
        self.faults.add(line, message.into());
    }

    fn finish(self) -> Result<Vec<Part>, Faults> {
        if self.faults.count > 0 {
            return Err(self.faults);
        }
        let parts = self.parts.into_iter().filter(|part| !part.targets.is_empty());
        Ok(parts.map(|part| Part { targets: part.targets.sorted(), ..part }).collect())
    }
}

fn origin(text: &str) -> Result<Origin, String> {
    let known = || Origin::ALL.map(Origin::name).join(", ");
    Origin::named(text).ok_or_else(|| format!("the origin `{}` is none of {}", quotable(text), known()))
}

fn time(text: &str) -> Result<Wall, String> {
    let time = text.parse::<jiff::Timestamp>();
    time.map(|time| Wall(time.as_millisecond()))
        .map_err(|_| format!("`{}` is no time; write 2026-01-02T03:04:05Z", quotable(text)))
}
