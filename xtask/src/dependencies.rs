//! The dependency policy: whose code edge may contain. Reads `cargo tree`, which
//! knows what is really compiled. By hand, since it is three questions:
//! the usual program for it takes longer to build than edge itself.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::shell::{cargo, output};

/// Licences that fit a work under MIT OR Apache-2.0.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// One TLS and one cryptographic library; no code generator for a protocol that edge does not speak.
const BANNED: [&str; 6] = ["native-tls", "openssl", "openssl-sys", "prost", "protobuf", "ring"];

pub fn check() -> Result<()> {
    let whole = ["tree", "--locked", "--workspace", "--target", "all"];
    let lines = output(cargo().args(whole).args(["--no-dedupe", "--prefix", "none", "--format", "{p}\t{l}"]))?;
    let faults: BTreeSet<String> = lines.lines().filter_map(fault).collect();
    if !faults.is_empty() {
        bail!("{}", faults.into_iter().collect::<Vec<_>>().join("\n"));
    }
    Ok(())
}

/// Of a line `name vVERSION [(where from)] [(proc-macro)]`, tab, licence.
fn fault(line: &str) -> Option<String> {
    let (package, license) = line.split_once('\t')?;
    let package = package.trim_end_matches(" (proc-macro)");
    let name = package.split(' ').next().unwrap_or(package);
    if BANNED.contains(&name) {
        return Some(format!("{package}: banned; `cargo tree --invert {name}` says who brings it"));
    }
    match package.split_once('(') {
        // Of this workspace.
        Some((_, source)) if source.starts_with('/') => None,
        Some(_) => Some(format!("{package}: comes from elsewhere than the registry")),
        None if is_allowed(license) => None,
        None => Some(format!("{package}: licence `{license}` is not on the list of allowed ones")),
    }
}

fn is_allowed(license: &str) -> bool {
    let is_listed = |required: &spdx::LicenseReq| required.license.id().is_some_and(|id| ALLOWED.contains(&id.name));
    spdx::Expression::parse_mode(license, spdx::ParseMode::LAX).is_ok_and(|expression| expression.evaluate(is_listed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_allowed_alternative_suffices_and_every_part_counts() {
        for good in ["MIT", "MIT OR GPL-3.0-only", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "no licence", "", "OpenSSL"] {
            assert!(!is_allowed(bad), "{bad}");
        }
        assert!(is_allowed("Apache-2.0 WITH LLVM-exception"));
    }

    #[test]
    fn own_packages_pass_and_banned_and_foreign_ones_are_named() {
        for good in ["serde v1.0.0\tMIT", "serde_derive v1.0.0 (proc-macro)\tMIT", "edge v0.1.0 (/home/a/edge)\t", ""] {
            assert_eq!(fault(good), None);
        }
        assert!(fault("ring v0.17.0\tMIT").is_some_and(|text| text.contains("banned")));
        assert!(fault("serde v1.0.0 (https://example.org/serde#1)\tMIT").is_some());
        assert!(fault("readline v1.0.0\tGPL-3.0-only").is_some());
    }
}
