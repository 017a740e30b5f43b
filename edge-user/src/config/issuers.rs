//! `[[auth.trusted_issuer]]` as typed: whose tokens are good beside edge's own, and where the keys are.

use std::path::PathBuf;

use super::{
    Mode,
    raw::{Node, Place, Problems, Section},
};
use crate::fetch;

/// An issuer whose tokens are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedIssuer {
    pub name: String,
    pub issuer: String,
    pub audience: Vec<String>,
    pub keys: KeysFrom,
    pub roles: Vec<String>,
    pub role_claim: Option<String>,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysFrom {
    Url(String),
    File(PathBuf),
}

/// The issuers in their order, and where each says where its keys are.
pub fn trusted(
    section: &mut Section<'_>,
    mode: Mode,
    own: &str,
    problems: &mut Problems<'_>,
) -> (Vec<TrustedIssuer>, Vec<Place>) {
    let mut all: Vec<(TrustedIssuer, Place)> = Vec::new();
    for mut table in section.sections("trusted_issuer", problems) {
        let (one, keys) = read(&mut table, mode, problems);
        if all.iter().any(|(other, _)| other.name == one.name) {
            let message =
                format!("`{}` is the name of another; names of callers begin with it, so write one each", one.name);
            problems.at(&table.place("name"), message);
        }
        if !one.issuer.is_empty() && one.issuer == own {
            problems.at(&table.place("issuer"), "is edge's own (auth.issuer); leave it out, or give each its own");
        }
        all.push((one, keys));
        table.finish(problems);
    }
    all.into_iter().unzip()
}

fn read(table: &mut Section<'_>, mode: Mode, problems: &mut Problems<'_>) -> (TrustedIssuer, Place) {
    let name = table.read("name", problems, None, |node, p| issuer_name(node, p).map(Some));
    let issuer = table.read_placed("issuer", problems, |node, p| node.string(p));
    let audience = table.read_placed("audience", problems, some);
    let url = table.read_placed("jwks_url", problems, |node, p| url(node, mode, p));
    let file = table.read_placed("jwks_file", problems, |node, p| node.path(p));
    let roles = table.read("roles", problems, Vec::new(), roles);
    let role_claim = table.read("role_claim", problems, None, |node, p| node.string(p).map(Some));
    if issuer.is_none() {
        problems.missing(&table.place("issuer"), "is missing; write what its tokens have as iss");
    }
    if audience.is_none() {
        problems.missing(&table.place("audience"), "is missing; write what its tokens for you have as aud");
    }
    let issuer = issuer.and_then(|(issuer, _)| issuer).unwrap_or_default();
    let place = url.as_ref().map(|(_, place)| place.clone()).or(file.as_ref().map(|(_, place)| place.clone()));
    let keys = match (url, file) {
        (Some((url, _)), None) => KeysFrom::Url(url.unwrap_or_default()),
        (None, Some((file, _))) => KeysFrom::File(file.unwrap_or_default()),
        (Some(_), Some((_, place))) => {
            problems.at(&place, "stands beside jwks_url; write one of the two");
            KeysFrom::Url(String::new())
        }
        (None, None) => {
            problems.missing(&table.place("jwks_url"), "is missing; write where its keys are, here or as jwks_file");
            KeysFrom::Url(String::new())
        }
    };
    let name = name.unwrap_or_else(|| host(&issuer));
    let audience = audience.and_then(|(audience, _)| audience).unwrap_or_default();
    let place = place.unwrap_or_else(|| table.place("jwks_url"));
    (TrustedIssuer { name, issuer, audience, keys, roles, role_claim }, place)
}

fn host(issuer: &str) -> String {
    let parsed = issuer.parse::<hyper::Uri>().ok();
    parsed.and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_else(|| issuer.replace([':', '/'], "-"))
}

/// What stands before the colon in the name of a caller.
pub fn issuer_name(node: &Node<'_, '_>, problems: &mut Problems<'_>) -> Option<String> {
    let text = node.text(problems)?;
    if !is_issuer_name(text) {
        return node.wrong(
            problems,
            format!("`{text}` is no name here; write letters, digits, `-`, `_` and `.`, and not `key`"),
        );
    }
    Some(text.to_owned())
}

pub fn is_issuer_name(text: &str) -> bool {
    !text.is_empty() && text != "key" && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// One or several strings.
fn some(node: &Node<'_, '_>, problems: &mut Problems<'_>) -> Option<Vec<String>> {
    let list = node.list(problems, |node, p| node.string(p))?;
    if list.is_empty() { node.wrong(problems, "is empty; write what tokens for you have as aud") } else { Some(list) }
}

pub fn roles(node: &Node<'_, '_>, problems: &mut Problems<'_>) -> Option<Vec<String>> {
    node.list(problems, |node, p| {
        let role = node.text(p)?;
        if role.contains(',') || role.chars().any(char::is_whitespace) {
            return node.wrong(p, format!("`{role}` is no role; write it without comma and space"));
        }
        Some(role.to_owned())
    })
}

/// An address that may be asked.
pub fn url(node: &Node<'_, '_>, mode: Mode, problems: &mut Problems<'_>) -> Option<String> {
    let text = node.text(problems)?;
    let asked = text.parse().map_err(|_| "it is no address; write one that begins with https://");
    match asked.and_then(|uri| fetch::may_ask(&uri, mode == Mode::Development)) {
        Ok(()) => Some(text.to_owned()),
        Err(why) => node.wrong(problems, format!("`{text}`: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Overrides};

    fn parse(issuers: &str, mode: &str) -> Result<Vec<TrustedIssuer>, Vec<(String, String)>> {
        let text = format!(
            "mode = \"{mode}\"\n[filter]\ninterfaces = [\"eth0\"]\n[server]\n[auth]\nissuer = \"https://own.test\"\n{issuers}"
        );
        Config::parse(Path::new("edge.toml"), &text, &Overrides::default())
            .map(|config| config.server.unwrap().auth.trusted_issuers)
            .map_err(|errors| errors.problems.into_iter().map(|one| (one.key, one.message)).collect())
    }

    const GOOD: &str = "[[auth.trusted_issuer]]\nissuer = \"https://accounts.google.com\"\naudience = [\"a\"]\n\
        jwks_url = \"https://www.googleapis.com/oauth2/v3/certs\"\nroles = [\"chat\"]\nrole_claim = \"groups\"\n";

    #[test]
    fn an_issuer_is_called_as_its_host_unless_it_has_a_name() {
        let file =
            "[[auth.trusted_issuer]]\nname = \"x\"\nissuer = \"y\"\naudience = [\"a\"]\njwks_file = \"/etc/x\"\n";
        let found = parse(&format!("{GOOD}{file}"), "production").unwrap();
        assert_eq!(found[0].name, "accounts.google.com");
        assert_eq!(found[0].role_claim.as_deref(), Some("groups"));
        assert_eq!((found[1].name.as_str(), &found[1].keys), ("x", &KeysFrom::File("/etc/x".into())));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let keys = |issuers: &str| -> Vec<String> {
            parse(issuers, "production").unwrap_err().into_iter().map(|(key, _)| key).collect()
        };
        let of = |key: &str| format!("auth.trusted_issuer.{key}");
        assert_eq!(keys("[[auth.trusted_issuer]]\n"), [of("audience"), of("issuer"), of("jwks_url")]);
        assert_eq!(keys(&format!("{GOOD}{GOOD}")), [of("name")]);
        assert_eq!(keys(&GOOD.replace("accounts.google.com", "own.test")), [of("issuer")]);
        for (from, to, key) in [
            ("https://www", "http://www", "jwks_url"),
            ("https://www", "https://user@www", "jwks_url"),
            ("[\"a\"]", "[]", "audience"),
            ("[\"chat\"]", "[\"a,b\"]", "roles"),
            ("role_claim", "name = \"a:b\"\nrole_claim", "name"),
            ("role_claim", "name = \"key\"\nrole_claim", "name"),
            ("role_claim", "jwks_file = \"/x\"\nrole_claim", "jwks_file"),
            ("role_claim", "rule_claim", "rule_claim"),
        ] {
            assert_eq!(keys(&GOOD.replace(from, to)), [of(key)], "{to}");
        }
        assert!(parse(&GOOD.replace("https://www", "http://www"), "development").is_ok());
        assert!(parse(&GOOD.replace("https://www.googleapis.com", "http://127.0.0.1:8080"), "production").is_ok());
    }
}
