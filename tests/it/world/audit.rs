//! The audit log: what is in it, what a flood makes of it, and that it is written and read through everything that
//! happens to a file.

mod journal;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, ChildStdout},
};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    Output,
    agent::{Edge, PASSWORD, USER, binary},
    client::{Client, Wire, scrape},
    net::{ATTACKER4, ATTACKER6, Lab},
    run,
    talk::Talk,
    wait_for,
};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use super::{SOON, fail_five_times, has_keys, lifecycle::filter_only, shut_out, time};

const HOSTILE: &str = "root\n{\"event\":\"login\",\"outcome\":\"success\"}\u{1b}[2J\u{202e}\u{2028}\u{85}";

/// One whose log is a file in its own folder.
fn logging(lab: &Lab) -> Result<Edge> {
    let mut edge = Edge::new(lab)?;
    let path = edge.path("audit.log");
    edge.config.text("log", "audit", path);
    edge.run()?;
    Ok(edge)
}

/// What `edge audit` shows of an event.
fn shown(edge: &Edge, event: &str) -> Result<Vec<Value>> {
    let all = edge.json(&["audit"])?;
    let all = all.as_array().context("no array")?;
    Ok(all.iter().filter(|one| one["event"] == event).cloned().collect())
}

/// The same, once there are so many.
fn waited(edge: &Edge, event: &str, count: usize) -> Result<Vec<Value>> {
    let found = || Ok(Some(shown(edge, event)?).filter(|found| found.len() >= count));
    let found = wait_for(&format!("{count} of {event}"), SOON * 2, found)?;
    ensure!(found.len() == count, "{found:#?}");
    Ok(found)
}

fn lines(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

#[test]
fn every_sign_in_and_command_is_there_with_who_did_it_and_nothing_secret() -> Result<()> {
    let lab = Lab::new()?;
    let edge = logging(&lab)?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    client.login(HOSTILE, "wrong password of somebody")?;
    let login = client.login(USER, PASSWORD)?.json()?;
    let (access, refresh) = (login["access_token"].as_str().context("token")?, &login["refresh_token"]);
    let named = client
        .request("/auth/verify", &["-H", &format!("Authorization: Bearer {access}"), "-H", "X-Request-Id: r-1"])?;
    ensure!(named.status() == Some(200));
    ensure!(client.bearer("/auth/verify?require=admin", access)?.status() == Some(403));
    ensure!(client.bearer("/auth/verify", "no.such.token")?.status() == Some(401));
    ensure!(client.get("/auth/verify")?.status() == Some(401));
    let body = json!({"refresh_token": refresh}).to_string();
    ensure!(client.request("/auth/refresh", &["--data-binary", &body])?.status() == Some(200));
    ensure!(client.request("/auth/refresh", &["--data-binary", &body])?.status() == Some(401));
    edge.cli(&["block", "203.0.113.7", "198.51.100.0/24", "--reason", "scans"])?.good()?;
    ensure!(edge.cli(&["block", "127.0.0.1"])?.code == 1);
    edge.cli(&["unblock", "203.0.113.7"])?.good()?;
    edge.add_user("bob", "another password", &[])?;

    let logins = waited(&edge, "login", 2)?;
    has_keys(&logins[0], &["time", "event", "outcome", "peer"])?;
    time(&logins[0]["time"])?;
    let attacker = json!(ATTACKER4.to_string());
    ensure!(logins[0]["outcome"] == "failure" && logins[0]["subject"] == HOSTILE && logins[0]["peer"] == attacker);
    ensure!(logins[1]["outcome"] == "success" && logins[1]["subject"] == USER, "{}", logins[1]);
    let verified = waited(&edge, "verify", 3)?;
    let outcomes: Vec<_> = verified.iter().map(|one| (one["reason"].clone(), one["subject"].clone())).collect();
    ensure!(
        outcomes[0] == (json!(null), json!(USER)) && outcomes[1] == (json!("forbidden"), json!(USER)),
        "{outcomes:?}"
    );
    ensure!(outcomes[2] == (json!("invalid_token"), json!(null)) && verified[0]["request_id"] == "r-1", "{verified:?}");
    let refreshed = waited(&edge, "refresh", 2)?;
    ensure!(refreshed[0]["subject"] == USER && refreshed[1]["reason"] == "ended_token", "{refreshed:?}");

    let root = json!({"uid": 0, "name": "root"});
    let blocked = waited(&edge, "block", 3)?;
    ensure!(blocked.iter().all(|one| one["actor"] == root && one["peer"].is_null()), "{blocked:?}");
    ensure!(blocked[0]["subject"] == "203.0.113.7" && blocked[1]["subject"] == "198.51.100.0/24", "{blocked:?}");
    ensure!(blocked[0]["reason"] == "scans" && blocked[2]["outcome"] == "failure", "{blocked:?}");
    let added = waited(&edge, "user.add", 1)?;
    ensure!(added[0]["subject"] == "bob" && added[0]["actor"] == root, "{added:?}");
    ensure!(waited(&edge, "run", 1)?[0]["actor"] == root && waited(&edge, "unblock", 1)?[0]["actor"] == root);

    let text = fs::read_to_string(edge.path("audit.log"))?;
    for secret in
        ["wrong password of", PASSWORD, "another password", access, refresh.as_str().context("token")?, "no.such"]
    {
        ensure!(!text.contains(secret), "{secret} in {text}");
    }
    let is_plain =
        |text: &str| !text.chars().any(|c| c != '\n' && c.is_control() || matches!(c, '\u{202e}' | '\u{2028}'));
    let told = edge.cli(&["audit"])?.good()?;
    ensure!(
        is_plain(&text) && is_plain(&told) && text.contains("root\\u000a") && told.contains("root\\u000a"),
        "{told}"
    );
    ensure!(told.lines().filter(|line| line.contains(" login ")).count() == 2, "{told}");
    ensure!(edge.json(&["audit", "--since", "0s"])? == json!([]));
    ensure!(edge.cli(&["audit", "--since", "soon"])?.code == 2);
    Ok(())
}

#[test]
fn a_learned_block_and_its_first_drop_are_there() -> Result<()> {
    let lab = Lab::new()?;
    let edge = logging(&lab)?;
    let client = Client::new(&lab, &edge, ATTACKER6);
    fail_five_times(&client)?;
    let [block] = &waited(&edge, "block", 1)?[..] else { unreachable!() };
    ensure!(block["subject"] == "2001:db8:66::/64" && block["peer"] == ATTACKER6.to_string(), "{block}");
    ensure!(block["actor"].is_null() && block["reason"].as_str().is_some_and(|why| why.contains("login")), "{block}");
    ensure!(shown(&edge, "login")?.len() == 5, "each failure was told before its answer");
    shut_out(&client)?;
    let [drop] = &waited(&edge, "drop", 1)?[..] else { unreachable!() };
    ensure!(drop["peer"] == ATTACKER6.to_string() && drop["reason"] == "blocked", "{drop}");
    Ok(())
}

#[test]
fn a_flood_has_30_lines_and_one_that_counts_the_rest() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let path = edge.path("audit.log");
    edge.config.text("log", "audit", &path).set("learn", "threshold", "1_000").set(
        "filter",
        "exposed_ports",
        "[\"443/tcp\"]",
    );
    edge.run()?;
    let mut talk = Talk::open(&lab, "http/1.1")?;
    talk.say(
        "GET /auth/verify HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer no.such.token\r\n\r\n".repeat(200).as_bytes(),
    )?;
    // A body has no newline at its end.
    for answer in 0..200 {
        while {
            let line = talk.line()?;
            ensure!(!line.is_empty(), "closed after {answer} answers");
            !line.contains("HTTP/1.1 401")
        } {}
    }
    let verified = waited(&edge, "verify", 31)?;
    ensure!(verified[..30].iter().all(|one| one.get("count").is_none()), "{verified:#?}");
    let rest = &verified[30];
    ensure!(rest["count"] == 170 && rest["outcome"] == "failure" && rest["peer"] == verified[0]["peer"], "{rest}");
    let late = time(&rest["time"])?.duration_since(time(&verified[29]["time"])?);
    ensure!(late.as_secs_f64() <= 10.5, "told after {late}");
    // Of forged packets from many sources the kernel samples a few at a time.
    let wire = Wire::new(&lab)?;
    let mut sources = (0xc612_0000..).map(std::net::Ipv4Addr::from_bits);
    let drops = wait_for("the drops to be counted", SOON * 2, || {
        for source in sources.by_ref().take(4) {
            wire.send(&wire.datagram(source.into(), 0, &[])?)?;
        }
        Ok(Some(shown(&edge, "drop")?).filter(|drops| drops.last().is_some_and(|last| last["count"].is_u64())))
    })?;
    ensure!(drops.len() == 31 && drops[30]["reason"] == "port_closed" && drops[30]["peer"].is_null(), "{drops:#?}");
    ensure!(lines(&path)?.len() > 60);
    Ok(())
}

#[test]
fn whatever_was_answered_before_a_stop_is_there() -> Result<()> {
    const AT_ONCE: usize = 25;
    const REQUESTS: usize = 12 * AT_ONCE;
    let lab = Lab::new()?;
    let mut edge = logging(&lab)?;
    let login = Client::new(&lab, &edge, ATTACKER4).login(USER, PASSWORD)?.json()?;
    let access = login["access_token"].as_str().context("token")?;
    let mut talk = Talk::open(&lab, "http/1.1")?;
    let request = format!("GET /auth/verify HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {access}\r\n\r\n");
    for answer in 0..REQUESTS {
        if answer % AT_ONCE == 0 {
            talk.say(request.repeat(AT_ONCE).as_bytes())?;
        }
        while {
            let line = talk.line()?;
            ensure!(!line.is_empty(), "closed after {answer} answers");
            !line.contains("HTTP/1.1 200")
        } {}
    }
    ensure!(edge.stop()? == 0);
    let written = lines(&edge.path("audit.log"))?;
    let verified = written.iter().filter(|one| one["event"] == "verify").count();
    ensure!(verified == REQUESTS, "{verified} of {REQUESTS}");
    Ok(())
}

#[test]
fn a_file_that_is_moved_away_is_followed_and_made_anew_at_sighup() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let [path, moved] = ["audit.log", "audit.log.1"].map(|name| edge.path(name));
    filter_only(&mut edge.config);
    edge.config.text("log", "audit", &path);
    edge.run()?;
    let block = |address: &str| edge.cli(&["block", address])?.good().map(drop);
    block("203.0.113.1")?;
    let mut following = Following::of(&edge)?;
    ensure!(following.next("block")?["subject"] == "203.0.113.1");
    block("203.0.113.2")?;
    ensure!(following.next("block")?["subject"] == "203.0.113.2");
    fs::rename(&path, &moved)?;
    block("203.0.113.3")?;
    ensure!(following.next("block")?["subject"] == "203.0.113.3");
    kill(nix::unistd::Pid::from_raw(i32::try_from(edge.pid()?)?), Signal::SIGHUP)?;
    wait_for("a new file", SOON, || Ok(path.exists().then_some(())))?;
    block("203.0.113.4")?;
    ensure!(following.next("block")?["subject"] == "203.0.113.4");
    let subjects = |path: &Path| -> Result<Vec<Value>> {
        let all = lines(path)?;
        Ok(all.into_iter().filter(|one| one["event"] == "block").map(|one| one["subject"].clone()).collect())
    };
    ensure!(subjects(&moved)? == ["203.0.113.1", "203.0.113.2", "203.0.113.3"] && subjects(&path)? == ["203.0.113.4"]);
    let reloaded = shown(&edge, "reload")?;
    ensure!(
        reloaded.len() == 1 && reloaded[0]["reason"].as_str().is_some_and(|why| why.starts_with("SIGHUP")),
        "{reloaded:?}"
    );

    // With the agent gone it is still read, and written by whoever gives a command.
    ensure!(edge.stop()? == 0);
    edge.cli(&["unblock", "203.0.113.4"])?.good()?;
    ensure!(edge.cli(&["block", "127.0.0.1"])?.code == 1);
    ensure!(shown(&edge, "stop")?.len() == 1 && shown(&edge, "unblock")?[0]["actor"]["name"] == "root");
    ensure!(shown(&edge, "block")?.last().is_some_and(|one| one["outcome"] == "failure"));
    Ok(())
}

#[test]
fn a_log_that_cannot_be_written_is_an_alarm_and_hinders_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    edge.config.text("log", "audit", "/dev/full");
    edge.run()?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    fail_five_times(&client)?;
    shut_out(&client)?;
    let ok = || scrape(&lab)?.value("edge_audit_ok", &[]).context("no family");
    wait_for("the alarm", SOON, || Ok((ok()? == 0.0).then_some(())))?;
    ensure!(edge.log().matches("cannot be written").count() == 1, "{}", edge.log());
    let path = edge.path("audit.log");
    edge.config.text("log", "audit", &path);
    edge.write_config()?;
    ensure!(edge.json(&["reload"])?["applied"] == json!(["log.audit"]));
    wait_for("what waited", SOON, || Ok((ok()? == 1.0).then_some(())))?;
    ensure!(waited(&edge, "login", 5)?.iter().all(|one| one["outcome"] == "failure"));
    ensure!(edge.log().contains("is written again"), "{}", edge.log());
    ensure!(scrape(&lab)?.value("edge_events_lost_total", &[("source", "audit")]) == Some(0.0));
    Ok(())
}

#[test]
fn whoever_may_command_the_agent_may_read_it_though_not_the_file() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    let path = edge.path("audit.log");
    filter_only(&mut edge.config);
    edge.config.text("log", "audit", &path).text("admin", "group", "games");
    edge.run()?;
    edge.cli(&["block", "203.0.113.7"])?.good()?;
    let of_nobody = |groups: &str| {
        let mut command = lab.host.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", groups, "cat"]);
        run(command.arg(&path), b"")
    };
    let member = member()?;
    let shown = as_nobody(&edge, &member)?;
    ensure!(shown.code == 0 && shown.stdout.contains(" block "), "{shown:?}");
    ensure!(shown.stdout.contains("subject=\"203.0.113.7\" actor=root"), "{shown:?}");
    ensure!(of_nobody(&member)?.stderr.contains("denied"));
    ensure!(as_nobody(&edge, "--clear-groups")?.code == 4);
    Ok(())
}

/// The option of setpriv that makes one a member of the group `games`.
fn member() -> Result<String> {
    let group = nix::unistd::Group::from_name("games")?.context("no group games")?;
    Ok(format!("--groups={}", group.gid))
}

/// `edge audit` as nobody with such groups.
fn as_nobody(edge: &Edge, groups: &str) -> Result<Output> {
    // The binary may lie where only root can look.
    let copy = edge.path("edge-copy");
    fs::copy(binary()?, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    let copy = copy.display().to_string();
    let renamed = ["sh", "-c", "shift; exec \"$0\" \"$@\"", &copy];
    let wrapper = [&["setpriv", "--reuid=65534", "--regid=65534", groups], &renamed[..]].concat();
    edge.cli_under(&wrapper, &["audit"], b"")
}

/// `edge audit --follow -o json`.
struct Following {
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Following {
    fn of(edge: &Edge) -> Result<Following> {
        let mut process = edge.cli_going_on(&["audit", "--follow", "-o", "json"])?;
        let lines = BufReader::new(process.stdout.take().context("stdout")?);
        Ok(Following { process, lines })
    }

    /// The next one of an event.
    fn next(&mut self, event: &str) -> Result<Value> {
        loop {
            let mut line = String::new();
            ensure!(self.lines.read_line(&mut line)? > 0, "it ended");
            let found: Value = serde_json::from_str(&line)?;
            if found["event"] == event {
                return Ok(found);
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
