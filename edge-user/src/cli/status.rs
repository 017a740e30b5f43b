//! `edge status`: one screen about the agent.

use serde_json::json;

use super::{
    args::Global,
    ask,
    output::{Complaint, Outcome, fields, length},
    why,
};
use crate::{
    control::protocol::{Acme, Certificate, Command, ConnectionTotals, Reload, Reply, Status},
    printable::printable,
};

pub fn status(global: &Global) -> Result<Outcome, Complaint> {
    let Reply::Status(status) = ask::agent(global, Command::Status)? else { return Err(ask::mismatched()) };
    Ok(Outcome::new(json!(status), text(&status)))
}

fn text(status: &Status) -> String {
    let interfaces: Vec<String> = status
        .interfaces
        .iter()
        .map(|interface| format!("{} ({}, program {})", interface.name, interface.mode, interface.program_id))
        .collect();
    let unfiltered = status.unfiltered.iter().map(|one| ("NOT FILTERED", why::passing(one)));
    let reasons: Vec<String> =
        status.packets.by_reason.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{n} {reason}")).collect();
    let blocked = &status.blocked;
    let store = &status.store;
    let mut rows = vec![
        ("edge", format!("{}, process {}, up {}", status.version, status.pid, length(status.uptime_seconds as u64))),
        ("interfaces", if interfaces.is_empty() { none(status) } else { interfaces.join(", ") }),
        ("dry run", if status.dry_run { "yes: all is counted, nothing is dropped" } else { "no" }.to_owned()),
        (
            "blocked",
            format!(
                "{} ({} IPv4, {} IPv6, {} networks), {} enforced, {} in drift",
                blocked.total, blocked.ipv4, blocked.ipv6, blocked.prefixes, status.enforced.total, status.drift
            ),
        ),
        ("connections", connections(status.connections)),
        ("packets", format!("{} passed, {} dropped", status.packets.passed, status.packets.dropped)),
        ("reasons", if reasons.is_empty() { "no packet yet".to_owned() } else { reasons.join(", ") }),
        ("store", if store.ok { "ok".to_owned() } else { store.problems.join("; ") }),
        ("config", config(&status.reload)),
    ];
    rows.extend(status.certificates.iter().map(|one| ("certificate", certificate(one))));
    rows.splice(2..2, unfiltered);
    fields(&rows)
}

fn config(Reload { generation, last_result, reverts_at }: &Reload) -> String {
    let reverts = reverts_at.map(|at| format!("; reverted at {at} unless `edge reload --keep` comes before"));
    format!("generation {generation}, last reload {}{}", last_result.name(), reverts.unwrap_or_default())
}

fn certificate(Certificate { names, expires, acme }: &Certificate) -> String {
    let until = expires.map_or_else(|| "none yet".to_owned(), |expires| format!("expires at {expires}"));
    let told = acme.as_ref().map(renewal).unwrap_or_default();
    printable(&format!("{}: {until}{told}", names.join(", ")))
}

fn renewal(acme: &Acme) -> String {
    let Acme { directory, renews_at, failures, last_error, retries_at } = acme;
    let renewed = renews_at.map_or_else(String::new, |at| format!(", renewed at {at}"));
    let failed = last_error.as_ref().zip(*retries_at).map(|(error, at)| {
        let times = if *failures == 1 { "once".to_owned() } else { format!("{failures} times") };
        format!("; failed {times}, tried again at {at}: {error}")
    });
    format!("{renewed}, issued by {directory}{}", failed.unwrap_or_default())
}

fn connections(totals: ConnectionTotals) -> String {
    let ConnectionTotals { tracked_addresses, total, cap } = totals;
    cap.map_or_else(
        || "not capped, so not counted".to_owned(),
        |cap| format!("{total}, by {tracked_addresses} addresses; the cap of each is {cap}"),
    )
}

fn none(status: &Status) -> String {
    let next = if status.unfiltered.is_empty() {
        "with [\"auto\"], the first that carries a default route will be filtered"
    } else {
        "nothing is dropped"
    };
    format!("none; {next}")
}
