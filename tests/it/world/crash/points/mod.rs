//! Crash points: the process dies at a step of a start, an upgrade, a migration, a reload, a trial's end, a change, a restore,
//! a stop, an unload. Packets of who is blocked are on the wire all the time; then the next start is right. A spread of the
//! steps by default, all of them where `EDGE_STEPS` is set.

mod changes;
mod ends;
mod reloads;
mod restores;
mod scene;
mod starts;

use anyhow::{Context, Result, ensure};
use edge_tests::{
    flood::Flood,
    net::HOST_INTERFACE,
    strace::{self, Counts, Step},
    tap::Tap,
};

use self::scene::Scene;
use crate::world::times;

/// What is interrupted.
struct Phase {
    name: &'static str,
    /// At how many of its steps by default.
    steps: usize,
    /// How many of these it has to die at: what it does by itself now and then may come in another order.
    least: usize,
}

const fn phase(name: &'static str, steps: usize, least: usize) -> Phase {
    Phase { name, steps, least }
}

const FIRST_START: Phase = phase("first start", 8, 7);
const START_OVER_PINS: Phase = phase("start over pins", 8, 7);
const START_WITH_SERVER: Phase = phase("start with a server", 6, 5);
const START_WITH_ANOTHER_SIZE: Phase = phase("start with another size", 6, 5);
const MIGRATION: Phase = phase("start over pins and a store of another version", 6, 5);
const RELOAD: Phase = phase("reload", 8, 7);
const TRIAL: Phase = phase("reload on trial", 4, 4);
const KEEP: Phase = phase("reload that is kept", 3, 3);
const REVERT: Phase = phase("revert", 4, 3);
const BLOCK: Phase = phase("block", 4, 4);
const BLOCK_ALONE: Phase = phase("block without an agent", 6, 5);
const IMPORT: Phase = phase("import", 4, 4);
const RESTORE: Phase = phase("restore", 6, 5);
const RESTORE_ASKED: Phase = phase("restore, the command", 8, 8);
const RESTORE_ALONE: Phase = phase("restore without an agent", 8, 7);
const STOP: Phase = phase("stop", 4, 3);
const UNLOAD: Phase = phase("unload", 5, 4);
const UNLOAD_ALONE: Phase = phase("unload without an agent", 5, 5);

const ALL: [&Phase; 18] = [
    &FIRST_START,
    &START_OVER_PINS,
    &START_WITH_SERVER,
    &START_WITH_ANOTHER_SIZE,
    &MIGRATION,
    &RELOAD,
    &TRIAL,
    &KEEP,
    &REVERT,
    &BLOCK,
    &BLOCK_ALONE,
    &IMPORT,
    &RESTORE,
    &RESTORE_ASKED,
    &RESTORE_ALONE,
    &STOP,
    &UNLOAD,
    &UNLOAD_ALONE,
];

/// Each phase asserts its own share, since each is a process of its own.
const _: () = {
    let (mut index, mut deaths) = (0, 0);
    while index < ALL.len() {
        assert!(ALL[index].least <= ALL[index].steps && ALL[index].least * 10 >= ALL[index].steps * 7);
        deaths += ALL[index].least;
        index += 1;
    }
    assert!(deaths >= 40);
};

/// Takes a spread of the steps that an undisturbed run has, and nearly all of them are its last.
fn at_each_step(
    scene: &mut Scene,
    phase: &Phase,
    mut work: impl FnMut(&mut Scene, Option<&Step>) -> Result<Option<Counts>>,
    mut after: impl FnMut(&mut Scene) -> Result<()>,
) -> Result<()> {
    let mut undisturbed = |scene: &mut Scene| {
        let counts = work(scene, None)?.context("it died undisturbed")?;
        scene.next_start()?;
        Ok::<_, anyhow::Error>(counts)
    };
    // What only one of two has, as a timer's work, need not come again.
    let counts = strace::in_both(&undisturbed(scene)?, &undisturbed(scene)?);
    let all = strace::steps(&counts);
    println!("{}: {} steps: {counts:?}", phase.name, all.len());
    ensure!(all.len() >= phase.steps, "{} has fewer steps than it must die at", phase.name);
    let steps = strace::spread(&all, times("EDGE_STEPS", phase.steps)?);
    let mut missed = Vec::new();
    for step in &steps {
        let told = |scene: &Scene| format!("killed at {step:?}\n{}", scene.edge.log());
        if work(scene, Some(step)).with_context(|| told(scene))?.is_some() {
            missed.push(step);
        }
        after(scene).with_context(|| told(scene))?;
        scene.next_start().with_context(|| told(scene))?;
    }
    let deaths = steps.len() - missed.len();
    println!("{}: died at {deaths} of {} steps", phase.name, steps.len());
    ensure!(deaths * phase.steps >= steps.len() * phase.least, "{} did not die at {missed:?}", phase.name);
    Ok(())
}

/// With packets of the blocked on the wire all the time, none of which may come through.
fn without_a_window(
    scene: &mut Scene,
    phase: &Phase,
    work: impl FnMut(&mut Scene, Option<&Step>) -> Result<Option<Counts>>,
) -> Result<()> {
    without_a_window_but(scene, phase, work, |_| Ok(()))
}

fn without_a_window_but(
    scene: &mut Scene,
    phase: &Phase,
    work: impl FnMut(&mut Scene, Option<&Step>) -> Result<Option<Counts>>,
    mut also: impl FnMut(&mut Scene) -> Result<()>,
) -> Result<()> {
    let trickle = Flood::trickle(scene.lab, &scene.blocked)?;
    let never = Tap::new(scene.lab)?;
    at_each_step(scene, phase, work, |scene| {
        ensure!(scene.lab.host.xdp_program(HOST_INTERFACE)?.is_some(), "the crash detached");
        ensure!(scene.drops()?, "the blocked are let in after the crash");
        let passed = never.any_of(&scene.blocked);
        ensure!(passed.is_empty(), "came through: {passed:?}");
        also(scene)
    })?;
    ensure!(never.any_of(&scene.blocked).is_empty(), "came through: {:?}", never.any_of(&scene.blocked));
    ensure!(trickle.unwanted() > 0);
    never.missed_nothing()
}
