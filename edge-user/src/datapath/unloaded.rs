//! What an unload takes away, looked up before it is gone.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::link::pinned_links;
use crate::netlink;

/// Nothing, where nothing of edge was there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unloaded {
    /// Interfaces that are filtered no more.
    pub detached: Vec<String>,
    /// How many maps, programs and links were pinned.
    pub unpinned: u64,
}

impl Unloaded {
    pub(super) fn below(pin_path: &Path) -> Unloaded {
        let links = netlink::links().unwrap_or_default();
        let name = |index: u32| {
            let known = links.iter().find(|link| link.index == index);
            // An interface that is gone has taken its link along, only the pin is left.
            known.map(|link| link.name.clone())
        };
        let mut detached: Vec<String> =
            pinned_links(pin_path).into_iter().filter_map(|(index, _)| name(index)).collect();
        detached.sort();
        Unloaded { detached, unpinned: files(pin_path) }
    }

    /// In one line: `detached from eth0, 23 pins removed`.
    pub fn told(&self) -> String {
        let Unloaded { detached, unpinned } = self;
        match (detached.as_slice(), *unpinned) {
            ([], 0) => "nothing of edge was attached or pinned".to_owned(),
            ([], pins) => format!("attached nowhere, {pins} pins removed"),
            (names, pins) => format!("detached from {}, {pins} pins removed", names.join(", ")),
        }
    }
}

fn files(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let count = |entry: fs::DirEntry| {
        let path = entry.path();
        if path.is_dir() { files(&path) } else { 1 }
    };
    entries.filter_map(Result::ok).map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_counted_wherever_they_lie_and_an_interface_that_is_gone_is_not_named() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Unloaded::below(&directory.path().join("none")), Unloaded::default());
        fs::create_dir(directory.path().join("gen-1")).unwrap();
        for pin in ["link-1", "link-4294967295", "gen-1/BLOCKED4", "gen-1/program"] {
            fs::write(directory.path().join(pin), "").unwrap();
        }
        let found = Unloaded::below(directory.path());
        assert_eq!(found, Unloaded { detached: vec!["lo".to_owned()], unpinned: 4 });
        assert_eq!(found.told(), "detached from lo, 4 pins removed");
        assert_eq!(Unloaded::default().told(), "nothing of edge was attached or pinned");
    }
}
