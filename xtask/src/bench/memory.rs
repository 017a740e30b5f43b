//! `bench memory`: what agent and server occupy when idle, with the default capacities. Their own memory (anonymous and
//! binary pages, shared ones by share) and that of the maps are apart: a mapped map counts as file memory of whoever maps
//! it, touched or not.

use std::fs;

use anyhow::{Context as _, Result};
use edge_tests::{agent::Edge, bpf::all_map_bytes, net::Lab};
use serde_json::json;

use super::Outcome;

const MIB: f64 = (1 << 20) as f64;

/// Proportional set size, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Resident {
    anonymous: u64,
    /// Program and libraries.
    binary: u64,
    mapped_maps: u64,
}

pub fn measure() -> Result<Outcome> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        config.unset("filter", "max_blocked").unset("filter", "max_prefixes");
    })?;
    let agent = resident(edge.pid()?)?;
    let server = resident(edge.server_pid()?)?;
    let kernel = all_map_bytes(&lab.pin_path())?;
    let own = [agent, server].iter().map(|process| process.anonymous + process.binary).sum::<u64>();
    let mut lines = vec!["memory: idle, default capacities, PSS in MiB".to_owned()];
    lines.push(format!("{:10}{:>12}{:>10}{:>14}", "", "anonymous", "binary", "mapped maps"));
    for (name, Resident { anonymous, binary, mapped_maps }) in [("agent", agent), ("server", server)] {
        let [anonymous, binary, maps] = [anonymous, binary, mapped_maps].map(|bytes| bytes as f64 / MIB);
        lines.push(format!("{name:10}{anonymous:>12.1}{binary:>10.1}{maps:>14.1}"));
    }
    lines.push(format!("anonymous plus binary pages together: {:.1} (expected: at most 25)", own as f64 / MIB));
    lines.push(format!("maps in the kernel: {:.1}", kernel as f64 / MIB));
    let of = |Resident { anonymous, binary, mapped_maps }: Resident| json!({ "anonymous_bytes": anonymous, "binary_bytes": binary, "mapped_map_bytes": mapped_maps });
    let json = json!({
        "agent": of(agent), "server": of(server), "own_bytes": own, "kernel_map_bytes": kernel,
    });
    Ok(Outcome { text: lines.join("\n"), json })
}

fn resident(pid: u32) -> Result<Resident> {
    let path = format!("/proc/{pid}/smaps");
    Ok(sum(&fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?))
}

fn sum(smaps: &str) -> Resident {
    let mut total = Resident::default();
    let mut file = "";
    let mut pss = 0;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [range, _, _, _, _, path @ ..] if range.contains('-') => file = path.first().copied().unwrap_or_default(),
            ["Pss:", size, "kB"] => {
                pss = kibibytes(size);
                if file.starts_with("anon_inode:bpf-map") {
                    total.mapped_maps += pss;
                    pss = 0;
                }
            }
            // What was written of a file's pages is the process's own.
            ["Pss_Dirty:" | "Pss_Anon:" | "Pss_File:" | "Pss_Shmem:", ..] => {}
            ["Anonymous:", size, "kB"] => {
                let anonymous = kibibytes(size).min(pss);
                total.anonymous += anonymous;
                total.binary += pss - anonymous;
            }
            _ => {}
        }
    }
    total
}

fn kibibytes(text: &str) -> u64 {
    text.parse::<u64>().unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_and_what_is_shared_are_told_apart() {
        let smaps = "\
55d0-55d8 r-xp 00000000 08:01 42   /usr/bin/edge
Pss:                 100 kB
Anonymous:            40 kB
7f00-7f08 rw-p 00000000 00:00 0
Pss:                   8 kB
Anonymous:             8 kB
7f10-7f18 rw-s 00000000 00:0e 13   anon_inode:bpf-map
Pss:               16384 kB
Anonymous:             0 kB
";
        let expected = Resident { anonymous: 48 << 10, binary: 60 << 10, mapped_maps: 16384 << 10 };
        assert_eq!(sum(smaps), expected);
    }
}
