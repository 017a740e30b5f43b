//! `edge why`: everything that bears on one address; exit code 0 if its traffic passes, 1 if not.

use edge_common::reason::Reason;
use serde_json::json;

use super::{
    args::{Global, Why as Arguments},
    ask, list,
    output::{Complaint, Outcome, fields, relative},
};
use crate::{
    clock::Wall,
    control::protocol::{Allowance, Command, Connections, Drop, Entry, Rates, Reply, Unfiltered, Why},
    error::Failure,
    printable::printable,
};

pub fn why(global: &Global, arguments: &Arguments) -> Result<Outcome, Complaint> {
    if !arguments.address.is_single() {
        let message = format!("{} is a network; write one address of it", arguments.address);
        return Err(Failure::usage(message).into());
    }
    let command = Command::Why { address: arguments.address.net().addr() };
    let Reply::Why(why) = ask::agent_or_pins(global, command)? else { return Err(ask::mismatched()) };
    let exit_code = if why.verdict == "pass" { 0 } else { 1 };
    Ok(Outcome { exit_code, ..Outcome::new(json!(why), text(&why, Wall::now())) })
}

fn text(why: &Why, now: Wall) -> String {
    let mut rows = vec![("address", verdict(why))];
    rows.extend(why.unfiltered.iter().map(|one| ("NOT FILTERED", passing(one))));
    rows.extend([
        ("allowed", yes(why.allowed).to_owned()),
        ("protected", why.protected.as_deref().map_or_else(|| "no".to_owned(), printable)),
        ("block", why.block.as_ref().map_or_else(|| "none".to_owned(), |entry| block(entry, now))),
    ]);
    let samples: Vec<String> = why.drops.iter().map(|one| sample(one, now)).collect();
    rows.push(("sampled drops", if samples.is_empty() { "none was sampled".to_owned() } else { samples.join("; ") }));
    rows.push(("connections", connections(why.connections)));
    rows.push(("rates", rates(&why.rates)));
    rows.push(("score", format!("{} of {}", why.score, why.threshold)));
    let offences: Vec<String> = why
        .offences
        .iter()
        .map(|offence| {
            let subject = offence.subject.as_deref().map(|name| format!(" as {}", printable(name))).unwrap_or_default();
            format!("{} {}{subject}", relative(offence.time, now), offence.kind)
        })
        .collect();
    rows.push(("evidence", if offences.is_empty() { "none".to_owned() } else { offences.join("; ") }));
    fields(&rows)
}

/// An address of this host sends nothing to it by a wire: what claims to come from it there is forged.
fn verdict(why: &Why) -> String {
    let Why { address, reason, .. } = why;
    let would_drop = ![Reason::Passed, Reason::Allowed].iter().any(|passing| passing.name() == reason);
    match (why.verdict.as_str(), reason == Reason::Malformed.name()) {
        ("pass", _) if would_drop && !why.dry_run => {
            format!("{address} passes, for edge filters no interface now; it would be dropped ({reason})")
        }
        ("pass", _) if why.dry_run => format!("{address} passes, for this is a dry run ({reason})"),
        ("pass", _) => format!("{address} passes ({reason})"),
        (_, true) => format!(
            "{address} is of this host; packets that arrive from a wire with this source are forged, and dropped ({reason})"
        ),
        (_, false) => format!("{address} is dropped ({reason})"),
    }
}

/// Told apart for each interface, since the others filter.
pub(super) fn passing(Unfiltered { name, reason }: &Unfiltered) -> String {
    format!("{}: all that arrives there passes: {}", printable(name), printable(reason))
}

fn connections(Connections { current, cap }: Connections) -> String {
    match cap {
        None => format!("{current}, no cap"),
        Some(cap) if current < cap => format!("{current} of at most {cap}"),
        Some(cap) => format!("{current} of at most {cap}, at its cap"),
    }
}

fn rates(rates: &Rates) -> String {
    let told = |what: &str, of: Option<Allowance>| {
        of.map(|Allowance { per_second, burst, left }| {
            format!("{left} of {burst} {what} left, {per_second} more a second")
        })
    };
    let limited: Vec<String> =
        [told("SYNs", rates.syns), told("packets", rates.packets)].into_iter().flatten().collect();
    if limited.is_empty() { "not limited".to_owned() } else { limited.join("; ") }
}

fn block(entry: &Entry, now: Wall) -> String {
    format!(
        "{} by {}, offence {}, since {} ({}), ends {}, {} packets and {} bytes dropped: {}",
        entry.address,
        entry.origin,
        entry.offence,
        entry.created,
        relative(entry.created, now),
        list::ends(entry, now),
        entry.packets,
        entry.bytes,
        printable(&entry.reason),
    )
}

fn sample(drop: &Drop, now: Wall) -> String {
    let Drop { time, reason, interface, bytes } = drop;
    format!("{} {reason} on {}, {bytes} bytes", relative(*time, now), printable(interface))
}

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Dropped;

    fn why(verdict: &str, reason: Reason) -> Why {
        Why {
            address: "192.0.2.1".parse().unwrap(),
            verdict: verdict.to_owned(),
            reason: reason.name().to_owned(),
            dry_run: false,
            unfiltered: Vec::new(),
            allowed: false,
            protected: None,
            block: None,
            connections: Connections::default(),
            rates: Rates::default(),
            dropped: Dropped::default(),
            drops: Vec::new(),
            offences: Vec::new(),
            score: 0,
            threshold: 5,
        }
    }

    #[test]
    fn connections_stand_beside_their_cap() {
        let told = |current, cap| connections(Connections { current, cap });
        assert_eq!(told(7, None), "7, no cap");
        assert_eq!(told(99, Some(100)), "99 of at most 100");
        for full in [100, 101] {
            assert_eq!(told(full, Some(100)), format!("{full} of at most 100, at its cap"));
        }
    }

    #[test]
    fn each_verdict_is_one_sentence() {
        assert_eq!(verdict(&why("pass", Reason::Passed)), "192.0.2.1 passes (passed)");
        assert_eq!(verdict(&why("drop", Reason::Blocked)), "192.0.2.1 is dropped (blocked)");
        let dry = verdict(&Why { dry_run: true, ..why("pass", Reason::Blocked) });
        assert_eq!(dry, "192.0.2.1 passes, for this is a dry run (blocked)");
        let idle = verdict(&why("pass", Reason::Blocked));
        assert_eq!(idle, "192.0.2.1 passes, for edge filters no interface now; it would be dropped (blocked)");
        let own = verdict(&why("drop", Reason::Malformed));
        assert!(own.contains("arrive from a wire with this source are forged, and dropped (malformed)"), "{own}");
    }
}
