//! Whatever ends a connection, it is counted off once.

use anyhow::{Context, Result, ensure};
use edge_tests::{
    crowd::Crowd,
    endings::{Ending, MOST, drive},
    net::Lab,
};

use super::{capped, counted, mistakes, nothing_left};

/// In all, unless `EDGE_CONNECTIONS` says another number.
const CONNECTIONS: usize = 100_000;

#[test]
fn every_ending_brings_the_counts_back_to_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let crowd = Crowd::new(&lab, 8)?;
    let edge = capped(&lab, 1_000_000, |_| {})?;
    let before = mistakes(&lab)?;
    let all = std::env::var("EDGE_CONNECTIONS").map_or(Ok(CONNECTIONS), |text| text.parse())?;
    let each = all.div_ceil(Ending::ALL.len());
    let mut seen = 0;
    for ending in Ending::ALL {
        let mut left = each;
        while left > 0 {
            let count = left.min(MOST);
            drive(&lab, &crowd, ending, count, &mut |opened| {
                seen += opened.values().sum::<u64>();
                counted(&edge, &crowd.all(), opened)
            })?;
            nothing_left(&edge, &crowd.all()).with_context(|| format!("after {ending:?}"))?;
            left -= count;
        }
    }
    let after = mistakes(&lab)?;
    ensure!(after == before, "not counted, and mended: {before:?} became {after:?}");
    println!("{all} connections in {} ways; {seen} of them were counted while all were open", Ending::ALL.len());
    Ok(())
}
