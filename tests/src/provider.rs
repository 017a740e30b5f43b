//! A real OpenID provider (`oidc-provider` of npm) on the guarded host, as `tests/oidc-provider` sets it up.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    authority::certificate,
    net::{HOST4, Lab},
    wait_for,
};

const PORT: u16 = 8443;
pub const CLIENT_ID: &str = "edge at work";
/// Of characters that mean something where it is written.
pub const CLIENT_SECRET: &str = "se:cr%et+of/the&client=?";
const STARTED_WITHIN: Duration = Duration::from_secs(30);

/// Ends with this value.
#[derive(Debug)]
pub struct Provider<'lab> {
    lab: &'lab Lab,
    folder: TempDir,
    process: Child,
}

/// What it does.
#[derive(Clone, Copy, Debug)]
pub struct Manner<'a> {
    /// To where it sends browsers back.
    pub redirect: &'a str,
    /// The ID token has the e-mail address; else userinfo alone.
    pub email_in_token: bool,
}

impl<'lab> Provider<'lab> {
    /// On every address of the host. Its certificate is made by the authority of an edge's folder, and there.
    pub fn start(lab: &'lab Lab, edges: &Path, manner: Manner<'_>) -> Result<Provider<'lab>> {
        let folder = tempfile::Builder::new().prefix(&format!("{}-oidc-", lab.name)).tempdir()?;
        let (cert, key) = (edges.join("provider.pem"), edges.join("provider-key.pem"));
        certificate(&cert, &key)?;
        let settings = json!({
            "issuer": Provider::issuer(), "port": PORT, "email_in_token": manner.email_in_token,
            "cert": cert, "key": key,
            "client": {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "redirect_uris": [manner.redirect]},
        });
        fs::write(folder.path().join("settings"), settings.to_string())?;
        let process = begin(lab, folder.path())?;
        let provider = Provider { lab, folder, process };
        provider.listens()?;
        Ok(provider)
    }

    pub fn issuer() -> String {
        format!("https://{HOST4}:{PORT}")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Another one in its place, which knows nobody who signed in at the former.
    pub fn again(&mut self) -> Result<()> {
        self.stop();
        self.process = begin(self.lab, self.folder.path())?;
        self.listens()
    }

    /// Whoever connects is let in, and hears nothing.
    pub fn halt(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.process.id())?), Signal::SIGSTOP)?)
    }

    fn listens(&self) -> Result<()> {
        wait_for("the provider", STARTED_WITHIN, || Ok(self.log().contains("listening").then_some(())))
            .with_context(|| self.log())
    }
}

impl Drop for Provider<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

fn begin(lab: &Lab, folder: &Path) -> Result<Child> {
    let log = File::create(folder.join("log"))?;
    let mut command = lab.host.command("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "node"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("oidc-provider/provider.mjs")).arg(modules()?);
    command.arg(fs::read_to_string(folder.join("settings"))?);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("node cannot be started")
}

/// Where `cargo xtask setup` has npm install.
fn modules() -> Result<PathBuf> {
    let own = env::current_exe()?;
    let mut places = own.ancestors().map(|folder| folder.join("oidc-provider/node_modules"));
    places.find(|path| path.is_dir()).context("no oidc-provider is installed; `cargo xtask setup` does it")
}
