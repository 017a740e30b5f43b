//! `bench accept`: connections a second through accept, over a filtered veth pair, with a cap on connections and without.
//! Beside it the counting alone, as built and in the other way that was weighed, and what the kernel says of the time in
//! each program.

mod traffic;
mod ways;

use std::time::Duration;

use anyhow::{Result, bail};
use edge_tests::{net::Lab, wait_for};
use serde_json::{Value, json};

use self::{
    traffic::{Took, Traffic},
    ways::{NOTHING, Ran, Way, Ways, between, measured},
};
use super::{Outcome, quantile};

const ROUNDS: usize = 15;
/// Of each client and ending in a round.
const EACH: usize = 1_200;
/// After a change of the way.
const WARM_UP: usize = 40;
/// The least of connections a second without a cap that there are to be with one.
const GOAL: f64 = 0.98;
/// How often a round is begun again because another agent began or ended to count.
const ATTEMPTS: usize = 10;

const TIMED: [(Way, &str); 4] = [
    (Way::Off, "no cap"),
    (Way::Capped, "capped"),
    (Way::SockOps, "counted alone"),
    (Way::Tracepoint, "counted alone, off by tracepoint"),
];

const WEIGHED: [(Way, &str); 5] = [
    (Way::Off, "no cap"),
    (Way::Capped, "capped"),
    (Way::SockOps, "counted alone"),
    (Way::Tracepoint, "counted alone, off by tracepoint"),
    (Way::Nothing, "the same places, doing nothing"),
];

/// Rounds of one way.
#[derive(Default)]
struct Times {
    rates: Vec<f64>,
    cpu_us: Vec<f64>,
    /// The most agents beside this one that counted at once.
    others: usize,
}

pub fn measure() -> Result<Outcome> {
    let lab = Lab::new()?;
    let traffic = Traffic::new(&lab)?;
    let mut ways = Ways::new(&lab)?;
    let times = rounds(&traffic, &mut ways)?;
    let weights = WEIGHED.iter().map(|(way, name)| Ok((*name, weigh(&traffic, &mut ways, *way)?)));
    let weights = weights.collect::<Result<Vec<_>>>()?;
    Ok(outcome(&times, &weights))
}

/// The ways take turns, each round in the other order.
fn rounds(traffic: &Traffic<'_>, ways: &mut Ways<'_>) -> Result<[Times; TIMED.len()]> {
    let mut times: [Times; TIMED.len()] = Default::default();
    for round in 0..ROUNDS {
        for turn in 0..TIMED.len() {
            let index = if round % 2 == 0 { turn } else { TIMED.len() - 1 - turn };
            let (took, others) = steady(traffic, ways, TIMED[index].0)?;
            let connections = Traffic::connections(EACH) as f64;
            times[index].others = times[index].others.max(others);
            times[index].rates.push(connections / took.seconds);
            times[index].cpu_us.push(took.cpu_seconds * 1e6 / connections);
        }
    }
    Ok(times)
}

/// A round in which as many others counted connections from its beginning to its end.
fn steady(traffic: &Traffic<'_>, ways: &mut Ways<'_>, way: Way) -> Result<(Took, usize)> {
    for _ in 0..ATTEMPTS {
        ways.enter(way)?;
        traffic.drive(WARM_UP)?;
        let others = ways.others();
        let took = traffic.drive(EACH)?;
        if ways.others() == others {
            // The kernel ends a connection a little after both of its ends were closed.
            let none = || Ok((ways.counted(&traffic.clients)? == 0).then_some(()));
            wait_for("no connection to be counted", Duration::from_secs(10), none)?;
            return Ok((took, others.len()));
        }
    }
    bail!("other agents on this machine begin and end to count connections again and again")
}

/// The time in each program for a connection.
fn weigh(traffic: &Traffic<'_>, ways: &mut Ways<'_>, way: Way) -> Result<Vec<Ran>> {
    ways.enter(way)?;
    measured(|| {
        traffic.drive(WARM_UP)?;
        let before = ways.ran()?;
        traffic.drive(EACH)?;
        Ok(between(&before, ways.ran()?))
    })
}

fn outcome(times: &[Times], weights: &[(&str, Vec<Ran>)]) -> Outcome {
    let connections = Traffic::connections(EACH);
    let mut lines = vec![
        format!("accept: connections a second, median of {ROUNDS} alternating rounds of {connections}"),
        format!("{:34}{:>10}{:>10}{:>14}{:>10}{:>8}", "", "a second", "ratio", "CPU for one", "ratio", "goal"),
    ];
    let mut rows = Vec::new();
    for ((way, name), of) in TIMED.iter().zip(times) {
        let goal = (*way == Way::Capped).then_some(GOAL);
        let (rate, cpu_us) = (quantile(&of.rates, 0.5), quantile(&of.cpu_us, 0.5));
        let (ratio, cpu_ratio) = (ratio(&of.rates, &times[0].rates), ratio(&of.cpu_us, &times[0].cpu_us));
        let goal_text = goal.map_or_else(String::new, |goal| goal.to_string());
        lines.push(format!("{name:34}{rate:>10.0}{ratio:>10.3}{cpu_us:>11.2} us{cpu_ratio:>10.3}{goal_text:>8}"));
        rows.push(json!({
            "way": name, "per_second": rate, "ratio": ratio, "cpu_us": cpu_us, "cpu_ratio": cpu_ratio, "goal": goal,
        }));
    }
    lines.push("the kernel's programs for a connection, ns (times run), both of its ends on this machine".to_owned());
    let mut programs = Vec::new();
    for (name, ran) in weights {
        let of_one = |number: u64| number as f64 / connections as f64;
        let told = |ran: &Ran| format!("{} {:.0} ({:.1})", ran.name, of_one(ran.ns), of_one(ran.runs));
        let all: f64 = ran.iter().map(|ran| of_one(ran.ns)).sum();
        lines.push(format!("{name:34}{all:>10.0}   {}", ran.iter().map(told).collect::<Vec<_>>().join(", ")));
        let of = |ran: &Ran| json!({ "program": ran.name, "ns": of_one(ran.ns), "runs": of_one(ran.runs) });
        programs.push(json!({ "way": name, "ns": all, "programs": ran.iter().map(of).collect::<Vec<Value>>() }));
    }
    let more_us =
        (beyond_measuring(weights, Way::Capped) - beyond_measuring(weights, Way::Off)) / 1e3 / connections as f64;
    let without_us = quantile(&times[0].cpu_us, 0.5);
    let share = without_us / (without_us + more_us);
    lines.push(format!(
        "by these a cap adds {more_us:.2} us to {without_us:.2} for a connection, which leaves {share:.3} of them a second"
    ));
    let others = times.iter().map(|of| of.others).max().unwrap_or_default();
    if others > 0 {
        lines.push(format!("measured beside up to {others} other agents with a cap, which count here too"));
    }
    let json = json!({ "others": others, "rounds": ROUNDS, "connections": connections, "rows": rows, "programs": programs, "programs_ratio": share });
    Outcome { text: lines.join("\n"), json }
}

/// What the programs of a way took for all connections, in ns, but for what measuring a run of one that does nothing takes.
fn beyond_measuring(weights: &[(&str, Vec<Ran>)], way: Way) -> f64 {
    let of = |way| WEIGHED.iter().zip(weights).filter(move |((one, _), _)| *one == way).flat_map(|(_, (_, ran))| ran);
    let nothing = of(Way::Nothing).find(|ran| ran.name == NOTHING);
    let measuring = nothing.map_or(0.0, |ran| ran.ns as f64 / ran.runs.max(1) as f64);
    of(way).map(|ran| ran.ns as f64 - ran.runs as f64 * measuring).sum()
}

/// The median of what each round had to what the same round had without a cap.
fn ratio(of: &[f64], off: &[f64]) -> f64 {
    let ratios: Vec<f64> = of.iter().zip(off).map(|(of, off)| of / off).collect();
    quantile(&ratios, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_rounds() {
        assert_eq!(ratio(&[1.0, 4.0, 9.0], &[2.0, 4.0, 9.0]), 1.0);
        assert_eq!(ratio(&[], &[]), 0.0);
    }

    #[test]
    fn measuring_is_taken_off() {
        let ran = |name: &str, runs, ns| vec![Ran { name: name.to_owned(), id: 1, runs, ns }];
        let empty = || ("", Vec::new());
        let weights =
            [("", ran("edge", 1, 60)), ("", ran("edge_count", 2, 250)), empty(), empty(), ("", ran(NOTHING, 4, 200))];
        assert_eq!(beyond_measuring(&weights, Way::Off), 10.0);
        assert_eq!(beyond_measuring(&weights, Way::Capped), 150.0);
        assert_eq!(beyond_measuring(&weights, Way::Tracepoint), 0.0);
    }

    #[test]
    fn the_ways_are_weighed_against_none() {
        assert_eq!(TIMED[0].0, Way::Off);
    }
}
