//! The house rules that no lint knows: architecture invariants and habits that are visible in the text alone. Each rule
//! looks at one file; comments and literals are taken out first where a rule is about code.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::shell::root;

const PACKAGES: [&str; 5] = ["edge-common", "edge-ebpf", "edge-user", "tests", "xtask"];
const MOST_LINES: usize = 800;

/// A file's path below the top of the repository, its text, and its text without comments and literals.
struct Source<'a> {
    path: &'a str,
    text: &'a str,
    code: String,
}

type Rule = fn(&Source) -> Vec<Fault>;

struct Fault {
    line: usize,
    what: &'static str,
}

const RULES: [Rule; 6] =
    [opens_with_docs, only_datapath_imports_aya, actions_in_main_only, nothing_ignored, safety, length];

pub fn check() -> Result<()> {
    let mut faults = Vec::new();
    for path in sources()? {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(root()).unwrap_or(&path).to_string_lossy().into_owned();
        faults.extend(faults_of(&name, &text));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

fn faults_of(path: &str, text: &str) -> Vec<String> {
    let source = Source { path, text, code: code(text) };
    let faults = RULES.iter().flat_map(|rule| rule(&source));
    faults.map(|fault| format!("{path}:{}: {}", fault.line, fault.what)).collect()
}

fn opens_with_docs(source: &Source) -> Vec<Fault> {
    let opens = source.text.starts_with("//! ");
    if opens { vec![] } else { vec![Fault { line: 1, what: "a file opens with `//!` and what it owns" }] }
}

fn only_datapath_imports_aya(source: &Source) -> Vec<Fault> {
    let allowed: &[&str] = match source.path {
        path if path.starts_with("edge-user/src/datapath") => return vec![],
        "edge-user/build.rs" => &["aya_build"],
        // Loads programs that no agent loads.
        "xtask/src/bench/object.rs" | "xtask/src/bench/xdp/cold.rs" | "xtask/src/bench/accept/ways.rs" => &["aya"],
        path if path.starts_with("edge-ebpf/") => &["aya_ebpf", "aya_log_ebpf"],
        _ => &[],
    };
    let is_aya = |word: &str| word == "aya" || word.starts_with("aya_");
    words(source, |word| is_aya(word) && !allowed.contains(&word), "only edge-user/src/datapath imports aya")
}

fn actions_in_main_only(source: &Source) -> Vec<Fault> {
    // The benchmark's programs are no part of the product.
    let product = source.path.starts_with("edge-") && source.path != "edge-ebpf/src/bench.rs";
    if !product || source.path == "edge-ebpf/src/main.rs" {
        return vec![];
    }
    let is_action = |word: &str| ["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"].contains(&word);
    words(source, is_action, "only edge-ebpf/src/main.rs names XDP actions")
}

fn nothing_ignored(source: &Source) -> Vec<Fault> {
    lines(source, |line| line.contains("#[ignore"), "a test that cannot run is mended or removed, not ignored")
}

fn safety(source: &Source) -> Vec<Fault> {
    let text: Vec<&str> = source.text.lines().collect();
    let is_explained = |line: usize| text[line.saturating_sub(8)..=line].iter().any(|line| line.contains("SAFETY:"));
    let code = source.code.lines().enumerate();
    code.filter(|(_, line)| line.contains("unsafe {") || line.contains("unsafe impl"))
        .filter(|&(line, _)| !is_explained(line.min(text.len().saturating_sub(1))))
        .map(|(line, _)| Fault { line: line + 1, what: "`unsafe` without `// SAFETY:` and the bound that was checked" })
        .collect()
}

fn length(source: &Source) -> Vec<Fault> {
    let too_long = source.text.lines().count() > MOST_LINES;
    if too_long { vec![Fault { line: MOST_LINES + 1, what: "a file of over 800 lines owns too much" }] } else { vec![] }
}

fn words(source: &Source, is_wrong: impl Fn(&str) -> bool, what: &'static str) -> Vec<Fault> {
    let is_separator = |letter: char| !letter.is_alphanumeric() && letter != '_';
    lines(source, |line| line.split(is_separator).any(&is_wrong), what)
}

fn lines(source: &Source, is_wrong: impl Fn(&str) -> bool, what: &'static str) -> Vec<Fault> {
    let code = source.code.lines().enumerate();
    code.filter(|(_, line)| is_wrong(line)).map(|(line, _)| Fault { line: line + 1, what }).collect()
}

fn sources() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories: Vec<PathBuf> = PACKAGES.iter().map(|package| root().join(package)).collect();
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension() == Some("rs".as_ref()) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The text with comments, strings and character literals left out, line for line.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = skip(rest, code.chars().next_back());
        let taken = if skipped == 0 { first.len_utf8() } else { skipped };
        let (piece, after) = rest.split_at(taken);
        if skipped == 0 {
            code.push(first);
        } else {
            code.push(' ');
            code.extend(piece.chars().filter(|&letter| letter == '\n'));
        }
        rest = after;
    }
    code
}

/// How long the comment or literal is that `text` begins with; 0 where it begins with code.
fn skip(text: &str, before: Option<char>) -> usize {
    let in_word = before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    if text.starts_with("//") {
        text.find('\n').unwrap_or(text.len())
    } else if text.starts_with("/*") {
        text.find("*/").map_or(text.len(), |end| end + 2)
    } else if text.starts_with('"') {
        quoted(text, '"')
    } else if text.starts_with('\'') {
        character(text)
    } else if text.starts_with('r') && (!in_word || before == Some('b')) {
        raw(text)
    } else {
        0
    }
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if letter == '\\' {
            escaped = true;
        } else if letter == quote {
            return at + 1;
        }
    }
    text.len()
}

/// A character literal, not a lifetime.
fn character(text: &str) -> usize {
    let mut letters = text.chars().skip(1);
    match (letters.next(), letters.next()) {
        (Some('\\'), _) => quoted(text, '\''),
        (Some(letter), Some('\'')) => letter.len_utf8() + 2,
        _ => 0,
    }
}

fn raw(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|&letter| letter == '#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = 2 + hashes;
    text[body..].find(&end).map_or(text.len(), |at| body + at + end.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENING: &str = "//! Owns nothing.\n";

    fn count(path: &str, text: &str) -> usize {
        faults_of(path, &format!("{OPENING}{text}")).len()
    }

    #[test]
    fn code_is_without_comments_and_literals_and_keeps_its_lines() {
        let text = "a // b\nc \"d // \\\" e\" f 'g' '\\'' h<'i> r#\"j \" k\"# l /* m\n n */ o";
        let words: Vec<String> = code(text).split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["a", "c", "f", "h<'i>", "l", "o"]);
        assert_eq!(code(text).lines().count(), text.lines().count());
    }

    #[test]
    fn a_file_opens_with_what_it_owns() {
        assert_eq!(faults_of("xtask/src/a.rs", "fn main() {}").len(), 1);
        assert_eq!(count("xtask/src/a.rs", "fn main() {}"), 0);
    }

    #[test]
    fn only_the_datapath_imports_aya() {
        assert_eq!(count("edge-user/src/agent.rs", "use aya::maps::Map;"), 1);
        assert_eq!(count("edge-user/src/agent.rs", "// aya\nlet a = \"aya\"; let ayah = 1;"), 0);
        assert_eq!(count("edge-user/src/datapath/load.rs", "use aya::maps::Map;"), 0);
        assert_eq!(count("edge-ebpf/src/main.rs", "use aya_ebpf::macros::xdp;"), 0);
        assert_eq!(count("edge-user/src/agent.rs", "use aya_ebpf::macros::xdp;"), 1);
    }

    #[test]
    fn only_the_kernel_sides_main_names_actions() {
        assert_eq!(count("edge-ebpf/src/judge.rs", "return XDP_DROP;"), 1);
        assert_eq!(count("edge-ebpf/src/main.rs", "return XDP_DROP;"), 0);
        assert_eq!(count("tests/it/packet.rs", "assert_eq!(verdict, XDP_DROP);"), 0);
    }

    #[test]
    fn nothing_is_ignored_and_unsafe_is_explained() {
        assert_eq!(count("tests/it/a.rs", "#[ignore]\nfn a() {}"), 1);
        assert_eq!(count("tests/it/a.rs", "#[ignore = \"slow\"]\nfn a() {}"), 1);
        assert_eq!(count("tests/it/a.rs", "fn a() { unsafe { b() } }"), 1);
        assert_eq!(count("tests/it/a.rs", "// SAFETY: b takes nothing.\nfn a() { unsafe { b() } }"), 0);
    }

    #[test]
    fn a_file_ends_at_800_lines() {
        let lines = |count: usize| OPENING.to_owned() + &"\n".repeat(count - 1);
        assert_eq!(faults_of("a.rs", &lines(800)).len(), 0);
        assert_eq!(faults_of("a.rs", &lines(801)).len(), 1);
    }
}
