//! Starts: the first, over what an earlier one left, and over what an earlier edge left.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};
use edge_common::names;
use edge_tests::{
    net::{HOST_INTERFACE, Lab},
    run,
    strace::Step,
};
use rusqlite::Connection;

use super::{
    FIRST_START, MIGRATION, START_OVER_PINS, START_WITH_ANOTHER_SIZE, START_WITH_SERVER, at_each_step, scene::Scene,
    without_a_window,
};
use crate::world::{crash::listed, lifecycle::filter_only};

#[test]
fn of_a_first_start() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    let work = |scene: &mut Scene, step: Option<&Step>| {
        scene.edge.cli(&["unload"])?.good()?;
        scene.edge.kill()?;
        ensure!(!scene.drops()?);
        scene.started(step)
    };
    at_each_step(&mut scene, &FIRST_START, work, |scene| {
        // What is attached is attached with all that is blocked.
        let attached = scene.lab.host.xdp_program(HOST_INTERFACE)?.is_some();
        ensure!(scene.drops()? == attached, "attached: {attached}");
        Ok(())
    })?;
    scene.finish()
}

#[test]
fn of_a_start_over_pins() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    without_a_window(&mut scene, &START_OVER_PINS, |scene, step| {
        scene.edge.kill()?;
        scene.started(step)
    })?;
    scene.finish()
}

#[test]
fn of_a_start_with_a_server() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, |_| {})?;
    without_a_window(&mut scene, &START_WITH_SERVER, |scene, step| {
        scene.edge.kill()?;
        scene.started(step)
    })?;
    scene.finish()
}

#[test]
fn of_a_start_with_another_size() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    without_a_window(&mut scene, &START_WITH_ANOTHER_SIZE, |scene, step| {
        scene.edge.kill()?;
        let number = scene.number;
        scene.edge.config.set("filter", "max_blocked", &(1_000 + number).to_string());
        scene.edge.config.set("filter", "max_tracked", &(3_000 * (1 + number % 3)).to_string());
        scene.started(step)
    })?;
    scene.finish()
}

#[test]
fn of_a_start_over_pins_and_a_store_of_another_version() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    // The first layout kept no batches.
    scene.edge.cli(&["unblock", "--all", "--origin", "feed"])?.good()?;
    scene.decided = listed(&scene.edge)?;
    without_a_window(&mut scene, &MIGRATION, |scene, step| {
        scene.edge.kill()?;
        make_former(&scene.edge.path("edge.db"))?;
        // What the program in force reads stays; what another edge finds is of a size that it does not know.
        let pin = scene.lab.generation()?.join(names::SETTINGS);
        std::fs::remove_file(&pin)?;
        let mut make = Command::new("bpftool");
        make.args(["map", "create"]).arg(&pin).args("type array key 4 value 24 entries 1 name OTHER".split(' '));
        run(&mut make, b"")?.good()?;
        scene.started(step)
    })?;
    scene.finish()
}

/// The store as the first edge laid it out.
fn make_former(store: &Path) -> Result<()> {
    let connection = Connection::open(store)?;
    for table in ["batch", "lifted", "seen", "restored"] {
        connection.execute_batch(&format!("DROP TABLE IF EXISTS {table}"))?;
    }
    Ok(connection.pragma_update(None, "user_version", 1)?)
}
