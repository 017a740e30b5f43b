//! What differs between the config in force and one that was read again: which keys a reload puts into force, which
//! no reload can change, and what a change costs. What the files hold that the config names is not looked at. Pure.

use super::{Admin, Attach, Auth, Config, Exposed, Filter, Learn, Limits, Log, Metrics, Server, Store};

/// Keys whose values differ, dotted, as `filter.allow`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Those that a reload puts into force.
    pub reloaded: Vec<&'static str>,
    /// Those that no reload can change, each with the reason.
    pub fixed: Vec<(&'static str, &'static str)>,
}

impl Difference {
    pub fn between(old: &Config, new: &Config) -> Difference {
        let Config { file: _, text: _, mode, filter, server: _, learn, metrics, store, admin, log, warnings: _ } = new;
        let Metrics { listen } = metrics;
        let Log { format, audit, loudness: _ } = log;
        let mut reloaded = differing([("mode", *mode != old.mode)]);
        reloaded.extend(filtered(&old.filter, filter));
        reloaded.extend(served(old, new));
        reloaded.extend(learned(&old.learn, learn));
        reloaded.extend(differing([
            ("metrics.listen", *listen != old.metrics.listen),
            ("log.format", *format != old.log.format),
            ("log.audit", *audit != old.log.audit),
        ]));
        let fixed =
            [(pinned(&old.filter, filter), PINNED), (kept(&old.store, store), KEPT), (asked(&old.admin, admin), ASKED)];
        let fixed = fixed.into_iter().flat_map(|(keys, why)| keys.into_iter().map(move |key| (key, why)));
        Difference { reloaded, fixed: fixed.collect() }
    }

    /// Whether a key of this section differs.
    pub fn is_in(&self, section: &str) -> bool {
        self.reloaded.iter().any(|key| key.split('.').next() == Some(section))
    }
}

const PINNED: &str = "what is in force is pinned there";
const KEPT: &str = "what is remembered is kept there";
const ASKED: &str = "commands come in there";

/// What the change of `[filter]` loses, in sentences.
pub fn costs(old: &Filter, new: &Filter) -> Vec<String> {
    let mut costs = Vec::new();
    let moved = [
        ("filter.max_tracked", old.max_tracked != new.max_tracked),
        ("filter.ipv6_unit", old.ipv6_unit != new.ipv6_unit),
    ];
    let moved = differing(moved);
    let rates = [
        ("filter.limits.syns", old.limits.syns, new.limits.syns),
        ("filter.limits.packets", old.limits.packets, new.limits.packets),
    ];
    for (key, before, after) in rates.into_iter().filter(|(_, before, after)| before.is_some() && after.is_some()) {
        if before != after {
            costs.push(format!("{key} changed: what its sources had used of it begins anew"));
        } else if !moved.is_empty() {
            costs.push(format!("{} changed: what sources had used of {key} begins anew", moved.join(" and ")));
        }
    }
    if old.ipv6_unit != new.ipv6_unit {
        costs.push("filter.ipv6_unit changed: what IPv6 clients failed at so far is forgotten".to_owned());
    }
    if old.attach != new.attach && new.attach != Attach::Auto {
        costs.push("filter.attach changed: where the mode was another, nothing was dropped for a moment".to_owned());
    }
    let closed = closed_udp(old, new);
    if old.exposed_ports.is_empty() && !new.exposed_ports.is_empty() {
        costs.push("filter.exposed_ports: answers over UDP to what was sent before this reload are dropped".to_owned());
    } else if !closed.is_empty() {
        let closed = closed.join(", ");
        costs.push(format!("filter.exposed_ports: answers to what {closed} sent before this reload are dropped"));
    }
    costs
}

/// Ports whose datagrams passed unasked and pass as answers alone now: what an exposed port sends is not noted.
fn closed_udp<'a>(old: &'a Filter, new: &Filter) -> Vec<&'a str> {
    let is_exposed = |port: &Exposed| new.exposed_ports.iter().any(|other| other.exposure == port.exposure);
    let closed = |port: &&Exposed| !new.exposed_ports.is_empty() && port.exposure.is_udp() && !is_exposed(port);
    old.exposed_ports.iter().filter(closed).map(|port| port.text.as_str()).collect()
}

fn differing<const N: usize>(keys: [(&'static str, bool); N]) -> Vec<&'static str> {
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

fn filtered(old: &Filter, new: &Filter) -> Vec<&'static str> {
    let Filter {
        interfaces,
        attach,
        dry_run,
        exposed_ports,
        capped_ports,
        drop_fragments,
        max_tracked,
        limits: Limits { connections, syns, packets },
        allow,
        block,
        max_blocked,
        max_prefixes,
        ipv6_unit,
        pin_path: _,
    } = new;
    differing([
        ("filter.interfaces", *interfaces != old.interfaces),
        ("filter.attach", *attach != old.attach),
        ("filter.dry_run", *dry_run != old.dry_run),
        ("filter.exposed_ports", *exposed_ports != old.exposed_ports),
        ("filter.capped_ports", *capped_ports != old.capped_ports),
        ("filter.fragments", *drop_fragments != old.drop_fragments),
        ("filter.max_tracked", *max_tracked != old.max_tracked),
        ("filter.limits.connections", *connections != old.limits.connections),
        ("filter.limits.syns", *syns != old.limits.syns),
        ("filter.limits.packets", *packets != old.limits.packets),
        ("filter.allow", *allow != old.allow),
        ("filter.block", *block != old.block),
        ("filter.max_blocked", *max_blocked != old.max_blocked),
        ("filter.max_prefixes", *max_prefixes != old.max_prefixes),
        ("filter.ipv6_unit", *ipv6_unit != old.ipv6_unit),
    ])
}

fn pinned(old: &Filter, new: &Filter) -> Vec<&'static str> {
    differing([("filter.pin_path", new.pin_path != old.pin_path)])
}

fn kept(old: &Store, Store { path }: &Store) -> Vec<&'static str> {
    differing([("store.path", *path != old.path)])
}

fn asked(old: &Admin, Admin { socket, group }: &Admin) -> Vec<&'static str> {
    differing([("admin.socket", *socket != old.socket), ("admin.group", *group != old.group)])
}

fn served(old: &Config, new: &Config) -> Vec<&'static str> {
    let (old, new) = match (&old.server, &new.server) {
        (Some(old), Some(new)) => (old, new),
        (None, None) => return Vec::new(),
        (None, Some(_)) | (Some(_), None) => return vec!["server"],
    };
    let Server { listen, http_redirect, trusted_proxies, header_timeout, idle_timeout, max_handshakes, tls, auth } =
        new;
    let mut keys = differing([
        ("server.listen", *listen != old.listen),
        ("server.http_redirect", *http_redirect != old.http_redirect),
        ("server.trusted_proxies", *trusted_proxies != old.trusted_proxies),
        ("server.header_timeout", *header_timeout != old.header_timeout),
        ("server.idle_timeout", *idle_timeout != old.idle_timeout),
        ("server.max_handshakes", *max_handshakes != old.max_handshakes),
        ("server.tls", *tls != old.tls),
    ]);
    keys.extend(authenticated(&old.auth, auth));
    keys
}

fn authenticated(old: &Auth, new: &Auth) -> Vec<&'static str> {
    let Auth {
        issuer,
        audience,
        algorithm,
        signing_file,
        access_ttl,
        refresh_ttl,
        leeway,
        hashes_in_flight,
        session_idle,
        session_absolute,
        trusted_issuers,
        oidc,
    } = new;
    differing([
        ("auth.issuer", *issuer != old.issuer),
        ("auth.audience", *audience != old.audience),
        ("auth.algorithm", *algorithm != old.algorithm),
        (new.signing_key(), *signing_file != old.signing_file),
        ("auth.access_ttl", *access_ttl != old.access_ttl),
        ("auth.refresh_ttl", *refresh_ttl != old.refresh_ttl),
        ("auth.leeway", *leeway != old.leeway),
        ("auth.hashes_in_flight", *hashes_in_flight != old.hashes_in_flight),
        ("auth.session", (session_idle, session_absolute) != (&old.session_idle, &old.session_absolute)),
        ("auth.trusted_issuer", *trusted_issuers != old.trusted_issuers),
        ("auth.oidc", *oidc != old.oidc),
    ])
}

fn learned(old: &Learn, new: &Learn) -> Vec<&'static str> {
    let Learn { threshold, window, block_for, factor, block_for_max, forget_after, weights } = new;
    differing([
        ("learn.threshold", *threshold != old.threshold),
        ("learn.window", *window != old.window),
        ("learn.block_for", *block_for != old.block_for),
        ("learn.factor", *factor != old.factor),
        ("learn.block_for_max", *block_for_max != old.block_for_max),
        ("learn.forget_after", *forget_after != old.forget_after),
        ("learn.weights", *weights != old.weights),
    ])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Overrides;

    fn config(text: &str) -> Config {
        Config::parse(Path::new("edge.toml"), text, &Overrides::default()).unwrap()
    }

    const FILTER: &str = "[filter]\ninterfaces = [\"eth0\"]\n";

    #[test]
    fn each_key_is_found_where_it_belongs() {
        let old = config(FILTER);
        assert_eq!(Difference::between(&old, &old.clone()), Difference::default());
        let said = config(&format!("{FILTER}dry_run = false\n[learn]\nthreshold = 5\n"));
        assert_eq!(Difference::between(&old, &said), Difference::default(), "a default that is written out");
        let new = config(&format!(
            "mode = \"development\"\n{FILTER}fragments = \"drop\"\nlimits.syns.per_second = 5\n\
             limits.connections = 9\ncapped_ports = [22]\npin_path = \"/sys/fs/bpf/x\"\n\
             [server]\n[log]\naudit = \"/var/log/x\"\n[store]\npath = \"/x\"\n[admin]\ngroup = \"x\"\n[learn]\nwindow = \"5m\"\n"
        ));
        let found = Difference::between(&old, &new);
        assert_eq!(
            found.reloaded,
            [
                "mode",
                "filter.capped_ports",
                "filter.fragments",
                "filter.limits.connections",
                "filter.limits.syns",
                "server",
                "learn.window",
                "log.audit"
            ]
        );
        assert!(found.is_in("filter") && found.is_in("server") && !found.is_in("metrics"));
        assert_eq!(found.fixed, [("filter.pin_path", PINNED), ("store.path", KEPT), ("admin.group", ASKED)]);
        let served = config(&format!("{FILTER}[server]\n[auth]\nissuer = \"x\"\n"));
        let again = config(&format!("{FILTER}[server]\nlisten = [\"0.0.0.0:1\"]\n[auth]\nissuer = \"y\"\n"));
        assert_eq!(Difference::between(&served, &again).reloaded, ["server.listen", "auth.issuer"]);
    }

    #[test]
    fn what_is_lost_is_said_and_nothing_else() {
        let limited = |more: &str| config(&format!("{FILTER}limits.syns.per_second = 5\n{more}")).filter;
        let old = limited("");
        assert_eq!(costs(&old, &limited("max_blocked = 7\nexposed_ports = []\n")), [""; 0]);
        assert_eq!(costs(&old, &config(FILTER).filter), [""; 0], "a limit that ends");
        let costs_of = |more: &str| costs(&old, &limited(more));
        assert_eq!(costs_of("max_tracked = 7\n").len(), 1);
        assert!(
            costs_of("max_tracked = 7\nipv6_unit = 56\n")[0].starts_with("filter.max_tracked and filter.ipv6_unit")
        );
        assert_eq!(costs_of("ipv6_unit = 56\n").len(), 2);
        assert_eq!(costs_of("limits.syns.burst = 9\nexposed_ports = [\"22/tcp\"]\n").len(), 2);
        let exposed = |ports: &str| limited(&format!("exposed_ports = [{ports}]\n"));
        let closed = costs(&exposed("\"53/udp\", \"53/tcp\", \"123/udp\""), &exposed("\"123/udp\""));
        assert_eq!(closed, ["filter.exposed_ports: answers to what 53/udp sent before this reload are dropped"]);
        assert_eq!(costs(&exposed("\"53/udp\""), &limited("")), [""; 0], "nothing is closed");
        let capped = |more: &str| config(&format!("{FILTER}limits.connections = 5\n{more}")).filter;
        let moved = capped("max_tracked = 7\ncapped_ports = [22]\n");
        assert_eq!(costs(&capped(""), &moved), [""; 0], "counts of connections go on");
        assert_eq!((costs_of("attach = \"native\"\n").len(), costs_of("attach = \"auto\"\n").len()), (1, 0));
    }
}
