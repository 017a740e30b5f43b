//! Files of certificates that another program renews: looked at every two seconds, and taken once they have stayed the
//! same for as long, since certificate and key are seldom written at once. By their place, time and size, not by
//! notification: what stands at a path may be a link to a link, as certbot and Kubernetes make them.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::sleep,
};

use crate::config::Config;

const EVERY: Duration = Duration::from_secs(2);

pub struct Renewals {
    followed: watch::Sender<Followed>,
    changed: mpsc::Receiver<()>,
}

#[derive(Clone, Default)]
struct Followed {
    files: Vec<PathBuf>,
    /// What they hold is served, whatever they held when that began.
    as_they_are: bool,
}

/// What of the files tells that they are others than before.
type Signature = Vec<(u64, u64, u64, i64, i64)>;

impl Renewals {
    pub fn start() -> Renewals {
        let (followed, files) = watch::channel(Followed::default());
        let (tell, changed) = mpsc::channel(1);
        tokio::spawn(follow(files, tell));
        Renewals { followed, changed }
    }

    /// Another config is in force. `as_they_are`: what its files hold now is not to be taken before they change again.
    pub fn of(&self, config: &Config, as_they_are: bool) {
        let pairs = config.server.iter().flat_map(|server| &server.tls.files);
        let files = pairs.flat_map(|pair| [pair.cert_file.clone(), pair.key_file.clone()]).collect();
        self.followed.send_replace(Followed { files, as_they_are });
    }

    /// Returns when they should be read again. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.changed.recv().await.is_none() {
            std::future::pending().await
        }
    }
}

async fn follow(mut followed: watch::Receiver<Followed>, tell: mpsc::Sender<()>) {
    let mut look = Look::default();
    loop {
        let is_new = followed.has_changed().unwrap_or_default();
        let Followed { files, as_they_are } = followed.borrow_and_update().clone();
        let now = spawn_blocking(move || signature(&files)).await.ok().flatten();
        if is_new {
            look = Look { taken: now.clone().filter(|_| as_they_are), ..Look::default() };
        }
        if look.is_another(now) && tell.send(()).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep(EVERY) => {}
            // The agent ends.
            () = tell.closed() => return,
        }
    }
}

/// What was seen of the files.
#[derive(Default)]
struct Look {
    taken: Option<Signature>,
    last: Option<Signature>,
}

impl Look {
    /// Whether they are others than those that were taken, and stay so. `None`: one is missing.
    fn is_another(&mut self, now: Option<Signature>) -> bool {
        let stays = now.is_some() && now == self.last;
        self.last = now;
        let another = stays && self.taken != self.last;
        if another {
            self.taken = self.last.clone();
        }
        another
    }
}

fn signature(files: &[PathBuf]) -> Option<Signature> {
    let of = |file: &PathBuf| {
        let data = fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
        Some((data.dev(), data.ino(), data.size(), data.mtime(), data.mtime_nsec()))
    };
    files.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_taken_once_when_it_stays() {
        let mut look = Look::default();
        let files = |size| Some(vec![(1, 2, size, 4, 5)]);
        let seen = [files(1), files(1), files(1), files(2), files(3), None, files(3), files(3), files(3)];
        let taken = seen.map(|now| look.is_another(now));
        assert_eq!(taken, [false, true, false, false, false, false, false, true, false]);
        let mut reverted = Look { taken: files(1), last: None };
        assert_eq!([files(1), files(1)].map(|now| reverted.is_another(now)), [false, false]);
    }

    #[test]
    fn a_link_that_points_elsewhere_is_another_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["one", "two"] {
            fs::write(path(name), "same size").unwrap();
        }
        let point = |to| {
            let _ = fs::remove_file(path("link"));
            std::os::unix::fs::symlink(path(to), path("link")).unwrap();
            signature(&[path("link")])
        };
        assert_ne!(point("one").unwrap(), point("two").unwrap());
        assert_eq!((point("nowhere"), point(".")), (None, None));
    }
}
