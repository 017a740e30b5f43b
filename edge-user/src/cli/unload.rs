//! `edge unload`: takes everything out of the kernel, agent running or not.

use std::{
    fs, io,
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::Path,
};

use serde_json::json;

use super::{
    args::Global,
    ask,
    output::{Complaint, Outcome},
};
use crate::{
    control::protocol::{Command, Reply},
    datapath::Unloaded,
};

pub fn unload(global: &Global) -> Result<Outcome, Complaint> {
    let Reply::Unloaded(what) = ask::agent_or_pins(global, Command::Unload)? else { return Err(ask::mismatched()) };
    if let Ok(socket) = ask::socket(global) {
        remove_dead(&socket);
    }
    Ok(told(&what))
}

/// What an agent that was killed left: nobody listens any more.
fn remove_dead(socket: &Path) {
    let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    // What is no socket refuses too.
    let is_socket = fs::symlink_metadata(socket).is_ok_and(|data| data.file_type().is_socket());
    if is_socket && UnixStream::connect(socket).is_err_and(|error| refused(&error)) {
        let _ = fs::remove_file(socket);
    }
}

fn told(what: &Unloaded) -> Outcome {
    let Unloaded { detached, unpinned } = what;
    let document = json!({"unloaded": true, "detached": detached, "unpinned": unpinned});
    let kept = "the store keeps the blocks, and the next `edge run` enforces them again";
    let text = if *unpinned == 0 { what.told() } else { format!("{}; {kept}", what.told()) };
    Outcome::new(document, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_without_a_listener_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        remove_dead(&path);
        assert!(path.exists());
        drop(listener);
        remove_dead(&path);
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        remove_dead(&path);
        assert!(path.exists());
    }

    #[test]
    fn what_was_done_is_told_and_that_the_blocks_come_back() {
        let done = told(&Unloaded { detached: vec!["eth0".to_owned(), "eth1".to_owned()], unpinned: 23 });
        assert!(done.text.starts_with("detached from eth0, eth1, 23 pins removed; the store keeps"), "{}", done.text);
        assert_eq!(done.json, json!({"unloaded": true, "detached": ["eth0", "eth1"], "unpinned": 23}));
        assert_eq!(told(&Unloaded::default()).text, "nothing of edge was attached or pinned");
    }
}
