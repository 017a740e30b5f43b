//! When a store that could not be read is read again: at once where the file is another by then, else after pauses that
//! grow, since reading a large one takes the agent's one thread.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Again {
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    files: [Option<Stamp>; 2],
    pause: Duration,
    not_before: Instant,
}

/// Device, inode, length, and when it was changed last, in nanoseconds too.
type Stamp = (u64, u64, u64, i64, i64);

impl Again {
    pub fn is_due(&self, path: &Path, now: Instant) -> bool {
        self.failed.as_ref().is_none_or(|failed| now >= failed.not_before || failed.files != stamps(path))
    }

    pub fn failed(&mut self, path: &Path, now: Instant) {
        let files = stamps(path);
        let before = self.failed.take().filter(|failed| failed.files == files);
        let pause = before.map_or(FIRST, |failed| (failed.pause * 2).min(LONGEST));
        self.failed = Some(Failed { files, pause, not_before: now + pause });
    }
}

/// Of the file and its write-ahead log.
fn stamps(path: &Path) -> [Option<Stamp>; 2] {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    [path.to_owned(), PathBuf::from(log)].map(|file| {
        let data = fs::metadata(file).ok()?;
        Some((data.dev(), data.ino(), data.size(), data.ctime(), data.ctime_nsec()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_file_is_read_less_and_less_often_and_another_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let (path, begin) = (directory.path().join("edge.db"), Instant::now());
        fs::write(&path, "rubbish").unwrap();
        let mut again = Again::default();
        assert!(again.is_due(&path, begin));
        let (mut now, mut pauses) = (begin, Vec::new());
        for _ in 0..6 {
            again.failed(&path, now);
            let pause = (0..).find(|second| again.is_due(&path, now + Duration::from_secs(*second))).unwrap();
            pauses.push(pause);
            now += Duration::from_secs(pause);
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        again.failed(&path, now);
        assert!(!again.is_due(&path, now));
        fs::write(&path, "other rubbish").unwrap();
        assert!(again.is_due(&path, now));
        again.failed(&path, now);
        assert!(again.is_due(&path, now + FIRST));
    }
}
