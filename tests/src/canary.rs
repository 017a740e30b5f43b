//! Secrets that may be nowhere but where they were put: each edge of the tests is searched for them, whatever the test is
//! about, in what its commands print, in its log and state files, and in what anybody may read of its processes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{Output, run};

/// Files that a secret is read from, by what their names have; `edge key create` and the like print into others.
const SOURCES: [&str; 5] = ["*.pem", "*jwt*", "*secret*", "*.key", "*password*"];
/// What is short may stand anywhere by chance.
const LEAST: usize = 12;

/// By what it is.
#[derive(Debug, Default)]
pub struct Canaries(Mutex<Vec<(String, String)>>);

impl Canaries {
    /// From now on `secret` may be found nowhere.
    pub fn watch(&self, what: &str, secret: &str) -> Result<()> {
        let secret = secret.trim();
        ensure!(secret.len() >= LEAST && !secret.contains('\n'), "no canary: {what}");
        let canary = (what.to_owned(), secret.to_owned());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains(&canary) {
            all.push(canary);
        }
        Ok(())
    }

    /// It may be kept from now on: a former signing secret goes on verifying.
    pub fn let_go(&self, secret: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(_, watched)| watched != secret.trim());
    }

    fn all(&self) -> Vec<(String, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What somebody was told.
    pub fn not_in(&self, place: &str, text: &[u8]) -> Result<()> {
        for (what, secret) in self.all() {
            if text.windows(secret.len()).any(|part| part == secret.as_bytes()) {
                bail!("{what} stands in {place}");
            }
        }
        Ok(())
    }

    pub fn not_printed(&self, command: &str, output: &Output) -> Result<()> {
        self.not_in(command, output.stdout.as_bytes())?;
        self.not_in(command, output.stderr.as_bytes())
    }

    /// Command line and environment.
    pub fn not_in_process(&self, process: u32) -> Result<()> {
        for name in ["cmdline", "environ"] {
            let path = PathBuf::from(format!("/proc/{process}/{name}"));
            // It may have ended.
            let Ok(text) = fs::read(&path) else { continue };
            self.not_in(&path.display().to_string(), &text)?;
        }
        Ok(())
    }

    /// Every file below a folder but those that a secret is read from.
    pub fn not_below(&self, folder: &Path) -> Result<()> {
        for (what, secret) in self.all() {
            let mut grep = Command::new("grep");
            grep.args([
                "--recursive",
                "--text",
                "--fixed-strings",
                "--files-with-matches",
                "--file=-",
                "--devices=skip",
            ]);
            grep.args(SOURCES.map(|name| format!("--exclude={name}"))).arg(folder).stderr(Stdio::null());
            let found = run(&mut grep, secret.as_bytes()).context("grep")?;
            // 2: a file went away meanwhile.
            ensure!(found.stdout.is_empty(), "{what} stands in {}", found.stdout.trim().replace('\n', ", "));
        }
        Ok(())
    }
}
