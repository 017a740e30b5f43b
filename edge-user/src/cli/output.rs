//! What a command gives back and how it is printed: aligned text with relative times for people, one JSON document
//! for programs, and the exit code.

use std::{
    io::{self, Write},
    path::Path,
};

use serde_json::{Value, json};

use super::args::Format;
use crate::{
    clock::Wall,
    config::{ConfigErrors, Problem},
    error::{Blame, Failure},
    lists::{Fault, Faults},
    printable::printable,
};

/// A command that did what it does, even if the answer is no.
#[derive(Debug)]
pub struct Outcome {
    pub json: Value,
    /// Whether the command has printed its answer itself, as it does where that is long.
    pub printed: bool,
    /// Without a newline at its end; empty: nothing is printed.
    pub text: String,
    /// Sentences for standard error; the document has them too.
    pub warnings: Vec<String>,
    pub exit_code: u8,
}

impl Outcome {
    pub fn new(json: Value, text: String) -> Outcome {
        Outcome { json, printed: false, text, warnings: Vec::new(), exit_code: 0 }
    }

    pub fn printed() -> Outcome {
        Outcome { printed: true, ..Outcome::new(Value::Null, String::new()) }
    }
}

/// A command that did not.
#[derive(Debug)]
pub enum Complaint {
    Failure(Failure),
    Config(ConfigErrors),
    List(WrongList),
}

/// A list with lines that are wrong, and the file's name.
#[derive(Debug)]
pub struct WrongList {
    pub file: String,
    pub faults: Faults,
}

impl WrongList {
    fn message(&self) -> String {
        let WrongList { file, faults } = self;
        match faults.count {
            1 => format!("a line of {file} is wrong, so nothing was changed"),
            count => format!("{count} lines of {file} are wrong, so nothing was changed"),
        }
    }

    fn text(&self) -> String {
        let line = |fault: &Fault| printable(&format!("{}:{}: {}", self.file, fault.line, fault.message));
        let mut lines: Vec<String> = self.faults.named.iter().map(line).collect();
        let more = self.faults.count - self.faults.named.len();
        if more > 0 {
            lines.push(format!("… and {more} more"));
        }
        lines.push(format!("edge: {}", self.message()));
        lines.join("\n")
    }
}

impl From<Failure> for Complaint {
    fn from(failure: Failure) -> Complaint {
        Complaint::Failure(failure)
    }
}

impl From<ConfigErrors> for Complaint {
    fn from(errors: ConfigErrors) -> Complaint {
        Complaint::Config(errors)
    }
}

impl Complaint {
    fn exit_code(&self) -> u8 {
        match self {
            Complaint::Failure(failure) => failure.blame.exit_code(),
            Complaint::Config(errors) => errors.blame.exit_code(),
            Complaint::List(_) => Blame::Usage.exit_code(),
        }
    }

    fn text(&self) -> String {
        match self {
            Complaint::Failure(failure) => format!("edge: {failure}"),
            // Each line begins with its place, as editors and scripts expect.
            Complaint::List(wrong) => wrong.text(),
            Complaint::Config(errors) => {
                let ConfigErrors { file, warnings, .. } = errors;
                let warnings = warnings.iter().map(|warning| format!("\nwarning: {}", printable(&warning.told(file))));
                errors.to_string() + &warnings.collect::<String>()
            }
        }
    }

    fn json(&self) -> Value {
        match self {
            Complaint::Failure(Failure { blame, message }) => json!({"error": {"blame": blame, "message": message}}),
            Complaint::List(wrong) => {
                let problem = |fault: &Fault| json!({"file": wrong.file, "line": fault.line, "message": fault.message});
                let problems: Vec<Value> = wrong.faults.named.iter().map(problem).collect();
                json!({
                    "error": {"blame": Blame::Usage, "message": wrong.message()},
                    "problems": problems, "problems_total": wrong.faults.count,
                })
            }
            // As `edge check` has it where nothing is wrong, and the error.
            Complaint::Config(errors) => {
                let ConfigErrors { file, problems, warnings, blame } = errors;
                let mut document = checked(file, problems, warnings);
                document["error"] = json!({"blame": blame, "message": errors.to_string()});
                document
            }
        }
    }
}

/// What is known of a config, good or not.
pub fn checked(file: &Path, problems: &[Problem], warnings: &[Problem]) -> Value {
    let list = |list: &[Problem]| -> Vec<Value> {
        let one = |Problem { line, column, key, message }: &Problem| json!({"file": file, "line": line, "column": column, "key": key, "message": message});
        list.iter().map(one).collect()
    };
    json!({"ok": problems.is_empty(), "file": file, "problems": list(problems), "warnings": list(warnings)})
}

/// Prints and gives the exit code.
pub fn print(format: Format, outcome: Result<Outcome, Complaint>) -> u8 {
    match (format, outcome) {
        (_, Ok(outcome)) if outcome.printed => outcome.exit_code,
        (Format::Json, Ok(outcome)) => to_stdout(&outcome.json.to_string(), outcome.exit_code),
        (Format::Json, Err(complaint)) => to_stdout(&complaint.json().to_string(), complaint.exit_code()),
        (Format::Text, Ok(outcome)) => {
            outcome.warnings.iter().for_each(|warning| to_stderr(&format!("warning: {}", printable(warning))));
            to_stdout(&outcome.text, outcome.exit_code)
        }
        (Format::Text, Err(complaint)) => {
            to_stderr(&complaint.text());
            complaint.exit_code()
        }
    }
}

/// What becomes of a command that printed its answer itself: a reader who has seen enough is no failure, anything else
/// leaves an answer that is cut short. `what` it was begins the sentence.
pub fn whole(what: &str, printed: io::Result<()>) -> Result<Outcome, Complaint> {
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::system(format!("{what} cannot be shown whole: {error}")).into())
        }
        _ => Ok(Outcome::printed()),
    }
}

/// Gives the exit code; `code` is that of an answer that arrives.
fn to_stdout(text: &str, code: u8) -> u8 {
    let mut out = io::stdout().lock();
    let printed = if text.is_empty() { Ok(()) } else { writeln!(out, "{text}").and_then(|()| out.flush()) };
    match whole("the answer", printed) {
        Ok(_) => code,
        Err(complaint) => {
            to_stderr(&complaint.text());
            code.max(complaint.exit_code())
        }
    }
}

fn to_stderr(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// As [`write_table`], without the last newline.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = Vec::new();
    // Memory takes everything.
    drop(write_table(&mut text, header, rows.iter().cloned()));
    String::from_utf8_lossy(&text).trim_end_matches('\n').to_owned()
}

/// Columns as wide as their widest cell; the last one is not padded. The rows are made twice, since a long table would fill
/// the memory.
pub fn write_table(
    out: &mut impl Write,
    header: &[&str],
    rows: impl Iterator<Item = Vec<String>> + Clone,
) -> io::Result<()> {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows.clone() {
        for (width, cell) in widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    writeln!(out, "{}", line(&mut header.iter().copied()))?;
    rows.into_iter().try_for_each(|row| writeln!(out, "{}", line(&mut row.iter().map(String::as_str))))
}

/// `NAME  value`, the values aligned.
pub fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = rows.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect();
    lines.join("\n")
}

/// `in 14 min`, `3 h ago`.
pub fn relative(time: Wall, now: Wall) -> String {
    let milliseconds = time.0.saturating_sub(now.0);
    let length = length(milliseconds.unsigned_abs() / 1000);
    if milliseconds >= 0 { format!("in {length}") } else { format!("{length} ago") }
}

/// In the largest unit of which there are at least two, to the nearest.
pub fn length(seconds: u64) -> String {
    let nearest = |unit: u64| (seconds + unit / 2) / unit;
    if seconds < 120 {
        format!("{seconds} s")
    } else if nearest(60) < 120 {
        format!("{} min", nearest(60))
    } else if nearest(3_600) < 48 {
        format!("{} h", nearest(3_600))
    } else {
        format!("{} days", nearest(86_400))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, Overrides},
        error::Blame,
    };

    #[test]
    fn a_table_is_aligned() {
        let rows = [vec!["203.0.113.7/32".to_owned(), "x".to_owned()], vec!["::1/128".to_owned(), "yz".to_owned()]];
        let expected = "ADDRESS         WHY\n203.0.113.7/32  x\n::1/128         yz";
        assert_eq!(table(&["ADDRESS", "WHY"], &rows), expected);
    }

    #[test]
    fn times_are_relative() {
        let now = Wall(1_000_000_000);
        let at = |seconds: i64| relative(Wall(now.0 + seconds * 1000), now);
        assert_eq!(at(90), "in 90 s");
        assert_eq!(at(900), "in 15 min");
        assert_eq!(at(-14_400), "4 h ago");
        assert_eq!(at(604_800), "in 7 days");
        assert_eq!(at(14_399), "in 4 h");
        assert_eq!(at(86_399), "in 24 h");
        assert_eq!(at(172_799), "in 2 days");
    }

    #[test]
    fn each_blame_has_its_exit_code_and_its_document() {
        for (blame, code, name) in [
            (Blame::Refused, 1, "refused"),
            (Blame::System, 1, "system"),
            (Blame::Bug, 1, "bug"),
            (Blame::Usage, 2, "usage"),
            (Blame::Unreachable, 3, "unreachable"),
            (Blame::Forbidden, 4, "forbidden"),
        ] {
            let complaint = Complaint::from(Failure::new(blame, "so it is"));
            assert_eq!(complaint.exit_code(), code);
            assert_eq!(complaint.json(), json!({"error": {"blame": name, "message": "so it is"}}));
        }
        let errors = Config::parse("e.toml".as_ref(), "x = 1", &Overrides::default()).unwrap_err();
        let complaint = Complaint::from(errors);
        assert_eq!(complaint.exit_code(), 2);
        let document = complaint.json();
        assert_eq!((&document["ok"], &document["error"]["blame"]), (&json!(false), &json!("usage")));
        assert_eq!((&document["problems"][1]["key"], &document["warnings"]), (&json!("x"), &json!([])));
        assert!(complaint.text().starts_with("e.toml:1:1: "));
    }
}
