//! Asking for a password: twice on a terminal without echo, else the first line of standard input. Never an argument,
//! which every user could read in the list of processes.

use std::io::{self, BufRead, IsTerminal, Write};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::error::{Blame, Context, Failure};

/// A line longer than this is no password; the bound of one is 1024 bytes.
const MAX_LINE_BYTES: u64 = 64 << 10;

pub fn ask() -> Result<Zeroizing<String>, Failure> {
    if !io::stdin().is_terminal() {
        return first_line(io::stdin().lock());
    }
    let once = typed("Password: ")?;
    let again = typed("Once more: ")?;
    if once != again {
        return Err(Failure::usage("the two passwords differ; try again"));
    }
    Ok(once)
}

fn first_line(input: impl BufRead) -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::new());
    input
        .take(MAX_LINE_BYTES)
        .read_line(&mut line)
        .blame(Blame::Usage, || "the password on standard input".to_owned())?;
    let end = line.trim_end_matches('\n').trim_end_matches('\r').len();
    line.truncate(end);
    if line.is_empty() {
        return Err(Failure::usage("there is no password on standard input; write it as the first line"));
    }
    Ok(line)
}

fn typed(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    let what = || "the password cannot be asked for on this terminal".to_owned();
    eprint!("{prompt}");
    io::stderr().flush().blame(Blame::System, what)?;
    let silenced = Silenced::new().blame(Blame::System, what)?;
    let line = keys(io::stdin().lock());
    drop(silenced);
    eprintln!();
    let bytes = line.blame(Blame::System, what)?;
    let Some(bytes) = bytes else { return Err(Failure::refused("given up; nothing was changed")) };
    let text =
        std::str::from_utf8(&bytes).map_err(|_| Failure::usage("the password is not UTF-8; use a UTF-8 terminal"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// One line, key by key; `None` where Ctrl-C or Ctrl-D gave up.
fn keys(input: impl BufRead) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const CTRL_U: u8 = 21;
    let mut line = Zeroizing::new(Vec::with_capacity(1024));
    for byte in input.bytes() {
        match byte? {
            b'\n' | b'\r' => return Ok(Some(line)),
            CTRL_C | CTRL_D => return Ok(None),
            CTRL_U => line.clear(),
            8 | 127 => erase(&mut line),
            byte => line.push(byte),
        }
    }
    Ok(None)
}

/// Takes back the last character, all of its bytes.
fn erase(line: &mut Vec<u8>) {
    while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
}

/// A terminal that echoes nothing and turns no key into a signal, so that it is always put back.
struct Silenced {
    before: Termios,
}

impl Silenced {
    fn new() -> nix::Result<Silenced> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent)?;
        Ok(Silenced { before })
    }
}

impl Drop for Silenced {
    fn drop(&mut self) {
        // Nothing is left to do if the terminal went away.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_password_and_nothing_else() {
        assert_eq!(first_line(&b"pass word \r\nmore\n"[..]).unwrap().as_str(), "pass word ");
        assert_eq!(first_line(&b"no newline"[..]).unwrap().as_str(), "no newline");
        assert_eq!(first_line(&b""[..]).unwrap_err().blame, Blame::Usage);
        assert_eq!(first_line(&b"\nsecond\n"[..]).unwrap_err().blame, Blame::Usage);
    }

    #[test]
    fn keys_edit_the_line() {
        let line = |typed: &[u8]| keys(typed).unwrap().map(|line| String::from_utf8(line.to_vec()).unwrap());
        assert_eq!(line(b"abc\r").unwrap(), "abc");
        assert_eq!(line("abé\u{7f}c\n".as_bytes()).unwrap(), "abc");
        assert_eq!(line(b"wrong\x15right\n").unwrap(), "right");
        assert_eq!(line(b"abc\x03"), None);
        assert_eq!(line(b"abc"), None);
    }
}
