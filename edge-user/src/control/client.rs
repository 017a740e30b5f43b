//! The CLI's end of the admin socket: one blocking call with time-outs. It tells an agent that is not there, where
//! some commands go on without it, from one that refuses the caller or does not answer.

use std::{
    io::{self, ErrorKind},
    net::IpAddr,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use nix::sys::{
    socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt},
    time::TimeVal,
};

use super::{
    handed,
    protocol::{Answer, MAX_FRAME, Request},
};
use crate::error::Failure;

/// How long the agent may take for each step of an exchange; it answers in milliseconds, a list of a million in
/// seconds.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nobody listens: no agent runs, or it is not ready yet.
    Absent(Failure),
    /// Somebody listens, but there was no answer.
    Failed(Failure),
}

impl From<Silence> for Failure {
    fn from(silence: Silence) -> Failure {
        match silence {
            Silence::Absent(failure) | Silence::Failed(failure) => failure,
        }
    }
}

/// Sends one request and waits for its answer.
pub fn call(path: &Path, request: &Request) -> Result<Answer, Silence> {
    // Packed before, since the agent waits only a moment for the first words.
    let parcel = request.command.beside();
    let parcel = parcel.map_err(|error| Silence::Failed(broken(path, &error)))?;
    let stream = connected(path, PATIENCE).map_err(|error| silence(path, &error))?;
    exchange(&stream, request, parcel).map_err(|error| Silence::Failed(broken(path, &error)))
}

/// The caller's own address, where it came over SSH (`SSH_CONNECTION`: client, its port, server, its port).
pub fn caller() -> Option<IpAddr> {
    std::env::var("SSH_CONNECTION").ok().and_then(|text| ssh_client(&text))
}

fn ssh_client(text: &str) -> Option<IpAddr> {
    let address = text.split_whitespace().next()?;
    // A link-local client carries its zone.
    address.split('%').next()?.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

fn exchange(stream: &UnixStream, request: &Request, parcel: Option<OwnedFd>) -> io::Result<Answer> {
    handed::write_now(stream, request, MAX_FRAME, parcel.as_ref())?;
    let (answer, handed): (Answer, _) = handed::read_now(stream, MAX_FRAME)?;
    match answer {
        Ok(reply) => reply.with(handed).map(Ok),
        Err(failure) => Ok(Err(failure)),
    }
}

/// A connection whose every step ends within `patience`; the standard library cannot bound the connecting itself.
fn connected(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let socket: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let time = TimeVal::new(patience.as_secs().try_into().unwrap_or(i64::MAX), 0);
    setsockopt(&socket, sockopt::SendTimeout, &time)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &time)?;
    connect(socket.as_raw_fd(), &address)?;
    Ok(UnixStream::from(socket))
}

fn silence(path: &Path, error: &io::Error) -> Silence {
    let path = path.display();
    let start = "start the agent with `edge run`, or name its socket with --socket";
    match error.kind() {
        ErrorKind::NotFound => Silence::Absent(Failure::unreachable(format!(
            "no agent is reached at {path}: there is no such socket, so none runs or it is not ready yet; {start}"
        ))),
        ErrorKind::ConnectionRefused => Silence::Absent(Failure::unreachable(format!(
            "no agent is reached at {path}: nobody listens on the socket; {start}"
        ))),
        ErrorKind::PermissionDenied => Silence::Failed(Failure::forbidden(format!(
            "the socket {path} is not open to you; run as root or join the group of the socket"
        ))),
        _ => Silence::Failed(Failure::unreachable(format!("no agent is reached at {path}: {error}; {start}"))),
    }
}

fn broken(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::unreachable(format!(
            "the agent at {path} gave no answer within {} s; look at its log",
            PATIENCE.as_secs()
        )),
        ErrorKind::InvalidInput => {
            Failure::usage(format!("the request is too long: {error}; give fewer addresses at once"))
        }
        ErrorKind::InvalidData => {
            Failure::system(format!("the agent at {path} speaks another version of edge ({error}); restart the agent"))
        }
        _ => Failure::unreachable(format!(
            "the agent at {path} closed the connection without an answer: {error}; look at its log"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::protocol::Command, error::Blame};
    use std::{
        io::{Read, Write},
        os::unix::net::UnixListener,
    };

    fn status() -> Request {
        Request { command: Command::Status, caller: None }
    }

    #[test]
    fn nobody_there_is_told_from_nobody_answering() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        assert!(matches!(call(&path, &status()), Err(Silence::Absent(f)) if f.blame == Blame::Unreachable));
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(call(&path, &status()), Err(Silence::Absent(f)) if f.blame == Blame::Unreachable));
    }

    #[test]
    fn an_answer_that_is_cut_short_or_too_long_is_no_answer() {
        for reply in [&b"\x05\0\0\0{}"[..], b"\xff\xff\xff\xff", b"", b"\x02\0\0\0{}"] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("s");
            let listener = UnixListener::bind(&path).unwrap();
            let agent = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut prefix = [0; 4];
                stream.read_exact(&mut prefix).unwrap();
                let mut body = vec![0; u32::from_le_bytes(prefix) as usize];
                stream.read_exact(&mut body).unwrap();
                stream.write_all(reply).unwrap();
            });
            assert!(matches!(call(&path, &status()), Err(Silence::Failed(_))), "{reply:?}");
            agent.join().unwrap();
        }
    }

    #[test]
    fn the_caller_is_the_first_word_of_ssh_connection() {
        assert_eq!(ssh_client("203.0.113.7 51234 192.0.2.1 22"), Some("203.0.113.7".parse().unwrap()));
        assert_eq!(ssh_client("fe80::1%eth0 1 fe80::2%eth0 22"), Some("fe80::1".parse().unwrap()));
        assert_eq!(ssh_client("::ffff:203.0.113.7 1 ::1 22"), Some("203.0.113.7".parse().unwrap()));
        assert_eq!(ssh_client(""), None);
    }
}
