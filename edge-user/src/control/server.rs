//! The agent's end of the admin socket. It reads requests with bounds and time-outs, each connection in a task of its
//! own so that a slow client blocks nobody, checks who sent them, and hands them to the one task that executes.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
    time::Duration,
};

use nix::unistd::Gid;
use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};
use tracing::{debug, info, warn};

use super::{
    handed,
    peer::{Actor, admitted},
    protocol::{Answer, MAX_FRAME, Reply, Request},
    silent::{Seat, Silent},
    socket::group_of,
};
use crate::{error::Failure, frame};

pub use super::socket::{bind, refuse_occupied};

/// Connections at once; more wait in the backlog.
const MAX_CONNECTIONS: usize = 64;
/// A request up to this size is read at once; of larger ones, one at a time, so that memory stays bounded.
const SMALL_FRAME: usize = 64 << 10;
/// From its first words on, for a whole small request; a second more for each megabyte of a large one.
const READ_PATIENCE: Duration = Duration::from_secs(10);
const WRITE_PATIENCE: Duration = Duration::from_secs(60);
/// Before one more of those that say nothing makes room.
const ROOM_WITHIN: Duration = Duration::from_millis(10);
/// After an `accept` that failed, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
                Ok(Reply::Changed(of)) => format!("{} changed, {} as before", of.count(), of.unchanged.len()),
                Ok(Reply::Imported(of)) => format!("{} in force, {} protected", of.imported, of.left_out_total),
                Ok(Reply::Restored(of)) => {
                    format!("{} in force, {} protected", of.imported.imported, of.imported.left_out_total)
                }
                Ok(Reply::Unloaded(what)) => what.told(),
                Ok(Reply::Reloaded(what)) => what.told(),
                Ok(Reply::Refused(errors)) => format!("refused, {errors}"),
                Ok(_) => "done".to_owned(),
                Err(failure) => format!("refused, {failure}"),
            };
            info!("uid {uid}{pid}: {change}: {outcome}");
        }
        let _ = self.answer.send(answer);
    }
}

/// Accepts until the agent no longer takes orders, and then until what it executed is answered.
pub async fn serve(listener: UnixListener, orders: mpsc::Sender<Order>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let large = Arc::new(Semaphore::new(1));
    let silent = Silent::default();
    let allowed_group = group_of(&listener);
    while !orders.is_closed() {
        let Some(place) = place(&connections, &silent).await else { return };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = orders.closed() => break,
        };
        match stream {
            Ok((stream, _)) => {
                let (orders, large, seat) = (orders.clone(), large.clone(), silent.seat());
                tokio::spawn(async move {
                    if let Err(error) = exchange(stream, seat, allowed_group, &orders, &large).await {
                        debug!("admin socket: {error}");
                    }
                    drop(place);
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

/// For one connection more. Where none is free, those that say nothing make room.
async fn place(connections: &Arc<Semaphore>, silent: &Silent) -> Option<OwnedSemaphorePermit> {
    while connections.available_permits() == 0 {
        silent.make_room();
        if let Ok(place) = timeout(ROOM_WITHIN, connections.clone().acquire_owned()).await {
            return place.ok();
        }
    }
    connections.clone().acquire_owned().await.ok()
}

async fn exchange(
    mut stream: UnixStream,
    seat: Seat,
    allowed_group: Option<Gid>,
    orders: &mpsc::Sender<Order>,
    large: &Semaphore,
) -> io::Result<()> {
    let answer = match admitted(&stream, allowed_group)? {
        Ok(actor) => match read_request(&mut stream, seat, large).await {
            Ok(request) => executed(request, actor, orders).await,
            Err(error) if error.kind() == ErrorKind::InvalidData => Err(Failure::usage(error.to_string())),
            Err(error) => return Err(error),
        },
        Err(failure) => Err(failure),
    };
    let beside = answer.as_ref().map_or(Ok(None), Reply::beside)?;
    timeout(WRITE_PATIENCE, async {
        handed::write(&mut stream, &answer, MAX_FRAME, beside.as_deref()).await?;
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

async fn read_request(stream: &mut UnixStream, seat: Seat, large: &Semaphore) -> io::Result<Request> {
    let advised = |advice: &'static str| {
        move |error: io::Error| match error.kind() {
            ErrorKind::InvalidData => {
                io::Error::new(error.kind(), format!("the request is refused: {error}; {advice}"))
            }
            _ => error,
        }
    };
    let begun = seat.until(handed::read_length(stream, MAX_FRAME)).await;
    let begun = begun.map_err(advised("send fewer addresses at once"))?;
    let (length, handed) = begun.ok_or(ErrorKind::UnexpectedEof)?;
    let permit = if length > SMALL_FRAME || handed.is_some() { large.acquire().await.ok() } else { None };
    let patience = READ_PATIENCE + Duration::from_secs((length >> 20) as u64);
    let request = timeout(patience, frame::read_body(stream, length)).await?;
    let mut request: Request = request.map_err(advised("use the agent's own version of edge"))?;
    if request.command.announces() {
        let missing = || io::Error::new(ErrorKind::InvalidData, "the request lacks what it announces");
        let handed = handed.ok_or_else(missing)?;
        let Request { command, caller } = request;
        let command = tokio::task::spawn_blocking(|| command.with(handed)).await??;
        request = Request { command, caller };
    }
    drop(permit);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, os::unix::fs::MetadataExt};

    use nix::unistd::geteuid;

    use super::*;
    use crate::control::{
        client,
        protocol::{Changed, Command},
    };

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
                order.answered(Ok(Reply::Changed(Changed::default())));
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

        // More than there are places, and none of them says a word.
        let slow: Vec<_> =
            (0..3 * MAX_CONNECTIONS).map(|_| std::os::unix::net::UnixStream::connect(&path).unwrap()).collect();
        for junk in [&b"\xff\xff\xff\xff"[..], b"\x02\0\0\0{}", b"\x01\0\0\0"] {
            let mut bad = std::os::unix::net::UnixStream::connect(&path).unwrap();
            bad.write_all(junk).unwrap();
        }
        let begun = std::time::Instant::now();
        assert_eq!(client::call(&path, &request()).unwrap(), Ok(Reply::Changed(Changed::default())));
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        drop(slow);
    }
}
