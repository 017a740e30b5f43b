//! Reloads: for good, on trial, kept, and reverted.

use std::cell::Cell;

use anyhow::{Result, ensure};
use edge_tests::{agent::Edge, net::Lab, strace::Step, tap::Tap, wait_for};

use super::{KEEP, RELOAD, REVERT, TRIAL, scene::Scene, without_a_window, without_a_window_but};
use crate::world::{
    SOON,
    crash::{in_step, listed, name},
    lifecycle::filter_only,
};

#[test]
fn of_a_reload() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    without_a_window(&mut scene, &RELOAD, |scene, step| {
        let number = scene.number;
        scene.edge.config.set("filter", "max_blocked", &(1_000 + number).to_string());
        scene.edge.config.set("filter", "fragments", if number.is_multiple_of(2) { "\"drop\"" } else { "\"pass\"" });
        scene.traced(step, |edge| {
            edge.write_config()?;
            edge.cli(&["reload"]).map(drop)
        })
    })?;
    scene.finish()
}

/// What was ever in force and not confirmed is not what the next start goes by.
#[test]
fn of_a_reload_on_trial() -> Result<()> {
    const NAMED: &str = "192.0.2.77";
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, |_| {})?;
    let confirmed = scene.edge.config.clone();
    let answered = Cell::new(false);
    let work = |scene: &mut Scene, step: Option<&Step>| {
        scene.edge.config = confirmed.clone();
        scene.edge.write_config()?;
        scene.edge.cli(&["reload"])?.good()?;
        scene.edge.config.set("filter", "block", &format!("[\"{NAMED}\"]")).set("server", "header_timeout", "\"11s\"");
        scene.traced(step, |edge| {
            edge.write_config()?;
            answered.set(edge.cli(&["reload", "--confirm", "1h"])?.code == 0);
            Ok(())
        })
    };
    let (tap, named) = (Tap::new(&lab)?, NAMED.parse()?);
    without_a_window_but(&mut scene, &TRIAL, work, |scene| {
        tap.forget();
        scene.wire.send(&scene.wire.datagram(named, 0, &[0; 22])?)?;
        scene.drops()?;
        let was_in_force = tap.passed(named).is_none();
        scene.edge.run()?;
        let goes_on = listed(&scene.edge)?.contains_key(&(name(named), "config".to_owned()));
        ensure!(!goes_on || !was_in_force && !answered.get(), "what nobody confirmed is in force after a crash");
        in_step(&scene.edge)?;
        scene.edge.config = confirmed.clone();
        scene.edge.write_config()?;
        scene.edge.cli(&["reload"])?.good().map(drop)
    })?;
    scene.finish()
}

/// What was kept for good is what the next start goes by.
#[test]
fn of_a_reload_that_is_kept() -> Result<()> {
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    let (answered, number) = (Cell::new(false), Cell::new(0u8));
    let named = || format!("192.0.2.{}", number.get());
    let without = |scene: &mut Scene| {
        scene.edge.config.unset("filter", "block");
        scene.edge.write_config()?;
        scene.edge.cli(&["reload"])?.good().map(drop)
    };
    let work = |scene: &mut Scene, step: Option<&Step>| {
        if !scene.edge.is_running()? {
            scene.edge.run()?;
        }
        number.set(number.get() + 1);
        scene.edge.config.set("filter", "block", &format!("[\"{}\"]", named()));
        scene.edge.write_config()?;
        scene.edge.cli(&["reload", "--confirm", "1h"])?.good()?;
        let traced = scene.traced(step, |edge| {
            answered.set(edge.cli(&["reload", "--keep"])?.code == 0);
            Ok(())
        })?;
        if step.is_none() {
            without(scene)?;
        }
        Ok(traced)
    };
    without_a_window_but(&mut scene, &KEEP, work, |scene| {
        scene.edge.run()?;
        let goes_on = listed(&scene.edge)?.contains_key(&(format!("{}/32", named()), "config".to_owned()));
        ensure!(goes_on || !answered.get(), "what was kept is not in force after a crash");
        in_step(&scene.edge)?;
        without(scene)
    })?;
    scene.finish()
}

/// What nobody confirmed is gone, wherever the way back was cut short.
#[test]
fn of_a_revert() -> Result<()> {
    const NAMED: &str = "192.0.2.77";
    let lab = Lab::new()?;
    let mut scene = Scene::new(&lab, filter_only)?;
    let confirmed = scene.edge.config.clone();
    let work = |scene: &mut Scene, step: Option<&Step>| {
        if !scene.edge.is_running()? {
            scene.edge.run()?;
        }
        scene.edge.config.set("filter", "block", &format!("[\"{NAMED}\"]")).set("filter", "max_blocked", "2_000");
        scene.edge.write_config()?;
        let told = |edge: &Edge| edge.log().matches("nobody confirmed it in time").count();
        let before = told(&scene.edge);
        scene.edge.cli(&["reload", "--confirm", "1s"])?.good()?;
        let traced = scene.traced(step, |edge| {
            wait_for("the revert or the end", SOON, || Ok((told(edge) > before || !edge.is_running()?).then_some(())))
        });
        scene.edge.config = confirmed.clone();
        traced
    };
    without_a_window_but(&mut scene, &REVERT, work, |scene| {
        // The file still says what was on trial.
        let mut on_trial = confirmed.clone();
        on_trial.set("filter", "block", &format!("[\"{NAMED}\"]")).set("filter", "max_blocked", "2_000");
        scene.edge.config = on_trial;
        scene.edge.run()?;
        let goes_on = listed(&scene.edge)?.contains_key(&(format!("{NAMED}/32"), "config".to_owned()));
        ensure!(!goes_on, "what nobody confirmed is in force after a crash");
        in_step(&scene.edge)?;
        scene.edge.config = confirmed.clone();
        scene.edge.write_config()?;
        scene.edge.cli(&["reload"])?.good().map(drop)
    })?;
    scene.finish()
}
