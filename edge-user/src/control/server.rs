//! The agent's end of the admin socket. It reads requests with bounds and time-outs, each connection in a task of its
//! own so that a slow client blocks nobody, checks who sent them, and hands them to the one task that executes.

use std::{
    fs,
    io::{self, ErrorKind},
    mem::size_of,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::unistd::{Gid, Group, Uid, chown, geteuid};
use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tracing::{debug, info, warn};

use super::protocol::{Answer, MAX_FRAME, Reply, Request};
use crate::{
    error::{Context, Failure},
    frame,
};

/// Connections at once; more wait in the backlog.
const MAX_CONNECTIONS: usize = 64;
/// A request up to this size is read at once; of larger ones, one at a time, so that memory stays bounded.
const SMALL_FRAME: usize = 64 << 10;
/// For a whole small request, and for each megabyte of a large one.
const READ_PATIENCE: Duration = Duration::from_secs(10);
const WRITE_PATIENCE: Duration = Duration::from_secs(60);
/// After an `accept` that failed, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who sent a request, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    pub uid: u32,
    pub pid: Option<i32>,
}

/// One request and the place for its answer.
#[derive(Debug)]
pub struct Order {
    pub request: Request,
    pub actor: Actor,
    pub answer: oneshot::Sender<Answer>,
}

impl Order {
    /// Gives the answer back, and logs who changed what.
    pub fn answered(self, answer: Answer) {
        if let Some(change) = self.request.command.change() {
            let Actor { uid, pid } = self.actor;
            let pid = pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
            let outcome = match &answer {
                Ok(Reply::Changed(of)) => format!("{} changed, {} as before", of.changed.len(), of.unchanged.len()),
                Ok(_) => "done".to_owned(),
                Err(failure) => format!("refused, {failure}"),
            };
            info!("uid {uid}{pid}: {change}: {outcome}");
        }
        let _ = self.answer.send(answer);
    }
}

/// Listens at `path`, in place of a socket that nobody listens on any more. Open to the group; where there is no such
/// group, to its owner alone, with a warning. Must be called within a runtime.
pub fn bind(path: &Path, group: &str) -> Result<(UnixListener, Vec<String>), Failure> {
    let what = || format!("the admin socket {} cannot be made", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|error| io_failure(&error, &what()))?;
    }
    refuse_occupied(path)?;
    // Made beside it and renamed, so that at no moment it is open to more than it should be, or missing.
    let made = beside(path);
    match fs::remove_file(&made) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(io_failure(&error, &what())),
        _ => {}
    }
    let listener = UnixListener::bind(&made).map_err(|error| io_failure(&error, &what()))?;
    let warnings = give_to_group(&made, path, group).inspect_err(|_| drop(fs::remove_file(&made)))?;
    fs::rename(&made, path).map_err(|error| io_failure(&error, &what()))?;
    Ok((listener, warnings))
}

/// Accepts until the agent no longer takes orders, and then until what it executed is answered.
pub async fn serve(listener: UnixListener, orders: mpsc::Sender<Order>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let large = Arc::new(Semaphore::new(1));
    let allowed_group = group_of(&listener);
    while !orders.is_closed() {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = orders.closed() => break,
        };
        match stream {
            Ok((stream, _)) => {
                let (orders, large) = (orders.clone(), large.clone());
                tokio::spawn(async move {
                    if let Err(error) = exchange(stream, allowed_group, &orders, &large).await {
                        debug!("admin socket: {error}");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!("admin socket: accept failed: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // What was executed is still answered.
    let _ = connections.acquire_many(MAX_CONNECTIONS as u32).await;
}

async fn exchange(
    mut stream: UnixStream,
    allowed_group: Option<Gid>,
    orders: &mpsc::Sender<Order>,
    large: &Semaphore,
) -> io::Result<()> {
    let answer = match admitted(&stream, allowed_group)? {
        Ok(actor) => match read_request(&mut stream, large).await {
            Ok(request) => executed(request, actor, orders).await,
            Err(error) if error.kind() == ErrorKind::InvalidData => Err(Failure::usage(error.to_string())),
            Err(error) => return Err(error),
        },
        Err(failure) => Err(failure),
    };
    timeout(WRITE_PATIENCE, async {
        frame::write(&mut stream, &answer, MAX_FRAME).await?;
        stream.shutdown().await
    })
    .await?
}

async fn executed(request: Request, actor: Actor, orders: &mpsc::Sender<Order>) -> Answer {
    let ending = || Failure::unreachable("the agent is ending; try again when it runs");
    let (answer, answered) = oneshot::channel();
    orders.send(Order { request, actor, answer }).await.map_err(|_| ending())?;
    answered.await.map_err(|_| ending())?
}

async fn read_request(stream: &mut UnixStream, large: &Semaphore) -> io::Result<Request> {
    let advised = |advice: &'static str| {
        move |error: io::Error| match error.kind() {
            ErrorKind::InvalidData => {
                io::Error::new(error.kind(), format!("the request is refused: {error}; {advice}"))
            }
            _ => error,
        }
    };
    let length = timeout(READ_PATIENCE, frame::read_length(stream, MAX_FRAME)).await?;
    let length = length.map_err(advised("send fewer addresses at once"))?.ok_or(ErrorKind::UnexpectedEof)?;
    let permit = if length > SMALL_FRAME { large.acquire().await.ok() } else { None };
    let patience = READ_PATIENCE + Duration::from_secs((length >> 20) as u64);
    let request = timeout(patience, frame::read_body(stream, length)).await?;
    drop(permit);
    request.map_err(advised("use the agent's own version of edge"))
}

/// root, the agent's own user, and members of the socket's group. The file's mode says the same; this holds also where
/// someone widened it.
fn admitted(stream: &UnixStream, allowed_group: Option<Gid>) -> io::Result<Result<Actor, Failure>> {
    let peer = stream.peer_cred()?;
    let member = |group: Gid| {
        peer.gid() == group.as_raw() || peer_groups(stream).is_ok_and(|groups| groups.contains(&group.as_raw()))
    };
    let uid = peer.uid();
    if uid == 0 || uid == geteuid().as_raw() || allowed_group.is_some_and(member) {
        return Ok(Ok(Actor { uid, pid: peer.pid() }));
    }
    Ok(Err(Failure::forbidden(format!("user {uid} may not command this agent; run as root or join the group edge"))))
}

/// The group that the socket's file was given to, where its mode is open to one.
fn group_of(listener: &UnixListener) -> Option<Gid> {
    use std::os::unix::fs::MetadataExt;
    let address = listener.local_addr().ok()?;
    let bound = address.as_pathname()?;
    let data = fs::metadata(final_path(bound)?).ok()?;
    (data.mode() & 0o060 == 0o060).then(|| Gid::from_raw(data.gid()))
}

const MADE_SUFFIX: &str = ".new";

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(MADE_SUFFIX);
    PathBuf::from(name)
}

/// Where a socket made by [`bind`] lies now: the kernel remembers the name it was bound to.
fn final_path(bound: &Path) -> Option<PathBuf> {
    bound.to_str().map(|name| PathBuf::from(name.strip_suffix(MADE_SUFFIX).unwrap_or(name)))
}

/// Whether another agent, or something that is no socket, is in the way.
pub fn refuse_occupied(path: &Path) -> Result<(), Failure> {
    let data = match fs::symlink_metadata(path) {
        Ok(data) => data,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_failure(&error, &format!("the admin socket {} cannot be made", path.display()))),
    };
    if !data.file_type().is_socket() {
        let message = format!("{} exists and is no socket; remove it or name another admin.socket", path.display());
        return Err(Failure::refused(message));
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let message = format!("another agent answers at {}; stop it or name another admin.socket", path.display());
        return Err(Failure::refused(message));
    }
    Ok(())
}

fn give_to_group(made: &Path, path: &Path, group: &str) -> Result<Vec<String>, Failure> {
    let what = || format!("the admin socket {} cannot be given to group {group}", path.display());
    let mode = |mode| fs::set_permissions(made, fs::Permissions::from_mode(mode));
    mode(0o600).map_err(|error| io_failure(&error, &what()))?;
    let owner_only =
        |why: String| vec![format!("{why}: the admin socket {} is open to user {} alone", path.display(), user_name())];
    let Some(known) = Group::from_name(group).blame(crate::error::Blame::System, what)? else {
        return Ok(owner_only(format!("there is no group {group}")));
    };
    if let Err(error) = chown(made, None, Some(known.gid)) {
        return Ok(owner_only(format!("the group {group} cannot be set ({})", error.desc())));
    }
    mode(0o660).map_err(|error| io_failure(&error, &what()))?;
    Ok(Vec::new())
}

fn user_name() -> String {
    let uid = geteuid();
    nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| Uid::to_string(&uid), |user| user.name)
}

fn io_failure(error: &io::Error, what: &str) -> Failure {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            Failure::forbidden(format!("{what}: {error}; run as root or name another admin.socket"))
        }
        _ => Failure::system(format!("{what}: {error}; name another admin.socket")),
    }
}

/// The supplementary groups of the peer when it connected (`SO_PEERGROUPS`, Linux 4.13); nix has no wrapper.
fn peer_groups(stream: &UnixStream) -> io::Result<Vec<libc::gid_t>> {
    // NGROUPS_MAX on Linux.
    let mut groups: Vec<libc::gid_t> = vec![0; 65_536];
    let mut bytes = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes, the length of `groups`, and stores how many it wrote.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(bytes as usize / size_of::<libc::gid_t>());
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::{
            client::{self, Silence},
            protocol::Command,
        },
        error::Blame,
    };
    use std::{io::Write, os::unix::fs::MetadataExt};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    fn request() -> Request {
        Request { command: Command::List { origin: None, limit: None }, caller: None }
    }

    fn answering(mut orders: mpsc::Receiver<Order>) {
        tokio::spawn(async move {
            while let Some(order) = orders.recv().await {
                assert_eq!(order.actor.uid, geteuid().as_raw());
                order.answered(Ok(Reply::List(Vec::new())));
            }
        });
    }

    #[test]
    fn a_request_comes_back_with_its_answer_past_slow_and_bad_clients() {
        let runtime = runtime();
        let _guard = runtime.enter();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/edge.sock");
        let (listener, warnings) = bind(&path, "no-such-group-of-edge").unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let (orders, taken) = mpsc::channel(4);
        runtime.spawn(serve(listener, orders));
        answering(taken);

        let slow: Vec<_> = (0..8).map(|_| std::os::unix::net::UnixStream::connect(&path).unwrap()).collect();
        for junk in [&b"\xff\xff\xff\xff"[..], b"\x02\0\0\0{}", b"\x01\0\0\0"] {
            let mut bad = std::os::unix::net::UnixStream::connect(&path).unwrap();
            bad.write_all(junk).unwrap();
        }
        assert_eq!(client::call(&path, &request()).unwrap(), Ok(Reply::List(Vec::new())));
        drop(slow);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let runtime = runtime();
        let _guard = runtime.enter();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.sock");
        let (first, _) = bind(&path, "no-such-group-of-edge").unwrap();
        assert_eq!(bind(&path, "edge").unwrap_err().blame, Blame::Refused);
        drop(first);
        assert!(matches!(client::call(&path, &request()), Err(Silence::Absent(_))));
        bind(&path, "no-such-group-of-edge").unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(bind(&file, "edge").unwrap_err().message.contains("is no socket"));
    }

    #[test]
    fn the_peer_has_groups() {
        let runtime = runtime();
        runtime.block_on(async {
            let (one, _other) = UnixStream::pair().unwrap();
            assert_eq!(peer_groups(&one).unwrap().len(), nix::unistd::getgroups().unwrap().len());
        });
    }
}
