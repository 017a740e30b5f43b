//! How jiffies become boot time on this kernel: the length of a tick and the offset, measured.

use std::time::Duration;

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use edge_common::time::{ClockSample, Jiffies};

use super::mapping::Mapping;
use crate::error::{Blame, Context, Failure};

/// Lengths of a tick that Linux can be configured for (CONFIG_HZ of 100, 250, 300, 1000, and 1024 on Alpha's heirs).
const TICKS_NS: [u64; 5] = [10_000_000, 4_000_000, 3_333_333, 1_000_000, 976_562];
/// Long enough to tell 250 from 300 a second though each end is a tick uncertain.
const APART: Duration = Duration::from_millis(100);

pub fn measure(program: &mut Xdp, clock: &Mapping) -> Result<Jiffies, Failure> {
    let first = sample(program, clock)?;
    std::thread::sleep(APART);
    let second = sample(program, clock)?;
    let tick_ns = nearest_tick(first, second);
    Ok(Jiffies { tick_ns, offset_ns: offset_of(second, tick_ns) })
}

/// The offset alone, for a tick that is known.
pub fn offset(program: &mut Xdp, clock: &Mapping, tick_ns: u64) -> Result<u64, Failure> {
    Ok(offset_of(sample(program, clock)?, tick_ns))
}

/// A sample lies up to a tick after the jiffy began; a tick less, and no block ends early.
fn offset_of(sample: ClockSample, tick_ns: u64) -> u64 {
    sample.boot_ns.wrapping_sub(sample.jiffies.wrapping_mul(tick_ns)).wrapping_sub(tick_ns)
}

fn nearest_tick(first: ClockSample, second: ClockSample) -> u64 {
    let ticks = second.jiffies.saturating_sub(first.jiffies).max(1);
    let measured = second.boot_ns.saturating_sub(first.boot_ns) / ticks;
    TICKS_NS.into_iter().min_by_key(|tick| tick.abs_diff(measured)).unwrap_or(measured)
}

fn sample(program: &mut Xdp, clock: &Mapping) -> Result<ClockSample, Failure> {
    let frame = [0u8; 64];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&frame);
    program.test_run(options).blame(Blame::System, || "the kernel's clocks cannot be compared".to_owned())?;
    Ok(ClockSample { jiffies: clock.load(0), boot_ns: clock.load(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_recognised_though_both_samples_are_a_tick_uncertain() {
        for (hz, tick) in [(100u64, 10_000_000u64), (250, 4_000_000), (300, 3_333_333), (1000, 1_000_000)] {
            for error in [-1i64, 0, 1] {
                let ticks = (hz as i64 / 10 + error) as u64;
                let first = ClockSample { jiffies: 4_294_892_296, boot_ns: 5_000 };
                let second = ClockSample { jiffies: first.jiffies + ticks, boot_ns: 5_000 + 100_000_000 };
                assert_eq!(nearest_tick(first, second), tick, "{hz} {error}");
            }
        }
    }
}
