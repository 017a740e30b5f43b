//! Reading it back: lines of a file that may grow and be moved away meanwhile.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use super::event::Event;
use crate::clock::Wall;

/// A longer line is none of edge's.
const MAX_LINE: u64 = 1 << 20;

/// Which events are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Since(pub Option<Wall>);

impl Since {
    /// The event of a line; `None`: of a time before, or no line of edge's.
    pub fn event(self, line: &[u8]) -> Option<Event> {
        let event: Event = serde_json::from_slice(line).ok()?;
        self.0.is_none_or(|since| event.time >= since).then_some(event)
    }
}

/// Whole lines of what may grow.
pub struct Tail<R> {
    input: BufReader<R>,
    /// What was read of a line whose end is not there yet.
    begun: Vec<u8>,
}

impl<R: Read> Tail<R> {
    pub fn new(input: R) -> Tail<R> {
        Tail { input: BufReader::new(input), begun: Vec::new() }
    }

    /// The next whole line, without its end; `None` where none is there now.
    pub fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let room = MAX_LINE.saturating_sub(self.begun.len() as u64);
        if room == 0 {
            // It goes on as if its end had come; what that is, is no event.
            return Ok(Some(std::mem::take(&mut self.begun)));
        }
        (&mut self.input).take(room).read_until(b'\n', &mut self.begun)?;
        if self.begun.pop_if(|last| *last == b'\n').is_none() {
            return Ok(if self.begun.len() as u64 >= MAX_LINE { Some(std::mem::take(&mut self.begun)) } else { None });
        }
        Ok(Some(std::mem::take(&mut self.begun)))
    }
}

impl Tail<File> {
    /// Whether the path leads to another file by now, or this one was emptied. A path that cannot be looked at says nothing.
    pub fn is_left(&self, path: &Path) -> bool {
        let Ok(own) = self.input.get_ref().metadata() else { return true };
        let Ok(now) = std::fs::metadata(path) else { return false };
        use std::io::Seek;
        let read = self.input.get_ref().try_clone().and_then(|mut file| file.stream_position());
        (own.dev(), own.ino()) != (now.dev(), now.ino()) || read.is_ok_and(|read| read > own.len())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;
    use crate::audit::event::{Name, Outcome};

    #[test]
    fn a_line_is_an_event_when_it_is_whole_and_recent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let mut file = File::create(&path).unwrap();
        let line = |time| Event::new(Name::Block, Outcome::Success, Wall(time)).line();
        write!(file, "{}\nno event\n{}\n{{\"time", line(1), line(2)).unwrap();
        let mut tail = Tail::new(File::open(&path).unwrap());
        let all: Vec<Vec<u8>> = std::iter::from_fn(|| tail.line().unwrap()).collect();
        let times =
            |since| all.iter().filter_map(|line| Since(since).event(line)).map(|e| e.time.0).collect::<Vec<_>>();
        assert_eq!((times(None), times(Some(Wall(2)))), (vec![1, 2], vec![2]));
        // The rest of the line comes.
        writeln!(file, "{}", &line(3)["{\"time".len()..]).unwrap();
        let rest = tail.line().unwrap().unwrap();
        assert_eq!(Since(None).event(&rest).unwrap().time, Wall(3));
        assert!(tail.line().unwrap().is_none() && !tail.is_left(&path));
        fs::rename(&path, directory.path().join("moved")).unwrap();
        assert!(!tail.is_left(&path), "there is no other one yet");
        File::create(&path).unwrap();
        assert!(tail.is_left(&path));
    }

    #[test]
    fn a_file_that_was_emptied_is_begun_anew_and_a_line_without_end_fills_no_memory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        fs::write(&path, "x\n").unwrap();
        let mut tail = Tail::new(File::open(&path).unwrap());
        assert_eq!(tail.line().unwrap().as_deref(), Some(&b"x"[..]));
        fs::write(&path, "").unwrap();
        assert!(tail.is_left(&path));
        let mut endless = Tail::new(io::repeat(b'a'));
        assert_eq!(endless.line().unwrap().unwrap().len() as u64, MAX_LINE);
        assert_eq!(endless.line().unwrap().unwrap().len() as u64, MAX_LINE);
    }
}
