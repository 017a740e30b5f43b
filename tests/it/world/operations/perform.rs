//! Each operation, done to a real edge and to what is on paper.

use std::{collections::BTreeSet, fs, net::IpAddr, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    Output,
    client::{Client, scrape},
    decisions::{Between, Decisions, End, Holds},
    wait_for,
};
use fastrand::Rng;
use ipnet::{IpNet, Ipv6Net};

use super::{
    super::{drift, fail_five_times},
    UNDONE, World,
    draw::{Command, Operation},
};

impl World<'_> {
    pub fn perform(&mut self, operation: &Operation, random: &mut Rng) -> Result<()> {
        let needs_agent = !matches!(operation, Operation::Command(_) | Operation::Leave { .. });
        if needs_agent || (!self.runs && random.u32(..8) == 0) {
            self.begin()?;
        }
        *self.done.entry(operation.name()).or_default() += 1;
        match operation {
            Operation::Command(command) => self.tell(command),
            Operation::Learn(source) => self.learn(*source),
            Operation::Reload(named) => self.reload(named),
            Operation::Restart { kill } => {
                self.leave(*kill)?;
                self.begin()?;
                self.list_agrees()
            }
            Operation::Leave { kill } => self.leave(*kill),
            Operation::Cut(command) => self.cut(command, random),
            Operation::Wipe(table) => self.wipe(table),
        }
    }

    /// An agent runs.
    pub fn begin(&mut self) -> Result<()> {
        if !self.runs {
            self.edge.run()?;
            self.runs = true;
            self.decisions.configure();
        }
        Ok(())
    }

    fn leave(&mut self, kill: bool) -> Result<()> {
        if !self.runs {
            return Ok(());
        }
        self.runs = false;
        self.decisions.without_agent();
        if kill {
            return self.edge.kill();
        }
        let code = self.edge.stop()?;
        ensure!(code == 0, "exit code {code}");
        Ok(())
    }

    fn tell(&mut self, command: &Command) -> Result<()> {
        let (when, output) = Between::of(|| self.say(command))?;
        let done = note(&mut self.decisions, command, when, self.runs);
        if !self.runs {
            self.decisions.without_agent();
        }
        ensure!(output.code == i32::from(!done), "{output:?}");
        Ok(())
    }

    fn say(&self, command: &Command) -> Result<Output> {
        self.edge.cli(&self.words(command)?.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// As a person types it. A list lies in a file by then.
    fn words(&self, command: &Command) -> Result<Vec<String>> {
        let of = |origin: &str| vec!["--origin".to_owned(), origin.to_owned()];
        let first = |word: &str| vec![word.to_owned()];
        let words = match command {
            Command::Block { targets, seconds, origin } => {
                [first("block"), named(targets), length(*seconds), of(origin)].concat()
            }
            Command::Import { targets, seconds, origin } => {
                let list = self.edge.path("list.txt");
                fs::write(&list, named(targets).join("\n"))?;
                [first("import"), first(&list.display().to_string()), length(*seconds), of(origin)].concat()
            }
            Command::Unblock { targets, origin } => {
                [first("unblock"), named(targets), origin.map(of).unwrap_or_default()].concat()
            }
            Command::UnblockAll { origin } => [first("unblock"), first("--all"), of(origin)].concat(),
            Command::Allow(targets) => [first("allow"), named(targets)].concat(),
            Command::Disallow(targets) => [first("disallow"), named(targets)].concat(),
        };
        Ok(words)
    }

    /// Who is allowed or blocked cannot be judged.
    fn learn(&mut self, source: IpAddr) -> Result<()> {
        let when = Between::of(|| Ok(()))?.0;
        if self.decisions.never_blocked(source.into()) || self.decisions.drops(source, when) != Holds::No {
            return Ok(());
        }
        fail_five_times(&Client::new(self.lab, &self.edge, source))?;
        let unit = match source {
            IpAddr::V4(_) => source.into(),
            IpAddr::V6(six) => IpNet::V6(Ipv6Net::new(six, 64)?.trunc()),
        };
        self.decisions.blocks.insert((unit, "auth"), End::Learned);
        Ok(())
    }

    fn reload(&mut self, named: &[IpNet]) -> Result<()> {
        self.room += 1;
        let quoted: Vec<String> = named.iter().map(|net| format!("\"{net}\"")).collect();
        self.edge.config.set("filter", "block", &format!("[{}]", quoted.join(", ")));
        self.edge.config.set("filter", "max_blocked", &self.room.to_string());
        self.edge.write_config()?;
        self.edge.cli(&["reload"])?.good()?;
        self.decisions.named = named.iter().copied().collect::<BTreeSet<IpNet>>();
        self.decisions.configure();
        self.list_agrees()
    }

    /// It was done, or it was not; nothing between.
    fn cut(&mut self, command: &Command, random: &mut Rng) -> Result<()> {
        let words = self.words(command)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (when, status) = Between::of(|| {
            let mut told = self.edge.cli_going_on(&words)?;
            sleep(Duration::from_micros(random.u64(..30_000)));
            self.edge.kill()?;
            Ok(told.wait()?)
        })?;
        self.runs = false;
        let mut after = self.decisions.clone();
        let may = note(&mut after, command, when, true);
        self.begin()?;
        after.configure();
        let is_done = self.lists(&after).is_ok() && self.allows(&after)?;
        if is_done && may {
            self.decisions = after;
            return Ok(());
        }
        ensure!(!status.success() || !may, "it was answered as done, and is not");
        self.list_agrees().with_context(|| format!("it was done in part ({status})"))?;
        ensure!(self.allows(&self.decisions)?, "the allow list was changed in part ({status})");
        Ok(())
    }

    /// Whether everybody on the allow list passes, and nobody else is on it.
    fn allows(&self, decisions: &Decisions) -> Result<bool> {
        let known: BTreeSet<&IpNet> = self.decisions.allowed.union(&decisions.allowed).collect();
        for net in known {
            let (_, why) = self.edge.json_any(&["why", &net.addr().to_string()])?;
            let wanted = decisions.allowed.iter().any(|allowed| allowed.contains(&net.addr()));
            if why["allowed"] != wanted {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Somebody else's write is undone. What ends by itself before the agent looks need not be: so first that is over.
    fn wipe(&mut self, table: &str) -> Result<()> {
        self.settle()?;
        let repaired = || Ok::<f64, anyhow::Error>(scrape(self.lab)?.sum("edge_drift_repaired_total", &[]));
        let before = repaired()?;
        if drift::wipe(self.lab, table)? == 0 {
            return Ok(());
        }
        // Who is allowed hides what is wiped of the blocks.
        wait_for("the agent to notice it", UNDONE, || Ok((repaired()? > before).then_some(())))?;
        let mut last = None;
        let undone = wait_for("what was changed from outside to be undone", UNDONE, || {
            last = self.kernel_agrees().err();
            Ok(last.is_none().then_some(()))
        });
        undone.with_context(|| format!("{last:?}"))
    }
}

/// On paper; whether it may be done.
fn note(decisions: &mut Decisions, command: &Command, when: Between, agent: bool) -> bool {
    let end = |seconds: Option<u64>| {
        seconds.map_or(End::UntilLifted, |seconds| End::At(when.plus(Duration::from_secs(seconds))))
    };
    match command {
        Command::Block { targets, seconds, origin } => return decisions.block(targets, origin, end(*seconds)),
        Command::Import { targets, seconds, origin } => decisions.import(targets, origin, end(*seconds)),
        Command::Unblock { targets, origin } => decisions.unblock(Some(targets), *origin, agent),
        Command::UnblockAll { origin } => decisions.unblock(None, Some(origin), agent),
        Command::Allow(targets) => decisions.allowed.extend(targets),
        Command::Disallow(targets) => decisions.allowed.retain(|allowed| !targets.contains(allowed)),
    }
    true
}

fn named(targets: &[IpNet]) -> Vec<String> {
    targets.iter().map(IpNet::to_string).collect()
}

fn length(seconds: Option<u64>) -> Vec<String> {
    seconds.iter().flat_map(|seconds| ["--for".to_owned(), format!("{seconds}s")]).collect()
}
