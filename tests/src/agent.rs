//! The real binary as a process in a lab: its config, certificate, secret and users in a folder of its own, its start,
//! its end. Dropping it kills what it started and removes what that had attached.

use std::{
    fs::{self, File, Permissions},
    mem,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Output,
    authority::certificate,
    canary::Canaries,
    net::{HOST_INTERFACE, HOST4, HOST6, Lab},
    refuse::refuse,
    run, wait_for,
};

/// The account that [`Edge::new`] makes, and its password.
pub const USER: &str = "alice";
pub const PASSWORD: &str = "correct horse battery staple";

/// Longer than any start takes, even on a machine busy with other things.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The binary: `EDGE_BIN`, else the one that was built beside this program.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("EDGE_BIN") {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .map(|folder| folder.join("edge"))
        .find(|path| path.is_file())
        .with_context(|| format!("no `edge` was built beside {}; `cargo build` makes it", own.display()))
}

/// A configuration as sections of `key = value`, each value in TOML's own words.
#[derive(Clone, Debug, Default)]
pub struct Config {
    sections: Vec<(String, Vec<(String, String)>)>,
}

impl Config {
    /// Sets one key, in place of what stood there; the section `""` is the top.
    pub fn set(&mut self, section: &str, key: &str, value: &str) -> &mut Config {
        self.unset(section, key);
        let index = self.sections.iter().position(|(name, _)| name == section).unwrap_or_else(|| {
            self.sections.push((section.to_owned(), Vec::new()));
            self.sections.len() - 1
        });
        self.sections[index].1.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Sets one key to a string.
    pub fn text(&mut self, section: &str, key: &str, value: impl AsRef<Path>) -> &mut Config {
        self.set(section, key, &format!("{:?}", value.as_ref().display().to_string()))
    }

    pub fn unset(&mut self, section: &str, key: &str) -> &mut Config {
        for (_, keys) in self.sections.iter_mut().filter(|(name, _)| name == section) {
            keys.retain(|(name, _)| name != key);
        }
        self
    }

    /// Takes out a section and those below it.
    pub fn without(&mut self, section: &str) -> &mut Config {
        let below = format!("{section}.");
        self.sections.retain(|(name, _)| name != section && !name.starts_with(&below));
        self
    }

    pub fn render(&self) -> String {
        let mut sections: Vec<_> = self.sections.iter().collect();
        sections.sort_by_key(|(name, _)| !name.is_empty());
        let mut text = String::new();
        for (name, keys) in sections {
            if !name.is_empty() {
                text.push_str(&format!("\n[{name}]\n"));
            }
            for (key, value) in keys {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        text
    }
}

/// One edge of a lab: its files, and its process while it runs.
#[derive(Debug)]
pub struct Edge {
    /// What `write_config` writes; change it, then start.
    pub config: Config,
    /// What `edge run` gets besides its config.
    pub arguments: Vec<String>,
    /// What `edge run` is started by, as `strace` that becomes it.
    pub wrapper: Vec<String>,
    /// What the next start has as its standard input, and as its standard output.
    pub inherits: Vec<OwnedFd>,
    /// The mount namespace that all of it runs in, as `/proc/PID/ns/mnt`; `None`: that of the test.
    pub mounts: Option<PathBuf>,
    /// Variables that all of it runs with.
    pub environment: Vec<(String, String)>,
    /// What may stand nowhere; looked for at the end.
    pub canaries: Canaries,
    folder: TempDir,
    binary: PathBuf,
    namespace: PathBuf,
    process: Option<Child>,
}

impl Edge {
    /// Files for an edge that filters the lab's host and serves there on port 443 of both families; not started. The
    /// account [`USER`] with the role `chat` exists.
    pub fn new(lab: &Lab) -> Result<Edge> {
        let edge = Edge::bare(lab)?;
        edge.prepare()?;
        Ok(edge)
    }

    /// Makes of one that is bare one that can be started.
    pub fn prepare(&self) -> Result<()> {
        certificate(&self.path("cert.pem"), &self.path("key.pem"))?;
        let key = fs::read_to_string(self.path("key.pem"))?;
        self.canaries.watch("the certificate's key", key.lines().nth(1).context("no key")?)?;
        let secret = self.cli(&["secret", "generate"])?.good().context("edge secret generate")?;
        self.canaries.watch("the signing secret", &secret)?;
        fs::write(self.path("jwt"), secret)?;
        fs::set_permissions(self.path("jwt"), Permissions::from_mode(0o600))?;
        self.write_config()?;
        self.add_user(USER, PASSWORD, &["chat"])
    }

    /// The same without certificate, secret and user: nothing was run yet.
    pub fn bare(lab: &Lab) -> Result<Edge> {
        let folder = tempfile::Builder::new().prefix(&format!("{}-", lab.name)).tempdir()?;
        // The server is another user and comes through here.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let config = default_config(folder.path(), &lab.pin_path());
        Ok(Edge {
            config,
            arguments: Vec::new(),
            wrapper: Vec::new(),
            inherits: Vec::new(),
            mounts: None,
            environment: Vec::new(),
            canaries: Canaries::default(),
            folder,
            binary: binary()?,
            namespace: lab.host.path(),
            process: None,
        })
    }

    /// A new one, started and ready.
    pub fn start(lab: &Lab) -> Result<Edge> {
        Edge::start_with(lab, |_| {})
    }

    /// A new one with another config, started and ready.
    pub fn start_with(lab: &Lab, change: impl FnOnce(&mut Config)) -> Result<Edge> {
        let mut edge = Edge::new(lab)?;
        change(&mut edge.config);
        edge.run()?;
        Ok(edge)
    }

    /// A file in this edge's own folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// At once: a command may be reading it.
    pub fn write_config(&self) -> Result<PathBuf> {
        let (path, new) = (self.path("edge.toml"), self.path("edge.toml.new"));
        fs::write(&new, self.config.render())?;
        fs::rename(new, &path)?;
        Ok(path)
    }

    pub fn add_user(&self, name: &str, password: &str, roles: &[&str]) -> Result<()> {
        let mut args = vec!["user", "add", name];
        for role in roles {
            args.extend(["--role", role]);
        }
        self.canaries.watch("a password", password)?;
        self.cli_with(&args, format!("{password}\n").as_bytes())?.good().with_context(|| format!("user add {name}"))?;
        Ok(())
    }

    /// Writes the config, starts `edge run`, and waits until it says that it is ready.
    pub fn run(&mut self) -> Result<()> {
        self.spawn()?;
        wait_for("edge to be ready", READY_WITHIN, || {
            if let Some(status) = self.exited()? {
                bail!("edge run ended ({status}):\n{}", self.log());
            }
            Ok((self.cli(&["status"])?.code == 0).then_some(()))
        })
        .with_context(|| format!("log of edge run:\n{}", self.log()))
    }

    /// Writes the config and starts `edge run`; readiness is the caller's business.
    pub fn spawn(&mut self) -> Result<()> {
        self.write_config()?;
        let log = File::options().create(true).append(true).open(self.path("edge.log"))?;
        let mut inherits = mem::take(&mut self.inherits).into_iter();
        // Should the test be killed, its agent ends too.
        let child = self
            .command("setpriv", &["--pdeathsig", "KILL", "--"])
            .args(&self.wrapper)
            .arg(&self.binary)
            .args(["run", "--config"])
            .arg(self.path("edge.toml"))
            .args(&self.arguments)
            .stdin(inherits.next().map_or_else(Stdio::null, Stdio::from))
            .stdout(inherits.next().map_or_else(|| log.try_clone(), |inherited| Ok(File::from(inherited)))?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        self.process = Some(child);
        Ok(())
    }

    /// Runs `edge run` to its end, as it is expected where it cannot start. It is killed if it starts all the same.
    pub fn run_in_vain(&mut self) -> Result<Output> {
        self.run_in_vain_under(&[])
    }

    /// The same behind another command, as `setpriv`.
    pub fn run_in_vain_under(&mut self, wrapper: &[&str]) -> Result<Output> {
        run(&mut self.in_vain(wrapper)?, b"")
    }

    /// The same on a kernel that refuses a system call with this error.
    pub fn run_in_vain_without(&mut self, call: i64, errno: i32) -> Result<Output> {
        let mut command = self.in_vain(&[])?;
        refuse(&mut command, call, errno)?;
        run(&mut command, b"")
    }

    fn in_vain(&mut self, wrapper: &[&str]) -> Result<Command> {
        self.write_config()?;
        let mut command = self.command("timeout", &["--signal=KILL", "30"]);
        command.args(wrapper).arg(&self.binary).arg("run").arg("--config").arg(self.path("edge.toml"));
        Ok(command)
    }

    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("edge is not running")?.id())
    }

    /// The server: the agent's only child of this name.
    pub fn server_pid(&self) -> Result<u32> {
        self.child_pid("edge-server")
    }

    /// The process that asks others for the server.
    pub fn fetcher_pid(&self) -> Result<u32> {
        self.child_pid("edge-fetcher")
    }

    fn child_pid(&self, name: &str) -> Result<u32> {
        let agent = self.pid()?;
        let by_thread = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let all = fs::read_dir(format!("/proc/{agent}/task"))?.flatten().map(by_thread).collect::<String>();
        let called = |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
        all.split_whitespace().find(called).with_context(|| format!("no {name}"))?.parse().context("pid")
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.process.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM; gives the exit code.
    pub fn stop(&mut self) -> Result<i32> {
        kill(Pid::from_raw(i32::try_from(self.pid()?)?), Signal::SIGTERM)?;
        self.wait()
    }

    /// Sends a signal to the agent and all that it started, as a terminal does. It runs in a group of its own.
    pub fn signal_group(&self, signal: Signal) -> Result<()> {
        Ok(killpg(Pid::from_raw(i32::try_from(self.pid()?)?), signal)?)
    }

    /// Waits for the end of a process that was told to end; gives the exit code.
    pub fn wait(&mut self) -> Result<i32> {
        let mut child = self.process.take().context("edge is not running")?;
        let ended = wait_for("edge to end", Duration::from_secs(10), || Ok(child.try_wait()?));
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        Ok(ended?.code().unwrap_or(-1))
    }

    /// Whether the process that was started is still there.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.process.is_some() && self.exited()?.is_none())
    }

    /// The exit status, if the process is gone.
    fn exited(&mut self) -> Result<Option<std::process::ExitStatus>> {
        let status = self.process.as_mut().context("edge is not running")?.try_wait()?;
        if status.is_some() {
            self.process = None;
        }
        Ok(status)
    }

    /// What the agent and the server logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("edge.log")).unwrap_or_default()
    }

    /// `edge ARGS` with this edge's config, in its namespace.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        self.cli_with(args, b"")
    }

    /// The same with something on standard input.
    pub fn cli_with(&self, args: &[&str], input: &[u8]) -> Result<Output> {
        self.cli_under(&[], args, input)
    }

    /// The same behind another command, as `setpriv`.
    pub fn cli_under(&self, wrapper: &[&str], args: &[&str], input: &[u8]) -> Result<Output> {
        let words = wrapper.iter().map(Path::new).chain([self.binary.as_path()]).collect::<Vec<_>>();
        let mut command = self.command(words[0], &[]);
        command.args(&words[1..]).args(args).arg("--config").arg(self.path("edge.toml"));
        let output = run(&mut command, input)?;
        self.canaries.not_printed(&format!("edge {}", args.join(" ")), &output)?;
        Ok(output)
    }

    /// `edge ARGS` as a process that goes on, its standard output in a pipe. The caller ends it.
    pub fn cli_going_on(&self, args: &[&str]) -> Result<Child> {
        let mut command = self.command("setpriv", &["--pdeathsig", "KILL", "--"]);
        command.arg(&self.binary).args(args).arg("--config").arg(self.path("edge.toml"));
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
    }

    /// The document that `edge ARGS -o json` prints; an error unless the exit code is 0.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let (code, document) = self.json_any(args)?;
        if code != 0 {
            bail!("edge {} -o json: exit code {code}: {document}", args.join(" "));
        }
        Ok(document)
    }

    /// Exit code and document, whatever the code.
    pub fn json_any(&self, args: &[&str]) -> Result<(i32, Value)> {
        let output = self.cli(&[args, &["-o", "json"]].concat())?;
        let document = serde_json::from_str(&output.stdout).with_context(|| {
            format!("edge {} -o json printed no JSON but `{}` and {}", args.join(" "), output.stdout, output.stderr)
        })?;
        Ok((output.code, document))
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace.display()));
        command.args(self.mounts.iter().map(|mounts| format!("--mount={}", mounts.display())));
        command.arg("--").arg(program).args(args);
        for variable in ["EDGE_CONFIG", "EDGE_SOCKET", "NOTIFY_SOCKET", "SSH_CONNECTION", "SSH_CLIENT", "RUST_LOG"] {
            command.env_remove(variable);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Edge {
    /// Whether a secret stands where none may.
    fn keeps_its_secrets(&self) -> Result<()> {
        for process in [self.server_pid(), self.fetcher_pid()].into_iter().flatten() {
            self.canaries.not_in_process(process)?;
        }
        self.canaries.not_below(self.folder.path())
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let secrets = self.keeps_its_secrets();
        let _ = self.kill();
        let _ = self.cli(&["unload"]);
        if !std::thread::panicking()
            && let Err(told) = secrets
        {
            panic!("{told:#}");
        }
    }
}

fn default_config(folder: &Path, pin_path: &Path) -> Config {
    let mut config = Config::default();
    config
        .text("", "mode", "production")
        .set("filter", "interfaces", &format!("[\"{HOST_INTERFACE}\"]"))
        .text("filter", "pin_path", pin_path)
        // Tables for a million would cost each test some 100 MB.
        .set("filter", "max_blocked", "10_000")
        .set("filter", "max_prefixes", "1_000")
        .set("server", "listen", &format!("[\"{HOST4}:443\", \"[{HOST6}]:443\"]"))
        .text("server.tls", "cert_file", folder.join("cert.pem"))
        .text("server.tls", "key_file", folder.join("key.pem"))
        .text("auth", "issuer", "https://edge.test")
        .text("auth", "audience", "test")
        .text("auth", "secret_file", folder.join("jwt"))
        .text("metrics", "listen", "127.0.0.1:9464")
        .text("store", "path", folder.join("edge.db"))
        .text("admin", "socket", folder.join("edge.sock"))
        .text("log", "format", "text");
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_rendered_with_its_top_first_and_each_key_once() {
        let mut config = Config::default();
        config.set("filter", "dry_run", "true").text("", "mode", "production").set("filter", "dry_run", "false");
        config.set("server", "listen", "[]").set("server.tls", "self_signed", "true").without("server");
        assert_eq!(config.render(), "mode = \"production\"\n\n[filter]\ndry_run = false\n");
    }
}
