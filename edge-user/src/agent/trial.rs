//! A config on trial (`edge reload --confirm`): in force until its time is over, unless it is kept. What was confirmed last
//! is remembered beside the store as long as the config's file says something else, so that a start after a crash goes
//! on with it. Secrets are in files of their own; none is in there.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use super::{Agent, reload::Asked};
use crate::{
    clock::Wall,
    config::{Config, ConfigErrors, Overrides, Store},
    control::protocol::{Answer, LastResult, Reply},
    error::{Blame, Context, Failure},
    keep::keep,
    server::link::ServerConfig,
};

/// Of a trial: longer ones end by then.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);
/// A revert that failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is to be gone back to, as it was in force.
#[derive(Clone)]
pub(super) struct Former {
    pub config: Config,
    pub server: Option<ServerConfig>,
}

/// Where the record lies: beside the store. A link among the pins leads there, for a file that does not say any more
/// where its store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    store: Store,
    link: PathBuf,
}

impl Place {
    fn of(config: &Config) -> Place {
        Place { store: config.store.clone(), link: link_below(&config.filter.pin_path) }
    }

    /// Of a file that names a store beyond doubt. Else the second is one that may be another agent's: where the pins lead,
    /// or the `other`.
    fn named_by(file: &Path, other: Store) -> (Place, bool) {
        if let Ok((config, _)) = Config::load_partly(file, false, &["store.path"]) {
            return (Place::of(&config), true);
        }
        let pinned = Config::load_partly(file, false, &["filter.pin_path"]);
        let link = pinned.map(|(config, _)| link_below(&config.filter.pin_path)).unwrap_or_default();
        let store = fs::read_link(&link).map_or(other, |path| Store { path });
        (Place { store, link }, false)
    }

    fn confirmed(&self) -> PathBuf {
        self.store.confirmed()
    }

    /// Where nothing is pinned, or it cannot be made, the record is found by the file alone.
    fn lead_here(&self) {
        let _ = fs::remove_file(&self.link);
        let _ = symlink(&self.store.path, &self.link);
    }
}

fn link_below(pin_path: &Path) -> PathBuf {
    pin_path.join("confirmed")
}

/// Whether what is in force was confirmed.
#[derive(Default)]
pub(super) enum Trial {
    /// Yes, and the file says so.
    #[default]
    None,
    Pending(Box<Pending>),
    /// Yes; the file says what was reverted.
    Reverted,
}

pub(super) struct Pending {
    pub back_to: Former,
    /// When it is over.
    until: Instant,
    pub reverts_at: Wall,
    /// Its time is over.
    pub is_over: bool,
    /// Why it could not be reverted, as it was logged.
    pub failed: Option<String>,
}

impl Trial {
    pub fn pending(&self) -> Option<&Pending> {
        match self {
            Trial::Pending(pending) => Some(pending),
            Trial::None | Trial::Reverted => None,
        }
    }

    /// Returns when the time is over, and again a while later. Cancel-safe.
    pub async fn over(&self) {
        match self.pending() {
            Some(pending) => sleep_until(pending.until).await,
            None => std::future::pending().await,
        }
    }
}

impl Pending {
    pub fn new(back_to: Former, within: Duration) -> Pending {
        let within = within.min(LONGEST);
        let (until, reverts_at) = (Instant::now() + within, Wall::now().plus(within));
        Pending { back_to, until, reverts_at, is_over: false, failed: None }
    }

    /// In words for the user.
    pub fn told(&self) -> String {
        format!("not confirmed: it is reverted at {} unless `edge reload --keep` comes before", self.reverts_at)
    }
}

/// What is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Whose text it is.
    #[serde(default)]
    file: PathBuf,
    confirmed: String,
    unconfirmed: String,
    /// The agent ended in good order, so that a file that was edited since is meant for the next start.
    stopped: bool,
}

impl Record {
    pub fn new(confirmed: &Config, unconfirmed: &Config) -> Record {
        let file = fs::canonicalize(&confirmed.file).unwrap_or_else(|_| confirmed.file.clone());
        Record { file, confirmed: confirmed.text.clone(), unconfirmed: unconfirmed.text.clone(), stopped: false }
    }

    /// `None`: what is in force is what the file says. One that is there and says nothing is told in the log.
    fn read(place: &Place) -> Option<Record> {
        Record::try_read(place).unwrap_or_else(|problem| {
            tracing::error!("{problem}");
            None
        })
    }

    fn try_read(place: &Place) -> Result<Option<Record>, String> {
        let path = place.confirmed();
        let unreadable = |error: &dyn std::fmt::Display| {
            format!(
                "{}, the config that was confirmed last, cannot be read, so the file counts: {error}",
                path.display()
            )
        };
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| unreadable(&error)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(&error)),
        }
    }

    /// Beside the store that the file names; of a file that names none beyond doubt, beside the one that the pins lead to,
    /// or the `other`.
    fn of(file: &Path, other: Store) -> Result<Option<(Record, Place)>, String> {
        let (place, is_named) = Place::named_by(file, other);
        let file = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        // Another agent's may lie there.
        let found = Record::try_read(&place)?.filter(|record| is_named || record.file == file);
        Ok(found.map(|record| (record, place)))
    }

    pub fn write(&self, place: &Place) -> Result<(), Failure> {
        let path = place.confirmed();
        let text = serde_json::to_string(self).blame(Blame::Bug, || "a config cannot be written".to_owned())?;
        let what = || format!("the config that was confirmed cannot be kept in {}", path.display());
        keep(&path, &text).blame(Blame::System, what)?;
        place.lead_here();
        Ok(())
    }

    /// Whether a start goes by what was confirmed, where the file says this.
    fn holds(&self, text: &str) -> bool {
        !self.stopped || text == self.unconfirmed
    }
}

/// Forgets what was confirmed: the file says it.
fn forget(place: &Place) {
    super::logged("forgetting a former config", forgotten(place));
}

/// For good: also after a power cut.
fn forgotten(place: &Place) -> Result<(), Failure> {
    let path = place.confirmed();
    let _ = fs::remove_file(&place.link);
    let synced = || path.parent().map_or(Ok(()), |directory| fs::File::open(directory)?.sync_all());
    match fs::remove_file(&path).and_then(|()| synced()) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::system(format!(
            "{} cannot be removed ({error}), and a start after a crash would go by the config in it",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// The config that was confirmed last, where a start after a crash would go by it and not by the file. For those who may
/// not read it the file counts.
pub fn confirmed(file: &Path, overrides: &Overrides) -> Option<Config> {
    let (record, _) = Record::of(file, Store::default()).ok()??;
    let said = fs::read_to_string(file).unwrap_or_default();
    let is_another = said != record.confirmed && record.holds(&said);
    is_another.then(|| Config::parse(file, &record.confirmed, overrides).ok()).flatten()
}

/// The config to start with, and whether it is not that of the file but the one that was confirmed last. What is to be
/// said of it comes third.
pub fn first_config(file: &Path, overrides: &Overrides) -> Result<(Config, bool, Option<String>), ConfigErrors> {
    let (record, place) = match Record::of(file, Store::default()) {
        Ok(Some(found)) => found,
        Ok(None) => return Ok((Config::load_with_files(file, overrides)?, false, None)),
        Err(problem) => return Ok((Config::load_with_files(file, overrides)?, false, Some(problem))),
    };
    let said = fs::read_to_string(file).unwrap_or_default();
    if said == record.confirmed || !record.holds(&said) {
        let config = Config::load_with_files(file, overrides)?;
        forget(&place);
        return Ok((config, false, None));
    }
    match Config::parse_with_files(file, &record.confirmed, overrides) {
        Ok(config) => {
            if record.stopped {
                // Where that fails, a file that is edited before a crash counts after it.
                let _ = Record { stopped: false, ..record }.write(&place);
            }
            let note = format!(
                "{} was never confirmed; the config that was confirmed last is in force until the next `edge reload`",
                file.display()
            );
            Ok((config, true, Some(note)))
        }
        Err(errors) => {
            let config = Config::load_with_files(file, overrides)?;
            forget(&place);
            Ok((config, false, Some(format!("the config that was confirmed last cannot be used any more: {errors}"))))
        }
    }
}

impl Agent {
    /// What is in force, to be gone back to.
    pub(super) fn present(&self) -> Former {
        let server = self.servers.served().map(|served| served.config.clone());
        Former { config: self.config.clone(), server }
    }

    /// `edge reload --keep`.
    pub(super) fn keep(&mut self) -> Answer {
        match std::mem::take(&mut self.trial) {
            Trial::Pending(pending) => match forgotten(&Place::of(&self.config)) {
                Ok(()) => Ok(Reply::Kept(self.enforcer.reload_state())),
                Err(failure) => {
                    self.trial = Trial::Pending(pending);
                    Err(Failure { message: format!("it is not kept: {}", failure.message), ..failure })
                }
            },
            other => {
                self.trial = other;
                Err(Failure::refused("nothing is to be confirmed: what is in force stays, with or without `--keep`"))
            }
        }
    }

    /// The time is over, and nobody has kept it.
    pub(super) fn revert(&mut self) {
        if let Trial::Pending(pending) = &mut self.trial {
            (pending.is_over, pending.until) = (true, Instant::now() + AGAIN_AFTER);
            if !self.reloads.is_reverting() {
                self.reload(Asked::Overdue);
            }
        }
    }

    /// Before another config comes into force: what a start is to go by from then on. Gives what is undone where it does
    /// not come into force.
    pub(super) fn on_trial(&self, confirm: bool, next: &Config) -> Result<(), Failure> {
        match &self.trial {
            Trial::Pending(pending) => Record::new(&pending.back_to.config, next).write(&Place::of(&self.config)),
            Trial::None | Trial::Reverted if confirm => Record::new(&self.config, next).write(&Place::of(&self.config)),
            Trial::None | Trial::Reverted => Ok(()),
        }
    }

    /// It did not come into force.
    pub(super) fn as_before(&self, file_said: Option<Record>) {
        match file_said {
            Some(record) => super::logged("keeping what was confirmed", record.write(&Place::of(&self.config))),
            None => forget(&Place::of(&self.config)),
        }
    }

    pub(super) fn recorded(&self) -> Option<Record> {
        Record::read(&Place::of(&self.config))
    }

    /// Another config is in force.
    pub(super) fn tried(&mut self, before: Former, confirm: Option<Duration>, result: LastResult) {
        self.trial = match (std::mem::take(&mut self.trial), confirm) {
            (Trial::Pending(_), _) if result == LastResult::Reverted => Trial::Reverted,
            (Trial::Pending(pending), None) => Trial::Pending(pending),
            (Trial::Pending(pending), Some(within)) => Trial::Pending(Box::new(Pending::new(pending.back_to, within))),
            (Trial::None | Trial::Reverted, Some(within)) => Trial::Pending(Box::new(Pending::new(before, within))),
            (Trial::None, None) => Trial::None,
            (Trial::Reverted, None) => {
                forget(&Place::of(&self.config));
                Trial::None
            }
        };
    }

    /// The end in good order.
    pub(super) fn end_trial(&self) {
        if !matches!(self.trial, Trial::None)
            && let Some(record) = self.recorded()
        {
            let stopped = Record { stopped: true, ..record };
            super::logged("keeping what was confirmed", stopped.write(&Place::of(&self.config)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Files {
            Files(tempfile::tempdir().unwrap())
        }

        fn file(&self) -> PathBuf {
            self.0.path().join("edge.toml")
        }

        fn text(&self, fragments: &str) -> String {
            let below = self.0.path().display();
            format!(
                "[filter]\ninterfaces = [\"eth0\"]\nfragments = \"{fragments}\"\npin_path = \"{below}\"\n[store]\npath = \"{below}/edge.db\"\n",
            )
        }

        fn config(&self, fragments: &str) -> Config {
            Config::parse(&self.file(), &self.text(fragments), &Overrides::default()).unwrap()
        }

        /// Whether fragments drop and whether that is not what the file says.
        fn first(&self, said: &str) -> (bool, bool) {
            fs::write(self.file(), said).unwrap();
            let (config, reverted, note) = first_config(&self.file(), &Overrides::default()).unwrap();
            assert_eq!(note.is_some(), reverted);
            (config.filter.drop_fragments, reverted)
        }
    }

    #[test]
    fn a_start_goes_by_what_was_confirmed_until_the_file_is_edited_for_it() {
        let files = Files::new();
        let (good, bad, edited) = (files.text("pass"), files.text("drop"), files.text("drop") + "# edited\n");
        let record = Record::new(&files.config("pass"), &files.config("drop"));
        let place = Place::of(&files.config("pass"));
        assert_eq!(files.first(&bad), (true, false), "nothing is on trial");
        record.write(&place).unwrap();
        let mode = fs::metadata(place.confirmed()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let commands_go_by = |said: &str| {
            fs::write(files.file(), said).unwrap();
            confirmed(&files.file(), &Overrides::default()).map(|config| config.text)
        };
        assert_eq!([commands_go_by(&bad), commands_go_by(&good)], [Some(record.confirmed.clone()), None]);
        assert_eq!([files.first(&bad), files.first(&edited)], [(false, true); 2], "after a crash");
        Record { stopped: true, ..record.clone() }.write(&place).unwrap();
        assert_eq!(files.first(&bad), (false, true), "after a stop");
        assert_eq!(files.first(&edited), (false, true), "edited before a crash that came after it");
        Record { stopped: true, ..record.clone() }.write(&place).unwrap();
        assert_eq!(files.first(&edited), (true, false), "edited after a stop");
        assert_eq!(Record::read(&place), None);
        record.write(&place).unwrap();
        assert_eq!(files.first(&good), (false, false), "put back");
        assert_eq!(Record::read(&place), None);
        fs::write(place.confirmed(), "{\"confirmed\": 7").unwrap();
        fs::write(files.file(), &bad).unwrap();
        let (config, reverted, note) = first_config(&files.file(), &Overrides::default()).unwrap();
        assert!(config.filter.drop_fragments && !reverted, "a record that says nothing");
        assert!(note.unwrap().contains("cannot be read, so the file counts"));
    }

    #[test]
    fn where_the_file_names_no_store_any_more_it_is_looked_for_where_the_pins_lead_or_it_is_by_default() {
        let files = Files::new();
        fs::write(files.file(), files.text("drop")).unwrap();
        let record = Record::new(&files.config("pass"), &files.config("drop"));
        let place = Place::of(&files.config("pass"));
        record.write(&place).unwrap();
        for broken in ["[store]\npath = 7\n", "[store]\npath = \"edge.db\"\n", "[store]\npath = \"/var/lib/ed\n"] {
            let pinned = format!("[filter]\npin_path = \"{}\"\n", files.0.path().display());
            fs::write(files.file(), pinned + broken).unwrap();
            let found = Record::of(&files.file(), Store::default()).unwrap();
            assert_eq!(found, Some((record.clone(), place.clone())), "{broken}");
        }
        let of = |other: &Place| Record::of(&files.file(), other.store.clone()).unwrap().map(|(record, _)| record);
        fs::write(files.file(), "[store]\npath = \"/var/lib/ed\n").unwrap();
        assert_eq!(of(&place), Some(record.clone()));
        Record { file: PathBuf::from("/etc/edge/another.toml"), ..record }.write(&place).unwrap();
        assert_eq!(of(&place), None, "another agent's");
        forget(&place);
        assert!(!place.link.is_symlink() && !place.confirmed().exists());
    }
}
