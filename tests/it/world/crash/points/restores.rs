//! Restores: blocks and users, of which both are the backup's after the next start, or neither.

use std::cell::Cell;

use anyhow::{Result, ensure};
use edge_tests::{net::Lab, strace::Step};

use super::{Phase, RESTORE, RESTORE_ALONE, RESTORE_ASKED, scene::Scene, without_a_window_but};
use crate::world::crash::{in_step, listed};

/// Who dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    Agent,
    Command,
    CommandAlone,
}

/// Neither is in the backup.
const LATER: &str = "192.0.2.7";
const LATER_USER: &str = "bob";

fn of_a_restore(phase: &Phase, whom: Whom) -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, |_| {})?;
    let file = scene.edge.path("a.backup").display().to_string();
    scene.edge.cli(&["backup", &file])?.good()?;
    let answered = Cell::new(false);
    let work = |scene: &mut Scene, step: Option<&Step>| {
        if !scene.edge.is_running()? {
            scene.edge.run()?;
        }
        scene.edge.cli(&["block", LATER])?.good()?;
        scene.edge.add_user(LATER_USER, "correct horse", &[])?;
        let words = ["restore", &file];
        if whom == Whom::Agent {
            return scene.traced(step, |edge| {
                answered.set(edge.cli(&words)?.code == 0);
                Ok(())
            });
        }
        if whom == Whom::CommandAlone {
            scene.edge.kill()?;
        }
        let (code, counts) = scene.command(step, &words, b"")?;
        answered.set(code == 0);
        Ok(counts)
    };
    without_a_window_but(&mut scene, phase, work, |scene| {
        scene.edge.kill()?;
        scene.edge.run()?;
        let blocked = listed(&scene.edge)?.keys().any(|(address, _)| address == &format!("{LATER}/32"));
        let users = scene.edge.json(&["user", "list"])?.to_string();
        let is_there = users.contains(LATER_USER);
        ensure!(blocked == is_there, "half of a backup: {LATER} is blocked: {blocked}, and users are {users}");
        ensure!(!blocked || !answered.get(), "it was answered with success, and is gone");
        in_step(&scene.edge)?;
        if blocked {
            scene.edge.cli(&["unblock", LATER])?.good()?;
            scene.edge.cli(&["user", "remove", LATER_USER])?.good()?;
        }
        Ok(())
    })?;
    scene.finish()
}

#[test]
fn of_a_restore_by_the_agent() -> Result<()> {
    of_a_restore(&RESTORE, Whom::Agent)
}

#[test]
fn of_a_restore_by_the_command() -> Result<()> {
    of_a_restore(&RESTORE_ASKED, Whom::Command)
}

#[test]
fn of_a_restore_without_an_agent() -> Result<()> {
    of_a_restore(&RESTORE_ALONE, Whom::CommandAlone)
}
