//! The README's words about the config, held to what the config is: its examples are good, its reference has the
//! defaults, and no key is left out.

use std::path::Path;

use super::{Config, ConfigErrors, Overrides, raw::mentions};

const README: &str = include_str!("../../../README.md");

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    let overrides = Overrides { interfaces_optional: true, ..Overrides::default() };
    Config::parse(Path::new("README.md"), text, &overrides)
}

fn examples() -> Vec<&'static str> {
    let blocks = README.split("```toml\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap()).collect()
}

#[test]
fn every_example_is_good_and_the_reference_has_the_defaults() {
    for example in examples() {
        assert_eq!(parse(example).map(|config| config.warnings).map_err(|errors| errors.to_string()), Ok(vec![]));
    }
    let reference = examples().into_iter().find(|example| example.contains("[metrics]")).unwrap();
    let defaults = "[filter]\ninterfaces = [\"auto\"]\n[server]\n";
    let said = |text: &str| format!("{:#?}", Config { text: String::new(), ..parse(text).unwrap() });
    assert_eq!(said(reference), said(defaults));
}

#[test]
fn every_key_is_named() {
    let mut sections = vec![String::new()];
    while let Some(section) = sections.pop() {
        for key in known_in(&section) {
            assert!(mentions(README, &key), "the README does not name `{key}` of [{section}]");
            sections.push(if section.is_empty() { key } else { format!("{section}.{key}") });
        }
    }
}

/// The keys of a table, as the refusal of an unknown one names them; none where it is no table.
fn known_in(section: &str) -> Vec<String> {
    let name = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
    let unknown = "a_key_that_is_nowhere_known";
    let errors = parse(&format!("{name}{unknown} = 1\n")).unwrap_err();
    let refused = errors.problems.into_iter().find(|problem| problem.key.ends_with(unknown));
    let message = refused.map(|problem| problem.message).unwrap_or_default();
    let known = message.split_once("known here: ").map(|(_, known)| known.to_owned()).unwrap_or_default();
    known.split(", ").filter(|key| !key.is_empty()).map(str::to_owned).collect()
}
