//! `edge check`: the config and the files it names, every problem at once, and what is hardly meant on this machine.
//! Opens no port, touches no map.

use super::{
    args::Global,
    ask,
    output::{Complaint, Outcome, checked},
};
use crate::{
    block::Target,
    config::{Config, Overrides, Place, Places},
    datapath,
    enforce::{Protected, Surroundings},
    names,
};

pub fn check(global: &Global) -> Result<Outcome, Complaint> {
    let config = Config::examine(&ask::config_file(global), &Overrides::default(), look)?;
    let warnings: Vec<String> = config.warnings.iter().map(|warning| warning.told(&config.file)).collect();
    let found = match warnings.len() {
        0 => "no problem found".to_owned(),
        1 => "good, with one warning".to_owned(),
        count => format!("good, with {count} warnings"),
    };
    let document = checked(&config.file, &[], &config.warnings);
    Ok(Outcome { warnings, ..Outcome::new(document, format!("{}: {found}", config.file.display())) })
}

fn look(config: &Config, places: &Places) -> Vec<(Place, String)> {
    let protected = Protected::new(Surroundings::read(config, names::found_soon(config), None));
    let blocked = places.filter.block.iter().filter_map(|(target, place)| {
        let why = never_blocked(*target, config, &protected)?;
        Some((place.clone(), format!("{target} is protected and stays served: {why}; take it out")))
    });
    let pins = pins(config).map(|warning| (places.filter.pin_path.clone(), warning));
    let group = group(&config.admin.group).map(|warning| (places.group.clone(), warning));
    blocked.chain(pins).chain(group).collect()
}

fn never_blocked(target: Target, config: &Config, protected: &Protected) -> Option<String> {
    let cover = config.filter.allow.iter().find(|allowed| allowed.net().contains(&target.net()));
    cover.map(|cover| format!("`filter.allow` has {cover}")).or_else(|| protected.why(target))
}

fn pins(config: &Config) -> Option<String> {
    let pin_path = &config.filter.pin_path;
    let on_bpffs = datapath::is_on_bpffs(pin_path).unwrap_or(true);
    (!on_bpffs).then(|| {
        format!("{} is not on a bpffs, so `edge run` cannot pin there; {}", pin_path.display(), datapath::MOUNT_BPFFS)
    })
}

fn group(name: &str) -> Option<String> {
    let known = nix::unistd::Group::from_name(name);
    matches!(known, Ok(None)).then(|| {
        format!("there is no group {name}, so that the admin socket is open to the agent's user alone; groupadd {name}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_makes_of_a_config_is_told_at_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("edge.toml");
        let text = format!(
            "[filter]\ninterfaces = [\"eth0\"]\nallow = [\"192.0.2.0/24\"]\nblock = [\"203.0.113.7\", \"127.0.0.1\", \
             \"192.0.2.7\", \"0.0.0.0/0\"]\npin_path = \"{}\"\n[admin]\ngroup = \"no-such-group-of-edge\"\n",
            directory.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let config = Config::examine(&file, &Overrides::default(), look).unwrap();
        let told: Vec<(usize, usize, &str)> =
            config.warnings.iter().map(|found| (found.line, found.column, found.message.as_str())).collect();
        let expected = [
            (4, 25, "127.0.0.1/32 is protected and stays served: it is loopback"),
            (4, 38, "192.0.2.7/32 is protected and stays served: `filter.allow` has 192.0.2.0/24"),
            (4, 51, "0.0.0.0/0 is wider than /8"),
            (5, 1, &format!("{} is not on a bpffs", directory.path().display())),
            (7, 1, "there is no group no-such-group-of-edge"),
        ];
        assert_eq!(told.len(), expected.len(), "{told:#?}");
        for ((line, column, message), (at_line, at_column, begins)) in told.iter().zip(expected) {
            assert_eq!((*line, *column), (at_line, at_column), "{told:#?}");
            assert!(message.starts_with(begins), "{message}");
        }
    }
}
