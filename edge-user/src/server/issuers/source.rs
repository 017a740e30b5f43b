//! The keys behind an address: fetched when the server starts, again as their headers say, at a reload, and for a key that
//! is not known, at most once in a while. What was good last goes on through an outage, and a restart.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hyper::{HeaderMap, Request, StatusCode, header};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::jwks::KeySet;
use crate::fetch::{Fetch, Limits};

/// How long keys are kept, whatever their headers say.
const KEPT: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(3600);
/// Where the headers say nothing.
const BY_DEFAULT: Duration = Duration::from_secs(300);
/// After a failure; doubled at each further one.
const AGAIN: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
/// The same as long as there are no keys at all.
const AT_FIRST: Duration = Duration::from_secs(5);
/// How often a key that is not known has the keys be fetched.
const UNKNOWN: Duration = Duration::from_secs(30);
/// For so long a token waits for that.
const WAITS: Duration = Duration::from_secs(5);
const LIMITS: Limits = Limits { bytes: 1 << 20, time: Duration::from_secs(10) };

pub struct Source {
    url: String,
    keys: Mutex<Option<Arc<KeySet>>>,
    /// When a key was not known last.
    unknown: Mutex<Option<Instant>>,
    /// How many fetches were asked for; the last that is done, and what came of it.
    asked: Mutex<u64>,
    done: watch::Sender<(u64, Result<(), String>)>,
    wake: Notify,
    /// Where the last good answer is kept.
    file: PathBuf,
}

impl Source {
    /// Begins to fetch, and does not wait for it.
    pub fn start(url: &str, fetch: Fetch, folder: &Path) -> Arc<Source> {
        let file = folder.join(format!("jwks-{}.json", digest(url)));
        let kept = fs::read(&file).ok().and_then(|text| KeySet::public(&text).ok());
        let source = Arc::new(Source {
            url: url.to_owned(),
            keys: Mutex::new(kept.map(Arc::new)),
            unknown: Mutex::default(),
            asked: Mutex::default(),
            done: watch::channel((0, Ok(()))).0,
            wake: Notify::new(),
            file,
        });
        tokio::spawn(follow(source.clone(), fetch));
        source
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// `None`: there was no good answer yet.
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches now; what is wrong with the answer, in one sentence.
    pub async fn again(&self) -> Result<(), String> {
        let ticket = self.ask();
        self.wait_for(ticket).await
    }

    /// A token names a key that is not there: fetches, unless that was done just now.
    pub async fn look_for_unknown(&self) {
        let ticket = {
            let mut last = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| last.elapsed() < UNKNOWN) {
                *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
            } else {
                *last = Some(Instant::now());
                self.ask()
            }
        };
        // Without an answer in time the token is judged by what is there.
        let _ = timeout(WAITS, self.wait_for(ticket)).await;
    }

    fn ask(&self) -> u64 {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        *asked += 1;
        self.wake.notify_one();
        *asked
    }

    async fn wait_for(&self, ticket: u64) -> Result<(), String> {
        let mut done = self.done.subscribe();
        let found = done.wait_for(|(done, _)| *done >= ticket).await;
        found.map_or_else(|_| Err("nobody fetches any more".to_owned()), |found| found.1.clone())
    }

    pub(super) fn keep(&self, text: &[u8], keys: KeySet) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
        if fs::read(&self.file).is_ok_and(|kept| kept == text) {
            return;
        }
        let new = self.file.with_extension("new");
        let written = fs::File::create(&new).and_then(|mut file| file.write_all(text));
        if let Err(error) = written.and_then(|()| fs::rename(&new, &self.file)) {
            tracing::warn!("the keys of {} are not kept beyond a restart: {error}", self.url);
        }
    }
}

async fn follow(source: Arc<Source>, fetch: Fetch) {
    let mut failed: Option<String> = None;
    let mut pause = *AGAIN.start();
    loop {
        let ticket = *source.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let result = ask(&source, &fetch).await;
        let next = match &result {
            Ok(kept) => {
                pause = *AGAIN.start();
                if failed.take().is_some() {
                    tracing::info!("the keys of {} can be had again", source.url);
                }
                *kept
            }
            Err(why) => {
                // Said once for each reason.
                if failed.as_ref() != Some(why) {
                    let meanwhile =
                        if source.keys().is_some() { "those of before stay in force" } else { "there are none yet" };
                    tracing::error!("the keys of a trusted issuer: {why}; {meanwhile}");
                    failed = Some(why.clone());
                }
                let now = pause;
                pause = (pause * 2).min(if source.keys().is_some() { *AGAIN.end() } else { AT_FIRST });
                now
            }
        };
        let _ = source.done.send_replace((ticket, result.map(drop)));
        tokio::select! {
            () = source.wake.notified() => {}
            () = sleep(next) => {}
        }
    }
}

/// How long what came is kept.
async fn ask(source: &Source, fetch: &Fetch) -> Result<Duration, String> {
    let request = Request::get(&source.url).header(header::ACCEPT, "application/json").body(Bytes::new());
    let request = request.map_err(|error| format!("{}: {error}", source.url))?;
    let answer = fetch.request_within(request, LIMITS).await.map_err(|error| error.0)?;
    if answer.status() != StatusCode::OK {
        return Err(format!("{}: it answered {}", source.url, answer.status().as_u16()));
    }
    let keys = KeySet::public(answer.body()).map_err(|why| format!("{}: what it answered {why}", source.url))?;
    source.keep(answer.body(), keys);
    Ok(kept(answer.headers()))
}

/// RFC 9111, as far as it is about how long.
fn kept(headers: &HeaderMap) -> Duration {
    let lines = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok());
    let mut age = None;
    for directive in lines.flat_map(|line| line.split(',')).map(|directive| directive.trim().to_ascii_lowercase()) {
        match directive.split_once('=') {
            None if directive == "no-store" || directive == "no-cache" => return *KEPT.start(),
            Some(("max-age", seconds)) => age = seconds.trim_matches('"').parse().ok().or(age),
            _ => {}
        }
    }
    let old = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.parse().ok()).unwrap_or(0);
    let fresh = age.map_or(BY_DEFAULT, |age: u64| Duration::from_secs(age.saturating_sub(old)));
    fresh.clamp(*KEPT.start(), *KEPT.end())
}

fn digest(url: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, url.as_bytes());
    digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_as_their_headers_say_within_bounds() {
        let seconds = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            kept(&headers).as_secs()
        };
        assert_eq!(seconds(&[]), 300);
        assert_eq!(seconds(&[("cache-control", "public, Max-Age=20000, must-revalidate")]), 3600);
        assert_eq!(seconds(&[("cache-control", "max-age=600"), ("age", "100")]), 500);
        assert_eq!(seconds(&[("cache-control", "max-age=600"), ("age", "1000")]), 10);
        assert_eq!(seconds(&[("cache-control", "max-age=0")]), 10);
        assert_eq!(seconds(&[("cache-control", "public"), ("cache-control", "no-store, max-age=600")]), 10);
        assert_eq!(seconds(&[("cache-control", "max-age=later")]), 300);
    }
}
