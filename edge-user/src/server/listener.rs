//! A connection, from accept to close: TLS, then HTTP; or plain HTTP, which is sent on. The loop is our own, since the
//! library's has no limit on handshakes, no way to close one client's connections, and no difference between a slow head
//! and an idle connection.

use std::{convert::Infallible, io, net::SocketAddr, os::fd::AsFd, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use edge_common::connection::EXCESS_MARK;
use http_body_util::Full;
use hyper::{
    Request, Response, Version,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore, watch},
    time::{sleep, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    acme::Issued,
    activity::{Activity, Watched},
    auth::{Answer, Auth, MAX_HEAD},
    connections::{Connections, Door, Entry},
    counters::{Counters, Handshake},
    finish::Finish,
    link::client_address,
    redirect,
    report::Ends,
    tls::{Certificates, PROOF},
};
use crate::fetch::Fetch;

/// How much of a head the library takes; over HTTP/2 it answers none that is longer. What is over `MAX_HEAD` of that is
/// answered 431.
const MAX_HEAD_READ: usize = 4 * MAX_HEAD;
/// After it was told to end, a connection may finish its answer for so long.
const LAST_ANSWER: Duration = Duration::from_millis(900);
/// Of more that wait, the rest is left to whoever takes over.
const BACKLOG: usize = 4_096;
const BACK_OFF: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// What all connections share.
pub struct Shared {
    pub auth: Arc<Auth>,
    /// `None`: plain HTTP.
    pub tls: Option<TlsAcceptor>,
    pub certificates: Arc<Certificates>,
    pub acme: Option<Arc<Issued>>,
    /// Of those that serve everything.
    pub listen: Vec<SocketAddr>,
    pub counters: Arc<Counters>,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub handshakes: Arc<Semaphore>,
    /// Connections that are to be sent on: as many, and none of them takes a handshake's turn.
    pub redirects: Arc<Semaphore>,
    /// How many of them one client may have in flight.
    pub handshakes_of_one: usize,
    pub connections: Arc<Connections>,
    pub phase: watch::Receiver<Phase>,
    /// Asks others; `None` where the config names nobody to ask.
    pub fetch: Option<Fetch>,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Everything,
    /// Plain HTTP is sent on to where everything is served.
    Redirect,
}

/// How far the server's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// Another takes over: who has come is served.
    Retiring,
    /// What is being answered is finished.
    Ending,
}

impl Shared {
    /// Returns when it has come so far.
    pub async fn reached(&self, phase: Phase) {
        // Whoever could say so is gone with the server.
        let _ = self.phase.clone().wait_for(|now| *now >= phase).await;
    }
}

/// Accepts until the server retires or ends. Who has come by then is served by one that retires: the socket may close with it.
pub async fn serve(listener: TcpListener, service: Service, door: Door, shared: Arc<Shared>) {
    let _door = door;
    tokio::select! {
        () = shared.reached(Phase::Ending) => {}
        () = admit(listener, service, &shared) => {}
    }
}

async fn admit(listener: TcpListener, service: Service, shared: &Arc<Shared>) {
    let mut pause = BACK_OFF[0];
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.reached(Phase::Retiring) => break,
            accepted = accept(&listener, shared) => accepted,
        };
        match accepted {
            Ok(stream) => {
                pause = BACK_OFF[0];
                enter(stream, service, shared).await;
            }
            Err(error) => {
                tracing::warn!("accepting a connection: {error}; going on in {pause:?}");
                sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF[1]);
            }
        }
    }
    for stream in waiting(listener) {
        match TcpStream::from_std(stream) {
            Ok(stream) if is_excess(&stream) => reset(stream),
            Ok(stream) => enter(stream, service, shared).await,
            Err(error) => tracing::warn!("taking over a connection: {error}"),
        }
    }
}

/// Those in its backlog, as many as are there now.
fn waiting(listener: TcpListener) -> Vec<std::net::TcpStream> {
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    let waiting = listener.incoming().map_while(Result::ok).filter(|stream| stream.set_nonblocking(true).is_ok());
    waiting.take(BACKLOG).collect()
}

async fn accept(listener: &TcpListener, shared: &Shared) -> io::Result<TcpStream> {
    loop {
        let (stream, _) = listener.accept().await?;
        if !is_excess(&stream) {
            return Ok(stream);
        }
        shared.counters.handshake(Handshake::Refused);
        reset(stream);
    }
}

/// The turn is waited for with a connection in hand: a listener where nobody comes must not keep a turn from the others.
async fn enter(stream: TcpStream, service: Service, shared: &Arc<Shared>) {
    let turns = match service {
        Service::Everything => &shared.handshakes,
        Service::Redirect => &shared.redirects,
    };
    // Nobody closes the semaphore.
    let Ok(turn) = turns.clone().acquire_owned().await else { return };
    // A client that is gone already has no address, and nothing to be told.
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    let address = client_address(peer);
    let entry = shared.connections.enter(address, shared.auth.client(address));
    let (ends, shared) = (Ends { peer, local }, shared.clone());
    match service {
        Service::Everything => drop(tokio::spawn(connection(stream, ends, turn, entry, shared))),
        Service::Redirect => drop(tokio::spawn(sent_on(stream, ends, turn, entry, shared))),
    }
}

/// Whether the kernel side marked this accepted connection as one over its client's cap.
pub fn is_excess(connection: &impl AsFd) -> bool {
    getsockopt(connection, sockopt::Mark) == Ok(EXCESS_MARK)
}

/// Without lingering the kernel forgets the connection at once, and so counts it no longer.
fn reset(connection: TcpStream) {
    // Where that fails it is closed as any other, and the agent sees to the rest.
    let _ = setsockopt(&connection, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}

async fn connection(
    stream: TcpStream,
    ends: Ends,
    handshake: tokio::sync::OwnedSemaphorePermit,
    entry: Entry,
    shared: Arc<Shared>,
) {
    let _ = stream.set_nodelay(true);
    if entry.handshakes > shared.handshakes_of_one {
        shared.counters.handshake(Handshake::Refused);
        return;
    }
    let Some(tls) = &shared.tls else {
        drop(handshake);
        entry.greeted();
        return talk(stream, false, ends, &entry.end, &shared).await;
    };
    let greeted = tokio::select! {
        () = entry.end.notified() => return,
        greeted = timeout(shared.header_timeout, tls.accept(stream)) => greeted,
    };
    drop(handshake);
    entry.greeted();
    match greeted {
        Ok(Ok(mut stream)) => {
            shared.counters.handshake(Handshake::Success);
            match stream.get_ref().1.alpn_protocol() {
                // The handshake is the proof.
                Some(PROOF) => drop(timeout(LAST_ANSWER, stream.shutdown()).await),
                protocol => {
                    let http2 = protocol == Some(b"h2");
                    talk(stream, http2, ends, &entry.end, &shared).await;
                }
            }
        }
        Ok(Err(error)) => {
            tracing::debug!("TLS handshake: {error}");
            shared.counters.handshake(Handshake::Failure);
        }
        Err(_) => shared.counters.handshake(Handshake::Timeout),
    }
}

/// Its turn lasts as long as it does, and that is one request.
async fn sent_on(
    stream: TcpStream,
    ends: Ends,
    turn: tokio::sync::OwnedSemaphorePermit,
    entry: Entry,
    shared: Arc<Shared>,
) {
    let _turn = turn;
    if entry.handshakes > shared.handshakes_of_one {
        return;
    }
    let port = redirect::port(&shared.listen, ends.local);
    tokio::select! {
        () = entry.end.notified() => {}
        // What the head takes, and as long again for the answer to be taken.
        _ = timeout(shared.header_timeout * 2, redirect::serve(stream, port, &shared.certificates.challenges, shared.header_timeout)) => {}
    }
}

async fn talk<S>(stream: S, http2: bool, ends: Ends, end: &Arc<Notify>, shared: &Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::new(http2, shared.header_timeout, shared.idle_timeout));
    let service = service_fn(|request: Request<Incoming>| {
        let (version, end) = (request.version(), end.clone());
        let judged = judged(&shared.auth, ends, request, &activity);
        async move { Ok::<_, Infallible>(answered(judged.await, version, &end)) }
    });
    let builder = protocol(http2);
    let io = TokioIo::new(Watched::new(stream, activity.clone()));
    let mut talk = pin!(builder.serve_connection(io, service));
    let retires = loop {
        let late = async {
            match activity.deadline() {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = talk.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!("connection: {error}");
                }
                return;
            }
            () = activity.changed.notified() => {}
            () = end.notified() => break false,
            () = late => break false,
            () = shared.reached(Phase::Retiring), if !activity.expects_request() => break true,
        }
    };
    talk.as_mut().graceful_shutdown();
    if retires {
        // What is in flight takes its time, unless it is ended all the same.
        tokio::select! {
            _ = talk.as_mut() => return,
            () = end.notified() => {}
        }
    }
    let _ = timeout(LAST_ANSWER, talk).await;
}

/// Whatever the client does meanwhile, what it asked for is judged to the end. In flight from now, not from the first
/// poll: in between, the library looks whether the client has closed.
fn judged(
    auth: &Arc<Auth>,
    ends: Ends,
    request: Request<Incoming>,
    activity: &Arc<Activity>,
) -> impl Future<Output = Answer> + Send + use<> {
    let (auth, in_flight) = (auth.clone(), activity.begin());
    Finish::new(async move {
        let answer = auth.answer(ends, request).await;
        drop(in_flight);
        answer
    })
}

/// Ends the connection with the answer where that is asked for.
fn answered(mut answer: Answer, version: Version, end: &Notify) -> Response<Full<Bytes>> {
    if answer.close {
        if version < Version::HTTP_2 {
            answer.response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        end.notify_one();
    }
    answer.response
}

/// ALPN has chosen, so neither builder guesses.
fn protocol(http2: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(MAX_HEAD_READ).half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD_READ as u32)
        .max_concurrent_streams(64)
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(256 << 10)
        .max_send_buf_size(64 << 10);
    if http2 { builder.http2_only() } else { builder.http1_only() }
}
