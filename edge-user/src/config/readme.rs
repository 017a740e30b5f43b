//! The README's words about the config, held to what the config is: its examples are good, its reference has the
//! defaults.

use std::path::Path;

use super::{Config, ConfigErrors, Overrides};

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
    assert_eq!(format!("{:#?}", parse(reference).unwrap()), format!("{:#?}", parse(defaults).unwrap()));
}
