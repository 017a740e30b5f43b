//! What was typed: a TOML document walked key by key, each with its place, and all that is wrong with it collected.
//! serde would stop at the first mistake; here a config with three mistakes reports all three.

use std::{
    fmt, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::duration;
use crate::{
    error::{Blame, Failure},
    printable::quotable,
};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    pub line: usize,
    pub column: usize,
    /// Dotted, as `server.tls.cert_file`; empty where the document itself is broken.
    pub key: String,
    /// What is wrong; what would be right.
    pub message: String,
}

impl Problem {
    /// `FILE:LINE:COLUMN: key: what is wrong`, as editors and scripts expect.
    pub fn told(&self, file: &Path) -> String {
        let Problem { line, column, key, message } = self;
        let colon = if key.is_empty() { "" } else { ": " };
        format!("{}:{line}:{column}: {key}{colon}{message}", file.display())
    }
}

/// All that is wrong with one file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigErrors {
    pub file: PathBuf,
    pub problems: Vec<Problem>,
    /// What would not have hindered anything.
    pub warnings: Vec<Problem>,
    pub blame: Blame,
}

impl ConfigErrors {
    pub(super) fn new(file: PathBuf, mut problems: Vec<Problem>, blame: Blame) -> ConfigErrors {
        problems.sort();
        ConfigErrors { file, problems, warnings: Vec::new(), blame }
    }

    /// A file that could not be read at all.
    pub(super) fn unreadable(file: PathBuf, error: &io::Error) -> ConfigErrors {
        let (blame, right) = match error.kind() {
            io::ErrorKind::PermissionDenied => (Blame::Forbidden, "run as root, or as one who may read it"),
            _ => (Blame::Usage, "name another with --config, or write this one"),
        };
        let message = format!("cannot be read: {error}; {right}");
        let problem = Problem { line: 1, column: 1, key: String::new(), message };
        ConfigErrors::new(file, vec![problem], blame)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.problems.iter().map(|problem| problem.told(&self.file)).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Failure {
        Failure::new(errors.blame, errors.to_string())
    }
}

/// The place of a key: where in the text, and its dotted name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub offset: usize,
    pub key: String,
}

/// Where a text has a dotted key; its beginning where it has none.
pub fn place_of(text: &str, key: &str) -> Place {
    let (document, _) = DeTable::parse_recoverable(text);
    let (mut table, mut offset) = (document.into_inner(), 0);
    for part in key.split('.') {
        let Some((found, value)) = table.remove_entry(part) else { break };
        offset = found.span().start;
        table = if let DeValue::Table(below) = value.into_inner() { below } else { DeTable::new() };
    }
    Place { offset, key: key.to_owned() }
}

/// Collects problems and turns offsets into lines and columns.
pub struct Problems<'t> {
    text: &'t str,
    list: Vec<Problem>,
    warnings: Vec<Problem>,
    /// The text is no TOML, so that of what it says some is not seen.
    broken: bool,
}

impl<'t> Problems<'t> {
    pub fn of(text: &'t str) -> Problems<'t> {
        Problems { text, list: Vec::new(), warnings: Vec::new(), broken: false }
    }

    pub fn add(&mut self, offset: usize, key: impl Into<String>, message: impl Into<String>) {
        let problem = self.problem(offset, key.into(), message.into());
        self.list.push(problem);
    }

    pub fn at(&mut self, place: &Place, message: impl Into<String>) {
        self.add(place.offset, place.key.clone(), message);
    }

    /// The key of this place is not there. Where the text is broken, one that it names may only be out of sight.
    pub fn missing(&mut self, place: &Place, message: impl Into<String>) {
        let name = place.key.rsplit('.').next().unwrap_or_default();
        if !(self.broken && mentions(self.text, name)) {
            self.at(place, message);
        }
    }

    /// What hinders nothing, but is hardly meant.
    pub fn warn(&mut self, place: &Place, message: impl Into<String>) {
        let problem = self.problem(place.offset, place.key.clone(), message.into());
        self.warnings.push(problem);
    }

    fn problem(&self, offset: usize, key: String, message: String) -> Problem {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Problem { line, column, key, message }
    }

    /// Problems, and warnings.
    pub fn into_sorted(self) -> (Vec<Problem>, Vec<Problem>) {
        let sorted = |mut list: Vec<Problem>| {
            list.sort();
            list.dedup();
            list
        };
        (sorted(self.list), sorted(self.warnings))
    }
}

/// Whether a name stands anywhere in the text.
pub fn mentions(text: &str, name: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name)
}

/// A table whose keys are taken out one after the other; what is left at the end is unknown.
pub struct Section<'i> {
    /// Dotted name; empty for the document.
    name: String,
    /// Where it begins, for what is missing in it.
    pub offset: usize,
    pub present: bool,
    entries: DeTable<'i>,
    asked: Vec<&'static str>,
}

impl<'i> Section<'i> {
    /// The whole document. What is broken is reported, what can be read of the rest is read.
    pub fn document(text: &'i str, problems: &mut Problems<'_>) -> Section<'i> {
        let (table, errors) = DeTable::parse_recoverable(text);
        problems.broken = !errors.is_empty();
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            problems.add(
                offset,
                "",
                format!("{}; write TOML, as `key = \"value\"`", error.message().replace('\n', ", ")),
            );
        }
        Section { name: String::new(), offset: 0, present: true, entries: table.into_inner(), asked: Vec::new() }
    }

    /// The table below `key`, an empty one where there is none.
    pub fn section(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Section<'i> {
        self.asked.push(key);
        let name = self.dotted(key);
        let absent = |name: String| Section {
            name,
            offset: self.offset,
            present: false,
            entries: DeTable::new(),
            asked: Vec::new(),
        };
        let Some((found, value)) = self.entries.remove_entry(key) else { return absent(name) };
        let offset = found.span().start;
        match value.into_inner() {
            DeValue::Table(entries) => Section { name, offset, present: true, entries, asked: Vec::new() },
            other => {
                problems.add(offset, name.clone(), format!("is {}; write a table, as [{name}]", kind(&other)));
                absent(name)
            }
        }
    }

    /// The tables of `[[key]]`, in their order.
    pub fn sections(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Vec<Section<'i>> {
        self.asked.push(key);
        let name = self.dotted(key);
        let Some((found, value)) = self.entries.remove_entry(key) else { return Vec::new() };
        let right = format!("write tables, each as [[{name}]]");
        let DeValue::Array(elements) = value.into_inner() else {
            problems.add(found.span().start, name, format!("is no list; {right}"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for element in elements {
            let offset = element.span().start;
            match element.into_inner() {
                DeValue::Table(entries) => {
                    sections.push(Section { name: name.clone(), offset, present: true, entries, asked: Vec::new() });
                }
                other => problems.add(offset, name.clone(), format!("is {}; {right}", kind(&other))),
            }
        }
        sections
    }

    /// The tables below `key`, each with its own name.
    pub fn named(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Vec<(String, Section<'i>)> {
        let below = self.section(key, problems);
        let mut sections = Vec::new();
        for (found, value) in below.entries {
            let (offset, own) = (found.span().start, found.into_inner().into_owned());
            let name = format!("{}.{}", below.name, quotable(&own));
            match value.into_inner() {
                DeValue::Table(entries) => {
                    sections.push((own, Section { name, offset, present: true, entries, asked: Vec::new() }));
                }
                other => problems.add(offset, name.clone(), format!("is {}; write a table, as [{name}]", kind(&other))),
            }
        }
        sections
    }

    /// What `read` makes of `key`; `default` where it is absent or wrong.
    pub fn read<T>(
        &mut self,
        key: &'static str,
        problems: &mut Problems<'_>,
        default: T,
        read: impl FnOnce(&Node<'_, 'i>, &mut Problems<'_>) -> Option<T>,
    ) -> T {
        self.read_placed(key, problems, read).and_then(|(value, _)| value).unwrap_or(default)
    }

    /// The same, with its place: `None` where it is absent, `Some((None, _))` where it is wrong.
    pub fn read_placed<T>(
        &mut self,
        key: &'static str,
        problems: &mut Problems<'_>,
        read: impl FnOnce(&Node<'_, 'i>, &mut Problems<'_>) -> Option<T>,
    ) -> Option<(Option<T>, Place)> {
        self.asked.push(key);
        let (found, value) = self.entries.remove_entry(key)?;
        let place = Place { offset: found.span().start, key: self.dotted(key) };
        let value = read(&Node { key: place.key.clone(), value: &value }, problems);
        Some((value, place))
    }

    /// Where a key that is not there would be missed.
    pub fn place(&self, key: &str) -> Place {
        Place { offset: self.offset, key: self.dotted(key) }
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self, problems: &mut Problems<'_>) {
        for key in self.entries.keys() {
            let name = self.dotted(quotable(key.get_ref()).as_str());
            let right = match nearest(key.get_ref(), &self.asked) {
                Some(near) => format!("did you mean `{near}`"),
                None => format!("known here: {}", self.asked.join(", ")),
            };
            problems.add(key.span().start, name, format!("unknown key; {right}"));
        }
    }

    fn dotted(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

/// One value with the name of its key. Each reader gives `None` after it has reported what is wrong.
pub struct Node<'a, 'i> {
    pub key: String,
    pub value: &'a Spanned<DeValue<'i>>,
}

impl<'a, 'i> Node<'a, 'i> {
    pub fn place(&self) -> Place {
        Place { offset: self.value.span().start, key: self.key.clone() }
    }

    pub fn wrong<T>(&self, problems: &mut Problems<'_>, message: impl Into<String>) -> Option<T> {
        problems.add(self.value.span().start, self.key.clone(), message);
        None
    }

    pub fn text(&self, problems: &mut Problems<'_>) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) if text.is_empty() => {
                self.wrong(problems, "is empty; write something or leave it out")
            }
            DeValue::String(text) if text.chars().any(char::is_control) => {
                self.wrong(problems, "has a control character; write plain text")
            }
            DeValue::String(text) => Some(text),
            other => self.wrong(problems, format!("is {}; write a string in quotes", kind(other))),
        }
    }

    pub fn string(&self, problems: &mut Problems<'_>) -> Option<String> {
        self.text(problems).map(str::to_owned)
    }

    /// An absolute path.
    pub fn path(&self, problems: &mut Problems<'_>) -> Option<PathBuf> {
        let text = self.text(problems)?;
        if text.starts_with('/') {
            return Some(PathBuf::from(text));
        }
        self.wrong(problems, format!("`{text}` is no absolute path; write it from the root, as /etc/edge/…"))
    }

    pub fn flag(&self, problems: &mut Problems<'_>) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            other => self.wrong(problems, format!("is {}; write true or false", kind(other))),
        }
    }

    pub fn number(&self, problems: &mut Problems<'_>, allowed: RangeInclusive<u32>) -> Option<u32> {
        let right = format!("write a whole number from {} to {}", allowed.start(), allowed.end());
        let DeValue::Integer(integer) = self.value.get_ref() else {
            return self.wrong(problems, format!("is {}; {right}", kind(self.value.get_ref())));
        };
        match i128::from_str_radix(integer.as_str(), integer.radix()).ok().and_then(|number| u32::try_from(number).ok())
        {
            Some(number) if allowed.contains(&number) => Some(number),
            _ => self.wrong(problems, format!("{integer} is out of range; {right}")),
        }
    }

    pub fn duration(&self, problems: &mut Problems<'_>, allowed: RangeInclusive<Duration>) -> Option<Duration> {
        let parsed = match duration::parse(self.text(problems)?) {
            Ok(parsed) => parsed,
            Err(message) => return self.wrong(problems, message),
        };
        if allowed.contains(&parsed) {
            return Some(parsed);
        }
        let [low, high] = [allowed.start(), allowed.end()].map(|bound| duration::text(*bound));
        self.wrong(problems, format!("{} is out of range; write from {low} to {high}", duration::text(parsed)))
    }

    /// One word of a closed list.
    pub fn choice<T: Copy>(&self, problems: &mut Problems<'_>, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(problems)?;
        let found = words.iter().find(|(word, _)| *word == text);
        let known = || words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
        match found {
            Some((_, value)) => Some(*value),
            None => self.wrong(problems, format!("`{text}` is not known; write {}", known())),
        }
    }

    /// Every element; `None` if one of them is wrong.
    pub fn list<T>(
        &self,
        problems: &mut Problems<'_>,
        mut read: impl FnMut(&Node<'_, 'i>, &mut Problems<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let DeValue::Array(elements) = self.value.get_ref() else {
            return self.wrong(problems, format!("is {}; write a list in brackets", kind(self.value.get_ref())));
        };
        let read: Vec<Option<T>> =
            elements.iter().map(|value| read(&Node { key: self.key.clone(), value }, problems)).collect();
        read.into_iter().collect()
    }

    /// Every element as what `FromStr` makes of it.
    pub fn parsed<T: std::str::FromStr<Err: fmt::Display>>(
        &self,
        problems: &mut Problems<'_>,
        right: &str,
    ) -> Option<T> {
        let text = self.text(problems)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => self.wrong(problems, format!("`{text}`: {error}; write {right}")),
        }
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A known key at most two letters away.
fn nearest(typed: &str, known: &[&'static str]) -> Option<&'static str> {
    known.iter().map(|key| (distance(typed, key), *key)).filter(|(far, _)| *far <= 2).min().map(|(_, key)| key)
}

/// Levenshtein's.
pub fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().take(64).enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let cost = (diagonal + usize::from(a != *b)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_one_name_are_read_each_at_its_place() {
        let text = "[x]\n[[x.one]]\na = 1\n[[x.one]]\nb = 2\n[y]\none = [7, {}]\n[z]\none = 7\n";
        let mut problems = Problems::of(text);
        let mut document = Section::document(text, &mut problems);
        for (of, count) in [("x", 2), ("y", 1), ("z", 0)] {
            let mut section = document.section(of, &mut problems);
            let tables = section.sections("one", &mut problems);
            assert_eq!(tables.len(), count, "{of}");
            tables.into_iter().for_each(|table| table.finish(&mut problems));
            section.finish(&mut problems);
        }
        let (found, _) = problems.into_sorted();
        let found: Vec<_> = found.iter().map(|one| (one.line, one.key.as_str())).collect();
        assert_eq!(found, [(3, "x.one.a"), (5, "x.one.b"), (7, "y.one"), (9, "z.one")]);
    }

    #[test]
    fn a_slip_of_the_pen_is_recognised() {
        assert_eq!(nearest("treshold", &["threshold", "window"]), Some("threshold"));
        assert_eq!(nearest("ban_time", &["threshold", "window"]), None);
        assert_eq!(nearest("", &["threshold"]), None);
    }
}
