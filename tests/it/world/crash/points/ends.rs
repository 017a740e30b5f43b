//! The ends: a stop, after which all stays in force, and an unload, after which nothing does.

use anyhow::Result;
use edge_tests::{bpf::Loaded, net::Lab, strace::Step, wait_for};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{STOP, UNLOAD, UNLOAD_ALONE, at_each_step, scene::Scene, without_a_window};
use crate::world::{SOON, lifecycle::filter_only};

#[test]
fn of_a_stop() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, |_| {})?;
    without_a_window(&mut scene, &STOP, |scene, step| {
        scene.traced(step, |edge| {
            kill(Pid::from_raw(edge.pid()?.try_into()?), Signal::SIGTERM)?;
            wait_for("the end", SOON, || Ok((!edge.is_running()?).then_some(())))
        })
    })?;
    scene.finish()
}

#[test]
fn of_an_unload() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    let with_agent =
        |scene: &mut Scene, step: Option<&Step>| scene.traced(step, |edge| edge.cli(&["unload"]).map(drop));
    at_each_step(&mut scene, &UNLOAD, with_agent, |scene| scene.drops().map(drop))?;
    // Without an agent, and once more where it was cut short.
    let alone = |scene: &mut Scene, step: Option<&Step>| {
        scene.edge.kill()?;
        scene.loaded = Loaded::below(&scene.lab.pin_path())?;
        Ok(scene.command(step, &["unload"], b"")?.1)
    };
    at_each_step(&mut scene, &UNLOAD_ALONE, alone, |scene| {
        scene.drops()?;
        scene.edge.cli(&["unload"])?.good()?;
        scene.nothing_left()
    })?;
    scene.finish()
}
