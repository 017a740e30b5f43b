//! Where log lines go: the journal where systemd listens, else standard error as text or JSON. Agent and server log alike:
//! the agent decides, since the server is told nothing of the environment.

use std::{io, os::unix::fs::MetadataExt, sync::OnceLock};

use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::config::{Log, LogFormat};

/// How this process logs, and what it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logging {
    to: To,
    /// In the words of `EnvFilter`.
    filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum To {
    Journal,
    Json,
    Text,
}

impl Logging {
    /// As the config and the command line ask for; `EDGE_LOG` (as `edge_user=trace`) goes before `-v` and `-q`.
    pub fn of(log: &Log) -> Logging {
        let to = match log.format {
            LogFormat::Journald => To::Journal,
            LogFormat::Auto if stderr_is_journal() => To::Journal,
            LogFormat::Json => To::Json,
            LogFormat::Auto | LogFormat::Text => To::Text,
        };
        let asked = std::env::var("EDGE_LOG").ok().filter(|filter| EnvFilter::try_new(filter).is_ok());
        Logging { to, filter: asked.unwrap_or_else(|| filter(log.loudness).to_owned()) }
    }

    /// Sets up logging for the process. A second call changes nothing.
    pub fn start(&self) {
        let (layer, missing) = self.layer();
        let (layer, handle) = reload::Layer::new(layer);
        // An error says that somebody else has set it up.
        if tracing_subscriber::registry().with(layer).with(EnvFilter::new(&self.filter)).try_init().is_ok() {
            let _ = STARTED.set(handle);
            missing.warn();
        }
    }

    /// The process logs elsewhere from now on; how much it logs stays.
    pub fn change(&self) {
        let (layer, missing) = self.layer();
        if STARTED.get().is_some_and(|started| started.reload(layer).is_ok()) {
            missing.warn();
        }
    }

    fn layer(&self) -> (Lines, Missing) {
        let text = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
        let journald = (self.to == To::Journal).then(tracing_journald::layer);
        match (journald, self.to) {
            (Some(Ok(journald)), _) => (journald.with_syslog_identifier("edge".to_owned()).boxed(), Missing(false)),
            (_, To::Json) => (text.json().flatten_event(true).boxed(), Missing(false)),
            (_, To::Journal | To::Text) => {
                let layer = text.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).boxed();
                (layer, Missing(self.to == To::Journal))
            }
        }
    }
}

type Lines = Box<dyn Layer<Registry> + Send + Sync>;

/// What this process has set up.
static STARTED: OnceLock<reload::Handle<Lines, Registry>> = OnceLock::new();

/// Whether a journal was asked for that does not listen.
struct Missing(bool);

impl Missing {
    fn warn(&self) {
        if self.0 {
            tracing::warn!("log.format is journald, but no journal listens; logging to standard error");
        }
    }
}

/// More is told by edge alone: libraries would tell what they read, tokens among it.
const fn filter(loudness: i16) -> &'static str {
    match loudness {
        ..=-2 => "error",
        -1 => "warn",
        0 => "info",
        1 => "info,edge_user=debug",
        _ => "info,edge_user=trace",
    }
}

/// systemd says which stream it reads (`JOURNAL_STREAM=device:inode`); a child may have inherited the variable alone.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(data) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", data.dev(), data.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AuditTo;

    #[test]
    fn each_v_says_more_of_edge_and_each_q_less() {
        let expected = ["error", "error", "warn", "info", "info,edge_user=debug", "info,edge_user=trace"];
        assert_eq!([-5, -2, -1, 0, 1, 2].map(filter), expected);
        assert_eq!(filter(9), filter(2));
        assert!(expected.iter().all(|filter| EnvFilter::try_new(filter).is_ok()));
    }

    #[test]
    fn what_was_asked_for_reaches_the_server_as_it_is() {
        for (format, to) in
            [(LogFormat::Json, To::Json), (LogFormat::Text, To::Text), (LogFormat::Journald, To::Journal)]
        {
            let logging = Logging::of(&Log { format, audit: AuditTo::Journald, loudness: -1 });
            assert_eq!(logging.to, to);
            let sent = serde_json::to_string(&logging).unwrap();
            assert_eq!(serde_json::from_str::<Logging>(&sent).unwrap(), logging);
        }
    }
}
