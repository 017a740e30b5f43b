//! Packets through the loaded program (`BPF_PROG_TEST_RUN`), with the reference model beside it: named rows, every cut
//! of them, random ones by the million, and what xdp-filter tests.

mod caps;
mod counts;
mod differential;
mod full;
mod rates;
mod rig;
mod rows;
mod sequences;
mod xdp_filter;

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use edge_tests::model::{Frame, Judgement};

use self::{
    rig::Rig,
    rows::{Row, Stage},
};

#[test]
fn the_model_gives_each_row_what_it_names() -> Result<()> {
    let own: [IpAddr; 2] = [edge_tests::net::HOST4, edge_tests::net::HOST6];
    let mut count = 0;
    for stage in [rows::blocks()?, rows::ports()?, rows::fragments()?, rows::dry_run()?] {
        let mut policy = stage.scene.policy(&own, &[]);
        for row in &stage.rows {
            let judgement = policy.judge(Frame::whole(&row.frame), Default::default());
            named(row, judgement).with_context(|| row.what)?;
        }
        count += stage.rows.len();
    }
    println!("{count} rows");
    ensure!(count >= 150, "{count} rows are too few");
    Ok(())
}

#[test]
fn blocks_and_their_cuts() -> Result<()> {
    hold(&rows::blocks()?)
}

#[test]
fn ports_and_their_cuts() -> Result<()> {
    hold(&rows::ports()?)
}

#[test]
fn fragments_and_their_cuts() -> Result<()> {
    hold(&rows::fragments()?)
}

#[test]
fn a_dry_run_and_its_cuts() -> Result<()> {
    hold(&rows::dry_run()?)
}

/// The kernel gives each row, and each cut of it, what the model does.
fn hold(stage: &Stage) -> Result<()> {
    let mut rig = Rig::start(&stage.scene.setting)?;
    rig.enforce(&stage.scene.blocked, &stage.scene.allowed)?;
    for row in &stage.rows {
        // The kernel hands no frame over that is shorter than an Ethernet header.
        for frame in (14..=row.frame.len()).rev().map(|length| &row.frame[..length]) {
            rig.judge(frame).with_context(|| format!("{}, {} bytes of it", row.what, frame.len()))?;
        }
    }
    rig.hits_agree()?;
    rig.status_agrees()
}

fn named(row: &Row, judgement: Judgement) -> Result<()> {
    let entry = judgement.entry.map(|net| net.to_string());
    let found = (judgement.reason, judgement.family, entry.as_deref());
    let wanted = (row.reason, row.family, row.entry);
    ensure!(found == wanted, "the row says {wanted:?}, the model {found:?}");
    Ok(())
}
