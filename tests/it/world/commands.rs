//! The command line: exit codes, and the documents that programs read.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::{Edge, USER, binary},
    net::{HOST_INTERFACE, HOST4, Lab},
    run, wait_for,
};
use serde_json::{Value, json};
use std::process::Command;

use super::{
    SOON, has_keys,
    lifecycle::{filter_only, nothing_left},
    time,
};

#[test]
fn exit_codes_with_an_agent() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let host = HOST4.to_string();
    let rows: &[(i32, &[&str])] = &[
        (0, &["status"]),
        (0, &["list"]),
        (0, &["block", "203.0.113.7"]),
        (0, &["block", "203.0.113.7"]),
        (1, &["why", "203.0.113.7"]),
        (0, &["why", "203.0.113.8"]),
        (0, &["unblock", "203.0.113.7"]),
        (0, &["unblock", "203.0.113.7"]),
        (0, &["ban", "203.0.113.7", "--for", "4h"]),
        (0, &["unban", "203.0.113.7"]),
        (1, &["block", &host]),
        (1, &["block", "127.0.0.1"]),
        (2, &["block", "203.0.113.300"]),
        (2, &["block", "example.org"]),
        (2, &["block", "203.0.113.7", "--for", "soon"]),
        (2, &["why", "203.0.113.0/24"]),
        (2, &["block"]),
        (2, &["blocc", "203.0.113.7"]),
        (2, &["list", "--origin", "nobody"]),
        (0, &["allow", "203.0.113.9"]),
        (1, &["block", "203.0.113.9"]),
        (0, &["disallow", "203.0.113.9"]),
        (0, &["disallow", "203.0.113.9"]),
        (0, &["check"]),
        (0, &["doctor"]),
        (0, &["reload"]),
        (0, &["user", "list"]),
        (1, &["user", "remove", "nobody-of-this-name"]),
        (0, &["unload"]),
        (0, &["unload"]),
    ];
    for (code, args) in rows {
        let output = edge.cli(args)?;
        ensure!(output.code == *code, "edge {} exits {}, not {code}: {output:?}", args.join(" "), output.code);
        if *code != 0 && !args.starts_with(&["why", "203.0.113.7"]) {
            ensure!(!output.stderr.trim().is_empty(), "edge {} says nothing", args.join(" "));
        }
    }
    Ok(())
}

#[test]
fn exit_codes_without_an_agent() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::new(&lab)?;
    for (code, args) in [
        (3, &["status"] as &[&str]),
        (3, &["block", "203.0.113.7"]),
        (3, &["list"]),
        (3, &["why", "203.0.113.7"]),
        (3, &["reload"]),
        (0, &["check"]),
        (0, &["user", "list"]),
        (0, &["unload"]),
        (2, &[]),
    ] {
        let output = edge.cli(args)?;
        ensure!(output.code == code, "edge {} exits {}, not {code}: {output:?}", args.join(" "), output.code);
    }
    Ok(())
}

#[test]
fn an_answer_that_is_cut_short_is_a_failure_and_one_that_nobody_reads_on_is_none() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        config.text("log", "audit", "/dev/null");
    })?;
    let list: String = (0..5_000).map(|n| format!("203.{}.{}.7\n", n / 250, n % 250)).collect();
    edge.cli_with(&["import", "-"], list.as_bytes())?.good()?;
    for args in [&["list"] as &[&str], &["export"], &["audit", "-o", "json"], &["status"], &["secret", "generate"]] {
        let cut = edge.cli_under(&["sh", "-c", "exec \"$@\" >/dev/full", "sh"], args, b"")?;
        ensure!(cut.code == 1 && cut.stderr.contains("cannot be shown whole: No space left"), "{args:?}: {cut:?}");
        let left = edge.cli_under(&["bash", "-c", "\"$@\" | :; exit ${PIPESTATUS[0]}", "bash"], args, b"")?;
        ensure!(left.code == 0 && left.stderr.is_empty(), "{args:?}: {left:?}");
    }
    Ok(())
}

#[test]
fn who_lacks_the_right_is_told_so() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::new(&lab)?;
    // As the bpffs of Debian is, whatever this one's mode.
    edge.config.text("filter", "pin_path", lab.pin_path().join("edge"));
    edge.run()?;
    fs::set_permissions(lab.pin_path(), fs::Permissions::from_mode(0o700))?;
    // The binary may lie where only root can look.
    let copy = edge.path("edge-copy");
    fs::copy(binary()?, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    let forbidden = |args: &[&str]| -> Result<()> {
        let mut command = lab.host.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy).args(args);
        command.arg("--config").arg(edge.path("edge.toml"));
        let output = run(&mut command, b"")?;
        ensure!(output.code == 4 && !output.stderr.trim().is_empty(), "{args:?}: {output:?}");
        Ok(())
    };
    forbidden(&["status", "-q"])?;
    forbidden(&["block", "203.0.113.7"])?;
    ensure!(edge.json(&["list"])? == json!([]));

    nix::sys::signal::kill(nix::unistd::Pid::from_raw(edge.pid()?.try_into()?), nix::sys::signal::Signal::SIGTERM)?;
    wait_for("the agent to end", SOON, || Ok((edge.cli(&["status"])?.code == 3).then_some(())))?;
    for args in [&["block", "203.0.113.7"] as &[&str], &["list"], &["why", "203.0.113.7"], &["unload"]] {
        forbidden(args).context("without the agent")?;
    }
    fs::set_permissions(edge.path("edge.toml"), fs::Permissions::from_mode(0o600))?;
    forbidden(&["check"]).context("a config that others may not read")
}

#[test]
fn where_nothing_is_configured_nothing_is_loaded() -> Result<()> {
    let binary = binary()?;
    let anywhere = |args: &[&str]| {
        let mounts = "mount -t tmpfs none /etc && mount -t tmpfs none /run && mount -t bpf none /sys/fs/bpf";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "sh", "-ec", &format!("{mounts}; exec \"$@\""), "sh"]).arg(&binary);
        command.args(args).env_remove("EDGE_CONFIG").env_remove("EDGE_SOCKET");
        run(&mut command, b"")
    };
    for (code, args) in [(0, &["unload"] as &[&str]), (3, &["list"]), (3, &["block", "203.0.113.7"]), (3, &["status"])]
    {
        let output = anywhere(args)?;
        ensure!(output.code == code, "edge {} exits {}, not {code}: {output:?}", args.join(" "), output.code);
    }
    Ok(())
}

#[test]
fn a_config_that_is_wrong_elsewhere_hinders_no_block_and_no_unload() -> Result<()> {
    let lab = Lab::new()?;
    let mut edge = Edge::start(&lab)?;
    edge.kill()?;
    edge.config.set("learn", "window", "\"soon\"").set("server", "lisen", "[]");
    edge.write_config()?;
    let block = edge.cli(&["block", "203.0.113.7"])?;
    ensure!(block.code == 0 && block.stderr.contains("learn.window"), "{block:?}");
    ensure!(edge.json(&["list"])?[0]["address"] == "203.0.113.7/32");
    edge.config.set("filter", "allow", "[\"203.0.113.300\"]");
    edge.write_config()?;
    let block = edge.cli(&["block", "203.0.113.8"])?;
    ensure!(block.code == 2 && block.stderr.contains("filter.allow"), "{block:?}");
    edge.config.set("filter", "pin_path", "7");
    edge.write_config()?;
    let unload = edge.cli(&["unload"])?;
    ensure!(unload.code == 2 && unload.stderr.contains("filter.pin_path"), "{unload:?}");
    edge.config.text("filter", "pin_path", lab.pin_path());
    edge.write_config()?;
    edge.cli(&["unload"])?.good()?;
    nothing_left(&lab)
}

#[test]
fn some_commands_need_nothing() -> Result<()> {
    let plain = |args: &[&str]| {
        let mut command = Command::new(binary()?);
        command.args(args).env("EDGE_CONFIG", "/nonexistent/edge.toml").env_remove("EDGE_SOCKET");
        run(&mut command, b"")?.good().with_context(|| args.join(" "))
    };
    ensure!(plain(&["--version"])?.starts_with("edge "));
    let secret = plain(&["secret", "generate"])?;
    ensure!(secret.trim_end().len() == 43 && secret.lines().count() == 1, "{secret}");
    ensure!(secret.trim_end().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{secret}");
    ensure!(plain(&["secret", "generate"])? != secret);
    let help = plain(&["--help"])?;
    let listed = help.split_once("Commands:").context("no Commands: in --help")?.1;
    for command in [
        "run",
        "check",
        "doctor",
        "block",
        "unblock",
        "list",
        "why",
        "status",
        "allow",
        "disallow",
        "reload",
        "unload",
        "user",
        "secret",
        "completions",
    ] {
        ensure!(listed.contains(&format!("  {command} ")), "--help does not list {command}");
        ensure!(plain(&[command, "--help"])?.contains("Examples:"), "{command} --help has no examples");
    }
    // A variable that is set to nothing says nothing.
    let mut doctor = Command::new(binary()?);
    doctor.args(["doctor"]).env("EDGE_CONFIG", "").env("EDGE_SOCKET", "");
    let output = run(&mut doctor, b"")?;
    ensure!([0, 1].contains(&output.code) && output.stdout.contains("kernel"), "{output:?}");
    for shell in ["bash", "zsh", "fish"] {
        ensure!(plain(&["completions", shell])?.contains("unblock"), "{shell}");
    }
    Ok(())
}

#[test]
fn status_and_list_have_their_shape() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    edge.cli(&["block", "203.0.113.7", "2001:db8:99::7", "198.51.100.0/24", "--for", "1h", "--reason", "r"])?.good()?;
    let status = edge.json(&["status"])?;
    has_keys(&status, &["version", "pid", "uptime_seconds", "dry_run", "interfaces", "blocked", "enforced", "drift"])?;
    ensure!(status["store"] == json!({"ok": true, "problems": []}), "{status}");
    has_keys(&status["connections"], &["tracked_addresses", "total"])?;
    has_keys(&status["packets"], &["passed", "dropped", "by_reason"])?;
    let reasons = ["passed", "allowed", "blocked", "connection_cap", "syn_rate", "packet_rate", "port_closed"];
    has_keys(&status["packets"]["by_reason"], &reasons)?;
    has_keys(&status["packets"]["by_reason"], &["malformed", "fragment"])?;
    ensure!(status["pid"] == edge.pid()? && status["dry_run"] == false && status["drift"] == 0, "{status}");
    ensure!(status["blocked"] == json!({"total": 3, "ipv4": 1, "ipv6": 1, "prefixes": 1}), "{status}");
    ensure!(status["enforced"]["total"] == 3, "{status}");
    ensure!(status["interfaces"][0]["name"] == HOST_INTERFACE, "{status}");
    ensure!(status["interfaces"][0]["program_id"].as_u64() == lab.host.xdp_program(HOST_INTERFACE)?, "{status}");
    ensure!(status["reload"]["last_result"] == "ok" && status["reload"]["generation"].is_u64(), "{status}");

    let list = edge.json(&["list"])?;
    let entries = list.as_array().context("list")?;
    let mut named: Vec<_> = entries.iter().filter_map(|entry| entry["address"].as_str()).collect();
    named.sort_unstable();
    ensure!(named == ["198.51.100.0/24", "2001:db8:99::7/128", "203.0.113.7/32"], "{list}");
    for entry in entries {
        has_keys(entry, &["address", "origin", "reason", "created", "expires", "offence", "packets", "bytes"])?;
        time(&entry["created"])?;
        ensure!(super::length(entry)? == 3600.0, "{entry}");
    }
    for (limit, shown) in [("0", 0), ("2", 2), ("3", 3)] {
        ensure!(edge.json(&["list", "--limit", limit])?.as_array().map(Vec::len) == Some(shown), "{limit}");
        let text = edge.cli(&["list", "--limit", limit])?.good()?;
        ensure!(text.contains("--limit") == (shown < 3) && !text.contains("nothing is blocked"), "{text}");
    }
    ensure!(edge.json(&["list", "--origin", "auth"])? == json!([]));
    Ok(())
}

#[test]
fn json_is_one_document_whatever_the_exit_code() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, filter_only)?;
    for args in [&["block", "127.0.0.1"] as &[&str], &["block", "203.0.113.7"], &["unblock", "--all"], &["check"]] {
        let (_, document) = edge.json_any(args)?;
        ensure!(!document.is_null(), "{args:?}");
    }
    edge.cli(&["unload"])?.good()?;
    let output = edge.cli(&["-o", "json", "status"])?;
    ensure!(output.code == 3, "{output:?}");
    serde_json::from_str::<Value>(&output.stdout).with_context(|| format!("{output:?}"))?;
    Ok(())
}

#[test]
fn users_come_and_go() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::new(&lab)?;
    edge.add_user("bob", "a password of bob", &["chat", "admin"])?;
    let again = edge.cli_with(&["user", "add", "bob"], b"another password\n")?;
    ensure!(again.code == 1 && again.stderr.contains("bob"), "{again:?}");
    for (name, password) in [("carol", "short"), ("a:b", "long enough"), ("", "long enough")] {
        let output = edge.cli_with(&["user", "add", name], format!("{password}\n").as_bytes())?;
        ensure!([1, 2].contains(&output.code) && !output.stderr.contains(password), "{name}: {output:?}");
    }
    let list = edge.json(&["user", "list"])?;
    let users = list.as_array().context("list")?;
    ensure!(users.len() == 2, "{list}");
    for user in users {
        has_keys(user, &["name", "roles", "disabled", "created"])?;
        time(&user["created"])?;
    }
    ensure!(users.iter().any(|user| user["name"] == "bob" && user["roles"] == json!(["chat", "admin"])), "{list}");
    edge.cli_with(&["user", "passwd", "bob"], b"a new password\n")?.good()?;
    edge.cli(&["user", "remove", "bob"])?.good()?;
    ensure!(edge.cli(&["user", "remove", "bob"])?.code == 1);
    ensure!(edge.json(&["user", "list"])?[0]["name"] == USER);
    Ok(())
}

#[test]
fn a_new_password_holds_at_once_and_a_removed_user_has_no_token() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    let client = edge_tests::client::Client::new(&lab, &edge, edge_tests::net::NEIGHBOUR4);
    let token = super::log_in(&client)?;
    edge.cli_with(&["user", "passwd", USER], b"a quite new password\n")?.good()?;
    ensure!(client.login(USER, "a quite new password")?.status() == Some(200));
    ensure!(client.login(USER, edge_tests::agent::PASSWORD)?.status() == Some(401));
    edge.cli(&["user", "remove", USER])?.good()?;
    ensure!(client.bearer("/auth/me", &token)?.status() == Some(401));
    Ok(())
}
