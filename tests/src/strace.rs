//! Debian's `strace` as the hand that kills: a process dies at the N-th of its system calls of a kind, before the kernel does
//! what it was asked for. So each step of what changes anything can be the last.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{client::process_status, wait_for};

/// What changes anything outside of a process: the kernel's tables and links, files, sockets, other processes.
pub const CHANGING: &[&str] = &[
    "bpf",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "pwrite64",
    "fsync",
    "fdatasync",
    "ftruncate",
    "fchmod",
    "fchmodat",
    "chmod",
    "fchown",
    "chown",
    "sendto",
    "sendmsg",
    "bind",
    "listen",
    "clone3",
    "clone",
    "vfork",
    "shutdown",
];

/// The `nth` call of a kind, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub call: String,
    pub nth: usize,
}

/// How often each call was made.
pub type Counts = BTreeMap<String, usize>;

/// All steps of an undisturbed run, those of one kind spread among those of the others as if each came evenly.
pub fn steps(counts: &Counts) -> Vec<Step> {
    let of_call = |(call, count): (&String, &usize)| {
        let (call, count) = (call.clone(), *count);
        (1..=count).map(move |nth| (nth as f64 / count as f64, Step { call: call.clone(), nth })).collect::<Vec<_>>()
    };
    let mut steps: Vec<_> = counts.iter().flat_map(of_call).collect();
    steps.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    steps.into_iter().map(|(_, step)| step).collect()
}

/// The calls that both have, each as often as the one with fewer.
pub fn in_both(one: &Counts, other: &Counts) -> Counts {
    let fewer = |(call, count): (&String, &usize)| {
        let count = (*count).min(other.get(call).copied().unwrap_or(0));
        (count > 0).then(|| (call.clone(), count))
    };
    one.iter().filter_map(fewer).collect()
}

/// As many of these, spread evenly over all, the last among them.
pub fn spread<T: Clone>(all: &[T], count: usize) -> Vec<T> {
    let count = count.min(all.len());
    (1..=count).filter_map(|number| all.get(all.len() * number / count - 1).cloned()).collect()
}

/// Put before a command, the command is still the process that was started: its calls are written to a file.
pub fn counting(to: &Path) -> Vec<String> {
    words(to, None)
}

/// The same, and the process dies at this step.
pub fn killing(at: &Step, to: &Path) -> Vec<String> {
    words(to, Some(at))
}

fn words(to: &Path, step: Option<&Step>) -> Vec<String> {
    let mut words = ["strace", "-D", "-qq"].map(str::to_owned).to_vec();
    words.extend(options(to, step));
    words.push("--".to_owned());
    words
}

fn options(to: &Path, step: Option<&Step>) -> Vec<String> {
    let mut options = vec!["-o".to_owned(), to.display().to_string(), "-e".to_owned()];
    match step {
        None => options.push(format!("trace={}", CHANGING.join(","))),
        Some(Step { call, nth }) => {
            options.extend([format!("trace={call}"), "-e".to_owned()]);
            options.push(format!("inject={call}:signal=SIGKILL:when={nth}"));
        }
    }
    options
}

/// What a file of [`counting`] has.
pub fn counted(file: &Path) -> Result<Counts> {
    let text = fs::read_to_string(file).with_context(|| format!("strace wrote no {}", file.display()))?;
    let mut counts = Counts::new();
    for call in text.lines().filter_map(|line| line.split_once('(')).map(|(call, _)| call) {
        if CHANGING.contains(&call) {
            *counts.entry(call.to_owned()).or_default() += 1;
        }
    }
    Ok(counts)
}

/// Attached to a process that runs already; lets go when it is dropped.
#[derive(Debug)]
pub struct Attached {
    strace: Child,
    file: PathBuf,
}

impl Attached {
    /// Of its first thread alone. `None`: only counts.
    pub fn to(pid: u32, step: Option<&Step>, file: PathBuf) -> Result<Attached> {
        let strace = Command::new("strace")
            .arg("-qq")
            .args(options(&file, step))
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("strace cannot be started; is it installed?")?;
        let mut attached = Attached { strace, file };
        wait_for("strace to attach", Duration::from_secs(10), || {
            if let Some(status) = attached.strace.try_wait()? {
                bail!("strace ended ({status})");
            }
            Ok((process_status(pid, "TracerPid")? != "0").then_some(()))
        })?;
        Ok(attached)
    }

    /// Lets go; gives what was counted.
    pub fn end(mut self) -> Result<Counts> {
        self.let_go()?;
        counted(&self.file)
    }

    fn let_go(&mut self) -> Result<()> {
        use nix::{sys::signal, unistd::Pid};
        // It detaches before it ends. Where the process has ended, so has it.
        if self.strace.try_wait()?.is_none() {
            signal::kill(Pid::from_raw(self.strace.id().try_into()?), signal::Signal::SIGTERM)?;
            self.strace.wait()?;
        }
        Ok(())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn steps_are_spread_over_all_of_them() {
        let counts = Counts::from([("bpf".to_owned(), 3), ("unlink".to_owned(), 1)]);
        let all = steps(&counts);
        assert_eq!(all.len(), 4);
        assert_eq!(all[2..], [("bpf", 3), ("unlink", 1)].map(|(call, nth)| Step { call: call.to_owned(), nth }));
        let other = Counts::from([("bpf".to_owned(), 2), ("mkdir".to_owned(), 1)]);
        assert_eq!(in_both(&counts, &other), Counts::from([("bpf".to_owned(), 2)]));
        assert_eq!(spread(&[1, 2, 3, 4, 5, 6], 3), [2, 4, 6]);
        assert_eq!(spread(&[1, 2], 5), [1, 2]);
        assert_eq!(spread::<u8>(&[], 5), [0; 0]);
    }

    #[test]
    fn a_process_dies_before_the_call_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for (nth, there) in [(2, [true, false]), (1, [false, false])] {
            let [first, second] = [format!("a{nth}"), format!("b{nth}")].map(|name| path(&name));
            let step = Step { call: "mkdir".to_owned(), nth };
            let words = killing(&step, &folder.path().join("calls"));
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).args(["mkdir", &first, &second]);
            assert_eq!(command.status().unwrap().signal(), Some(9));
            assert_eq!([first, second].map(|path| Path::new(&path).exists()), there);
        }
        let words = counting(&folder.path().join("calls"));
        let status =
            Command::new(&words[0]).args(&words[1..]).args(["mkdir", &path("a"), &path("b")]).status().unwrap();
        assert!(status.success());
        let counts = wait_for("the calls", Duration::from_secs(5), || {
            Ok(counted(&folder.path().join("calls"))?.get("mkdir").copied().filter(|count| *count == 2))
        });
        counts.unwrap();
    }
}
