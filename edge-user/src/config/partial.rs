//! A config of which a few keys are needed, taken where those are beyond doubt though the rest is not good: who wants to
//! unload or to block in an emergency need not mend the config first.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::{
    Config, ConfigErrors, Overrides, Problem,
    raw::{Problems, distance, mentions},
    validate,
};
use crate::error::Blame;

/// Reads a text. The second is what is wrong with it beside the needed keys; an error holds what puts them in doubt.
/// `needed` are dotted names.
pub fn parse(
    file: &Path,
    text: &str,
    overrides: &Overrides,
    needed: &[&str],
) -> Result<(Config, Vec<Problem>), ConfigErrors> {
    let mut problems = Problems::of(text);
    let (config, _) = validate::config(file, text, overrides, &mut problems);
    let (problems, _) = problems.into_sorted();
    let doubtful = |problem: &&Problem| needed.iter().any(|key| puts_in_doubt(problem, key, text));
    let hindering: Vec<Problem> = problems.iter().filter(doubtful).cloned().collect();
    if hindering.is_empty() {
        Ok((config, problems))
    } else {
        Err(ConfigErrors::new(file.to_owned(), hindering, Blame::Usage))
    }
}

/// Whether a problem may be why a key has the value that it has.
pub fn puts_in_doubt(problem: &Problem, key: &str, text: &str) -> bool {
    let (section, name) = key.split_once('.').unwrap_or(("", key));
    if problem.key.is_empty() {
        let broken_line = text.lines().nth(problem.line.saturating_sub(1)).unwrap_or_default();
        return mentions(broken_line, name) || mentions(text, name) && !is_string(text, section, name);
    }
    // The key itself or its section, also with a slip of the pen.
    distance(&problem.key, if problem.key.contains('.') { key } else { section }) <= 2
}

/// Whether a broken document gives this key as a string all the same: a list may lack what was behind the break.
fn is_string(text: &str, section: &str, name: &str) -> bool {
    let (document, _) = DeTable::parse_recoverable(text);
    let Some(section) = document.get_ref().get(section) else { return false };
    let DeValue::Table(section) = section.get_ref() else { return false };
    section.get(name).is_some_and(|value| matches!(value.get_ref(), DeValue::String(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partial(text: &str) -> Result<(Config, Vec<Problem>), String> {
        let overrides = Overrides { interfaces_optional: true, ..Overrides::default() };
        let needed = ["filter.pin_path", "filter.allow"];
        parse(Path::new("edge.toml"), text, &overrides, &needed).map_err(|errors| errors.to_string())
    }

    #[test]
    fn what_is_wrong_elsewhere_does_not_matter() {
        let pinned = "[filter]\npin_path = \"/sys/fs/bpf/mine\"\n";
        for elsewhere in [
            "max_blocked = true\n",
            "colour = 1\n",
            "[learn]\nwindow = \"soon\"\n",
            "[[route]]\n",
            "[learn\n",
            "x = = 1\n",
        ] {
            let (config, problems) = partial(&format!("{pinned}{elsewhere}")).unwrap();
            assert_eq!(config.filter.pin_path, Path::new("/sys/fs/bpf/mine"), "{elsewhere}");
            assert!(!problems.is_empty(), "{elsewhere}");
        }
        assert!(partial("[learn\n").is_ok(), "what is nowhere named is the default");
        assert!(partial(pinned).unwrap().1.is_empty());
    }

    #[test]
    fn what_puts_a_needed_key_in_doubt_is_told() {
        for doubtful in [
            "[filter]\npin_path = 7\n",
            "[filter]\npin_path = \"relative\"\n",
            "[filter]\npin_pth = \"/sys/fs/bpf/mine\"\n",
            "[fliter]\npin_path = \"/sys/fs/bpf/mine\"\n",
            "filter = 1\n",
            "[filter\npin_path = \"/sys/fs/bpf/mine\"\n",
            "[filter]\npin_path = /sys/fs/bpf/mine\n",
            "[filter]\npin_path = \"/sys/fs/bpf/mine\n",
            "[filter]\nallow = [\"10.0.0.300\"]\n",
            "[filter]\nallow = [\"10.0.0.1\"\nattach = \"auto\"\n",
        ] {
            let told = partial(doubtful).unwrap_err();
            assert!(told.starts_with("edge.toml:"), "{doubtful}: {told}");
        }
    }
}
