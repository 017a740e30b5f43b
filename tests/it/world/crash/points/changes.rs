//! Commands that block, executed by the agent and without it.

use std::cell::Cell;

use anyhow::{Result, ensure};
use edge_tests::{net::Lab, strace::Step};

use super::{BLOCK, BLOCK_ALONE, IMPORT, Phase, scene::Scene, without_a_window_but};
use crate::world::{
    crash::{in_step, listed},
    lifecycle::filter_only,
};

/// A command that blocks, and how many.
struct Change<'a> {
    command: &'a [&'a str],
    input: &'a str,
    count: usize,
}

/// All of it or nothing, all of it where that was promised; and the next start says the same.
fn of_a_change(phase: &Phase, with_agent: bool, change: &Change<'_>) -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    let others = || vec!["unblock", "--all", "--origin", "crowdsec"];
    let answered = Cell::new(false);
    let work = |scene: &mut Scene, step: Option<&Step>| {
        let counts = if with_agent {
            scene.traced(step, |edge| {
                answered.set(edge.cli_with(change.command, change.input.as_bytes())?.code == 0);
                Ok(())
            })?
        } else {
            scene.edge.kill()?;
            let (code, counts) = scene.command(step, change.command, change.input.as_bytes())?;
            answered.set(code == 0);
            counts
        };
        if step.is_none() {
            scene.edge.cli(&others())?.good()?;
        }
        Ok(counts)
    };
    without_a_window_but(&mut scene, phase, work, |scene| {
        let kept = listed(&scene.edge)?;
        let more = kept.len() - scene.decided.len();
        ensure!(more == change.count || more == 0 && !answered.get(), "{more} more are listed");
        scene.edge.run()?;
        ensure!(listed(&scene.edge)? == kept);
        in_step(&scene.edge)?;
        scene.edge.kill()?;
        scene.edge.cli(&others())?.good().map(drop)
    })?;
    scene.finish()
}

const THREE: Change<'_> = Change {
    command: &["block", "--origin", "crowdsec", "192.0.2.7", "2001:db8:79::7", "192.0.2.16/28"],
    input: "",
    count: 3,
};

#[test]
fn of_a_block() -> Result<()> {
    of_a_change(&BLOCK, true, &THREE)
}

#[test]
fn of_a_block_without_an_agent() -> Result<()> {
    of_a_change(&BLOCK_ALONE, false, &THREE)
}

#[test]
fn of_an_import() -> Result<()> {
    const COUNT: usize = 5_000;
    let list: String = (0..COUNT).map(|number| format!("100.64.{}.{}\n", number / 250, number % 250)).collect();
    let command = ["import", "-", "--origin", "crowdsec", "--for", "1h"];
    of_a_change(&IMPORT, true, &Change { command: &command, input: &list, count: COUNT })
}
