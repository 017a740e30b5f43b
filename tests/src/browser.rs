//! A real browser: Chromium without a window, at the clients' addresses, told what to do by WebDriver
//! (<https://www.w3.org/TR/webdriver2/>), which is JSON over HTTP and needs no library. All its processes end with this
//! value, and with the test: they are in a process namespace of their own.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    net::{HOST4, Lab, Namespace},
    run, wait_for,
};

const DRIVER: &str = "http://127.0.0.1:9515";
const STARTED_WITHIN: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(15);
/// How WebDriver writes a reference to an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Whether pages may run scripts. The test may always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scripts {
    Run,
    Blocked,
}

#[derive(Debug)]
pub struct Browser<'lab> {
    namespace: &'lab Namespace,
    folder: TempDir,
    process: Child,
    session: String,
}

impl<'lab> Browser<'lab> {
    /// One that takes the certificate for an authority's, and knows `edge.test` and no other name.
    pub fn start(lab: &'lab Lab, authority: &Path, scripts: Scripts) -> Result<Browser<'lab>> {
        let folder = tempfile::Builder::new().prefix(&format!("{}-browser-", lab.name)).tempdir()?;
        trust(authority, folder.path())?;
        let log = File::create(folder.path().join("log"))?;
        let mut command = lab.client.command("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["chromedriver", "--port=9515"])
            .env("HOME", folder.path())
            .env("TMPDIR", folder.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_CACHE_HOME")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = command.spawn().context("chromedriver cannot be started")?;
        let mut browser = Browser { namespace: &lab.client, folder, process, session: String::new() };
        browser.begin(scripts).with_context(|| browser.log())?;
        Ok(browser)
    }

    fn begin(&mut self, scripts: Scripts) -> Result<()> {
        wait_for("the driver", STARTED_WITHIN, || {
            Ok(self.ask("GET", "/status", &Value::Null).is_ok_and(|status| status["ready"] == true).then_some(()))
        })?;
        let setting = if scripts == Scripts::Run { 1 } else { 2 };
        let wanted = json!({
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"pageLoad": 30_000, "script": 30_000},
            "goog:chromeOptions": {
                "args": [
                    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                    format!("--user-data-dir={}", self.folder.path().join("profile").display()),
                    format!("--host-resolver-rules=MAP edge.test {HOST4}, MAP * ~NOTFOUND, EXCLUDE {HOST4}"),
                ],
                "prefs": {"profile.managed_default_content_settings.javascript": setting},
            },
        });
        let begun = self.ask("POST", "/session", &json!({"capabilities": {"alwaysMatch": wanted}}))?;
        self.session = format!("/session/{}", begun["sessionId"].as_str().context("no session")?);
        Ok(())
    }

    pub fn go(&self, url: &str) -> Result<()> {
        self.tell("/url", &json!({"url": url})).map(drop)
    }

    pub fn url(&self) -> Result<String> {
        Ok(self.see("/url")?.as_str().context("no address")?.to_owned())
    }

    /// Waits for the page of an address that begins so.
    pub fn arrives(&self, begin: &str) -> Result<String> {
        wait_for(begin, SOON, || Ok(Some(self.url()?).filter(|url| url.starts_with(begin))))
            .with_context(|| format!("at {:?}: {:?}", self.url(), self.text("body")))
    }

    pub fn title(&self) -> Result<String> {
        Ok(self.see("/title")?.as_str().unwrap_or_default().to_owned())
    }

    /// What a person reads in the first element of a selector; `None`: there is none.
    pub fn text(&self, selector: &str) -> Result<Option<String>> {
        let Some(element) = self.find(selector)? else { return Ok(None) };
        Ok(self.see(&format!("/element/{element}/text"))?.as_str().map(str::to_owned))
    }

    /// What is written into a field, as the browser has it.
    pub fn value(&self, selector: &str) -> Result<Value> {
        let element = self.find(selector)?.with_context(|| format!("no {selector}"))?;
        self.see(&format!("/element/{element}/property/value"))
    }

    /// Types into a field what stands there then alone.
    pub fn fill(&self, selector: &str, text: &str) -> Result<()> {
        let element = self.awaited(selector)?;
        self.tell(&format!("/element/{element}/clear"), &json!({}))?;
        self.tell(&format!("/element/{element}/value"), &json!({"text": text})).map(drop)
    }

    pub fn click(&self, selector: &str) -> Result<()> {
        let element = self.awaited(selector)?;
        self.tell(&format!("/element/{element}/click"), &json!({})).map(drop)
    }

    /// As the browser keeps them for this page.
    pub fn cookies(&self) -> Result<Vec<Value>> {
        Ok(self.see("/cookie")?.as_array().context("no cookies")?.clone())
    }

    /// One of this page's host, as a server that is safe would set it.
    pub fn set_cookie(&self, name: &str, value: &str) -> Result<()> {
        let cookie = json!({"name": name, "value": value, "path": "/", "secure": true, "httpOnly": true});
        self.tell("/cookie", &json!({"cookie": cookie})).map(drop)
    }

    /// All of this page's host.
    pub fn forget_cookies(&self) -> Result<()> {
        self.ask("DELETE", &format!("{}/cookie", self.session), &Value::Null).map(drop)
    }

    /// What a function body of this page returns, or what it promises to.
    pub fn script(&self, body: &str, arguments: &[&str]) -> Result<Value> {
        self.tell("/execute/sync", &json!({"script": body, "args": arguments}))
    }

    /// What the browser had to complain of since this was asked last.
    pub fn console(&self) -> Result<Vec<String>> {
        let entries = self.tell("/se/log", &json!({"type": "browser"}))?;
        let message = |entry: &Value| entry["message"].as_str().unwrap_or_default().to_owned();
        Ok(entries.as_array().context("no entries")?.iter().map(message).collect())
    }

    fn awaited(&self, selector: &str) -> Result<String> {
        wait_for(selector, SOON, || self.find(selector))
            .with_context(|| format!("at {:?}: {:?}", self.url(), self.text("body")))
    }

    fn find(&self, selector: &str) -> Result<Option<String>> {
        let found = self.tell("/elements", &json!({"using": "css selector", "value": selector}))?;
        Ok(found[0][ELEMENT].as_str().map(str::to_owned))
    }

    fn see(&self, what: &str) -> Result<Value> {
        self.ask("GET", &format!("{}{what}", self.session), &Value::Null)
    }

    fn tell(&self, what: &str, how: &Value) -> Result<Value> {
        self.ask("POST", &format!("{}{what}", self.session), how)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let mut curl = self.namespace.command("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60", "--request", method]);
        curl.args(["--header", "Content-Type: application/json"]);
        if !body.is_null() {
            curl.args(["--data-binary", "@-"]);
        }
        let told = run(curl.arg(format!("{DRIVER}{path}")), body.to_string().as_bytes())?.good()?;
        let mut told: Value = serde_json::from_str(&told).with_context(|| format!("no JSON: {told}"))?;
        let value = told["value"].take();
        if let Some(error) = value.get("error").filter(|_| value.get("stacktrace").is_some()) {
            bail!("{path}: {error}: {}", value["message"]);
        }
        Ok(value)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        // The first process of the namespace goes with it, and with that all of them.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes the store of certificates that Chromium looks into besides its own.
fn trust(authority: &Path, home: &Path) -> Result<()> {
    let store = home.join(".pki/nssdb");
    fs::create_dir_all(&store)?;
    let store = format!("sql:{}", store.display());
    let authority = authority.display().to_string();
    for args in [&["-N", "--empty-password"][..], &["-A", "-t", "C,,", "-n", "lab", "-i", &authority]] {
        let output = run(Command::new("certutil").args(["-d", &store]).args(args), b"")?;
        ensure!(output.code == 0, "certutil {args:?}: {output:?}");
    }
    Ok(())
}
