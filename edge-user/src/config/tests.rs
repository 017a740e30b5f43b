//! Configs as they are typed, and what is said of them.

use super::*;

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(Path::new("edge.toml"), text, &Overrides::default())
}

fn lines(text: &str) -> Vec<String> {
    parse(text).unwrap_err().to_string().lines().map(str::to_owned).collect()
}

const LEAST: &str = "[filter]\ninterfaces = [\"eth0\"]\n";

#[test]
fn three_mistakes_are_three_lines_with_their_places() {
    let found = lines(
        "mode = \"prod\"\n\n[filter]\ninterfaces = [\"eth0\"]\nmax_blockd = 5\n[learn]\n  threshold = 0\n[[route]]\npath = \"/\"\n",
    );
    assert_eq!(found.len(), 4, "{found:#?}");
    assert_eq!(found[0], "edge.toml:1:8: mode: `prod` is not known; write `production` or `development`");
    assert_eq!(found[1], "edge.toml:5:1: filter.max_blockd: unknown key; did you mean `max_blocked`");
    assert!(found[2].starts_with("edge.toml:7:15: learn.threshold: 0 is out of range; write"), "{}", found[2]);
    assert!(found[3].starts_with("edge.toml:8:3: route: unknown key; known here: mode, filter"), "{}", found[3]);
}

#[test]
fn broken_toml_hides_nothing_else() {
    let found = lines("[filter]\ninterfaces = [\"eth0\"]\nattach = \n[learn]\nwindow = \"5\"\n");
    assert!(found.iter().any(|line| line.starts_with("edge.toml:3:")), "{found:#?}");
    assert!(found.iter().any(|line| line.contains("learn.window: `5` is no duration")), "{found:#?}");
}

#[test]
fn what_a_broken_file_names_is_not_said_to_be_missing() {
    for broken in ["[filter\ninterfaces = [\"eth0\"]\n", "[filter]\ninterfaces = [\"eth0\"\n"] {
        let found = lines(broken);
        assert!(found.iter().all(|line| !line.contains("is missing")), "{found:#?}");
    }
    let found = lines("[filter\nattach = \"auto\"\n");
    assert!(found.iter().any(|line| line.contains("filter.interfaces: is missing")), "{found:#?}");
}

#[test]
fn what_turns_edge_against_itself_is_warned_of_at_its_place() {
    let lists = "allow = [\"192.0.2.0/24\", \"::/0\"]\nblock = [\"10.0.0.0/8\", \"10.0.0.0/7\", \"2001::/31\"]\n";
    let config = parse(&format!("{LEAST}{lists}")).unwrap();
    let told: Vec<String> = config.warnings.iter().map(|warning| warning.told(&config.file)).collect();
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(told[0].starts_with("edge.toml:3:26: filter.allow: ::/0 lets all of IPv6 pass"), "{}", told[0]);
    assert!(told[1].starts_with("edge.toml:4:24: filter.block: 10.0.0.0/7 is wider than /8"), "{}", told[1]);
    assert!(told[2].starts_with("edge.toml:4:38: filter.block: 2001::/31 is wider than /32"), "{}", told[2]);
}

#[test]
fn who_is_trusted_fits_into_the_kernels_tables() {
    let list = |count: u32| {
        let all: Vec<String> =
            (0..count).map(|n| format!("\"{}\"", std::net::Ipv4Addr::from(0x0a00_0000 + n))).collect();
        all.join(",")
    };
    let text = |count| format!("{LEAST}allow = [{0}]\n[server]\ntrusted_proxies = [{0}]\n", list(count));
    assert!(parse(&text(30_000)).is_ok());
    let found = lines(&text(30_001));
    assert_eq!(found[0], "edge.toml:3:9: filter.allow: names 30001 networks; write at most 30000");
    assert_eq!(found[1], "edge.toml:5:19: server.trusted_proxies: names 30001 networks; write at most 30000");
}

#[test]
fn a_file_that_is_no_toml_names_its_place() {
    assert!(
        lines("mode = \"production\"\n[filter\n")[0].starts_with("edge.toml:2:"),
        "{:#?}",
        lines("x = 1\n[filter\n")
    );
    assert!(lines("\u{0}\u{feff}= = [[[\"\"\"").len() > 1);
}

#[test]
fn every_default_is_that_of_the_interface() {
    let config = parse(&format!("{LEAST}[server]\n")).unwrap();
    let seconds = Duration::from_secs;
    assert_eq!(config.mode, Mode::Production);
    let Filter {
        interfaces,
        attach,
        dry_run,
        exposed_ports,
        capped_ports,
        drop_fragments,
        max_tracked,
        limits,
        allow,
        block,
        max_blocked,
        max_prefixes,
        ipv6_unit,
        pin_path,
    } = config.filter;
    assert!(!dry_run && !drop_fragments && exposed_ports.is_empty() && capped_ports.is_empty());
    assert_eq!((max_tracked, limits), (262_144, Limits::default()));
    assert_eq!(interfaces, Interfaces::Named(vec!["eth0".to_owned()]));
    assert_eq!(attach, Attach::Auto);
    assert!(allow.is_empty() && block.is_empty());
    assert_eq!((max_blocked, max_prefixes, ipv6_unit), (1_000_000, 131_072, 64));
    assert_eq!(pin_path, Path::new("/sys/fs/bpf/edge"));
    let server = config.server.unwrap();
    assert_eq!(server.listen, ["0.0.0.0:443".parse().unwrap()]);
    assert!(server.trusted_proxies.is_empty());
    assert_eq!((server.header_timeout, server.idle_timeout), (seconds(10), seconds(60)));
    assert_eq!(server.max_handshakes, 256);
    assert_eq!((server.tls.files.len(), server.tls.self_signed), (1, false));
    assert_eq!(server.auth.audience, "api");
    assert_eq!(server.auth.signing_file, Path::new("/etc/edge/secrets/jwt"));
    assert_eq!((server.auth.access_ttl, server.auth.refresh_ttl), (seconds(86_400), seconds(30 * 86_400)));
    assert_eq!((server.auth.leeway, server.auth.hashes_in_flight), (seconds(30), 4));
    let learn = Learn {
        threshold: 5,
        window: seconds(600),
        block_for: seconds(900),
        factor: 4,
        block_for_max: seconds(7 * 86_400),
        forget_after: seconds(30 * 86_400),
        weights: Weights { login: 1, token: 1, key: 1 },
    };
    assert_eq!(config.learn, learn);
    assert_eq!(config.metrics.listen, "127.0.0.1:9464".parse().unwrap());
    assert_eq!(config.store.path, Path::new("/var/lib/edge/edge.db"));
    assert_eq!(config.admin.socket, Path::new(DEFAULT_SOCKET));
    assert_eq!(config.admin.group, "edge");
    assert_eq!((config.log.format, config.log.audit), (LogFormat::Auto, AuditTo::Journald));
}

#[test]
fn without_a_server_nothing_is_served() {
    assert!(parse(LEAST).unwrap().server.is_none());
    let config = parse(&format!("{LEAST}[auth]\naudience = \"x\"\n")).unwrap();
    assert!(config.server.is_none());
    let told: Vec<String> = config.warnings.iter().map(|warning| warning.told(&config.file)).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("edge.toml:3:2: auth: says nothing without [server]"), "{}", told[0]);
    assert_eq!(parse(&format!("{LEAST}[server]\n[auth]\naudience = \"x\"\n")).unwrap().warnings, []);
}

#[test]
fn a_connection_is_the_server_s_by_address_and_port_of_a_listener() {
    let text = format!("{LEAST}[server]\nlisten = [\"0.0.0.0:443\", \"[2001:db8::1]:8443\"]\n");
    let server = parse(&text).unwrap().server.unwrap();
    let listens = |local: &str| listens_on(&server.listen, local.parse().unwrap());
    for local in ["192.0.2.1:443", "[::ffff:192.0.2.1]:443", "[2001:db8::1]:8443"] {
        assert!(listens(local), "{local}");
    }
    for local in ["192.0.2.1:22", "192.0.2.1:8443", "[2001:db8::1]:443", "[2001:db8::2]:8443", "192.0.2.1:0"] {
        assert!(!listens(local), "{local}");
    }
}

#[test]
fn only_the_interface_has_no_default() {
    let found = lines("");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].starts_with("edge.toml:1:1: filter.interfaces: is missing; write"), "{}", found[0]);
    let overrides = Overrides {
        interfaces: vec!["veth0".to_owned()],
        socket: Some(PathBuf::from("/tmp/s")),
        ..Overrides::default()
    };
    let config = Config::parse(Path::new("edge.toml"), "", &overrides).unwrap();
    assert_eq!(config.filter.interfaces, Interfaces::Named(vec!["veth0".to_owned()]));
    assert_eq!(config.admin.socket, Path::new("/tmp/s"));
}

#[test]
fn every_wrong_element_of_a_list_is_named_at_its_own_place() {
    let found = lines("[filter]\ninterfaces = [\"eth0\"]\nallow = [\"10.0.0.1\", \"10.0.0.300\", \"nonsense\"]\n");
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("edge.toml:3:22: filter.allow: `10.0.0.300` is no address"), "{}", found[0]);
    assert!(found[1].starts_with("edge.toml:3:36: filter.allow: `nonsense`"), "{}", found[1]);
}

#[test]
fn an_address_that_is_listened_on_twice_is_named() {
    let told = lines("[filter]\ninterfaces = [\"eth0\"]\n[server]\nlisten = [\"192.0.2.1:443\", \"192.0.2.1:443\"]\n");
    assert!(told.iter().any(|line| line.contains("192.0.2.1:443 twice")), "{told:?}");
}

#[test]
fn production_refuses_what_development_allows() {
    let tls = "[server.tls]\nself_signed = true\n";
    let found = lines(&format!("{LEAST}[server]\n{tls}"));
    assert!(found[0].contains("server.tls.self_signed: is refused in production"), "{}", found[0]);
    let config = parse(&format!("mode = \"development\"\n{LEAST}[server]\n{tls}")).unwrap();
    assert!(config.server.unwrap().tls.self_signed);
}

#[test]
fn certificates_are_named_in_pairs_and_the_default_is_none_of_several() {
    let tls = |text: &str| format!("mode = \"development\"\n{LEAST}[server]\n{text}");
    let table = "[[server.tls.certificate]]\ncert_file = \"/c\"\nkey_file = \"/k\"\n";
    let files = |text: &str| parse(&tls(text)).unwrap().server.unwrap().tls.files.len();
    assert_eq!([files(table), files(&format!("[server.tls]\ncert_file = \"/a\"\nkey_file = \"/b\"\n{table}"))], [1, 2]);
    for (text, says) in [
        ("[[server.tls.certificate]]\n", "server.tls.certificate.cert_file: is missing"),
        ("[[server.tls.certificate]]\ncert_file = \"/c\"\n", "server.tls.certificate.key_file: is missing"),
        ("[[server.tls.certificate]]\ncert = \"/c\"\n", "unknown key"),
        (&format!("[server.tls]\nself_signed = true\n{table}"), "stands beside certificate files"),
    ] {
        let found = lines(&tls(text));
        assert!(found.iter().any(|line| line.contains(says)), "{text}: {found:?}");
    }
}

#[test]
fn the_files_it_names_are_checked_with_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("edge.toml");
    let secret = directory.path().join("jwt");
    std::fs::write(&secret, "short").unwrap();
    let text = format!(
        "{LEAST}max_blocked = true\n[server.tls]\ncert_file = \"/nonexistent/c\"\nkey_file = \"/nonexistent/k\"\n[auth]\nsecret_file = \"{}\"\n",
        secret.display()
    );
    std::fs::write(&file, text).unwrap();
    let errors = Config::load_with_files(&file, &Overrides::default()).unwrap_err();
    let keys: Vec<(&str, usize)> = errors.problems.iter().map(|p| (p.key.as_str(), p.line)).collect();
    for expected in
        [("filter.max_blocked", 3), ("server.tls.cert_file", 5), ("server.tls.key_file", 6), ("auth.secret_file", 8)]
    {
        assert!(keys.contains(&expected), "{expected:?} in {errors}");
    }
}

#[test]
fn the_socket_is_found_in_a_broken_file() {
    assert_eq!(validate::socket("[admin]\nsocket = \"/tmp/x\"\nnonsense = 1\n[bad"), Path::new("/tmp/x"));
    assert_eq!(validate::socket(""), Path::new(DEFAULT_SOCKET));
}

#[test]
fn a_cap_of_connections_has_bounds() {
    let cap = |typed: &str| parse(&format!("{LEAST}[filter.limits]\nconnections = {typed}\n"));
    for (typed, meant) in [("1", 1), ("100", 100), ("1_000_000", 1_000_000)] {
        assert_eq!(cap(typed).unwrap().filter.limits.connections, Some(meant));
    }
    for wrong in ["0", "-1", "1_000_001", "4294967297", "\"100\"", "1.5"] {
        let told = cap(wrong).unwrap_err().to_string();
        assert!(told.starts_with("edge.toml:4:15: filter.limits.connections: "), "{wrong}: {told}");
        assert!(told.ends_with("write a whole number from 1 to 1000000"), "{wrong}: {told}");
    }
}

#[test]
fn capped_ports_are_ports_of_tcp() {
    let capped = |typed: &str| parse(&format!("{LEAST}limits.connections = 5\ncapped_ports = [{typed}]\n"));
    let config = capped("65535, \"443/tcp\", 1, 443, \"22\"").unwrap();
    assert_eq!(config.filter.capped_ports, [1, 22, 443, 65535]);
    assert_eq!(config.warnings, []);
    for wrong in
        ["0", "65536", "-1", "true", "\"0\"", "\"65536/tcp\"", "\"443/udp\"", "\"https\"", "\"443/TCP\"", "\"\""]
    {
        let told = capped(&format!("1, {wrong}")).unwrap_err().to_string();
        assert!(told.starts_with("edge.toml:4:20: filter.capped_ports: "), "{wrong}: {told}");
        assert_eq!(told.contains("UDP has no connections"), wrong.contains("udp"), "{told}");
        assert!(told.ends_with("from 1 to 65535"), "{wrong}: {told}");
    }
}

#[test]
fn capped_ports_that_count_for_nothing_are_warned_of() {
    let warned = |text: &str| {
        let config = parse(&format!("{LEAST}{text}")).unwrap();
        config.warnings.iter().map(|warning| warning.told(&config.file)).collect::<Vec<_>>()
    };
    let idle = warned("capped_ports = [443]\n");
    assert_eq!(idle.len(), 1, "{idle:#?}");
    assert!(
        idle[0].starts_with("edge.toml:3:1: filter.capped_ports: caps nothing without limits.connections"),
        "{idle:#?}"
    );
    assert_eq!(warned("capped_ports = []\n"), [""; 0]);
    let exposed = "limits.connections = 5\nexposed_ports = [\"443/udp\", \"22/tcp\"]\n";
    assert_eq!(warned(&format!("{exposed}capped_ports = [22]\n")), [""; 0]);
    let closed = warned(&format!("{exposed}capped_ports = [22, 443]\n"));
    assert_eq!(closed.len(), 1, "{closed:#?}");
    assert!(closed[0].contains("443 is not in exposed_ports"), "{closed:#?}");
}

#[test]
fn a_misspelt_algorithm_is_one_mistake_whichever_key_stands_beside_it() {
    for key in ["key_file = \"/no/such/key.pem\"", "secret_file = \"/no/such/secret\"", ""] {
        let text = format!("mode = \"development\"\n{LEAST}[server]\n[auth]\nalgorithm = \"ES265\"\n{key}\n");
        let told = Config::parse_with_files(Path::new("edge.toml"), &text, &Overrides::default()).unwrap_err();
        let told: Vec<_> = told.problems.iter().filter(|problem| problem.key.starts_with("auth")).collect();
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0].key == "auth.algorithm" && told[0].message.contains("`ES265` is not known"), "{told:#?}");
    }
}
