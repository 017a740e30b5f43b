//! Where log lines go: the journal where systemd listens, else standard error as text or JSON.

use std::{io, os::unix::fs::MetadataExt};

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::LogFormat;

/// Sets up logging for the process. `loudness` is the number of `-v` less that of `-q`. `EDGE_LOG` (as
/// `edge_user=trace`) goes before it. A second call changes nothing.
pub fn start(format: LogFormat, loudness: i16) {
    let filter = EnvFilter::try_from_env("EDGE_LOG").unwrap_or_else(|_| EnvFilter::new(level(loudness)));
    let registry = tracing_subscriber::registry().with(filter);
    let journald = match format {
        LogFormat::Journald => tracing_journald::layer().ok(),
        LogFormat::Auto if stderr_is_journal() => tracing_journald::layer().ok(),
        LogFormat::Auto | LogFormat::Json | LogFormat::Text => None,
    };
    let fallen_back = format == LogFormat::Journald && journald.is_none();
    let text = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    let started = match (journald, format) {
        (Some(journald), _) => registry.with(journald.with_syslog_identifier("edge".to_owned())).try_init(),
        (None, LogFormat::Json) => registry.with(text.json().flatten_event(true)).try_init(),
        (None, _) => registry.with(text.with_ansi(io::IsTerminal::is_terminal(&io::stderr()))).try_init(),
    };
    if started.is_ok() && fallen_back {
        tracing::warn!("log.format is journald, but no journal listens; logging to standard error");
    }
}

const fn level(loudness: i16) -> &'static str {
    match loudness {
        ..=-2 => "error",
        -1 => "warn",
        0 => "info",
        1 => "debug",
        _ => "trace",
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

    #[test]
    fn each_v_says_more_and_each_q_less() {
        assert_eq!([-5, -2, -1, 0, 1, 2, 9].map(level), ["error", "error", "warn", "info", "debug", "trace", "trace"]);
    }
}
