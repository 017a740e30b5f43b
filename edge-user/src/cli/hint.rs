//! The commands that sentences name, as "`edge list`": with the config that the caller named, so that they mean the same
//! agent.

use std::path::{Path, PathBuf};

use super::{
    args::Global,
    output::{Complaint, Outcome},
};

/// What is printed for people and programs alike, but for the answer itself.
pub fn hinted(global: &Global, outcome: Result<Outcome, Complaint>) -> Result<Outcome, Complaint> {
    // One that a variable names holds for the next command too.
    let is_typed = |file: &&PathBuf| std::env::var_os("EDGE_CONFIG").as_deref() != Some(file.as_os_str());
    let Some(config) = global.config.as_ref().filter(is_typed) else { return outcome };
    match outcome {
        Ok(mut outcome) => {
            outcome.warnings.iter_mut().for_each(|warning| *warning = with_config(warning, config));
            Ok(outcome)
        }
        Err(Complaint::Failure(mut failure)) => {
            failure.message = with_config(&failure.message, config);
            Err(failure.into())
        }
        Err(other) => Err(other),
    }
}

fn with_config(sentence: &str, config: &Path) -> String {
    let parts: Vec<&str> = sentence.split('`').collect();
    // What is between two of them is quoted; one that is left alone quotes nothing.
    let last = parts.len().saturating_sub(1);
    let told = parts.iter().enumerate().map(|(at, part)| {
        let is_command = at % 2 == 1 && at < last && part.starts_with("edge ") && !part.contains("--config");
        if is_command { format!("{part} --config {}", config.display()) } else { (*part).to_owned() }
    });
    told.collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_the_config_and_nothing_else_does() {
        let told = |sentence| with_config(sentence, Path::new("/etc/two.toml"));
        assert_eq!(told("start it with `edge run`"), "start it with `edge run --config /etc/two.toml`");
        assert_eq!(
            told("see `edge check`, or `edge reload --keep`; `filter.block` is `edge "),
            "see `edge check --config /etc/two.toml`, or `edge reload --keep --config /etc/two.toml`; `filter.block` is `edge "
        );
        for as_it_is in ["edge runs", "", "`edges`", "with `edge run --config other.toml`"] {
            assert_eq!(told(as_it_is), as_it_is);
        }
    }
}
